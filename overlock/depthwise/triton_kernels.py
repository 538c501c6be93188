"""Large depthwise convolution as matrix products, in Triton, experimental. `overlock.depthwise.triton` launches it.

A depthwise convolution makes one multiply-add of each value that it loads; on matrix units it makes many. For one
channel, N neighbouring outputs of a row are the product of S values of an input's row and a band matrix of a row of the
kernel: T[u][y, n] = w[u, y - n], S = N + K - 1 padded. Outputs come in groups of R rows: an input's row gives its part
to all of them in one product with the R bands beside each other, (M, S) x (S, R*N), for M groups. Groups of all images
are one list, so that small maps fill a tile too. The weight's gradient is the same product the other way, dY^T X, whose
diagonals are summed.

Maps are padded in their rows, MARGIN zeros before, so that every access is of 16 aligned bytes (8 where N is 8) and
needs no mask along a row.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from overlock.triton_product import product


@triton.jit
def place_kernel(
    x_ptr, xb, xc, xh, xw, y_ptr, yb, yc, yh, yw, C, H, WIDTH, PITCH,
    MARGIN: tl.constexpr, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """y (B, C, H, PITCH) = x (B, C, H, WIDTH) from column MARGIN on, zeros beside it; any layouts."""
    pid = tl.program_id(0)
    across, blocks = tl.cdiv(PITCH, COLUMNS), tl.cdiv(C, CHANNELS)
    j, rest = (pid % across) * COLUMNS + tl.arange(0, COLUMNS)[None, :], pid // across
    c, row = (rest % blocks) * CHANNELS + tl.arange(0, CHANNELS)[:, None], rest // blocks
    image, i = (row // H).to(tl.int64), row % H
    column = j - MARGIN
    inside = (c < C) & (column >= 0) & (column < WIDTH)
    x = tl.load(x_ptr + image * xb + i * xh + c * xc + column * xw, mask=inside, other=0.0)
    tl.store(y_ptr + image * yb + i * yh + c * yc + j * yw, x, mask=(c < C) & (j < PITCH))


@triton.jit
def depthwise_kernel(
    x_ptr, xb, xc, xh, band_ptr, bias_ptr, y_ptr, yb, yc, yh, C, GROUPS, H, ACROSS,
    K: tl.constexpr, S: tl.constexpr, M: tl.constexpr, R: tl.constexpr, N: tl.constexpr, BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """M groups of R x N outputs of one channel. Bands are (C, K + 2R - 2, S, N), zeros beyond the kernel's rows."""
    pid = tl.program_id(0)
    c, rest = (pid % C).to(tl.int64), pid // C
    j0, m = (rest % ACROSS) * N, (rest // ACROSS) * M + tl.arange(0, M)
    down = tl.cdiv(H, R)
    image, i0, real = (m // down).to(tl.int64), m % down * R, m < GROUPS
    y, n = tl.arange(0, S), tl.arange(0, R * N)
    i, j = n // N, n % N
    x_ptr += c * xc + j0
    band_ptr += c * ((K + 2 * R - 2) * S * N)
    places = ((R - 1 - i) * (S * N) + j)[None, :] + (y * N)[:, None]  # of output row i: the band of row - i
    acc = tl.zeros([M, R * N], tl.float32)
    for row in range(0, R + K - 1):
        at = i0 + row - K // 2
        inside = real & (at >= 0) & (at < H)
        x = tl.load(x_ptr + (image * xb + at * xh)[:, None] + y[None, :], mask=inside[:, None], other=0.0)
        acc = product(x, tl.load(band_ptr + row * (S * N) + places), acc, PRECISION)
    if BIAS:
        acc += tl.load(bias_ptr + c).to(tl.float32)
    at = i0[:, None] + i[None, :]
    offsets = (image * yb)[:, None] + at * yh + j[None, :]
    tl.store(y_ptr + c * yc + j0 + offsets, acc.to(y_ptr.dtype.element_ty), mask=real[:, None] & (at < H))


@triton.jit
def depthwise_weight_kernel(
    x_ptr, g_ptr, xb, xc, xh, part_ptr, C, GROUPS, H, ACROSS, SHARE,
    K: tl.constexpr, KP: tl.constexpr, S: tl.constexpr, M: tl.constexpr, R: tl.constexpr, U: tl.constexpr,
    N: tl.constexpr, MARGIN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """U kernel rows of one channel's weight gradient: (parts, ACROSS, C, K, K), of SHARE groups of R input rows."""
    pid = tl.program_id(0)
    BLOCKS: tl.constexpr = (K + U - 1) // U
    block, rest = pid % BLOCKS, pid // BLOCKS
    c, rest = (rest % C).to(tl.int64), rest // C
    tile, part = rest % ACROSS, rest // ACROSS
    y, n = tl.arange(0, S), tl.arange(0, U * N)
    u, j = block * U + n // N, n % N
    x_ptr += c * xc + tile * N
    g_ptr += c * xc + tile * N + MARGIN
    places = ((K // 2 - u) * xh + j)[None, :]  # of the outputs that row u of the kernel takes from an input's row
    acc = tl.zeros([U * N, S], tl.float32)
    down = tl.cdiv(H, R)
    for first in range(part * SHARE, tl.minimum((part + 1) * SHARE, GROUPS), M):
        m = first + tl.arange(0, M)
        image, i0 = (m // down).to(tl.int64), m % down * R
        for row in range(0, R):
            at = i0 + row
            real = ((m < GROUPS) & (at < H))[:, None]
            offsets = (image * xb + at * xh)[:, None]
            x = tl.load(x_ptr + offsets + y[None, :], mask=real, other=0.0)
            i = at[:, None] + (K // 2 - u)[None, :]
            inside = real & (i >= 0) & (i < H) & (u < K)[None, :]
            acc = product(tl.trans(tl.load(g_ptr + offsets + places, mask=inside, other=0.0)), x, acc, PRECISION)
    v = tl.arange(0, KP)
    diagonal = tl.minimum(v[None, :] + tl.arange(0, N)[:, None] + MARGIN - K // 2, S - 1)
    by_tap = tl.gather(tl.reshape(acc, [U, N, S]), tl.broadcast_to(diagonal[None, :, :], [U, N, KP]), 2)
    u = block * U + tl.arange(0, U)[:, None]
    place = ((((part * ACROSS + tile) * C + c) * K + u) * K) + v[None, :]
    tl.store(part_ptr + place, tl.sum(by_tap, 1), mask=(u < K) & (v < K)[None, :])
