"""Features of regions of interest: the pyramid level of each box, and RoIAlign there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from bench.dense.boxes import at_least_float32

FINEST = 56
"""Boxes of less than twice this side, in pixels, are read from the finest level."""

STRIDES = (4, 8, 16, 32)


def roi_levels(boxes: Tensor, levels: int = len(STRIDES)) -> Tensor:
    """Level (R,) of each box (R, 4): floor(log2(sqrt(area) / 56 + 1e-6)) within 0 .. levels - 1."""
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return torch.log2(side / FINEST + 1e-6).floor().clamp(0, levels - 1).long()


def roi_features(maps: Sequence[Tensor], boxes: Tensor, size: int) -> Tensor:
    """RoIAlign (aligned, adaptive sampling) of one image's boxes; in float32 where the maps are of half precision.

    Args:
        maps: four maps (1, C, H, W), strides 4, 8, 16, 32; further ones are not read.
        boxes: (R, 4) in the coordinates of the padded input.
        size: side of the output.

    Returns:
        (R, C, size, size).
    """
    maps = maps[: len(STRIDES)]
    out = maps[0].new_zeros(boxes.shape[0], maps[0].shape[1], size, size)
    of = roi_levels(boxes)
    for level, (x, stride) in enumerate(zip(maps, STRIDES, strict=True)):
        index = (of == level).nonzero(as_tuple=True)[0]
        x, rois = at_least_float32(x), boxes[index]
        features = roi_align(x, [rois.to(x.dtype)], size, spatial_scale=1 / stride, sampling_ratio=0, aligned=True)
        out[index] = features.to(out.dtype)
    return out
