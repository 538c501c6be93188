"""Class indices: of synset names, of ground-truth files, of ImageNet's variants, and the ReaL labels.

ImageNet-1K's index is the place of a synset in the sorted list of the 1000. Lists are those that timm ships.
"""

from __future__ import annotations

import functools
import json
import pkgutil
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bench.cli import BadInput
from bench.evaluation.files import described, is_image, natural_key, refuse_repeated
from bench.files import read_text


@dataclass(frozen=True)
class Dataset:
    """A test set: how many images it has, and the list of the synsets that predictions are confined to, if so."""

    images: int | None
    synsets: str | None = None


DATASETS: Mapping[str, Dataset] = {
    "imagenet": Dataset(50_000),
    "imagenet-v2": Dataset(10_000),
    "imagenet-a": Dataset(7_500, "imagenet_a_synsets.txt"),
    "imagenet-r": Dataset(30_000, "imagenet_r_synsets.txt"),
    "imagenet-sketch": Dataset(50_889),
    "custom": Dataset(None),
}
"""`custom` is any other set of images: no count is asserted, and class folders may have any names."""


def _timm_file(name: str) -> str:
    content = pkgutil.get_data("timm.data", f"_info/{name}")
    assert content is not None, f"timm does not ship {name}"
    return content.decode("utf-8")


@functools.cache
def synset_index() -> dict[str, int]:
    """Synset name -> class index, of the 1000."""
    names = _timm_file("imagenet_synsets.txt").split()
    assert len(names) == 1000
    assert names == sorted(names)
    return {name: i for i, name in enumerate(names)}


def subset(dataset: str) -> tuple[int, ...] | None:
    """The class indices that a variant of ImageNet has; None where it has all."""
    listed = DATASETS[dataset].synsets
    return None if listed is None else tuple(sorted(synset_index()[name] for name in _timm_file(listed).split()))


def class_index(classes: Collection[str], dataset: str) -> dict[str, int]:
    """Name of a class folder -> index: a synset's, the number itself in ImageNet-V2, or, in a custom set of other
    names, the place among all folders in timm's order.

    Raises:
        BadInput: for a folder that is no class of the set, and where names may mean one index or another.
    """
    synsets = synset_index()
    known = [name for name in classes if name in synsets]
    if dataset == "custom" and not known:
        return _places(classes)
    allowed, table = subset(dataset), dict[str, int]()
    for name in sorted(classes):
        number = _number(name) if dataset == "imagenet-v2" else -1
        value = synsets.get(name, number)
        if not 0 <= value < 1000 or (allowed is not None and value not in allowed):
            mend = (
                f"{known[0]!r} is one of ImageNet-1K: have folders of one kind, or give --labels"
                if dataset == "custom"
                else "name folders by synset (n01440764), or give --dataset custom"
            )
            raise BadInput(f"--data: folder {name!r} is no class of {'ImageNet-1K' if known else dataset}: {mend}")
        table[name] = value
    return table


def _number(name: str) -> int:
    """A name that is a number of at most nine digits, which all indices are; else -1."""
    return int(name) if name.isdecimal() and len(name) < 10 else -1


def _places(classes: Collection[str]) -> dict[str, int]:
    table = {name: i for i, name in enumerate(sorted(classes, key=natural_key))}
    if all(name.isdecimal() for name in table) and any(_number(name) != i for name, i in table.items()):
        raise BadInput(
            f"--data: folders named by numbers ({', '.join(list(table)[:3])}, ...) may be indices or names: if indices,"
            f" add the empty ones that are missing of 0 to {max(map(_number, table))}; else put a letter before each, "
            "or give --labels"
        )
    return table


