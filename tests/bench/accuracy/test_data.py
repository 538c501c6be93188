"""Every way in which test sets lie on disk gives the same images and labels; label files; what must be refused."""

from __future__ import annotations

import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io

from bench.accuracy.data import ImageSet, open_images
from bench.accuracy.labels import DATASETS, class_index, of_file, real_labels, subset
from bench.accuracy.sources import Columns, Folder
from bench.cli import BadInput
from tests.bench.accuracy.trees import SYNSETS


def as_tar(tree: Path, to: Path) -> ImageSet:
    with tarfile.open(to / "val.tar", "w") as archive:
        archive.add(tree, ".")
    return open_images(to / "val.tar", "custom")


def as_flat(tree: Path, to: Path) -> ImageSet:
    lines = []
    for path in sorted(tree.rglob("*.*"), reverse=True):
        (to / "flat").mkdir(exist_ok=True)
        (to / "flat" / path.name).symlink_to(path)
        lines.append(f"{path.stem.partition(' ')[0]},{path.parent.name} 1 2 3 4\n")
    table = to / "solution.csv"
    table.write_text("ImageId,PredictionString\n" + "".join(lines))
    for path in (to / "flat").iterdir():  # names without the odd part, as the file has them
        path.rename(path.with_name(path.name.partition(" ")[0].removesuffix(path.suffix) + path.suffix))
    return open_images(to / "flat", "custom", table)


def table_of(images: ImageSet, column: str = "image") -> pa.Table:
    rows = [{"bytes": images.source.read(i), "path": Path(name).name} for i, name in enumerate(images.source.names)]
    return pa.table({column: rows, "label": pa.array(images.labels, pa.int64())})


def as_parquet(tree: Path, to: Path) -> ImageSet:
    table = table_of(open_images(tree, "custom"))
    (to / "data").mkdir()
    pq.write_table(table.slice(0, 25), to / "data" / "validation-00000-of-00002.parquet", row_group_size=7)
    pq.write_table(table.slice(25), to / "data" / "validation-00001-of-00002.parquet")
    pq.write_table(table.slice(3, 4), to / "data" / "train-00000-of-00001.parquet")
    return open_images(to, "custom")


