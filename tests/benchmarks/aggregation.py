"""Aggregation alone: weights that are there already, applied to each position's window, tiled and by unfold."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from overlock.contmix import tiled
from tests.benchmarks import unfold

Aggregation = Callable[[], Tensor]


def inputs(batch: int, heads: int, height: int, width: int, channels: int, kernel: int) -> tuple[Tensor, Tensor]:
    """Weights (B, G, H, W, k*k) and values (B, G, c, H, W), as the definition has them."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(batch, heads, height, width, kernel**2, generator=generator).softmax(-1)
    return weights, torch.randn(batch, heads, channels, height, width, generator=generator)


def by_unfold(weights: Tensor, value: Tensor) -> Aggregation:
    """-> (B, G, c, H, W)"""
    return lambda: unfold.aggregate(weights, value)


def by_tiles(weights: Tensor, value: Tensor) -> Aggregation:
    """-> (B, H, W, G, c), from weights in the order of the tiles and values in channels_last, as they come to it."""
    batch, heads, channels, height, width = value.shape
    kernel = int(weights.shape[-1] ** 0.5)
    v = value.permute(0, 3, 4, 1, 2).contiguous()  # B, H, W, G, c
    query = v.new_zeros(batch, height, width, heads, 1)
    projected = v.new_zeros(batch * heads, kernel**2, 1)
    order = tiled._Half(query, projected, v, kernel)
    by_query = order.tiled(weights.permute(0, 2, 3, 1, 4)).flatten(1, 2)  # B*G, M*b, k*k

    def run() -> Tensor:
        half = tiled._Half(query, projected, v, kernel)
        mixed = v.new_empty(batch * heads, half.plan.tiles, half.plan.tile_queries, channels)
        for rows in half.chunks:
            regions = half.by_region(by_query[rows])
            torch.bmm(regions, half.v[rows].flatten(0, 1), out=mixed[rows].flatten(0, 1))
        out = torch.empty_like(v)
        half.put(out, mixed)
        return out

    return run
