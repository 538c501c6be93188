"""Large depthwise convolution as matrix products, in Triton. `overlock.depthwise_device` launches it.

A depthwise convolution makes one multiply-add of each value that it loads; on matrix units it makes sixteen. For one
channel and one kernel row u, sixteen neighbouring outputs of many rows are the product of these rows, (M, S), and a
band matrix of the kernel's row, (S, 16), S = 16 + K - 1 padded: T[y, n] = w[u, y - n]. Rows of all images are taken as
one list, so that small maps fill a tile too. The weight's gradient is the same product the other way: X^T dY, (S, 16),
whose diagonals are summed.

Names: R = B * H rows, M rows a program, S columns read, K kernel size, P its padding.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

COLUMNS = tl.constexpr(16)


@triton.jit
def product(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b in float32. Triton's interpreter cannot multiply bfloat16: "widen" is for it."""
    if PRECISION == "widen":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def load_rows(ptr, sb, sh, sw, rows, shift, columns, R, H, W):
    """(rows, columns) of one channel, `shift` rows further down in the same image; zeros outside the map."""
    i = rows % H + shift
    offsets = ((rows // H).to(tl.int64) * sb + i * sh)[:, None] + (columns * sw)[None, :]
    inside = ((rows < R) & (i >= 0) & (i < H))[:, None] & ((columns >= 0) & (columns < W))[None, :]
    return tl.load(ptr + offsets, mask=inside, other=0.0)


@triton.jit
def depthwise_kernel(
    x_ptr, xb, xc, xh, xw, w_ptr, bias_ptr, y_ptr, yb, yc, yh, yw, C, R, H, W,
    K: tl.constexpr, S: tl.constexpr, M: tl.constexpr, FLIP: tl.constexpr, BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """M rows x 16 columns of one channel; with FLIP the gradient of the input, the kernel turned by 180 degrees."""
    pid = tl.program_id(0)
    c = (pid % C).to(tl.int64)
    rest = pid // C
    across = tl.cdiv(W, COLUMNS)
    j0, rows = (rest % across) * COLUMNS, (rest // across) * M + tl.arange(0, M)
    y, n = tl.arange(0, S), tl.arange(0, COLUMNS)
    v = y[:, None] - n[None, :]
    band = (v >= 0) & (v < K)
    acc = tl.zeros([M, COLUMNS], tl.float32)
    for u in range(0, K):
        x = load_rows(x_ptr + c * xc, xb, xh, xw, rows, u - K // 2, j0 - K // 2 + y, R, H, W)
        tap = (K - 1 - u) * K + K - 1 - v if FLIP else u * K + v
        weight = tl.load(w_ptr + c * (K * K) + tap, mask=band, other=0.0)
        acc = product(x, weight, acc, PRECISION)
    if BIAS:
        acc += tl.load(bias_ptr + c).to(tl.float32)
    offsets = ((rows // H).to(tl.int64) * yb + (rows % H) * yh)[:, None] + ((j0 + n) * yw)[None, :]
    mask = (rows < R)[:, None] & (j0 + n < W)[None, :]
    tl.store(y_ptr + c * yc + offsets, acc.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def depthwise_weight_kernel(
    x_ptr, xb, xc, xh, xw, g_ptr, gb, gc, gh, gw, part_ptr, C, R, H, W, SHARE,
    K: tl.constexpr, KP: tl.constexpr, S: tl.constexpr, M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One kernel row of one channel's weight gradient, over SHARE rows: (parts, C, K, K)."""
    pid = tl.program_id(0)
    u, rest = pid % K, pid // K
    c, part = (rest % C).to(tl.int64), rest // C
    y, n = tl.arange(0, S), tl.arange(0, COLUMNS)
    acc = tl.zeros([S, COLUMNS], tl.float32)
    for first in range(part * SHARE, tl.minimum((part + 1) * SHARE, R), M):
        rows = first + tl.arange(0, M)
        for j0 in range(0, W, COLUMNS):
            x = load_rows(x_ptr + c * xc, xb, xh, xw, rows, u - K // 2, j0 - K // 2 + y, R, H, W)
            grad = load_rows(g_ptr + c * gc, gb, gh, gw, rows, 0, j0 + n, R, H, W)
            acc = product(tl.trans(x), grad, acc, PRECISION)
    v = tl.arange(0, KP)
    diagonal = tl.minimum(v[:, None] + n[None, :], S - 1)
    total = tl.sum(tl.gather(acc, diagonal, 0), 1)
    tl.store(part_ptr + ((part * C + c) * K + u) * K + v, total, mask=v < K)
