"""ContMix's aggregation alone as two models of timm, so that `bench.engine` can time it (`Settings.imports`).

The softmax weights are given; each position's are applied to the values of its window: by tiles, as the backend
`tiled` does it, or by `F.unfold`. The size is that of OverLoCK-T's third stage at 224. The values come out of the
images: their first numbers, without a copy of the rest.

Shapes: B batch, G heads, c channels of one head, H W map, k kernel size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn

from overlock.contmix import tiled
from tests.benchmarks import unfold

HEADS, CHANNELS, SIDE, KERNEL = 8, 16, 14, 13


def by_unfold(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """Weights (B, G, H, W, k*k) -> a function of values (B, G, c, H, W), which returns their shape."""
    return lambda value: unfold.aggregate(weights, value)


def by_tiles(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """Weights (B, G, H, W, k*k) -> a function of values (B, H, W, G, c), which returns their shape.

    The weights are put into the order of the tiles beforehand: the operator makes them in that order.
    """
    batch, heads, height, width, taps = weights.shape
    kernel = int(taps**0.5)
    query = weights.new_zeros(batch, height, width, heads, 1)
    projected = weights.new_zeros(batch * heads, taps, 1)
    order = tiled._Branch(query, projected, query, kernel)
    by_query = order.tiled(weights.permute(0, 2, 3, 1, 4)).flatten(1, 2)  # B*G, M*b, k*k

    def run(value: Tensor) -> Tensor:
        branch = tiled._Branch(query, projected, value, kernel)
        mixed = value.new_empty(batch * heads, branch.plan.tiles, branch.plan.tile_queries, value.shape[-1])
        for rows in branch.chunks:
            regions = branch.by_region(by_query[rows])
            torch.bmm(regions, branch.v[rows].flatten(0, 1), out=mixed[rows].flatten(0, 1))
        out = value.new_empty(value.shape)
        branch.put(out, mixed)
        return out

    return run


class Aggregation(nn.Module):
    """Aggregation of values of one shape that are read out of the images."""

    def __init__(self, make: Callable[[Tensor], Callable[[Tensor], Tensor]], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.make, self.shape = make, shape
        self.run: Callable[[Tensor], Tensor] | None = None  # the weights are made on the first image's device

    def forward(self, images: Tensor) -> Tensor:
        value = images.reshape(len(images), -1)[:, : HEADS * CHANNELS * SIDE**2].view(-1, *self.shape)
        if self.run is None:
            generator = torch.Generator().manual_seed(0)
            weights = torch.randn(len(images), HEADS, SIDE, SIDE, KERNEL**2, generator=generator).softmax(-1)
            self.run = self.make(weights.to(images))
        return self.run(value)


@register_model
def aggregation_tiled(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """By tiles; the values lie in memory as channels_last maps do."""
    return Aggregation(by_tiles, (SIDE, SIDE, HEADS, CHANNELS))


@register_model
def aggregation_unfold(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """By `F.unfold`, which wants channels before positions."""
    return Aggregation(by_unfold, (HEADS, CHANNELS, SIDE, SIDE))
