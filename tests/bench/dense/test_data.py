"""Trees of COCO and ADE20K on disk: what is read, what is left out by name, what is refused at once."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torchvision")
pytest.importorskip("pycocotools")

from pycocotools.mask import encode

from bench.ade20k import main as ade20k
from bench.cli import BadInput
from bench.dense.data import ADE20K, COCO, read_image
from bench.evaluation.files import UnreadableImage
from bench.train_ade20k import main as train_ade20k
from bench.train_coco import main as train_coco
from tests.bench.dense.trees import write_ade20k, write_coco, write_coco_split

LABEL = np.full((40, 48), 3, dtype=np.uint8)


def test_suffixes_of_any_case_are_images(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path, {n: LABEL for n in "abc"})
    images = root / "images" / "validation"
    (images / "b.jpg").rename(images / "b.JPG")
    (images / "c.jpg").rename(images / "c.JPEG")
    (images / "notes.txt").touch()
    (root / "annotations" / "validation" / "a.png").rename(root / "annotations" / "validation" / "a.PNG")
    Image.fromarray(LABEL).save(root / "annotations" / "validation" / "d.png")
    data = ADE20K.open(root)
    assert data.names == ["a", "b", "c"]
    for name in data.names:
        assert data.pair(name)[0].shape == (40, 48, 3)
    assert any("notes.txt" in note for note in data.notes)
    assert any("1 (d)" in note for note in data.notes)
    Image.fromarray(LABEL).save(images / "b.png")
    with pytest.raises(BadInput, match="b is the name of two files"):
        ADE20K.open(root)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.ppm").write_bytes(b"P3\n4 4\n255\n1 2 x")
    with pytest.raises(UnreadableImage, match=r"x\.ppm"):
        read_image(tmp_path / "x.ppm")
    root = write_ade20k(tmp_path / "data", {"a": LABEL})
    annotation = root / "annotations" / "validation" / "a.png"
    content = bytearray(annotation.read_bytes())
    content[16:24] = (30_000).to_bytes(4, "big") * 2  # width and height of the header
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    annotation.write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"a\.png.*exceeds limit"):
        ADE20K.open(root).label("a")


def train_arguments(root: Path, to: Path) -> list[str]:
    return ["--data", str(root), "--model", "moganet_xt", "--weights", "random", "--device", "cpu", "--workers", "0",
            "--batch-size", "1", "--output", str(to)]  # fmt: skip


def as_training(root: Path) -> Path:
    for folder in ("images", "annotations"):
        (root / folder / "validation").rename(root / folder / "training")
    return root


def test_a_mask_of_another_size_stops_training(tmp_path: Path) -> None:
    root = as_training(write_ade20k(tmp_path / "data", {"a": LABEL}))
    Image.fromarray(LABEL[:20]).save(root / "annotations" / "training" / "a.png")
    with pytest.raises(BadInput, match=r"a: image \(40, 48\) and annotation \(20, 48\) differ in size") as error:
        train_ade20k(
            [*train_arguments(root, tmp_path / "t.pth"), "--workers", "1", "--iterations", "1", "--batch-size", "2"]
        )
    assert "Traceback" not in str(error.value)


def test_training_begins_when_every_pair_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong files stop it before a model is built, all of them counted; an image that lies on its side is upright."""
    root = as_training(write_ade20k(tmp_path / "data", {n: LABEL for n in "abcde"}))
    images, annotations = root / "images" / "training", root / "annotations" / "training"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(images / "a.jpg").transpose(Image.Transpose.ROTATE_90).save(images / "a.jpg", exif=exif)
    built: list[str] = []
    monkeypatch.setattr("bench.dense.training.run.build_dense", lambda *args, **kwargs: built.append("a model"))
    monkeypatch.setattr("bench.dense.training.run.train", lambda *args: None)
    args = [*train_arguments(root, tmp_path / "t.pth"), "--batch-size", "2"]
    with pytest.raises(AttributeError):  # the model is none: it was built, since all is well
        train_ade20k(args)
    assert built
    Image.fromarray(LABEL[:20]).save(annotations / "b.png")
    Image.fromarray(LABEL.astype(np.uint16)).save(annotations / "c.png")
    (images / "d.jpg").write_bytes(b"no image")
    built.clear()
    with pytest.raises(
        BadInput, match=r"3 of 5 images cannot be used: b: .* differ in size; c\.png is I;16, .*; d\.jpg"
    ):
        train_ade20k(args)
    assert not built


