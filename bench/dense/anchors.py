"""Anchors of the region proposal network."""

from __future__ import annotations

import torch
from torch import Tensor

RATIOS = (0.5, 1.0, 2.0)
SCALE = 8
STRIDES = (4, 8, 16, 32, 64)


def base_anchors(stride: int) -> Tensor:
    """The (3, 4) anchors about the origin, float32: area (8 stride)^2, height / width 0.5, 1, 2; not rounded to pixels.

    The released models were trained with float32 anchors, each step rounded so: any other order of operations differs
    from them in the last bit.
    """
    root = torch.tensor(RATIOS, dtype=torch.float32).sqrt()
    width, height = stride * SCALE * (1 / root), stride * SCALE * root
    return torch.stack([-0.5 * width, -0.5 * height, 0.5 * width, 0.5 * height], dim=1)


def grid_anchors(stride: int, height: int, width: int, like: Tensor) -> Tensor:
    """(height * width * 3, 4) anchors of one level, by row, column, anchor, in the dtype and on the device of `like`.

    Centres are at (x * stride, y * stride), without an offset of half a stride.
    """
    y = torch.arange(height, device=like.device, dtype=like.dtype) * stride
    x = torch.arange(width, device=like.device, dtype=like.dtype) * stride
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1).reshape(-1, 1, 4)
    return (shifts + base_anchors(stride).to(like)).reshape(-1, 4)
