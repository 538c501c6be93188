"""ContMix with its windows materialised by `unfold`, as ports without a kernel of their own do: the common yardstick.

Not the definition's spelling (`overlock.contmix.reference`, which gathers by index): windows that lie inside the map
are copied out by `F.unfold`, and repeated at the border, where neighbouring positions share one.

Shapes: B batch, G heads, c channels of one head, H W map, k kernel size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def aggregate(weights: Tensor, value: Tensor) -> Tensor:
    """(B, G, H, W, k*k) and (B, G, c, H, W) -> (B, G, c, H, W), H and W at least k."""
    batch, heads, channels, height, width = value.shape
    k = int(weights.shape[-1] ** 0.5)
    windows = F.unfold(value.reshape(batch, heads * channels, height, width), k)
    windows = windows.view(batch, -1, height - k + 1, width - k + 1)
    windows = F.pad(windows, [k // 2] * 4, mode="replicate")
    windows = windows.view(batch, heads, channels, k * k, height, width)
    return torch.einsum("bghwt,bgcthw->bgchw", weights, windows)


def bias_windows(rpb: Tensor, height: int, width: int) -> Tensor:
    """(G, 2k-1, 2k-1) -> (G, H, W, k*k): the part of the table that each position's window reads."""
    k = (rpb.shape[-1] + 1) // 2
    parts = rpb.unfold(1, k, 1).unfold(2, k, 1)  # G, k, k, k, k: by first row and column

    def first(size: int) -> Tensor:  # of the part, one a position: the window's start less the position, from -(k-1)
        positions = torch.arange(size, device=rpb.device)
        return (positions - k // 2).clamp(0, size - k) - positions + k - 1

    return parts[:, first(height)][:, :, first(width)].flatten(-2)


def contmix(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    rpb1: Tensor,
    rpb2: Tensor,
    scale: float,
) -> Tensor:
    """Arguments and result as those of `overlock.contmix.contmix`."""
    batch, channels, height, width = value.shape
    heads = rpb1.shape[0]
    q = query.reshape(batch, heads, -1, height * width).transpose(-1, -2) * scale
    affinities = q @ key.reshape(batch, heads, q.shape[-1], -1)  # B, G, N, R
    logits = F.linear(affinities, proj_weight, proj_bias).unflatten(2, (height, width))
    small = (rpb1.shape[-1] + 1) ** 2 // 4
    halves = zip(
        logits.split([small, logits.shape[-1] - small], dim=-1),
        value.reshape(batch, 2, heads, -1, height, width).unbind(1),
        (rpb1, rpb2),
        strict=True,
    )
    mixed = [aggregate((part + bias_windows(rpb, height, width)).softmax(-1), v) for part, v, rpb in halves]
    return torch.stack(mixed, dim=1).reshape(batch, channels, height, width)
