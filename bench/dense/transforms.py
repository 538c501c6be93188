"""How each task's released models see an image at test time: resizing on 8-bit pixels, normalising, padding.

Resizing samples at half-pixel centres without antialiasing, cubic coefficient -0.75, and rounds to 8 bits, as the image
library of the released code does. That works in fixed point and drops bits: up to an eighth of the pixels of a bilinear
resize, and under a thousandth of a bicubic one, are one level of 255 apart.
Images are (H, W, 3) uint8 arrays in RGB; sizes are (height, width).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8]
Size = tuple[int, int]

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
DIVISOR = 32
DETECTION_LIMITS = (1333, 800)
SEGMENTATION_LIMITS = (2048, 512)
"""(long side, short side) that an image is scaled to fit."""

MULTI_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Factors of `SEGMENTATION_LIMITS` in multi-scale testing, each with the mirrored image too."""


def fitted_size(size: Size, limits: tuple[float, float]) -> Size:
    """`size` scaled, its ratio kept, so that it just fits the (long, short) limits; rounded half up."""
    long, short = limits
    scale = min(long / max(size), short / min(size))
    return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)


def multiple_size(size: Size, divisor: int = DIVISOR) -> Size:
    """Each side up to the next multiple."""
    return math.ceil(size[0] / divisor) * divisor, math.ceil(size[1] / divisor) * divisor


def resize_pixels(image: Image, size: Size, mode: str = "bilinear") -> Image:
    """(H, W, 3) -> (*size, 3), both uint8, by "bilinear" or "bicubic" interpolation."""
    if image.shape[:2] == size:
        return image
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    x = F.interpolate(x, size=size, mode=mode, align_corners=False)
    x = (x + 0.5).floor().clamp(0, 255)  # cubic overshoots
    return x[0].permute(1, 2, 0).to(torch.uint8).numpy()


def normalise(image: Image) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32."""
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
    return (x - x.new_tensor(MEAN).view(3, 1, 1)) / x.new_tensor(STD).view(3, 1, 1)


def detection_input(image: Image, limits: tuple[float, float] = DETECTION_LIMITS) -> tuple[Tensor, Size]:
    """Scaled to fit 1333x800 (or other limits), normalised, then zeros at the bottom and right to multiples of 32.

    Returns:
        (3, H, W) float32 and the size without padding.
    """
    size = fitted_size((image.shape[0], image.shape[1]), limits)
    x = normalise(resize_pixels(image, size))
    height, width = multiple_size(size)
    return F.pad(x, (0, width - size[1], 0, height - size[0])), size


@dataclass(frozen=True)
class SegmentationTest:
    """How a segmentation model is tested: interpolation of the second resize, scale factors, and mirroring."""

    second_resize: str = "bilinear"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @property
    def views(self) -> list[tuple[float, bool]]:
        """(scale factor, mirrored) of each pass."""
        return [(scale, flipped) for scale in self.scales for flipped in ((False, True) if self.flip else (False,))]


def segmentation_input(image: Image, test: SegmentationTest, scale: float = 1.0, flipped: bool = False) -> Tensor:
    """Scaled to fit 2048x512 times `scale`, *resized* to multiples of 32, normalised: (3, H, W) float32."""
    limits = (int(SEGMENTATION_LIMITS[0] * scale), int(SEGMENTATION_LIMITS[1] * scale))
    size = fitted_size((image.shape[0], image.shape[1]), limits)
    image = resize_pixels(image, size)
    x = normalise(resize_pixels(image, multiple_size(size), test.second_resize))
    return x.flip(-1) if flipped else x
