"""Small COCO and ADE20K trees whose truth is drawn, and networks that read it off the pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
"""COCO's 80 category ids, with its gaps."""


def write_ade20k(root: Path, labels: dict[str, np.ndarray]) -> Path:
    """A tree whose images show each pixel's label as its grey level (lossless in a .jpg's place would not be a JPEG:
    blocks of 8 pixels of one label survive compression)."""
    for name, label in labels.items():
        image, annotation = root / "images" / "validation", root / "annotations" / "validation"
        image.mkdir(parents=True, exist_ok=True)
        annotation.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([label] * 3, axis=-1)).save(image / f"{name}.jpg", quality=100, subsampling=0)
        Image.fromarray(label).save(annotation / f"{name}.png")
    return root


class ReadsLabels(nn.Module):
    """A segmentation model that takes a pixel's grey level for its file label: right wherever the tree's image is.

    `confused` maps a class to another one that is answered instead.
    """

    def __init__(self, confused: dict[int, int] | None = None) -> None:
        super().__init__()
        self.confused = confused or {}

    def forward(self, x: Tensor) -> Tensor:
        mean, std = torch.tensor(123.675), torch.tensor(58.395)
        grey = x[:, :1] * std + mean  # the first channel, before normalising
        classes = torch.arange(150.0).view(1, 150, 1, 1)
        logits = -((grey - (classes + 1)) ** 2)
        for wrong, answered in self.confused.items():
            logits[:, [wrong, answered]] = logits[:, [answered, wrong]]
        return logits


Shapes = dict[str, list[tuple[int, tuple[int, int, int, int]]]]
"""Image -> (category id, (x, y, w, h)) of each of its rectangles."""


def write_coco(root: Path, objects: Shapes, size: tuple[int, int]) -> Path:
    """A validation set of images of `size` (height, width) with filled rectangles."""
    return write_coco_split(root, objects, size, "val2017")


def write_coco_split(root: Path, objects: Shapes, size: tuple[int, int], split: str) -> Path:
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for i, (name, shapes) in enumerate(objects.items(), start=1):
        pixels = np.zeros((*size, 3), dtype=np.uint8)
        images.append({"id": 10 * i, "file_name": name, "height": size[0], "width": size[1]})
        for category, (x, y, w, h) in shapes:
            pixels[y : y + h, x : x + w] = (category * 2, 255 - category, 100)
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": 10 * i, "category_id": category, "bbox": [x, y, w, h],
                 "area": w * h, "iscrowd": 0, "segmentation": polygon}
            )  # fmt: skip
        Image.fromarray(pixels).save(root / split / name)
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in COCO_IDS],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
