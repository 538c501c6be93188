"""COCO and ADE20K validation sets on disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageOps
from PIL import Image as PIL

from bench.cli import BadInput
from bench.dense import categories
from bench.dense.annotations import check
from bench.dense.categories import Classes
from bench.dense.transforms import Image
from bench.evaluation.files import EXTENSIONS, LeftOut, Listing, UnreadableImage, described, listing, refuse_repeated


def read_image(path: Path) -> Image:
    """(H, W, 3) uint8, RGB, turned upright.

    Raises:
        UnreadableImage: where it is missing, damaged or no image.
    """
    with _opened(path) as file:
        return np.array(ImageOps.exif_transpose(file).convert("RGB"))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[PIL.Image]:
    """An image's file; within it, whatever its decoder raises is an `UnreadableImage`."""
    try:
        with PIL.open(path) as file:
            yield file
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds
        raise UnreadableImage(f"{path.name}: {' '.join(str(error).split()) or type(error).__name__}") from error


TURNED = (5, 6, 7, 8)
"""EXIF orientations that lay an image on its side."""


def _header(path: Path, upright: bool) -> tuple[tuple[int, int], str]:
    """Height and width of an image, as it lies in the file or `upright`, and PIL's mode: without its pixels."""
    with _opened(path) as file:
        turned = upright and file.getexif().get(ExifTags.Base.Orientation) in TURNED
        size = (file.width, file.height) if turned else (file.height, file.width)
        return size, file.mode


def files_hash(files: list[Path], *contents: bytes, sizes: bool = True) -> str:
    """SHA-256 of the files' names and sizes, and of `contents`."""
    digest = hashlib.sha256()
    for file in files:
        size = (file.stat().st_size if file.exists() else "missing") if sizes else ""
        digest.update(os.fsencode(f"{file.name} {size}\n"))
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


@dataclass
class ADE20K:
    """Images of `images/<split>` with `annotations/<split>/*.png` of the same stems (scene parsing).

    Attributes:
        files: stem -> the image and its annotation.
        hash: of what the set is, and of its classes where they are not ADE20K's.
        named: the same without the files' sizes: that of a set of which a file was mended, too.
        classes: what labels of pixels stand for.
        notes: how classes are numbered, and which files are left out.
    """

    files: dict[str, tuple[Path, Path]]
    hash: str
    named: str
    classes: Classes
    notes: tuple[str, ...] = ()

    @property
    def expected(self) -> int:
        """Images of the real validation set."""
        return len(self.files) if self.classes.custom else 2000

    @property
    def names(self) -> list[str]:
        return list(self.files)

    @classmethod
    def open(cls, root: Path, split: str = "validation", given: str | None = None) -> ADE20K:
        """The set below `root`; `given` is `--categories`.

        Raises:
            BadInput: where the folders, images or annotations are missing, or the categories cannot be used.
        """
        classes = categories.of_pixels(given)
        images, labels = root / "images" / split, root / "annotations" / split
        for folder in (images, labels):
            if not folder.is_dir():
                raise BadInput(f"no {folder}: give --data the folder that has images/{split} and annotations/{split}")
        found, masks, left_out = dict[str, Path](), dict[str, Path](), LeftOut()
        for folder, table, suffixes in ((images, found, EXTENSIONS), (labels, masks, (".png",))):
            below = listing(folder)
            table.update(_by_stem(folder, below, suffixes))
            for reason, names in below.left_out.items():
                left_out.setdefault(reason, []).extend(names)
        if not found:
            raise BadInput(f"no images in {images} ({', '.join(EXTENSIONS)})")
        missing = sorted(name for name in found if name not in masks)
        if missing:
            raise BadInput(f"{len(missing)} images without annotation in {labels}, the first: {missing[0]}.png")
        left_out["an annotation without an image"] = sorted(set(masks) - set(found))
        files = {name: (found[name], masks[name]) for name in sorted(found)}
        identity = _identity(classes, [pair[i] for i in (0, 1) for pair in files.values()])
        numbered = "150 classes: class k is label k + 1 of the annotations, whose 0 is ignored"
        return cls(files, *identity, classes, (classes.note() if classes.custom else numbered, *described(left_out)))

    def check_pairs(self) -> None:
        """Make sure of what the files' headers tell, before any is read whole: images and annotations of one size.

        Raises:
            BadInput: naming those that are not, or cannot be opened.
        """
        wrong = []
        for name, (image, label) in self.files.items():
            try:
                (size, _), (labelled, mode) = _header(image, upright=True), _header(label, upright=False)
            except UnreadableImage as error:
                wrong.append(str(error))
                continue
            if mode not in ("L", "P"):
                wrong.append(f"{label.name} is {mode}, no annotation of {len(self.classes)} classes in 8 bits")
            elif size != labelled:
                wrong.append(f"{name}: image {size} and annotation {labelled} differ in size")
        if wrong:
            raise BadInput(f"--data: {len(wrong)} of {len(self.files)} images cannot be used: {'; '.join(wrong[:3])}: "
                           "mend the files, or remove them with their annotations")  # fmt: skip

    def image(self, name: str) -> Image:
        return read_image(self.files[name][0])

    def label(self, name: str) -> NDArray[np.uint8]:
        """(H, W) as in the file."""
        path = self.files[name][1]
        with _opened(path) as file:
            label = np.array(file)
        if label.ndim != 2 or label.dtype != np.uint8:
            raise UnreadableImage(f"{path.name}: no annotation of {len(self.classes)} classes in 8 bits")
        if unknown := self.classes.unknown(label):
            why = f"label {unknown[0]}, which --categories does not name, not as {categories.LEFT_OUT} either"
            why = why if self.classes.custom else f"label {unknown[0]}: no annotation of 150 classes in 8 bits"
            raise UnreadableImage(f"{path.name}: {why}")
        return label

    def pair(self, name: str) -> tuple[Image, NDArray[np.uint8]]:
        """An image and the classes of its pixels (H, W), of one size."""
        image, label = self.image(name), self.label(name)
        if image.shape[:2] != label.shape:
            raise UnreadableImage(f"{name}: image {image.shape[:2]} and annotation {label.shape} differ in size")
        return image, self.classes.pixels(label)


