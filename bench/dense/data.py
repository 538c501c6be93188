"""COCO and ADE20K validation sets on disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL
from PIL import ImageOps, UnidentifiedImageError

from bench.cli import BadInput
from bench.dense.transforms import Image


class UnreadableImage(ValueError):
    """An image that cannot be evaluated; the message says why."""


def read_image(path: Path) -> Image:
    """(H, W, 3) uint8, RGB, turned upright.

    Raises:
        UnreadableImage: where it is missing, damaged or no image.
    """
    try:
        with PIL.open(path) as file:
            return np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except (OSError, UnidentifiedImageError, PIL.DecompressionBombError, SyntaxError) as error:
        raise UnreadableImage(f"{path.name}: {error}") from error


def files_hash(files: list[Path], *contents: bytes) -> str:
    """SHA-256 of the files' names and sizes, and of `contents`."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size if file.exists() else 'missing'}\n".encode())
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


@dataclass
class ADE20K:
    """`images/<split>/*.jpg` with `annotations/<split>/*.png` of the same stems (scene parsing, 150 classes)."""

    root: Path
    names: list[str]
    hash: str
    split: str = "validation"
    expected = 2000  # of the validation set

    @classmethod
    def open(cls, root: Path, split: str = "validation") -> ADE20K:
        """Raises BadInput where the folders, images or annotations are missing."""
        images, labels = root / "images" / split, root / "annotations" / split
        for folder in (images, labels):
            if not folder.is_dir():
                raise BadInput(f"no {folder}: give --data the folder that has images/{split} and annotations/{split}")
        names = sorted(path.stem for path in images.glob("*.jpg"))
        if not names:
            raise BadInput(f"no .jpg files in {images}")
        missing = [name for name in names if not (labels / f"{name}.png").is_file()]
        if missing:
            raise BadInput(f"{len(missing)} images without annotation in {labels}, the first: {missing[0]}.png")
        files = [images / f"{n}.jpg" for n in names] + [labels / f"{n}.png" for n in names]
        return cls(root, names, files_hash(files), split)

    def image(self, name: str) -> Image:
        return read_image(self.root / "images" / self.split / f"{name}.jpg")

    def label(self, name: str) -> NDArray[np.uint8]:
        """(H, W) as in the file: 0 is "other"."""
        path = self.root / "annotations" / self.split / f"{name}.png"
        try:
            with PIL.open(path) as file:
                label = np.array(file)
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise UnreadableImage(f"{path.name}: {error}") from error
        if label.ndim != 2 or label.dtype != np.uint8 or (label.size and label.max() > 150):
            raise UnreadableImage(f"{path.name}: no annotation of 150 classes in 8 bits")
        return label


@dataclass
class COCO:
    """`annotations/instances_<split>.json` and `<split>/`. Classes are the category ids in ascending order."""

    root: Path
    names: list[str]
    hash: str
    index: Any  # pycocotools.coco.COCO
    ids: dict[str, int]
    categories: list[int]
    split: str = "val2017"
    expected = 5000  # of val2017

    @classmethod
    def open(cls, root: Path, split: str = "val2017") -> COCO:
        """Raises BadInput where annotations or images are missing, or the categories are not 80."""
        from pycocotools.coco import COCO as Index

        path = root / "annotations" / f"instances_{split}.json"
        try:
            content = path.read_bytes()
            dataset = json.loads(content)
        except OSError as error:
            raise BadInput(f"no {path}: give --data the folder that has annotations and {split}") from error
        except ValueError as error:
            raise BadInput(f"{path} is no JSON file: {error}") from error
        if not (root / split).is_dir():
            raise BadInput(f"no {root / split}: give --data the folder that has annotations and {split}")
        if not isinstance(dataset, dict) or not {"images", "annotations", "categories"} <= set(dataset):
            raise BadInput(f"{path} has no images, annotations and categories")
        categories = sorted(c["id"] for c in dataset["categories"])
        if len(categories) != 80:
            raise BadInput(f"{path} has {len(categories)} categories: the heads are for COCO's 80")
        index = Index()
        index.dataset = dataset
        with contextlib.redirect_stdout(io.StringIO()):
            index.createIndex()
        ids = {image["file_name"]: image["id"] for image in sorted(dataset["images"], key=lambda i: i["id"])}
        if not ids:
            raise BadInput(f"{path} names no images")
        files = [root / split / name for name in ids]
        return cls(root, list(ids), files_hash(files, content), index, ids, categories, split)

    def image(self, name: str) -> Image:
        image = read_image(self.root / self.split / name)
        info = self.index.imgs[self.ids[name]]
        if image.shape[:2] != (info["height"], info["width"]):
            raise UnreadableImage(
                f"{name}: {image.shape[:2]} where the annotations say {info['height'], info['width']}"
            )
        return image
