"""A test set: named, labelled images, and the manifest that identifies it."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from bench.accuracy import labels as lab
from bench.accuracy.sources import Source, open_source
from bench.cli import BadInput
from bench.evaluation.files import described, refuse_repeated
from bench.evaluation.store import replace

SHOWN = 12
"""Classes that a sentence names."""


@dataclass(frozen=True)
class ImageSet:
    """Images with their class indices.

    Attributes:
        subset: the classes that predictions are confined to (None: all).
        classes: name of a folder -> index, where a custom set's folders make the classes.
        notes: how classes are numbered, and what of `--data` and `--labels` is left out.
    """

    dataset: str
    source: Source
    labels: Sequence[int]
    subset: tuple[int, ...] | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def manifest(self) -> str:
        """A line for each image: name, size in bytes (-1: not known), class index."""
        names = (name.replace("\n", "\\n").replace("\t", "\\t") for name in self.source.names)
        rows = zip(names, self.source.sizes, self.labels, strict=True)
        return "name\tbytes\tlabel\n" + "".join(f"{name}\t{size}\t{label}\n" for name, size, label in rows)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest."""
        return hashlib.sha256(self.manifest.encode("utf-8", "surrogateescape")).hexdigest()

    @cached_property
    def named(self) -> str:
        """SHA-256 of names and class indices alone: that of a set of which a file was mended, too."""
        rows = zip(self.source.names, self.labels, strict=True)
        text = "".join(f"{name!r} {label}\n" for name, label in rows)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def save_manifest(self, folder: Path) -> Path:
        """Write `manifest-<start of the hash>.tsv.gz`, the same bytes each time.

        Raises:
            BadInput: if it cannot be written.
        """
        path = folder / f"manifest-{self.digest[:12]}.tsv.gz"
        if not path.exists():
            try:
                replace(path, gzip.compress(self.manifest.encode("utf-8", "surrogateescape"), mtime=0))
            except OSError as error:
                raise BadInput(
                    f"cannot write {path}: {error.strerror}: make room, or give --results another folder"
                ) from error
        return path


def open_images(path: Path, dataset: str = "imagenet", labels: Path | None = None, allow_missing: int = 0) -> ImageSet:
    """The test set at `path`, labelled by its folders, its own column, or the ground-truth file `labels`.

    Raises:
        BadInput: if labels are missing or wrong, or the number of images is not the real set's (`allow_missing` fewer
            are let through).
    """
    source = open_source(path)
    expected, count = lab.DATASETS[dataset].images, len(source.names)
    if expected is not None and not expected - allow_missing <= count <= expected:
        raise BadInput(
            f"--data {path}: {count} images where {dataset} has {expected}: complete it, let N be missing by "
            "--allow-missing N, or give --dataset custom for another set"
        )
    refuse_repeated(f"--data {path}", source.names, "names two images")
    index: dict[str, int] = {}
    notes = described(source.left_out)
    if labels is not None:
        classes, unused = lab.of_file(labels, source.names)
        notes += unused
    elif source.labels is not None:
        classes = list(source.labels)
    else:
        folders = class_folders(path, source)
        index = lab.class_index({*folders, *empty_folders(source)} if dataset == "custom" else set(folders), dataset)
        classes = [index[name] for name in folders]
    if min(classes) < 0:
        name = source.names[classes.index(min(classes))]
        raise BadInput(f"--data {path}: {name} has no label (the test split has none)")
    subset = lab.subset(dataset)
    outside = [label for label in set(classes) if subset is not None and label not in subset]
    if outside:
        raise BadInput(f"--data {path}: class {outside[0]} is not of {dataset}")
    if dataset != "custom":
        return ImageSet(dataset, source, classes, subset, notes=notes)
    return ImageSet(dataset, source, classes, subset, index, numbering(index, set(classes)) + notes)


def class_folders(path: Path, source: Source) -> list[str]:
    """The name of each image's folder.

    Raises:
        BadInput: if these folders do not lie side by side: then which of them are the classes is not known.
    """
    folders = [PurePosixPath(name).parent for name in source.names]
    first = next(iter(folders))
    for name, folder in zip(source.names, folders, strict=True):
        if not folder.name:
            raise BadInput(f"--data {path}: images without a class folder ({name}): give --labels")
        if folder.parent != first.parent:
            raise BadInput(
                f"--data {path}: the folders {first} and {folder} do not lie side by side: give the folder whose "
                "folders are the classes, or --labels"
            )
    return [folder.name for folder in folders]


def empty_folders(source: Source) -> set[str]:
    """The names of folders without images beside those that have some."""
    above = PurePosixPath(source.names[0]).parent.parent
    return {PurePosixPath(folder).name for folder in source.folders if PurePosixPath(folder).parent == above}


def numbering(index: Mapping[str, int], used: set[int]) -> tuple[str, ...]:
    """A sentence on how a custom set's folders are numbered."""
    if not index:
        return ()
    listed = [f"{i} {name}" for name, i in sorted(index.items(), key=lambda item: item[1])]
    shown = listed if len(listed) <= SHOWN else [*listed[: SHOWN - 1], "...", listed[-1]]
    empty = sum(i not in used for i in index.values())
    without = f"; {empty} of them without images" if empty else ""
    alike = sorted(index) == sorted(index, key=index.__getitem__)
    order = "" if alike else "; torchvision's ImageFolder has another order"
    return (f"{len(listed)} classes by folder: {', '.join(shown)}{without}{order}",)