def test_why_no_image_can_be_used_is_printed(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path / "data", {"a": LABEL})
    Image.fromarray(LABEL[:20]).save(root / "annotations" / "validation" / "a.png")
    args = ["--data", root, "--models", "moganet_xt", "--weights", "random", "--device", "cpu", "--workers", "0"]
    with pytest.raises(BadInput, match=r"none of its images could be used: a: image \(40, 48\) and annotation"):
        ade20k([*map(str, args), "--results", str(tmp_path / "r")])


def test_what_a_training_state_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All arguments but those of where and how often, and what is in the set: another would make it of two runs."""
    root = as_training(write_ade20k(tmp_path / "data", {n: LABEL for n in "ab"}))
    kept: list[dict[str, str]] = []
    monkeypatch.setattr("bench.dense.training.run.train", lambda *args, **_: kept.append(args[-2]))
    args = train_arguments(root, tmp_path / "t.pth")
    with pytest.raises(BadInput, match="2 images or more"):
        train_ade20k(args)
    for more in (["--workers", "1"], ["--seed", "7"]):
        train_ade20k([*args, "--batch-size", "2", *more])
    assert kept[0] | {"--seed": "7"} == kept[1]
    image = root / "images" / "training" / "a.jpg"
    image.write_bytes(image.read_bytes() + b"mended")
    assert kept[0]["--data"] == ADE20K.open(root, "training").named
    others = []
    for lines in ("3 cat\n4 dog\n", "4 cat\n3 dog\n"):
        (tmp_path / "classes.txt").write_text(lines)
        others.append(ADE20K.open(root, "training", str(tmp_path / "classes.txt")).named)
    image.unlink()
    (root / "annotations" / "training" / "a.png").unlink()
    others.append(ADE20K.open(root, "training").named)
    assert len({*others, kept[0]["--data"]}) == 4
    assert {"--model", "--head", "--batch-size", "--crop", "--dtype", "--seed"} < kept[0].keys()
    assert "--workers" not in kept[0]


OBJECTS = {"a.png": [(1, (4, 4, 20, 12))], "b.png": [(2, (8, 8, 16, 16))]}


def write_changed(root: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = write_coco(root, OBJECTS, (40, 48)) / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return root


def of_annotation(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["annotations"][1].update(values)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no iscrowd": (lambda c: c["annotations"][1].pop("iscrowd"), "annotation 2 has no iscrowd"),
    "no area": (lambda c: c["annotations"][1].pop("area"), "annotation 2 has no area"),
    "no segmentation": (lambda c: c["annotations"][1].pop("segmentation"), "annotation 2 has an empty segmentation"),
    "an empty segmentation": (of_annotation(segmentation=[]), "annotation 2 has an empty segmentation"),
    "an empty polygon": (of_annotation(segmentation=[[]]), "annotation 2 has a polygon"),
    "two points": (of_annotation(segmentation=[[1, 2, 3, 4]]), "annotation 2 has a polygon"),
    "no counts": (of_annotation(segmentation={"size": [40, 48]}), "annotation 2 has a run-length code"),
    "a mask of another size": (of_annotation(segmentation={"size": [9, 9], "counts": "0"}), "run-length code"),
    "a mask that is cut": (of_annotation(segmentation={"size": [40, 48], "counts": [5]}), "does not cover its image"),
    "a mask of odd text": (of_annotation(segmentation={"size": [40, 48], "counts": "zzz"}), "does not cover its image"),
    "a mask of less than 0": (of_annotation(segmentation={"size": [40, 48], "counts": [-1, 1921]}), "does not cover"),
    "a name too long for a file": (
        lambda c: c["images"][0].update(file_name="a" * 300),
        "images[0] has no id and",
    ),
    "a name of no text": (lambda c: c["images"][0].update(file_name="\ud800"), "images[0] has no id and file_name"),
    "an unknown category": (of_annotation(category_id=0), "annotation 2 has category_id 0"),
    "an unknown image": (of_annotation(image_id=7), "annotation 2 is of image_id 7"),
    "a box of not a number": (of_annotation(bbox=[1, 2, float("nan"), 4]), "annotation 2 has no bbox"),
    "an id twice": (of_annotation(id=1), "id 1 is there twice"),
    "id 0": (of_annotation(id=0), "annotations[1] has no id above 0"),
    "no size": (lambda c: c["images"][0].pop("height"), "images[0] has no height"),
    "a file twice": (lambda c: c["images"][1].update(file_name="a.png"), "a.png is there twice"),
    "a category twice": (lambda c: c["categories"][1].update(id=1), "id 1 is there twice"),
    "no objects": (lambda c: c.update(images=[3]), "has no images, annotations and categories"),
    "no images": (lambda c: c.update(images=[]), "names no images"),
}


def test_masks_as_pycocotools_writes_them_are_taken(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(20):
        mask = np.asfortranarray(rng.random((40, 48)) < rng.random(), dtype=np.uint8)
        code = {"size": [40, 48], "counts": encode(mask)["counts"].decode()}
        assert COCO.open(write_changed(tmp_path / str(i), of_annotation(segmentation=code))).names == ["a.png", "b.png"]


def test_annotations_nested_without_end(tmp_path: Path) -> None:
    path = write_coco(tmp_path, OBJECTS, (40, 48)) / "annotations" / "instances_val2017.json"
    path.write_text("[" * 200_000)
    with pytest.raises(BadInput, match="no JSON file"):
        COCO.open(tmp_path)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    write_ade20k(tmp_path, {"a": np.full((9, 12), 7, np.uint8)})
    for path in (tmp_path / "images/validation/a.jpg", tmp_path / "annotations/validation/a.png"):
        path.rename(os.fsdecode(os.fsencode(path.parent) + b"/\xff" + os.fsencode(path.suffix)))
    (tmp_path / "images/validation" / os.fsdecode(b"\xfe.txt")).touch()
    found = ADE20K.open(tmp_path)
    assert len(found.names) == 1
    assert "\n".join(found.notes).encode()


@pytest.mark.parametrize("case", CHANGES)
def test_annotations_are_checked_when_they_are_opened(case: str, tmp_path: Path) -> None:
    change, words = CHANGES[case]
    with pytest.raises(BadInput, match=re.escape(words)) as error:
        COCO.open(write_changed(tmp_path / "data", change))
    assert "instances_val2017.json" in str(error.value)


def test_images_that_no_annotation_names_are_counted(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data", OBJECTS, (40, 48))
    (root / "val2017" / "c.png").touch()
    numbering, left_out = COCO.open(root).notes
    assert numbering == "80 classes by category id: 0 1 (id 1), 1 2 (id 2), ..., 79 90 (id 90)"
    assert left_out.endswith("1 (c.png)")


def test_training_needs_all_images(tmp_path: Path) -> None:
    root = write_coco_split(tmp_path / "data", OBJECTS, (40, 48), "train2017")
    (root / "train2017" / "b.png").unlink()
    with pytest.raises(BadInput, match=r"not in train2017: 1 \(b\.png\)"):
        train_coco(train_arguments(root, tmp_path / "t.pth"))
