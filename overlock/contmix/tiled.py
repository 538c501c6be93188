"""ContMix as matrix products over query tiles: any device, any dtype, exact.

Three steps take the place of the definition's (docs/contmix.md):

1. the keys are projected, not the affinities: logits = q (P k)^T, so nothing of size N x R is made;
2. the projection's bias and the relative-position bias are one table of (query, tap);
3. each tile's softmax weights multiply the values of its region: no copy of the values per window.

Heads are taken a chunk at a time, so that what is made per query and tap stays in the cache, and the backward makes it
again instead of keeping it: beyond its inputs and outputs it holds one chunk (`CHUNK_BYTES`, or one head's share).

Shapes: B batch, G heads, N tokens, M tiles, b queries a tile, r keys a tile's region, t taps of one kernel, c channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .tiles import Plan, plan

TILE = 8  # queries a side of a tile
CHUNK_BYTES = 8 << 20


def supports(query: Tensor, key: Tensor, value: Tensor) -> str | None:
    """Why these inputs cannot run here; None: all can."""
    return None


def _chunks(batch: int, heads: int, head_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Slices of images and heads: whole images where one fits into a chunk, else some heads of one image."""
    images = CHUNK_BYTES // (head_bytes * heads)
    if images:
        for first in range(0, batch, images):
            yield slice(first, first + images), slice(None)
        return
    group = max(1, CHUNK_BYTES // head_bytes)
    for image in range(batch):
        for first in range(0, heads, group):
            yield slice(image, image + 1), slice(first, first + group)


def _tokens(x: Tensor, *channels: int) -> Tensor:
    """(B, C, H, W) -> (B, N, *channels); a view where x is channels_last."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], x.shape[2] * x.shape[3], *channels)


def _head_bytes(p: Plan, element_size: int) -> int:
    return p.tiles * p.tile_queries * p.region_keys * element_size


class _Half:
    """One of the two kernels: its plan, its tiled queries and its regions' values."""

    def __init__(self, q: Tensor, projected: Tensor, v: Tensor, height: int, width: int, kernel_size: int) -> None:
        self.plan = plan(height, width, kernel_size, TILE, q.device)
        self.projected = projected  # B, G, t, c
        self.q = self._tiled(q)  # B, G, M*b, c
        v = v if self.plan.keys is None else v.index_select(1, self.plan.keys)
        self.v = v.transpose(1, 2).contiguous().unflatten(2, (self.plan.tiles, -1))  # B, G, M, r, c
        self.scattered: Tensor | None = None

    def _tiled(self, x: Tensor) -> Tensor:
        x = x if self.plan.queries is None else x.index_select(1, self.plan.queries)
        return x.transpose(1, 2).contiguous()

    def untiled(self, x: Tensor) -> Tensor:
        """(B, G, M*b, c) -> (B, N, G, c)"""
        x = x.transpose(1, 2)
        return x if self.plan.home is None else x.index_select(1, self.plan.home)

    def weights(self, images: slice, heads: slice, bias: Tensor) -> Tensor:
        """Softmax weights (B', G', M*b, t) of a chunk."""
        logits = self.q[images, heads] @ self.projected[images, heads].transpose(-1, -2)
        logits += bias[heads]
        return torch.softmax(logits, dim=-1, out=logits)

    def by_region(self, weights: Tensor) -> Tensor:
        """(B', G', M*b, t) -> (B', G', M, b, r): each tap's weight at its key's place in the region."""
        p = self.plan
        if p.scatter is not None:
            if self.scattered is None or self.scattered.shape[:2] != weights.shape[:2]:
                self.scattered = weights.new_zeros(*weights.shape[:3], p.region_keys)
            # every chunk writes the same places: what lies between stays zero
            weights = self.scattered.scatter_(-1, p.scatter.expand_as(weights), weights)
        return weights.unflatten(2, (p.tiles, p.tile_queries))

    def by_tap(self, regions: Tensor) -> Tensor:
        """(B', G', M, b, r) -> (B', G', M*b, t): the reverse."""
        flat = regions.flatten(2, 3)
        scatter = self.plan.scatter
        return flat if scatter is None else flat.gather(-1, scatter.expand(*flat.shape[:2], -1, -1))


def merge_biases(proj_bias: Tensor, rpb1: Tensor, rpb2: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The one bias of each (query, tap), of both kernels: (G, M*b, t), queries in this backend's tile order."""
    sizes = [(rpb.shape[-1] + 1) // 2 for rpb in (rpb1, rpb2)]
    own = proj_bias.split([size**2 for size in sizes])
    small, large = (
        rpb.flatten(1)[:, plan(height, width, size, TILE, rpb.device).bias_index] + bias
        for rpb, size, bias in zip((rpb1, rpb2), sizes, own, strict=True)
    )
    return small, large


def _halves(
    query: Tensor, key: Tensor, value: Tensor, proj_weight: Tensor, heads: int, sizes: tuple[int, int], scale: float
) -> tuple[list[_Half], Tensor]:
    batch, _, height, width = value.shape
    q = _tokens(query, heads, -1)
    k = key.reshape(batch, heads, q.shape[-1], -1).transpose(-1, -2)  # B, G, R, c
    projected = proj_weight @ (k * scale)  # B, G, t + t', c
    v = _tokens(value, 2, heads, value.shape[1] // 2 // heads)
    parts = projected.split([size**2 for size in sizes], dim=2)
    return [_Half(q, parts[i], v[:, :, i], height, width, sizes[i]) for i in (0, 1)], k


def forward_merged(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    proj_weight: Tensor,
    bias1: Tensor,
    bias2: Tensor,
    scale: float,
) -> Tensor:
    """ContMix with the biases that `merge_biases` made for this map's size. The result is channels_last."""
    batch, channels, height, width = value.shape
    heads = bias1.shape[0]
    sizes = math.isqrt(bias1.shape[-1]), math.isqrt(bias2.shape[-1])
    halves, _ = _halves(query, key, value, proj_weight, heads, sizes, scale)
    out = value.new_empty(batch, height * width, 2, heads, channels // 2 // heads)
    for i, (half, bias) in enumerate(zip(halves, (bias1, bias2), strict=True)):
        mixed = value.new_empty(*half.q.shape[:3], half.v.shape[-1])
        by_tile = mixed.unflatten(2, (half.plan.tiles, half.plan.tile_queries))
        for images, some in _chunks(batch, heads, _head_bytes(half.plan, value.element_size())):
            by_tile[images, some] = half.by_region(half.weights(images, some, bias)) @ half.v[images, some]
        out[:, :, i] = half.untiled(mixed)
    return out.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    rpb1: Tensor,
    rpb2: Tensor,
    scale: float,
) -> Tensor:
    """ContMix; shapes as in `overlock.contmix.contmix`. The result is channels_last."""
    biases = merge_biases(proj_bias, rpb1, rpb2, *value.shape[-2:])
    return forward_merged(query, key, value, proj_weight, *biases, scale)


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    rpb1: Tensor,
    rpb2: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the seven tensors, in their order. Softmax weights are made again, chunk by chunk."""
    batch, channels, height, width = value.shape
    heads = rpb1.shape[0]
    biases = merge_biases(proj_bias, rpb1, rpb2, height, width)
    sizes = math.isqrt(biases[0].shape[-1]), math.isqrt(biases[1].shape[-1])
    halves, k = _halves(query, key, value, proj_weight, heads, sizes, scale)
    wide = torch.promote_types(value.dtype, torch.float32)  # sums over the batch
    grad_tokens = _tokens(grad, 2, heads, channels // 2 // heads)
    d_q = 0.0
    d_v = value.new_zeros(batch, height * width, 2, heads, channels // 2 // heads)
    d_projected, d_proj_bias, d_rpb = [], [], []
    for i, (half, rpb) in enumerate(zip(halves, (rpb1, rpb2), strict=True)):
        p = half.plan
        bias = biases[i]
        d_out = half._tiled(grad_tokens[:, :, i])  # B, G, M*b, c
        if p.owned is not None:
            d_out = d_out * p.owned.to(d_out.dtype)
        d_out = d_out.unflatten(2, (p.tiles, p.tile_queries))
        d_bias = torch.zeros(bias.shape, dtype=wide, device=bias.device)
        d_q_tiled, d_pk, d_v_region = (torch.empty_like(x) for x in (half.q, half.projected, half.v))
        for images, some in _chunks(batch, heads, _head_bytes(p, value.element_size())):
            weights = half.weights(images, some, bias)
            d_v_region[images, some] = half.by_region(weights).transpose(-1, -2) @ d_out[images, some]
            d_weights = half.by_tap(d_out[images, some] @ half.v[images, some].transpose(-1, -2))
            d_logits = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_q_tiled[images, some] = d_logits @ half.projected[images, some]
            d_pk[images, some] = d_logits.transpose(-1, -2) @ half.q[images, some]
            d_bias[some] += d_logits.sum(0, dtype=wide)
        d_q = d_q + half.untiled(d_q_tiled)
        by_token = d_v_region.flatten(2, 3).transpose(1, 2)
        if p.keys is None:
            d_v[:, :, i] = by_token
        else:
            d_v[:, :, i].index_add_(1, p.keys, by_token)
        d_projected.append(d_pk)
        d_proj_bias.append(d_bias.sum((0, 1)))
        table = torch.zeros(heads, rpb[0].numel(), dtype=wide, device=rpb.device)
        d_rpb.append(table.index_add_(1, p.bias_index.flatten(), d_bias.flatten(1)).view_as(rpb).to(rpb.dtype))
    d_pk = torch.cat(d_projected, dim=2)  # B, G, T, c
    assert isinstance(d_q, Tensor)
    return (
        d_q.reshape(batch, height, width, -1).permute(0, 3, 1, 2),
        (proj_weight.t() @ d_pk).mul_(scale).transpose(-1, -2).reshape(key.shape),
        d_v.reshape(batch, height, width, channels).permute(0, 3, 1, 2),
        torch.einsum("bgtc,bgrc->tr", d_pk, k) * scale,
        torch.cat(d_proj_bias).to(proj_bias.dtype),
        d_rpb[0],
        d_rpb[1],
    )
