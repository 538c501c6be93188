"""A test set: named, labelled images, and the manifest that identifies it."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from bench.accuracy import labels as lab
from bench.accuracy.sources import Source, open_source
from bench.cli import BadInput


@dataclass(frozen=True)
class ImageSet:
    """Images with their class indices. `subset` are the classes that predictions are confined to (None: all)."""

    dataset: str
    source: Source
    labels: Sequence[int]
    subset: tuple[int, ...] | None = None

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

    def save_manifest(self, folder: Path) -> Path:
        """Write `manifest-<start of the hash>.tsv.gz`, the same bytes each time."""
        path = folder / f"manifest-{self.digest[:12]}.tsv.gz"
        if not path.exists():
            partial = path.with_name(f"{path.name}.{os.getpid()}.part")
            partial.write_bytes(gzip.compress(self.manifest.encode("utf-8", "surrogateescape"), mtime=0))
            partial.replace(path)
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
    if labels is not None:
        classes = lab.of_file(labels, source.names)
    elif source.labels is not None:
        classes = list(source.labels)
    else:
        folders = [PurePosixPath(name).parent.name for name in source.names]
        if not all(folders):
            raise BadInput(
                f"--data {path}: images without a class folder ({source.names[folders.index('')]}): give --labels"
            )
        classes = lab.of_folders(folders, dataset)
    if min(classes) < 0:
        name = source.names[classes.index(min(classes))]
        raise BadInput(f"--data {path}: {name} has no label (the test split has none)")
    subset = lab.subset(dataset)
    outside = [label for label in set(classes) if subset is not None and label not in subset]
    if outside:
        raise BadInput(f"--data {path}: class {outside[0]} is not of {dataset}")
    repeated = [name for name, times in Counter(source.names).items() if times > 1]
    if repeated:
        raise BadInput(f"--data {path}: two images are named {repeated[0]}")
    return ImageSet(dataset, source, classes, subset)
