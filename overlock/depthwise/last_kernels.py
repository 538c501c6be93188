"""Large depthwise convolution of channels_last maps as matrix products, in Triton, experimental. `last` launches it.

As in `triton_kernels`, N neighbouring outputs of a row are the product of S values of an input's row and a band matrix
of a row of the kernel, T[u][y, n] = w[u, y - n]. Here nothing is copied: a program takes eight channels, which are 16
bytes beside each other, and products are batched over them. Beyond the map's borders loads are masked. Each input row
is loaded once for the R output rows of a group, and each band once for them all; groups of all images and of all
places along a row are one list, so that small maps fill a tile too.

Triton moves values from "channels together" to "columns together" in shared memory. Columns are loaded in two halves,
the even and the odd ones, because values that then are neighbours in a register cross it as pairs.
"""

# mypy: disable-error-code="no-untyped-def,assignment,var-annotated"
from __future__ import annotations

import triton
import triton.language as tl

from overlock.triton_product import product


@triton.jit
def input_row(places, at, even, odd, H, C):
    """One row `at` of the input for each of M groups: (M, S / 2, channels, 2), columns as pairs."""
    row = ((at >= 0) & (at < H))[:, None]
    first = tl.load(places, mask=(row & even)[:, :, None], other=0.0)
    return tl.join(first, tl.load(places + C, mask=(row & odd)[:, :, None], other=0.0))


@triton.jit
def depthwise_last_kernel(
    x_ptr, band_ptr, bias_ptr, y_ptr, C, GROUPS, H, W, ACROSS, DOWN,
    K: tl.constexpr, CHANNELS: tl.constexpr, S: tl.constexpr, M: tl.constexpr, R: tl.constexpr, N: tl.constexpr,
    MARGIN: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """M groups of R x N outputs of CHANNELS channels: x and y (B, H, W, C), bands (C, K, S, N), bias (C,)."""
    pid = tl.program_id(0)
    blocks = C // CHANNELS
    first, c = pid % blocks * CHANNELS, tl.arange(0, CHANNELS)
    m = pid // blocks * M + tl.arange(0, M)
    real = m < GROUPS
    m = tl.minimum(m, GROUPS - 1)
    image, i0, j0 = m // (ACROSS * DOWN), m // ACROSS % DOWN * R, m % ACROSS * N
    column = j0[:, None] - MARGIN + 2 * tl.arange(0, S // 2)[None, :]
    even, odd = (column >= 0) & (column < W), (column >= -1) & (column < W - 1)
    top = i0 - K // 2
    x_ptr += first + (((image * H + top) * W)[:, None] + column)[:, :, None] * C + c[None, None, :]
    band_ptr += first * (K * S * N) + c[:, None, None] * (K * S * N)
    band_ptr += tl.arange(0, S)[None, :, None] * N + tl.arange(0, N)[None, None, :]
    acc = ()
    bands = ()
    for _ in tl.static_range(R):
        acc = acc + (tl.zeros([CHANNELS, M, N], tl.float32),)
    following = input_row(x_ptr, top, even, odd, H, C)
    for row in tl.static_range(K + R - 1):
        x = tl.reshape(tl.permute(following, (2, 0, 1, 3)), [CHANNELS, M, S])
        if row < K:
            bands = bands + (tl.load(band_ptr + row * (S * N)),)
        if row < K + R - 2:  # under way while this row is multiplied
            following = input_row(x_ptr + (row + 1) * (W * C), top + row + 1, even, odd, H, C)
        sums = ()
        for i in tl.static_range(R):
            if row - i >= 0 and row - i < K:
                sums = sums + (product(x, bands[row - i], acc[i], PRECISION),)
            else:
                sums = sums + (acc[i],)
        acc = sums
    n = j0[:, None] + tl.arange(0, N)[None, :]
    y_ptr += first + (((image * H + i0) * W)[:, None] + n)[:, :, None] * C + c[None, None, :]
    for i in tl.static_range(R):
        out = acc[i]
        if BIAS:
            out += tl.load(bias_ptr + first + c).to(tl.float32)[:, None, None]
        if ACTIVATION == "gelu":
            out = 0.5 * out * (1.0 + tl.erf(out * 0.7071067811865476))
        if ACTIVATION == "silu":
            out = out * tl.sigmoid(out)
        inside = ((real & (i0 + i < H))[:, None] & (n < W))[:, :, None]
        tl.store(y_ptr + i * (W * C), tl.permute(out.to(y_ptr.dtype.element_ty), (1, 2, 0)), mask=inside)
