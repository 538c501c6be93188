"""The MLP of a folded block in three Triton kernels, experimental. `overlock.inference.mlp_triton` launches them.

The hidden map h, four times as wide as its input, is written and read twice, where operators one by one pass over it
eleven times:

    up_kernel      h = GELU((x * factor) up + bias), factor being squeeze-and-excitation's, of an image and channel
    middle_kernel  g = h convolved 3x3, depthwise, and the sums of g^2 that GRN needs, a part for each block of rows
    down_kernel    out = residual * scale + (g * factor) down + bias, factor being GRN's, of an image and channel

`block_triton` takes the last two elsewhere too: a 3x3 with a GELU, a product that is added in place.

Maps are rows of tokens, channels together (channels_last). No kernel uses atomics: equal inputs give equal bits.
Names: T tokens, C channels in and out, N hidden channels; MB tokens, NB columns and KB channels at a time.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from overlock.triton_product import product


@triton.jit
def up_kernel(
    x_ptr, factor_ptr, weight_ptr, bias_ptr, out_ptr, T, TOKENS, C, N,
    FACTORED: tl.constexpr, MB: tl.constexpr, NB: tl.constexpr, KB: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """GELU((x (T, C) * factor (B, C)) weight^T (C, N) + bias), exact, T being B * TOKENS; neighbouring programs share
    their tokens."""
    pid = tl.program_id(0)
    across = tl.cdiv(N, NB)
    n = (pid % across) * NB + tl.arange(0, NB)
    t = (pid // across).to(tl.int64) * MB + tl.arange(0, MB)
    tokens, columns = (t < T)[:, None], (n < N)[None, :]
    acc = tl.zeros([MB, NB], tl.float32)
    for first in range(0, C, KB):
        k = first + tl.arange(0, KB)
        inside = tokens & (k < C)[None, :]
        x = tl.load(x_ptr + t[:, None] * C + k[None, :], mask=inside, other=0.0)
        if FACTORED:
            factor = tl.load(factor_ptr + (t // TOKENS)[:, None] * C + k[None, :], mask=inside, other=0.0)
            x = (x.to(tl.float32) * factor.to(tl.float32)).to(x.dtype)
        weight = tl.load(weight_ptr + n[None, :] * C + k[:, None], mask=columns & (k < C)[:, None], other=0.0)
        acc = product(x, weight, acc, PRECISION)
    acc += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    acc = 0.5 * acc * (1.0 + tl.erf(acc * 0.7071067811865476))
    tl.store(out_ptr + t[:, None] * N + n[None, :], acc.to(out_ptr.dtype.element_ty), mask=tokens & columns)


@triton.jit
def convolved(h_ptr, weight_ptr, bias_ptr, position, n, H, W, N, MB: tl.constexpr, NB: tl.constexpr):
    """3x3 depthwise convolution with bias, float32 (MB, NB), of channels n at positions of an image h (H, W, N)."""
    i, j = position // W, position % W
    inside, columns = (position < H * W)[:, None], (n < N)[None, :]
    acc = tl.zeros([MB, NB], tl.float32)
    for tap in tl.static_range(9):
        row, column = i + (tap // 3 - 1), j + (tap % 3 - 1)
        real = ((row >= 0) & (row < H) & (column >= 0) & (column < W))[:, None] & inside & columns
        h = tl.load(h_ptr + (row * W + column)[:, None] * N + n[None, :], mask=real, other=0.0)
        acc += h.to(tl.float32) * tl.load(weight_ptr + n * 9 + tap, mask=n < N, other=0.0).to(tl.float32)[None, :]
    return acc + tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]


@triton.jit
def middle_kernel(
    h_ptr, weight_ptr, bias_ptr, out_ptr, part_ptr, H, W, N, BLOCKS,
    SQUARES: tl.constexpr, GELU: tl.constexpr, MB: tl.constexpr, NB: tl.constexpr,
):  # fmt: skip
    """3x3 depthwise convolution of h (B, H, W, N), weights (N, 9), of MB positions and NB channels of an image.

    Sums of squares go to part (B, BLOCKS, N) where SQUARES asks for them. The nine reads of a value come from the cache
    but for the first.
    """
    pid = tl.program_id(0)
    across = tl.cdiv(N, NB)
    n, rest = (pid % across) * NB + tl.arange(0, NB), pid // across
    block, image = rest % BLOCKS, (rest // BLOCKS).to(tl.int64)
    position = block * MB + tl.arange(0, MB)
    inside, columns = (position < H * W)[:, None], (n < N)[None, :]
    h_ptr += image * H * W * N
    acc = convolved(h_ptr, weight_ptr, bias_ptr, position, n, H, W, N, MB, NB)
    if GELU:
        acc = 0.5 * acc * (1.0 + tl.erf(acc * 0.7071067811865476))
    out = acc.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + image * H * W * N + position[:, None] * N + n[None, :], out, mask=inside & columns)
    if SQUARES:
        squares = tl.where(inside, out.to(tl.float32) * out.to(tl.float32), 0.0)
        tl.store(part_ptr + (image * BLOCKS + block) * N + n, tl.sum(squares, 0), mask=n < N)


@triton.jit
def down_kernel(
    g_ptr, factor_ptr, weight_ptr, bias_ptr, scale_ptr, out_ptr, TOKENS, N, C, BLOCKS,
    FACTORED: tl.constexpr, SCALED: tl.constexpr, MB: tl.constexpr, NB: tl.constexpr, KB: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """out (B, TOKENS, C) = out * scale + (g * factor) weight^T + bias, in place, MB tokens of one image.

    g is (B, TOKENS, N), factor (B, N) in float32, scale (C,).
    """
    pid = tl.program_id(0)
    across = tl.cdiv(C, NB)
    n, rest = (pid % across) * NB + tl.arange(0, NB), pid // across
    image, t = (rest // BLOCKS).to(tl.int64), (rest % BLOCKS) * MB + tl.arange(0, MB)
    tokens, columns = (t < TOKENS)[:, None], (n < C)[None, :]
    g_ptr += image * TOKENS * N
    acc = tl.zeros([MB, NB], tl.float32)
    for first in range(0, N, KB):
        k = first + tl.arange(0, KB)
        g = tl.load(g_ptr + t[:, None] * N + k[None, :], mask=tokens & (k < N)[None, :], other=0.0)
        if FACTORED:
            factor = tl.load(factor_ptr + image * N + k, mask=k < N, other=0.0)[None, :]
            g = (g.to(tl.float32) * factor).to(g.dtype)
        weight = tl.load(weight_ptr + n[None, :] * N + k[:, None], mask=columns & (k < N)[:, None], other=0.0)
        acc = product(g, weight, acc, PRECISION)
    acc += tl.load(bias_ptr + n, mask=n < C, other=0.0).to(tl.float32)[None, :]
    out_ptr += image * TOKENS * C + t[:, None] * C + n[None, :]
    residual = tl.load(out_ptr, mask=tokens & columns, other=0.0).to(tl.float32)
    if SCALED:
        residual *= tl.load(scale_ptr + n, mask=n < C, other=0.0).to(tl.float32)[None, :]
    tl.store(out_ptr, (acc + residual).to(out_ptr.dtype.element_ty), mask=tokens & columns)
