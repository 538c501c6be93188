"""ContMix as exporters write it: matrix products over query tiles in a few public operators, for any batch.

The same three steps as `tiled`, of whole tensors and without chunks: a runtime plans memory itself. Where the taps of a
tile's queries stand at different places of its region, each weight is fetched by its place (`taps`); places that no tap
reaches fetch one tap more, whose bias of minus infinity makes its weight 0. Tables of indices depend on the map's size
alone; `tables` makes them out of a tracer's sight, which would record how they are made, and cannot where one is read.

Shapes: B batch, G heads, M tiles, b queries a tile (Q = M * b), r keys of its region, t taps, c channels of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from overlock.contmix.inputs import Inputs, window_size
from overlock.contmix.tiled import TILE
from overlock.contmix.tiles import plan


@dataclass(frozen=True)
class Tables:
    """The indices of one kernel on an H x W map of N tokens."""

    tiles: int
    queries: Tensor | None  # (Q,) token of each tiled query; None where they are in the tokens' order
    home: Tensor | None  # (N,) tiled position of each token
    keys: Tensor | None  # (M*r,) token of each key of each region; None where the one region is the map
    taps: Tensor | None  # (Q, r) the tap that reads each key, t where none does; None where they are in one order
    biases: Tensor  # (Q*t,) where in a flattened (2k-1, 2k-1) table each tap's bias stands


@lru_cache(maxsize=64)
def tables(height: int, width: int, kernel_size: int, device: torch.device) -> Tables:
    """The tables for k x k windows of an H x W map, which tensors of a tracer must not become."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        p, taps = plan(height, width, kernel_size, TILE, device), None
        if p.scatter is not None:
            none = torch.full((p.queries.numel(), p.region_keys), kernel_size**2, device=device)
            taps = none.scatter_(1, p.scatter, torch.arange(kernel_size**2, device=device).expand_as(p.scatter))
    in_order = p.tiles == 1
    whole = in_order and p.region_keys == height * width
    return Tables(
        tiles=p.tiles,
        queries=None if in_order else p.queries,
        home=None if in_order else p.home,
        keys=None if whole else p.keys,
        taps=taps,
        biases=p.bias_index.flatten(),
    )


def _aggregate(q: Tensor, projection: Tensor, bias: Tensor, v: Tensor, table: Tables) -> Tensor:
    """One kernel: q (B, G, N, c), projected keys (B, G, c, t), bias (G, Q, t), v (B, G, N, c) -> (B, G, N, c)."""
    q = q if table.queries is None else q.index_select(2, table.queries)
    weights = (q @ projection + bias).softmax(-1)  # B, G, Q, t
    if table.taps is not None:
        weights = weights.gather(-1, table.taps.expand(*q.shape[:2], -1, -1))  # B, G, Q, r
    regions = (v if table.keys is None else v.index_select(2, table.keys)).unflatten(2, (table.tiles, -1))
    mixed = (weights.unflatten(2, (table.tiles, -1)) @ regions).flatten(2, 3)  # B, G, Q, c
    return mixed if table.home is None else mixed.index_select(2, table.home)


def forward(inputs: Inputs, scale: float) -> Tensor:
    """ContMix of inputs of one dtype: (B, C, H, W)."""
    query, key, value, proj_weight, proj_bias, rpb1, rpb2 = inputs
    height, width = value.shape[-2:]
    heads = rpb1.shape[0]
    q = query.flatten(2).unflatten(1, (heads, -1)).transpose(-1, -2)
    k = key.flatten(2).unflatten(1, (heads, -1))  # B, G, c, R
    values = value.flatten(2).unflatten(1, (2, heads, -1)).transpose(-1, -2)
    outputs, first = [], 0
    for i, rpb in enumerate((rpb1, rpb2)):
        size = window_size(rpb)
        table = tables(height, width, size, value.device)
        own = slice(first, first + size**2)
        first += size**2
        weight = proj_weight[own] * scale
        bias = rpb.flatten(1).index_select(1, table.biases).unflatten(1, (-1, size**2)) + proj_bias[own]
        if table.taps is not None:  # one more tap, for the keys that no tap reads
            weight, bias = F.pad(weight, [0, 0, 0, 1]), F.pad(bias, [0, 1], value=-math.inf)
        outputs.append(_aggregate(q, k @ weight.t(), bias, values[:, i], table))
    return torch.stack(outputs, 1).transpose(-1, -2).reshape(value.shape)
