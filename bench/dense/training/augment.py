"""What training does to an image: random scale, crop, mirroring and colours; objects and labels follow.

Images are (H, W, 3) uint8 in RGB, sizes (height, width). Random numbers are torch's, which each loading process seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from bench.dense.categories import IGNORED
from bench.dense.training.roi_loss import Objects
from bench.dense.transforms import Image, fitted_size, multiple_size, normalise, resize_pixels

LARGEST_SHARE = 0.75
"""A crop is drawn again, up to ten times, while one class covers more than this of its labelled pixels."""

COLOURS = v2.Compose(
    [
        v2.RandomApply([v2.ColorJitter(**{name: limits})], p=0.5)
        for name, limits in {
            "brightness": (0.875, 1.125), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.05, 0.05),
        }.items()
    ]
)  # fmt: skip
"""SSD's photometric distortion, without its exchange of channels."""


@dataclass(frozen=True)
class SegmentationScale:
    """How a segmentation image is scaled and cropped.

    Attributes:
        limits: (long, short) side that it is scaled to fit, times a random factor within `factors`.
        crop: (height, width).
    """

    limits: tuple[float, float] = (2048, 512)
    factors: tuple[float, float] = (0.5, 2.0)
    crop: tuple[int, int] = (512, 512)


def segmentation_sample(image: Image, label: NDArray[np.uint8], scale: SegmentationScale) -> tuple[Tensor, Tensor]:
    """An image and its classes (H, W; 255 ignored) as a crop: (3, *crop) float32 normalised, and (*crop) int64."""
    factor = uniform(*scale.factors)
    size = fitted_size((image.shape[0], image.shape[1]), (scale.limits[0] * factor, scale.limits[1] * factor))
    image, labels = resize_pixels(image, size), nearest(label, size)
    top, left = _place(labels, scale.crop)
    height, width = scale.crop
    image, labels = image[top : top + height, left : left + width], labels[top : top + height, left : left + width]
    if uniform() < 0.5:
        image, labels = image[:, ::-1], labels.flip(1)
    coloured = COLOURS(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
    x = normalise(coloured.permute(1, 2, 0).numpy())
    pad = (0, width - x.shape[2], 0, height - x.shape[1])
    return F.pad(x, pad), F.pad(labels, pad, value=IGNORED).long()


def _place(labels: Tensor, crop: tuple[int, int]) -> tuple[int, int]:
    """Top and left of a random crop."""
    top = left = 0
    for _ in range(10):
        top, left = (int(uniform(0, max(full - part, 0) + 1)) for full, part in zip(labels.shape, crop, strict=True))
        cut = labels[top : top + crop[0], left : left + crop[1]]
        counts = cut[cut != IGNORED].bincount()
        if len(counts.nonzero()) > 1 and counts.max() < LARGEST_SHARE * counts.sum():
            break
    return top, left


@dataclass(frozen=True)
class DetectionScale:
    """(long, short) limits that a detection image is scaled to fit; the short one is drawn from `shorts`."""

    long: int = 1333
    shorts: tuple[int, ...] = (800,)


def detection_sample(image: Image, objects: Objects, scale: DetectionScale) -> tuple[Tensor, Objects]:
    """An image and its objects (in the image's pixels), scaled and perhaps mirrored: (3, H, W) float32, and objects."""
    old = (image.shape[0], image.shape[1])
    size = fitted_size(old, (scale.long, scale.shorts[int(uniform(0, len(scale.shorts)))]))
    x = normalise(resize_pixels(image, size))
    y_factor, x_factor = size[0] / old[0], size[1] / old[1]
    boxes = objects.boxes * objects.boxes.new_tensor([x_factor, y_factor, x_factor, y_factor])
    masks = F.interpolate(objects.masks[None].float(), size=size, mode="nearest")[0].to(torch.uint8)
    if uniform() < 0.5:
        x, masks = x.flip(-1), masks.flip(-1)
        boxes = torch.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], dim=1)
    return x, Objects(boxes, objects.labels, masks)


def batch_detection(samples: list[tuple[Tensor, Objects]]) -> tuple[Tensor, list[tuple[int, int]], list[Objects]]:
    """Images padded at the bottom and right to one size, a multiple of 32; each one's own size; and its objects."""
    sizes = [(x.shape[1], x.shape[2]) for x, _ in samples]
    height, width = multiple_size((max(h for h, _ in sizes), max(w for _, w in sizes)))
    images = torch.stack([F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x, _ in samples])
    return images, sizes, [objects for _, objects in samples]


def nearest(label: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """(H, W) -> (*size) by the nearest pixel."""
    x: Any = torch.from_numpy(np.ascontiguousarray(label))
    return F.interpolate(x[None, None].float(), size=size, mode="nearest")[0, 0].to(torch.uint8)


def uniform(low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * torch.rand(()).item()