def of_file(path: Path, names: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Class indices of `names` (sorted) by a ground-truth file, and what of the file names no image.

    Lines are `NAME LABEL ...` (also with commas or tabs, as in LOC_val_solution.csv), or one label for each image in
    the order of names. NAME is a path below the folder of images, the file's name, or that without its suffix: the
    first of these by which all images have a line. A label is a synset or an index from 0. The development kit's
    numbers from 1 to 1000 are in another order: they need its `meta.mat` beside the file.

    Raises:
        BadInput: for an unknown label, an image without one or with two, a name of two images, or numbers whose order
            is not known.
    """
    text = read_text(path, "give --labels a text file with lines of NAME LABEL, or of labels")
    lines = [(i, re.split(r"[,\s]+", line.strip())) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    named = bool(lines) and len(lines[0][1]) > 1
    odd = [i for i, fields in lines if (len(fields) > 1) != named]
    if odd:
        raise BadInput(f"--labels {path}: line {odd[0]} is unlike the first: give NAME LABEL in all lines")
    if not named and len(lines) != len(names):
        raise BadInput(f"--labels {path}: {len(lines)} labels for {len(names)} images")
    if not named:
        return _indices([fields[0] for _, fields in lines], path, ordered=False), ()
    labels, others = _matched(path, [(fields[0], fields[1]) for _, fields in lines], names)
    first, label = lines[0][1][:2]
    heading = others[:1] == [first] and not label.isdecimal() and label not in synset_index()
    unused = others[1:] if heading else others
    return _indices(labels, path, ordered=True), described({f"lines of {path.name} that name no image": unused})


def _matched(path: Path, lines: Sequence[tuple[str, str]], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The label of each image, and the names of other lines."""
    missing: list[str] = []
    keys: tuple[Callable[[str], str], ...] = (str, lambda name: PurePosixPath(name).name, _stem)
    for key in keys:
        table = {key(name): label for name, label in lines}
        missing = [name for name in names if key(name) not in table]
        if not missing:
            break
    else:
        raise BadInput(f"--labels {path}: no label of {missing[0]} ({len(missing)} images have none)")
    images = [key(name) for name in names]
    refuse_repeated(f"--labels {path}", images, "is the name of two images, which need their paths")
    known = set(images)
    refuse_repeated(f"--labels {path}", (key(name) for name, _ in lines if key(name) in known), "has two lines")
    return [table[name] for name in images], [name for name, _ in lines if key(name) not in known]


def _stem(name: str) -> str:
    """A file's name without the suffix of an image."""
    return PurePosixPath(name).stem if is_image(name) else PurePosixPath(name).name


def _indices(labels: Sequence[str], path: Path, ordered: bool) -> list[int]:
    index = synset_index()
    if not all(label.isdecimal() for label in labels):
        unknown = next((label for label in labels if label not in index), None)
        if unknown is not None:
            raise BadInput(f"--labels {path}: {unknown!r} is no synset of ImageNet-1K")
        return [index[label] for label in labels]
    try:
        numbers = [int(label) for label in labels]
    except ValueError as error:  # of thousands of digits
        raise BadInput(f"--labels {path}: a label is no number from 0 to 999 ({error})") from error
    if not ordered and 0 not in numbers and (path.parent / "meta.mat").is_file():
        order = _kit_order(path.parent / "meta.mat")
        strange = next((number for number in numbers if order.get(number) not in index), None)
        if strange is not None:
            raise BadInput(f"--labels {path}: {strange} is no number of a class in {path.parent / 'meta.mat'}")
        return [index[order[number]] for number in numbers]
    if max(numbers) > 999:
        raise BadInput(
            f"--labels {path}: numbers up to {max(numbers)} are the development kit's, in an order of its own: put its "
            "meta.mat beside the file, or give a file of synsets"
        )
    return numbers


def _kit_order(path: Path) -> dict[int, str]:
    """The development kit's number -> synset."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise BadInput(f"reading {path} needs SciPy: pip install scipy") from error
    try:
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in loadmat(path, squeeze_me=True)["synsets"]}
    except Exception as error:  # SciPy raises many kinds
        why = " ".join(str(error).split())
        raise BadInput(f"{path} is not the development kit's, or damaged ({why}): put the kit's there") from error


def real_labels(names: Sequence[str], path: Path | None = None) -> list[tuple[int, ...]]:
    """Each image's ReaL labels (arXiv 2006.07159), none for those that it leaves out; timm's copy, or a file's.

    Raises:
        BadInput: for an image whose name does not hold its number in the validation set.
    """
    try:
        mend = "give --real a JSON list of each image's labels"
        text = read_text(path, mend) if path else _timm_file("imagenet_real_labels.json")
        table = [tuple(map(int, of_image)) for of_image in json.loads(text)]
    except BadInput:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadInput(f"--real {path}: no JSON list of each image's labels ({error})") from error
    labels = []
    for name in names:
        number = re.search(r"ILSVRC2012_val_(\d{8})", name)
        if number is None or not 0 < int(number[1]) <= len(table):
            raise BadInput(f"--real: {name} is no image of ImageNet's validation set (ILSVRC2012_val_00000001.JPEG)")
        labels.append(table[int(number[1]) - 1])
    return labels
