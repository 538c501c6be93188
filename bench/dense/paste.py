"""From a detection's 28x28 probabilities to a mask of the original image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLD = 0.5
"""A pixel is set from this probability on."""


def paste_mask(probabilities: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """The mask of one detection, sampled at the image's pixel centres; always in float32.

    Args:
        probabilities: (S, S) over the box.
        box: (4,) in the original image.
        size: (height, width) of the original image.

    Returns:
        (height, width), bool. A box without area gives an empty mask.
    """
    height, width = size
    mask = torch.zeros(height, width, dtype=torch.bool, device=probabilities.device)
    box = box.float()
    x1, y1, x2, y2 = box.unbind()
    if not (x2 > x1 and y2 > y1):
        return mask
    # On the box's border a sample is half its cell's probability, outside it is less: nothing there can be set.
    left, right = max(math.floor(x1) - 1, 0), min(math.ceil(x2) + 1, width)
    top, bottom = max(math.floor(y1) - 1, 0), min(math.ceil(y2) + 1, height)
    if right <= left or bottom <= top:
        return mask
    x = torch.arange(left, right, device=box.device, dtype=torch.float32) + 0.5
    y = torch.arange(top, bottom, device=box.device, dtype=torch.float32) + 0.5
    x = (x - x1) / (x2 - x1) * 2 - 1
    y = (y - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    sampled = F.grid_sample(
        probabilities.float()[None, None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=False
    )
    mask[top:bottom, left:right] = sampled[0, 0] >= THRESHOLD
    return mask
