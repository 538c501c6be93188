"""ContMix as matrix products over query tiles: any device, any dtype, exact.

Three steps take the place of the definition's (docs/contmix.md):

1. the keys are projected, not the affinities: logits = q (P k)^T, so nothing of size N x R is made;
2. the projection's bias and the relative-position bias are one table of (query, tap);
3. each tile's softmax weights multiply the values of its region: no copy of the values per window.

Heads are taken a chunk at a time, so that what is made per query and tap stays in the cache, and the backward makes it
again instead of keeping it: beyond its inputs and outputs it holds one chunk (`CHUNK_BYTES`, or one head's share).

Shapes: B batch, G heads (B*G rows), M tiles, b queries a tile, r keys of its region, t taps of one kernel, c channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from overlock.contmix.inputs import Inputs, window_size
from overlock.contmix.tiles import Grid, plan

TILE = 8  # queries a side of a tile
CHUNK_BYTES = 2 << 20  # of weights by region at a time on a CPU: what its second-level caches hold
DEVICE_CHUNK_BYTES = 256 << 20  # elsewhere


def why_not(value: Tensor) -> str | None:
    """None: it runs on anything."""
    return None


def _chunks(batch: int, heads: int, row_bytes: int, device: torch.device) -> list[slice]:
    """Slices of the B*G rows, all of one length but the last: whole images, or an even share of one image's heads."""
    rows = max(1, (CHUNK_BYTES if device.type == "cpu" else DEVICE_CHUNK_BYTES) // row_bytes)
    if rows >= heads:
        chunks = -(-batch // (rows // heads))
        step = -(-batch // chunks) * heads
    else:
        step = max(n for n in range(1, rows + 1) if heads % n == 0)
    return [slice(first, min(first + step, batch * heads)) for first in range(0, batch * heads, step)]


def _tokens(x: Tensor, *channels: int) -> Tensor:
    """(B, C, H, W) -> (B, H, W, *channels); a view where x is channels_last."""
    return x.permute(0, 2, 3, 1).unflatten(3, channels)


def _cut(x: Tensor, grid: Grid) -> Tensor:
    """(B, H, W, G, c) -> (B*G, M, size, c), the grid's blocks."""
    blocks = x.unfold(1, grid.sizes[0], grid.steps[0]).unfold(2, grid.sizes[1], grid.steps[1])
    batch, heads, channels = x.shape[0], x.shape[3], x.shape[4]
    blocks = blocks.permute(0, 3, 1, 2, 5, 6, 4)
    return blocks.reshape(batch * heads, math.prod(grid.counts), math.prod(grid.sizes), channels)


def _gather(x: Tensor, index: Tensor, tiles: int) -> Tensor:
    """(B, H, W, G, c) -> (B*G, M, size, c), by token."""
    taken = x.flatten(1, 2).index_select(1, index)
    return taken.transpose(1, 2).reshape(-1, tiles, index.numel() // tiles, x.shape[-1])


class _Branch:
    """One of the two kernels: its plan, its tiled queries and the values of its regions."""

    def __init__(self, q: Tensor, projected: Tensor, v: Tensor, kernel_size: int) -> None:
        self.batch, height, width, self.heads, _ = v.shape
        self.plan = plan(height, width, kernel_size, TILE, q.device)
        self.projected = projected  # B*G, t, c
        self.q = self.tiled(q).flatten(1, 2)  # B*G, M*b, c
        grid = self.plan.key_grid
        self.v = _gather(v, self.plan.keys, self.plan.tiles) if grid is None else _cut(v, grid)  # B*G, M, r, c
        row_bytes = self.plan.tiles * self.plan.tile_queries * self.plan.region_keys * v.element_size()
        self.chunks = _chunks(self.batch, self.heads, row_bytes, v.device)
        rows, taps = self.chunks[0].stop, projected.shape[1]
        self.logits = self.q.new_empty(rows, self.q.shape[1], taps)
        if self.plan.scatter is not None:
            # every chunk writes the same places: what lies between them stays zero
            self.scattered = self.q.new_zeros(rows, self.q.shape[1], self.plan.region_keys)

    def tiled(self, x: Tensor) -> Tensor:
        """(B, H, W, G, c) -> (B*G, M, b, c)"""
        grid = self.plan.query_grid
        return _gather(x, self.plan.queries, self.plan.tiles) if grid is None else _cut(x, grid)

    def put(self, out: Tensor, x: Tensor) -> None:
        """Write tiled (B*G, M, b, c) to out (B, H, W, G, c), a view of the result."""
        grid = self.plan.query_grid
        if grid is None:
            taken = x.flatten(1, 2).index_select(1, self.plan.home)
            out.copy_(taken.unflatten(0, (-1, self.heads)).permute(0, 2, 1, 3).view_as(out))
            return
        (down, across), (high, wide) = grid.counts, grid.sizes
        x = x.view(self.batch, self.heads, down, across, high, wide, -1).permute(0, 2, 4, 3, 5, 1, 6)
        out.unflatten(2, (across, wide)).unflatten(1, (down, high)).copy_(x)

    def weights(self, rows: slice, bias: Tensor) -> Tensor:
        """Softmax weights (n, M*b, t) of a chunk of rows; overwritten by the next chunk's."""
        logits = self.logits[: rows.stop - rows.start]
        torch.bmm(self.q[rows], self.projected[rows].transpose(1, 2), out=logits)
        if len(logits) >= self.heads:
            logits.unflatten(0, (-1, self.heads)).add_(bias)
        else:
            first = rows.start % self.heads
            logits.add_(bias[first : first + len(logits)])
        return torch.softmax(logits, dim=-1, out=logits)

    def by_region(self, weights: Tensor) -> Tensor:
        """(n, M*b, t) -> (n*M, b, r): each tap's weight at its key's place in the region."""
        p = self.plan
        if p.scatter is not None:
            weights = self.scattered[: len(weights)].scatter_(-1, p.scatter.expand_as(weights), weights)
        return weights.view(-1, p.tile_queries, p.region_keys)

    def by_tap(self, regions: Tensor) -> Tensor:
        """(n*M, b, r) -> (n, M*b, t): the reverse."""
        p = self.plan
        flat = regions.view(-1, p.tiles * p.tile_queries, p.region_keys)
        return flat if p.scatter is None else flat.gather(-1, p.scatter.expand(len(flat), -1, -1))


def tiled_queries(height: int, width: int, kernel_size: int) -> int:
    """Queries of all tiles of a map; tiles may overlap."""
    return plan(height, width, kernel_size, TILE, torch.device("cpu")).queries.numel()


def merge_biases(proj_bias: Tensor, rpb1: Tensor, rpb2: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The one bias of each (query, tap), of both kernels: (G, M*b, t), queries in this backend's tile order."""
    sizes = [window_size(rpb) for rpb in (rpb1, rpb2)]
    own = proj_bias.split([size**2 for size in sizes])
    small, large = (
        rpb.flatten(1)[:, plan(height, width, size, TILE, rpb.device).bias_index] + bias
        for rpb, size, bias in zip((rpb1, rpb2), sizes, own, strict=True)
    )
    return small, large


def _branches(
    query: Tensor, key: Tensor, value: Tensor, proj_weight: Tensor, biases: Sequence[Tensor], scale: float
) -> tuple[list[_Branch], Tensor]:
    """Both branches, and the keys (B*G, R, c)."""
    heads, sizes = biases[0].shape[0], [math.isqrt(bias.shape[-1]) for bias in biases]
    q = _tokens(query, heads, query.shape[1] // heads)
    k = key.reshape(key.shape[0] * heads, q.shape[-1], -1).transpose(1, 2)  # B*G, R, c
    projected = torch.matmul(proj_weight, k * scale)  # B*G, t + t', c
    v = _tokens(value, 2, heads, value.shape[1] // 2 // heads)
    parts = projected.split([size**2 for size in sizes], dim=1)
    return [_Branch(q, parts[i], v[:, :, :, i], sizes[i]) for i in (0, 1)], k


def forward_merged(
    query: Tensor, key: Tensor, value: Tensor, proj_weight: Tensor, bias1: Tensor, bias2: Tensor, scale: float
) -> Tensor:
    """ContMix with the biases that `merge_biases` made for this map's size: (B, C, H, W), channels_last."""
    batch, channels, height, width = value.shape
    heads = bias1.shape[0]
    branches, _ = _branches(query, key, value, proj_weight, (bias1, bias2), scale)
    out = value.new_empty(batch, height, width, 2, heads, channels // 2 // heads)
    for i, (branch, bias) in enumerate(zip(branches, (bias1, bias2), strict=True)):
        mixed = value.new_empty(batch * heads, branch.plan.tiles, branch.plan.tile_queries, branch.v.shape[-1])
        for rows in branch.chunks:
            weights = branch.by_region(branch.weights(rows, bias))
            torch.bmm(weights, branch.v[rows].flatten(0, 1), out=mixed[rows].flatten(0, 1))
        branch.put(out[:, :, :, i], mixed)
    return out.view(batch, height, width, channels).permute(0, 3, 1, 2)


def forward(inputs: Inputs, scale: float) -> Tensor:
    """ContMix: (B, C, H, W), channels_last."""
    biases = merge_biases(*inputs[4:], *inputs.value.shape[-2:])
    return forward_merged(*inputs[:4], *biases, scale)


def backward(grad: Tensor, inputs: Inputs, scale: float) -> Inputs:
    """The gradients of the seven tensors. Softmax weights are made again, chunk by chunk."""
    query, key, value, proj_weight, proj_bias, rpb1, rpb2 = inputs
    batch, channels, height, width = value.shape
    heads = rpb1.shape[0]
    biases = merge_biases(proj_bias, rpb1, rpb2, height, width)
    branches, k = _branches(query, key, value, proj_weight, biases, scale)
    wide = torch.promote_types(value.dtype, torch.float32)  # sums over the batch
    grad_tokens = _tokens(grad, 2, heads, channels // 2 // heads)
    d_q = value.new_zeros(2, batch, height, width, heads, branches[0].q.shape[-1])
    d_v = value.new_zeros(batch, height * width, 2, heads, channels // 2 // heads)
    d_projected, d_proj_bias, d_rpb = [], [], []
    for i, (branch, bias, rpb) in enumerate(zip(branches, biases, (rpb1, rpb2), strict=True)):
        p = branch.plan
        d_out = branch.tiled(grad_tokens[:, :, :, i])  # B*G, M, b, c
        if p.owned is not None:
            d_out = d_out * p.owned.to(d_out.dtype).view(p.tiles, p.tile_queries, 1)
        d_bias = torch.zeros(bias.shape, dtype=wide, device=bias.device)
        d_q_tiled, d_pk, d_v_region = (torch.empty_like(x) for x in (branch.q, branch.projected, branch.v))
        for rows in branch.chunks:
            weights = branch.weights(rows, bias)
            d_rows, v_rows = d_out[rows].flatten(0, 1), branch.v[rows].flatten(0, 1)
            d_v_region[rows] = torch.bmm(branch.by_region(weights).transpose(1, 2), d_rows).view_as(branch.v[rows])
            d_weights = branch.by_tap(torch.bmm(d_rows, v_rows.transpose(1, 2)))
            d_logits = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_q_tiled[rows] = torch.bmm(d_logits, branch.projected[rows])
            d_pk[rows] = torch.bmm(d_logits.transpose(1, 2), branch.q[rows])
            first = rows.start % heads
            images = d_logits.unflatten(0, (-1, min(heads, len(d_logits))))
            d_bias[first : first + len(d_logits)] += images.sum(0, dtype=wide)
        branch.put(d_q[i], d_q_tiled.unflatten(1, (p.tiles, -1)))
        by_token = d_v_region.view(batch, heads, p.tiles * p.region_keys, -1).transpose(1, 2)
        d_v[:, :, i].index_add_(1, p.keys, by_token)
        d_projected.append(d_pk)
        d_proj_bias.append(d_bias.sum((0, 1)))
        table = torch.zeros(heads, rpb[0].numel(), dtype=wide, device=rpb.device)
        d_rpb.append(table.index_add_(1, p.bias_index.flatten(), d_bias.flatten(1)).view_as(rpb).to(rpb.dtype))
    d_pk = torch.cat(d_projected, dim=1)  # B*G, T, c
    return Inputs(
        d_q.sum(0).flatten(3).permute(0, 3, 1, 2),
        (proj_weight.t() @ d_pk).mul_(scale).transpose(1, 2).reshape(key.shape),
        d_v.reshape(batch, height, width, channels).permute(0, 3, 1, 2),
        torch.einsum("ntc,nrc->tr", d_pk, k) * scale,
        torch.cat(d_proj_bias).to(proj_bias.dtype),
        *d_rpb,
    )