def _by_stem(folder: Path, below: Listing, suffixes: Sequence[str]) -> dict[str, Path]:
    """Relative name without its suffix -> the file, of these suffixes; others are left out.

    Raises:
        BadInput: if two files differ in their suffix alone.
    """
    names = list(below.images(suffixes))
    stems = [PurePosixPath(name).with_suffix("").as_posix() for name in names]
    refuse_repeated(str(folder), stems, "is the name of two files, but for the suffix")
    return {stem: folder / name for stem, name in zip(stems, names, strict=True)}


def _identity(classes: Classes, files: list[Path], *contents: bytes) -> tuple[str, str]:
    """The hash of a set, with and without its files' sizes; of other classes than the standard ones it says so, as
    records of custom sets do."""
    kind, own = ("custom:", [json.dumps(classes.mapping).encode()]) if classes.custom else ("", [])
    sized, named = (f"{kind}{files_hash(files, *contents, *own, sizes=sizes)}" for sizes in (True, False))
    return sized, named


@dataclass
class COCO:
    """`annotations/instances_<split>.json` and `<split>/`. Classes are the category ids in ascending order, unless
    `--categories` says otherwise."""

    root: Path
    names: list[str]
    hash: str
    named: str  # as of `ADE20K`
    index: Any  # pycocotools.coco.COCO, of the annotations of these classes
    ids: dict[str, int]
    classes: Classes
    split: str = "val2017"
    notes: tuple[str, ...] = ()

    @property
    def expected(self) -> int:
        """Images of the real validation set."""
        return len(self.names) if self.classes.custom else 5000

    @property
    def categories(self) -> list[int]:
        """The category id of each class; of one that the set does not have a number that no category has."""
        return [ids[0] if ids else -1 - k for k, ids in enumerate(self.classes.ids)]

    @classmethod
    def open(cls, root: Path, split: str = "val2017", given: str | None = None) -> COCO:
        """The set below `root`; `given` is `--categories`.

        Raises:
            BadInput: where the folder of images is missing, or an annotation or the categories cannot be used.
        """
        from pycocotools.coco import COCO as Index

        path = root / "annotations" / f"instances_{split}.json"
        try:
            content = path.read_bytes()
            dataset = json.loads(content)
        except OSError as error:
            raise BadInput(f"no {path}: give --data the folder that has annotations and {split}") from error
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{path} is no JSON file: {error}") from error
        if not (root / split).is_dir():
            raise BadInput(f"no {root / split}: give --data the folder that has annotations and {split}")
        check(path, dataset, custom=given is not None)
        classes = categories.of_objects(given, dataset["categories"], path)
        others: list[str] = []
        if classes.custom:
            dataset, others = categories.narrowed(dataset, classes)
        index = Index()
        index.dataset = dataset
        with contextlib.redirect_stdout(io.StringIO()):
            index.createIndex()
        ids = {image["file_name"]: image["id"] for image in sorted(dataset["images"], key=lambda i: i["id"])}
        files = [root / split / name for name in ids]
        below = listing(root / split)
        below.left_out["no image of the annotations"] = sorted(set(below.images()) - set(ids))
        last = len(classes) - 1
        of = [f"{k} {classes.names[k]} (id {classes.ids[k][0]})" for k in (0, 1, last)] if not classes.custom else []
        numbered = f"{len(classes)} classes by category id: {of[0]}, {of[1]}, ..., {of[2]}" if of else classes.note()
        notes = (numbered, *others, *described(below.left_out))
        return cls(root, list(ids), *_identity(classes, files, content), index, ids, classes, split, notes)

    def image(self, name: str) -> Image:
        image = read_image(self.root / self.split / name)
        info = self.index.imgs[self.ids[name]]
        if image.shape[:2] != (info["height"], info["width"]):
            raise UnreadableImage(
                f"{name}: {image.shape[:2]} where the annotations say {info['height'], info['width']}"
            )
        return image
