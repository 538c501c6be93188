"""Class indices: of synset names, of ground-truth files, of ImageNet's variants, and the ReaL labels.

ImageNet-1K's index is the place of a synset in the sorted list of the 1000. Lists are those that timm ships.
"""

from __future__ import annotations

import functools
import json
import pkgutil
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bench.cli import BadInput


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


def natural_key(name: str) -> tuple[list[str | int], str]:
    """timm's sorting key, in which numbers within names count as numbers; then the name, lest `1` and `01` tie."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())], name


def of_folders(folders: Sequence[str], dataset: str) -> list[int]:
    """The class index of each image's folder: a synset, an index (ImageNet-V2), or, in a custom set, any name.

    Raises:
        BadInput: for a folder that is no class of the set.
    """
    distinct, index = set(folders), synset_index()
    if dataset == "custom" and not distinct <= index.keys():
        if all(name.isdecimal() for name in distinct):
            return [int(name) for name in folders]
        order = {name: i for i, name in enumerate(sorted(distinct, key=natural_key))}
        return [order[name] for name in folders]
    allowed = subset(dataset)
    table: dict[str, int] = {}
    for name in sorted(distinct):
        value = index.get(name, int(name) if name.isdecimal() else -1)
        if not 0 <= value < 1000 or (allowed is not None and value not in allowed):
            raise BadInput(
                f"--data: folder {name!r} is no class of {dataset}: name folders by synset (n01440764), "
                "or give --dataset custom"
            )
        table[name] = value
    return [table[name] for name in folders]


def of_file(path: Path, names: Sequence[str]) -> list[int]:
    """Class indices of `names` (sorted) by a ground-truth file.

    Lines are `NAME LABEL ...` (also with commas or tabs, as in LOC_val_solution.csv), or one label for each image in
    the order of names. A label is a synset or an index from 0. The development kit's numbers from 1 to 1000 are in
    another order: they need its `meta.mat` beside the file.

    Raises:
        BadInput: for an unknown label, an image without one, or numbers whose order is not known.
    """
    try:
        lines = [re.split(r"[,\s]+", line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise BadInput(f"--labels {path}: {error.strerror}") from error
    if lines and len(lines[0]) > 1:
        table = {_stem(line[0]): line[1] for line in lines if len(line) > 1}
        missing = [name for name in names if _stem(name) not in table]
        if missing:
            raise BadInput(f"--labels {path}: no label of {missing[0]} ({len(missing)} images have none)")
        labels = [table[_stem(name)] for name in names]
    elif len(lines) == len(names):
        labels = [line[0] for line in lines]
    else:
        raise BadInput(f"--labels {path}: {len(lines)} labels for {len(names)} images")
    return _indices(labels, path, ordered=len(lines[0]) > 1)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _indices(labels: Sequence[str], path: Path, ordered: bool) -> list[int]:
    index = synset_index()
    if not all(label.isdecimal() for label in labels):
        unknown = next((label for label in labels if label not in index), None)
        if unknown is not None:
            raise BadInput(f"--labels {path}: {unknown!r} is no synset of ImageNet-1K")
        return [index[label] for label in labels]
    numbers = [int(label) for label in labels]
    if not ordered and 0 not in numbers and (path.parent / "meta.mat").is_file():
        order = _kit_order(path.parent / "meta.mat")
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
    return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in loadmat(path, squeeze_me=True)["synsets"]}


def real_labels(names: Sequence[str], path: Path | None = None) -> list[tuple[int, ...]]:
    """Each image's ReaL labels (arXiv 2006.07159), none for those that it leaves out; timm's copy, or a file's.

    Raises:
        BadInput: for an image whose name does not hold its number in the validation set.
    """
    try:
        text = path.read_text(encoding="utf-8") if path else _timm_file("imagenet_real_labels.json")
    except OSError as error:
        raise BadInput(f"--real {path}: {error.strerror}") from error
    table = json.loads(text)
    labels = []
    for name in names:
        number = re.search(r"ILSVRC2012_val_(\d{8})", name)
        if number is None or not 0 < int(number[1]) <= len(table):
            raise BadInput(f"--real: {name} is no image of ImageNet's validation set (ILSVRC2012_val_00000001.JPEG)")
        labels.append(tuple(table[int(number[1]) - 1]))
    return labels
