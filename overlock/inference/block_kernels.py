"""What stands between the convolutions of a folded block, in Triton, experimental. `block_triton` launches it.

    norm_kernel     out = h convolved 3x3, depthwise, and LayerNorm of out, in one pass over h
    squeeze_kernel  squeeze-and-excitation's gate of an image: its mean, both products and the sigmoid
    gate_kernel     y = y * squeeze-and-excitation's gate * SiLU(x weight + bias), in place, in one pass over x and y

Maps are rows of tokens, channels together (channels_last). No kernel uses atomics: equal inputs give equal bits.
Names: C channels, CP the next power of two, MB positions or tokens, NB columns and KB channels at a time.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from overlock.inference.mlp_kernels import convolved
from overlock.triton_product import product


@triton.jit
def norm_kernel(
    h_ptr, weight_ptr, bias_ptr, gain_ptr, shift_ptr, out_ptr, norm_ptr, H, W, C, BLOCKS, eps,
    MB: tl.constexpr, CP: tl.constexpr,
):  # fmt: skip
    """MB positions of an image, all channels: h, out and norm (B, H, W, C), weight (C, 9), the others (C,).

    The nine reads of a value come from the cache but for the first. The norm is of what is written to `out`.
    """
    pid = tl.program_id(0)
    block, image = pid % BLOCKS, (pid // BLOCKS).to(tl.int64)
    position, c = block * MB + tl.arange(0, MB), tl.arange(0, CP)
    inside, channels = (position < H * W)[:, None], (c < C)[None, :]
    h_ptr += image * H * W * C
    acc = convolved(h_ptr, weight_ptr, bias_ptr, position, c, H, W, C, MB, CP)
    out = acc.to(out_ptr.dtype.element_ty)
    places = image * H * W * C + position[:, None] * C + c[None, :]
    tl.store(out_ptr + places, out, mask=inside & channels)
    out = out.to(tl.float32)
    centred = tl.where(channels, out - (tl.sum(out, 1) / C)[:, None], 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / C + eps)
    gain = tl.load(gain_ptr + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(shift_ptr + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    norm = centred * factor[:, None] * gain + shift
    tl.store(norm_ptr + places, norm.to(norm_ptr.dtype.element_ty), mask=inside & channels)


@triton.jit
def squeeze_kernel(
    y_ptr, down_ptr, down_bias_ptr, up_ptr, up_bias_ptr, out_ptr, TOKENS, C, INNER,
    MB: tl.constexpr, CP: tl.constexpr, IB: tl.constexpr,
):  # fmt: skip
    """sigmoid(up GELU(down mean)) of one image: y (B, TOKENS, C), down (INNER, C), up (C, INNER), out (B, C)."""
    image = tl.program_id(0).to(tl.int64)
    t, c = tl.arange(0, MB), tl.arange(0, CP)
    y_ptr += image * TOKENS * C
    total = tl.zeros([MB, CP], tl.float32)
    for first in range(0, TOKENS, MB):
        real = (first + t < TOKENS)[:, None] & (c < C)[None, :]
        total += tl.load(y_ptr + (first + t)[:, None] * C + c[None, :], mask=real, other=0.0).to(tl.float32)
    mean = tl.sum(total, 0) / TOKENS
    gate = tl.load(up_bias_ptr + c, mask=c < C, other=0.0).to(tl.float32)
    for first in range(0, INNER, IB):
        i = first + tl.arange(0, IB)
        real = (i < INNER)[:, None] & (c < C)[None, :]
        down = tl.load(down_ptr + i[:, None] * C + c[None, :], mask=real, other=0.0).to(tl.float32)
        hidden = tl.sum(down * mean[None, :], 1)
        hidden += tl.load(down_bias_ptr + i, mask=i < INNER, other=0.0).to(tl.float32)
        hidden = 0.5 * hidden * (1.0 + tl.erf(hidden * 0.7071067811865476))
        up = tl.load(up_ptr + c[None, :] * INNER + i[:, None], mask=real, other=0.0).to(tl.float32)
        gate += tl.sum(up * hidden[:, None], 0)
    gate = 1.0 / (1.0 + tl.exp(-gate))
    tl.store(out_ptr + image * C + c, gate.to(out_ptr.dtype.element_ty), mask=c < C)


@triton.jit
def gate_kernel(
    x_ptr, weight_ptr, bias_ptr, factor_ptr, y_ptr, T, TOKENS, C, N,
    MB: tl.constexpr, NB: tl.constexpr, KB: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y (T, N) = y * factor (B, N) * SiLU(x (T, C) weight^T + bias), in place, T being B * TOKENS."""
    pid = tl.program_id(0)
    across = tl.cdiv(N, NB)
    n = (pid % across) * NB + tl.arange(0, NB)
    t = (pid // across).to(tl.int64) * MB + tl.arange(0, MB)
    tokens, columns = (t < T)[:, None], (n < N)[None, :]
    acc = tl.zeros([MB, NB], tl.float32)
    for first in range(0, C, KB):
        k = first + tl.arange(0, KB)
        x = tl.load(x_ptr + t[:, None] * C + k[None, :], mask=tokens & (k < C)[None, :], other=0.0)
        weight = tl.load(weight_ptr + n[None, :] * C + k[:, None], mask=columns & (k < C)[:, None], other=0.0)
        acc = product(x, weight, acc, PRECISION)
    acc += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    acc = acc / (1.0 + tl.exp(-acc))
    places = t[:, None] * N + n[None, :]
    factor = tl.load(factor_ptr + (t // TOKENS)[:, None] * N + n[None, :], mask=tokens & columns, other=0.0)
    y = tl.load(y_ptr + places, mask=tokens & columns, other=0.0)
    acc *= y.to(tl.float32) * factor.to(tl.float32)
    tl.store(y_ptr + places, acc.to(y_ptr.dtype.element_ty), mask=tokens & columns)
