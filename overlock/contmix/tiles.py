"""Where the tiled form of ContMix reads and writes: index maps that depend on the map's size alone, cached.

Queries are cut into tiles of (at most) `tile` x `tile`. All windows of a tile lie in one region of the map, so the
aggregation becomes a matrix product (queries of the tile) x (keys of the region). The first and the last k//2 + 1
queries of an axis share one window: where the tiles can be cut so that all queries of every tile do (7x7 with K=7,
14x14 with K=13), the region is the window itself and taps need not be scattered.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from overlock.contmix.reference import window_indices, window_starts


@dataclass(frozen=True)
class Grid:
    """Blocks of an H x W map that stand at equal steps: read as a view, not by index."""

    counts: tuple[int, int]  # tiles down, across
    sizes: tuple[int, int]  # positions of one tile
    steps: tuple[int, int]  # from one tile to the next


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis."""

    queries: Tensor  # (tiles, b) position of each query; tiles overlap where b does not divide the axis
    regions: Tensor  # (tiles, r) position of each key of the tile's region
    offsets: Tensor  # (tiles, b) start of each query's window inside its region
    home: Tensor  # (size,) index into queries.flatten() of the one copy of each position that counts


@dataclass(frozen=True)
class Plan:
    """Tiles of a map. Shapes: N = H*W, M tiles, b queries and r keys a tile, t = k*k taps."""

    tiles: int
    tile_queries: int
    region_keys: int
    queries: Tensor  # (M*b,) token of each tiled query
    home: Tensor  # (N,) tiled position of each token
    keys: Tensor  # (M*r,) token of each key of each region
    query_grid: Grid | None  # the tiles as a grid; None where the last ones overlap
    key_grid: Grid | None  # the regions as a grid; None where their steps differ
    scatter: Tensor | None  # (M*b, t) column of each tap in its region; None where taps and keys are in one order
    owned: Tensor | None  # (M*b, 1) 1 for the copy of a query that counts, 0 for the others; None if no copies
    bias_index: Tensor  # (M*b, t) where in a flattened (2k-1, 2k-1) table each tap's bias stands


def _tile_axis(size: int, kernel_size: int, tile: int) -> Axis:
    starts = window_starts(size, kernel_size)
    half = kernel_size // 2 + 1
    if size == kernel_size:
        tile = size
    elif size <= 2 * half:  # two windows at the most two tiles: each tile one window
        tile = size // 2 if size % 2 == 0 and int(starts[size // 2 - 1]) == 0 else tile
    tile = min(tile, size)
    count = -(-size // tile)
    tile = -(-size // count)  # even tiles
    first = torch.arange(count).mul(tile).clamp(max=size - tile)
    queries = first[:, None] + torch.arange(tile)
    reach = int((starts[queries[:, -1]] - starts[queries[:, 0]]).max()) + kernel_size
    region_first = starts[queries[:, 0]].clamp(max=size - reach)
    home = torch.empty(size, dtype=torch.long)
    home[queries.flatten()] = torch.arange(queries.numel())
    return Axis(queries, region_first[:, None] + torch.arange(reach), starts[queries] - region_first[:, None], home)


def _step(first: Tensor) -> int | None:
    """The one distance between neighbours of (tiles,) first positions; None where they differ."""
    steps = first.diff().unique().tolist() or [1]
    return int(steps[0]) if len(steps) == 1 and steps[0] > 0 else None


def _grid(rows: Tensor, cols: Tensor) -> Grid | None:
    """Blocks of positions (tiles, size) along both axes as a grid, where they are one."""
    down, across = _step(rows[:, 0]), _step(cols[:, 0])
    if down is None or across is None:
        return None
    return Grid((rows.shape[0], cols.shape[0]), (rows.shape[1], cols.shape[1]), (down, across))


@lru_cache(maxsize=64)
def plan(height: int, width: int, kernel_size: int, tile: int, device: torch.device) -> Plan:
    """The tiles of an H x W map for k x k windows. Bounded cache; one entry holds about N * k * k * 8 bytes at most."""
    rows, cols = _tile_axis(height, kernel_size, tile), _tile_axis(width, kernel_size, tile)
    tokens = height * width

    def cross(a: Tensor, b: Tensor, stride: int) -> Tensor:  # (p, i) and (q, j) -> (p*q, i*j)
        grid = a[:, None, :, None] * stride + b[None, :, None, :]
        return grid.reshape(a.shape[0] * b.shape[0], -1)

    queries = cross(rows.queries, cols.queries, width).flatten()
    keys = cross(rows.regions, cols.regions, width)
    taps = torch.arange(kernel_size)
    span = cols.regions.shape[1]
    columns = (
        ((rows.offsets[:, None, :, None, None, None] + taps[:, None]) * span)
        + cols.offsets[None, :, None, :, None, None]
        + taps
    ).reshape(queries.numel(), kernel_size**2)
    # tiled position of token (i, j): its row's tile and place, its column's tile and place
    (row_tile, row_at), (col_tile, col_at) = (
        (axis.home // axis.queries.shape[1], axis.home % axis.queries.shape[1]) for axis in (rows, cols)
    )
    per_tile = rows.queries.shape[1] * cols.queries.shape[1]
    home = (
        (row_tile[:, None] * cols.queries.shape[0] + col_tile) * per_tile
        + row_at[:, None] * cols.queries.shape[1]
        + col_at
    ).flatten()
    owned = torch.zeros(queries.numel(), 1)
    owned[home] = 1
    dense = keys.shape[1] == kernel_size**2
    (_, row_bias), (_, col_bias) = window_indices(height, kernel_size), window_indices(width, kernel_size)
    bias = row_bias[:, None, :, None] * (2 * kernel_size - 1) + col_bias[None, :, None, :]
    overlap = queries.numel() != tokens
    return Plan(
        tiles=keys.shape[0],
        tile_queries=per_tile,
        region_keys=keys.shape[1],
        queries=queries.to(device),
        home=home.to(device),
        keys=keys.flatten().to(device),
        query_grid=None if overlap else _grid(rows.queries, cols.queries),
        key_grid=_grid(rows.regions, cols.regions),
        scatter=None if dense else columns.to(device),
        owned=owned.to(device) if overlap else None,
        bias_index=bias.reshape(tokens, -1)[queries].to(device),
    )