def as_arrow_stream(tree: Path, to: Path) -> ImageSet:
    table = table_of(open_images(tree, "custom"))
    with pa.ipc.new_stream(str(to / "val.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    return open_images(to / "val.arrow", "custom")


def as_arrow_file(tree: Path, to: Path) -> ImageSet:
    table = table_of(open_images(tree, "custom"))
    with pa.ipc.new_file(str(to / "val.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    return open_images(to / "val.arrow", "custom")


@pytest.mark.parametrize("form", [as_tar, as_flat, as_parquet, as_arrow_stream, as_arrow_file])
def test_every_form_gives_the_same_images(form: object, tree: Path, tmp_path: Path) -> None:
    want = open_images(tree, "custom")
    got = pickle.loads(pickle.dumps(form(tree, tmp_path)))  # type: ignore[operator]
    assert len(got) == len(want) == 40

    def contents(images: ImageSet) -> set[tuple[bytes, int]]:
        return {(images.source.read(i), label) for i, label in enumerate(images.labels)}

    assert contents(got) == contents(want)
    assert got.digest != want.digest or got.source.names == want.source.names


def test_the_manifest_tells_sets_apart(tree: Path, tmp_path: Path) -> None:
    images = open_images(tree, "custom")
    lines = images.manifest.splitlines()
    assert len(lines) == 41
    assert lines[1] == f"{images.source.names[0]}\t{images.source.sizes[0]}\t{images.labels[0]}"
    again = open_images(tree, "custom")
    assert again.digest == images.digest
    assert images.save_manifest(tmp_path).read_bytes() == again.save_manifest(tmp_path).read_bytes()
    other = ImageSet(images.dataset, images.source, [images.labels[0] + 1, *images.labels[1:]])
    assert other.digest != images.digest


def test_files_that_are_no_images_are_passed_over(tree: Path, tmp_path: Path) -> None:
    for name in ("a/.DS_Store", "a/._1.jpg", "a/readme.txt", "a/2.JPEG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert Folder(tmp_path).names == ["a/2.JPEG"]


NAMES = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 5)]
WANTED = [65, 970, 0, 999]
LABEL_FILES = {
    "synsets in order": "\n".join(SYNSETS[i] for i in WANTED),
    "indices in order": "65\n970\n0\n999\n",
    "names and indices": "\n".join(f"{n} {i}" for n, i in zip(reversed(NAMES), reversed(WANTED), strict=True)),
    "names and synsets": "\n".join(f"{n}\t{SYNSETS[i]}" for n, i in zip(NAMES, WANTED, strict=True)),
    "with a heading": "ImageId,PredictionString\n"
    + "\n".join(f"{n[:-5]},{SYNSETS[i]} 1 2 3 4 {SYNSETS[0]} 5 6 7 8" for n, i in zip(NAMES, WANTED, strict=True)),
}


@pytest.mark.parametrize("style", LABEL_FILES)
def test_label_files(style: str, tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_text(LABEL_FILES[style])
    assert of_file(path, NAMES) == (WANTED, ())


def test_the_development_kits_numbers(tmp_path: Path) -> None:
    """They have an order of their own, which meta.mat tells."""
    order = np.random.RandomState(0).permutation(1000)
    synsets = np.array([(i + 1, SYNSETS[order[i]]) for i in range(1000)], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    path = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    path.write_text("".join(f"{int(np.flatnonzero(order == i)[0]) + 1}\n" for i in WANTED))
    scipy.io.savemat(tmp_path / "meta.mat", {"synsets": synsets})
    assert of_file(path, NAMES) == (WANTED, ())


@pytest.mark.parametrize(
    ("text", "told"),
    {
        "1\n2\n3\n1000\n": "development kit",
        "n01440764\nn99999999\nn01440764\nn01440764\n": "n99999999",
        "1\n2\n3\n": "3 labels for 4 images",
        f"{NAMES[0]} 1\n": NAMES[1],
    }.items(),
)
def test_bad_label_files(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_text(text)
    with pytest.raises(BadInput, match=re.escape(told)) as error:
        of_file(path, NAMES)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("dataset", "classes"), {"imagenet-a": 200, "imagenet-r": 200, "imagenet": 1000}.items())
def test_subsets(dataset: str, classes: int) -> None:
    found = subset(dataset)
    assert len(found or range(1000)) == classes
    assert len(set(found or range(1000))) == classes
    folders = [SYNSETS[i] for i in (found or range(1000))]
    assert class_index(folders, dataset) == {SYNSETS[i]: i for i in (found or range(1000))}


def test_folders_of_v2_are_indices() -> None:
    assert class_index(["0", "10", "999"], "imagenet-v2") == {"0": 0, "10": 10, "999": 999}


@pytest.mark.parametrize(
    ("folder", "dataset"), [("cat", "imagenet"), ("1000", "imagenet-v2"), (SYNSETS[0], "imagenet-a")]
)
def test_a_folder_of_no_class_is_refused(folder: str, dataset: str) -> None:
    with pytest.raises(BadInput, match=repr(folder)):
        class_index([SYNSETS[6], folder], dataset)


def test_folders_of_a_custom_set_are_numbered_in_natural_order() -> None:
    assert class_index(["c10", "c9"], "custom") == {"c9": 0, "c10": 1}


def touched(root: Path, *names: str) -> Path:
    """Empty images and folders of these names."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


@pytest.mark.parametrize("archived", [False, True])
def test_folders_without_images_are_classes_and_hidden_ones_are_none(archived: bool, tmp_path: Path) -> None:
    names = ("ant/1.jpg", "bee/", "cat/2.JPG", ".ipynb_checkpoints/x.jpg", "__MACOSX/y.jpg", "cat/notes.txt")
    path = touched(tmp_path / "val", *names)
    if archived:
        with tarfile.open(tmp_path / "val.tar", "w") as archive:
            archive.add(path, "val")
        path = tmp_path / "val.tar"
    images = open_images(path, "custom")
    assert images.labels == [0, 2]
    assert images.classes == {"ant": 0, "bee": 1, "cat": 2}
    classes, hidden, others = images.notes
    assert classes == "3 classes by folder: 0 ant, 1 bee, 2 cat; 1 of them without images"
    assert ".ipynb_checkpoints" in hidden
    assert "__MACOSX" in hidden
    assert others.endswith("1 (cat/notes.txt)" if not archived else "1 (val/cat/notes.txt)")


def test_the_first_and_the_last_of_many_folders(tmp_path: Path) -> None:
    folders = [f"c{i}/" for i in range(999)]
    images = open_images(touched(tmp_path, *folders, "c0/1.jpg", "c998/1.jpg"), "custom")
    assert images.labels == [0, 998]
    assert "0 c0, 1 c1" in images.notes[0]
    assert "998 c998; 997 of them without images; torchvision's ImageFolder has another order" in images.notes[0]


def test_a_link_that_loops_changes_no_class(tmp_path: Path) -> None:
    touched(tmp_path, "b/1.jpg", "c/1.jpg")
    (tmp_path / "b" / "all").symlink_to(tmp_path)
    images = open_images(tmp_path, "custom")
    assert images.labels == [0, 1]
    assert images.notes[1].endswith("1 (b/all)")


@pytest.mark.parametrize(
    ("names", "dataset", "words"),
    {
        "numbers from 1": ([f"{i}/x.jpg" for i in range(1, 13)], "custom", "may be indices or names"),
        "some numbers": (["0/x.jpg", "10/x.jpg"], "custom", "missing of 0 to 10"),
        "one index twice": (["0/x.jpg", "1/x.jpg", "01/x.jpg"], "custom", "may be indices or names"),
        "numbers of ImageNet": (["0/x.jpg", "1/x.jpg"], "imagenet", "'0' is no class"),
        "synsets and others": ([f"{SYNSETS[0]}/x.jpg", "other/"], "custom", "'other'"),
        "two levels": (["a/x.jpg", "b/c/x.jpg"], "custom", "side by side"),
        "two sets": (["train/a/x.jpg", "val/a/x.jpg"], "custom", "side by side"),
        "images beside folders": (["a/x.jpg", "y.jpg"], "custom", "without a class folder (y.jpg)"),
    }.values(),
)
def test_folders_whose_classes_are_not_known_are_refused(
    names: list[str], dataset: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=re.escape(words)):
        open_images(touched(tmp_path, *names), dataset, allow_missing=50_000)


def test_folders_of_all_indices_are_indices(tmp_path: Path) -> None:
    folders = [f"{i}/" for i in range(12)]
    assert open_images(touched(tmp_path, *folders, "10/x.jpg", "2/x.jpg"), "custom").labels == [2, 10]


LABELLED = {
    "a byte-order mark": ("\ufeffa/1.jpg 3\nb/1.jpg 4\n", [3, 4]),
    "paths": ("b/1.jpg 4\na/1.jpg 3\n", [3, 4]),
    "a name twice": ("a/1.jpg 3\na/1.jpg 5\nb/1.jpg 4\n", "a/1.jpg has two lines"),
    "a name of two images": ("1.jpg 3\n", "1.jpg is the name of two images"),
    "a stem of two images": ("1 3\n", "1 is the name of two images"),
    "lines of two kinds": ("a/1.jpg 3\nb/1.jpg\n", "line 2 is unlike the first"),
}


@pytest.mark.parametrize("case", LABELLED)
def test_label_files_that_may_be_misread(case: str, tmp_path: Path) -> None:
    text, wanted = LABELLED[case]
    path = tmp_path / "labels"
    path.write_text(text, encoding="utf-8")
    if isinstance(wanted, str):
        with pytest.raises(BadInput, match=re.escape(wanted)) as error:
            of_file(path, ["a/1.jpg", "b/1.jpg"])
        assert str(path) in str(error.value)
    else:
        assert of_file(path, ["a/1.jpg", "b/1.jpg"])[0] == wanted


def test_suffixes_tell_two_images_apart_where_they_are_given(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_text("1.png 4\n1.jpg 3\n2.jpg 7\n")
    labels, notes = of_file(path, ["1.jpg", "1.png"])
    assert labels == [3, 4]
    assert notes == ("left out, lines of labels that name no image: 1 (2.jpg)",)
    path.write_text("1 3\n")
    with pytest.raises(BadInput, match="1 is the name of two images"):
        of_file(path, ["1.jpg", "1.png"])
    path.write_text("shot.1 3\nshot.2 4\n")  # a dot begins no suffix where it is not an image's
    assert of_file(path, ["shot.1.jpg", "shot.2.jpg"])[0] == [3, 4]


@pytest.mark.parametrize("end", [1536, 1536 + 700, 1536 + 512, -1024])
def test_a_tar_that_is_cut_short_is_refused(end: int, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(bytes(10))
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg"):
            archive.add(tmp_path / "x.jpg", name)
        last = archive.offset
    content = (tmp_path / "val.tar").read_bytes()
    assert open_images(tmp_path / "val.tar", "custom").labels == [0, 0, 1]
    (tmp_path / "val.tar").write_bytes(content[: last if end == -1024 else end])
    with pytest.raises(BadInput, match=r"cut short|no uncompressed tar"):
        open_images(tmp_path / "val.tar", "custom")
    (tmp_path / "val.tar").write_bytes(content.replace(b"a/2", b"a/4"))  # its header no longer has the right sum
    with pytest.raises(BadInput, match=r"damaged after 1 entries|bad checksum"):
        open_images(tmp_path / "val.tar", "custom")


@pytest.mark.parametrize("form", [as_parquet, as_arrow_stream, as_arrow_file])
def test_damaged_tables_are_one_line(form: object, tree: Path, tmp_path: Path) -> None:
    """Cuts, and bytes changed: Arrow raises errors of many kinds, and dies of a wrong offset."""
    form(tree, tmp_path)  # type: ignore[operator]
    path = next(p for p in sorted(tmp_path.rglob("*")) if p.suffix in (".parquet", ".arrow"))
    content, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for i in range(20):
        changed = bytearray(content[: rng.integers(len(content))] if i % 2 else content)
        for at in rng.integers(max(len(content) - 4000, 0), len(content), 4):
            changed[at : at + 1] = rng.bytes(1)
        (tmp_path / f"x{path.suffix}").write_bytes(changed)
        try:
            open_images(tmp_path / f"x{path.suffix}", "custom")
        except BadInput:
            refused += 1
    assert refused >= 10


def test_labels_of_a_table_are_whole_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [{"bytes": b"", "path": "a"}], "label": [1.5]}), tmp_path / "x.parquet")
    with pytest.raises(BadInput, match=r"the label of a is 1\.5"):
        open_images(tmp_path / "x.parquet", "custom")


def test_a_manifest_that_cannot_be_written(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"cannot write .*manifest"):
        open_images(tree, "custom").save_manifest(tmp_path / "file")


def test_tables_beside_those_of_the_set_are_named(tree: Path, tmp_path: Path) -> None:
    assert "train-00000" in as_parquet(tree, tmp_path).notes[0]
    (tmp_path / "data" / "test.parquet").touch()
    with pytest.raises(BadInput, match="one set"):
        open_images(tmp_path, "custom")


@pytest.mark.parametrize("dataset", [name for name, d in DATASETS.items() if d.images])
def test_the_real_sets_count_is_asserted(dataset: str, tree: Path) -> None:
    with pytest.raises(BadInput, match=f"40 images where {dataset} has {DATASETS[dataset].images}"):
        open_images(tree, dataset)


def test_images_may_be_missing_if_that_is_allowed(tree: Path) -> None:
    assert len(open_images(tree, "imagenet", allow_missing=49_960)) == 40
    with pytest.raises(BadInput):
        open_images(tree, "imagenet", allow_missing=49_959)


def test_real_labels(tmp_path: Path) -> None:
    path = tmp_path / "real.json"
    path.write_text("[[1], [], [2, 3]]")
    assert real_labels(["a/ILSVRC2012_val_00000003.JPEG", "ILSVRC2012_val_00000002"], path) == [(2, 3), ()]
    assert real_labels(["ILSVRC2012_val_00000002.JPEG"]) == [(970, 795)]
    for name in ("ILSVRC2012_val_00000004.JPEG", "0/abc.jpeg"):
        with pytest.raises(BadInput, match=name):
            real_labels([name], path)


@pytest.mark.parametrize("what", ["nothing", "an empty folder", "flat", "no tar", "no parquet", "no label column"])
def test_bad_data(what: str, tmp_path: Path) -> None:
    path = tmp_path / {"no tar": "x.tar", "no parquet": "x.parquet", "no label column": "x.parquet"}.get(what, "data")
    if what in ("an empty folder", "flat"):
        path.mkdir()
    if what == "flat":
        (path / "1.jpg").touch()
    if what in ("no tar", "no parquet"):
        path.write_bytes(b"nothing of the kind" * 99)
    if what == "no label column":
        pq.write_table(pa.table({"image": [{"bytes": b"", "path": "a"}]}), path)
    with pytest.raises(BadInput, match=re.escape(str(tmp_path))) as error:
        open_images(path, "custom")
    assert "\n" not in str(error.value)


def test_a_table_is_read_a_group_at_a_time(tree: Path, tmp_path: Path) -> None:
    images = as_parquet(tree, tmp_path)
    assert isinstance(images.source, Columns)
    groups = []
    read = images.source._read
    images.source._read = lambda *a, **k: groups.append(a) or read(*a, **k)  # type: ignore[method-assign, func-returns-value]
    for i in range(len(images)):
        images.source.read(i)
    assert len(groups) == 5
