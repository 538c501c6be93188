"""ContMix's Triton kernels, experimental: `overlock.contmix.fused` launches them, docs/gpu.md has floors and design.

A program takes M queries of one head and goes through some images: all that does not depend on the image (indices, and
the bias of every query and tap) is made once and stays in registers. For each image the logits of all taps are one
product of queries and projected keys, (M, c) x (c, taps), in tap order; softmax in float32; aggregation is a second
product, (M, keys) x (keys, c). Nothing of size N x taps leaves the chip.

- `shared_kernel`: all M windows are the same window, and taps are keys (14x14 with K = 13, 7x7 with K = 7);
- `small_kernel`: K <= 5, on any map: queries come 4 x 4, and weights go from taps to keys by one `tl.gather`;
- `sliding_kernel`: the M queries are neighbours in one row and their windows slide along it. Weights go from tap order
  to key order, and their gradients back, by `tl.gather`. Window rows are dealt to GROUPS warps: a group's products and
  gathers are its own, only sums and maxima cross.

Names: G heads, M queries a program, K kernel size; a tap is row u and column v of a window, its place u * KP + v (KP
is K for shared windows, else a power of two), PITCH of them in a row of projected keys, STRIDE from one row to the
next; CQ and CV channels of a head, CQP and CVP padded. A group reads ROWS rows and KEYS columns of keys. A branch is
one of the two kernels and the values it mixes: 0 the small one, 1 the large. Logits are in base 2: times log2(e).
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from overlock.triton_product import product

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def window_start(i, size, K: tl.constexpr):
    """First index of position i's window: shifted to stay inside the map."""
    return tl.minimum(tl.maximum(i - K // 2, 0), size - K)


@triton.jit
def load_tokens(ptr, i, j, sh, sw, sc, inside, C: tl.constexpr, CP: tl.constexpr):
    """(tokens, CP) of one head's channels at rows i and columns j; 0 outside."""
    c = tl.arange(0, CP)
    offsets = (i * sh + j * sw)[:, None] + (c * sc)[None, :]
    return tl.load(ptr + offsets, mask=inside[:, None] & (c < C)[None, :], other=0.0)


@triton.jit
def store_tokens(ptr, x, i, j, sh, sw, sc, inside, C: tl.constexpr, CP: tl.constexpr):
    """The reverse of `load_tokens`."""
    c = tl.arange(0, CP)
    offsets = (i * sh + j * sw)[:, None] + (c * sc)[None, :]
    tl.store(ptr + offsets, x.to(ptr.dtype.element_ty), mask=inside[:, None] & (c < C)[None, :])


@triton.jit
def tap_bias(bias_ptr, rpb_ptr, query, u, v, inside, K: tl.constexpr):
    """Bias in base 2, of the projection and the relative position, for queries x taps; -inf where there is no tap.

    `query` is the place of a query's first tap in the table; it and `inside` are shaped to broadcast with u and v.
    """
    real = (u >= 0) & (u < K) & (v < K)
    rpb = tl.load(rpb_ptr + query + u * (2 * K - 1) + v, mask=inside & real, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + u * K + v, mask=real, other=0.0).to(tl.float32)
    return tl.where(real, (rpb + bias) * LOG2E, float("-inf"))


@triton.jit
def first_place(i, si, j, sj, K: tl.constexpr):
    """Where in a (2K-1) x (2K-1) table the bias of the first tap of query (i, j) stands."""
    return (si - i + K - 1) * (2 * K - 1) + sj - j + K - 1


@triton.jit
def shared_kernel(
    q_ptr, qb, qc, qh, qw, pk_ptr, v_ptr, vb, vc, vh, vw, bias_ptr, rpb_ptr, out_ptr, ob, oc, oh, ow, B, G, H, W, scale,
    IMAGES, BRANCH: tl.constexpr, K: tl.constexpr, TAPS: tl.constexpr, MORE: tl.constexpr, PITCH: tl.constexpr,
    STRIDE: tl.constexpr,
    CQ: tl.constexpr, CQP: tl.constexpr, CV: tl.constexpr, CVP: tl.constexpr,
    BH: tl.constexpr, BW: tl.constexpr, M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One branch of the output: M of the BH x BW queries of a block that share a window, for IMAGES images.

    Taps are split into TAPS and MORE, powers of two, which pad K * K less than one power of two does.
    """
    pid = tl.program_id(0)
    g, rest = pid % G, pid // G
    SUBS: tl.constexpr = (BH * BW + M - 1) // M
    sub, rest = rest % SUBS, rest // SUBS
    across, down = W // BW, H // BH
    j0, rest = (rest % across) * BW, rest // across
    i0, part = (rest % down) * BH, (rest // down).to(tl.int64)
    m = sub * M + tl.arange(0, M)
    i, j, inside = i0 + m // BW, j0 + m % BW, m < BH * BW
    si, sj = window_start(i0, H, K), window_start(j0, W, K)
    table, place = rpb_ptr + g * (2 * K - 1) * (2 * K - 1), first_place(i, si, j, sj, K)[:, None]
    t, c = tl.arange(0, TAPS), tl.arange(0, CQP)
    bias = tap_bias(bias_ptr, table, place, (t // K)[None, :], (t % K)[None, :], inside[:, None], K)
    taps, channels = c[:, None] * STRIDE + t[None, :], (c < CQ)[:, None]
    if MORE > 0:
        n = TAPS + tl.arange(0, MORE)
        more_bias = tap_bias(bias_ptr, table, place, (n // K)[None, :], (n % K)[None, :], inside[:, None], K)
        more_taps = c[:, None] * STRIDE + n[None, :]
    for b in range(part * IMAGES, tl.minimum((part + 1) * IMAGES, B)):
        q = load_tokens(q_ptr + b * qb + g * CQ * qc, i, j, qh, qw, qc, inside, CQ, CQP)
        pk_head = pk_ptr + (b * G + g) * CQ * STRIDE
        v_head = v_ptr + b * vb + (BRANCH * G + g) * CV * vc
        pk = tl.load(pk_head + taps, mask=channels & (t < PITCH)[None, :], other=0.0)
        logits = product(q, pk, None, PRECISION) * (scale * LOG2E) + bias
        top = tl.max(logits, 1)
        if MORE > 0:
            pk = tl.load(pk_head + more_taps, mask=channels & (n < PITCH)[None, :], other=0.0)
            more = product(q, pk, None, PRECISION) * (scale * LOG2E) + more_bias
            top = tl.maximum(top, tl.max(more, 1))
        weights = tl.exp2(logits - top[:, None])
        total = tl.sum(weights, 1)
        values = load_tokens(v_head, si + t // K, sj + t % K, vh, vw, vc, t < K * K, CV, CVP)
        acc = product(weights.to(values.dtype), values, None, PRECISION)
        if MORE > 0:
            weights = tl.exp2(more - top[:, None])
            total += tl.sum(weights, 1)
            values = load_tokens(v_head, si + n // K, sj + n % K, vh, vw, vc, n < K * K, CV, CVP)
            acc = product(weights.to(values.dtype), values, acc, PRECISION)
        out = out_ptr + b * ob + (BRANCH * G + g) * CV * oc
        store_tokens(out, acc * (1 / total)[:, None], i, j, oh, ow, oc, inside, CV, CVP)


@triton.jit
def small_kernel(
    q_ptr, qb, qc, qh, qw, pk_ptr, v_ptr, vb, vc, vh, vw, bias_ptr, rpb_ptr, out_ptr, ob, oc, oh, ow, B, G, H, W, scale,
    IMAGES, BRANCH: tl.constexpr, K: tl.constexpr, TAPS: tl.constexpr, PITCH: tl.constexpr,
    STRIDE: tl.constexpr, CQ: tl.constexpr,
    CQP: tl.constexpr, CV: tl.constexpr, CVP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One branch of the output of 4 x 4 neighbours, whose windows (K <= 5) lie in 8 x 8 keys, for IMAGES images.

    A query's taps are one for each lane of a warp, so that each of its keys gets its weight in one exchange.
    """
    pid = tl.program_id(0)
    g, rest = pid % G, pid // G
    across, down = tl.cdiv(W, 4), tl.cdiv(H, 4)
    j0, rest = (rest % across) * 4, rest // across
    i0, part = (rest % down) * 4, (rest // down).to(tl.int64)
    m, t, c = tl.arange(0, 16), tl.arange(0, TAPS), tl.arange(0, CQP)
    i, j = i0 + m // 4, j0 + m % 4
    inside = (i < H) & (j < W)
    si, sj, top, left = window_start(i, H, K), window_start(j, W, K), window_start(i0, H, K), window_start(j0, W, K)
    table, place = rpb_ptr + g * (2 * K - 1) * (2 * K - 1), first_place(i, si, j, sj, K)[:, None]
    bias = tap_bias(bias_ptr, table, place, (t // K)[None, :], (t % K)[None, :], inside[:, None], K)
    y = tl.arange(0, 64)[None, :]
    u, v = top + y // 8 - si[:, None], left + y % 8 - sj[:, None]
    tap = tl.where((u >= 0) & (u < K) & (v >= 0) & (v < K), u * K + v, TAPS - 1)  # the last is none and weighs 0
    y = tl.arange(0, 64) % 2 * 32 + tl.arange(0, 64) // 2  # a lane has keys y and y + 32: side by side for the product
    row, column = top + y // 8, left + y % 8
    for b in range(part * IMAGES, tl.minimum((part + 1) * IMAGES, B)):
        q = load_tokens(q_ptr + b * qb + g * CQ * qc, i, j, qh, qw, qc, inside, CQ, CQP)
        pk_head = pk_ptr + (b * G + g) * CQ * STRIDE
        pk = tl.load(
            pk_head + c[:, None] * STRIDE + t[None, :], mask=(c < CQ)[:, None] & (t < PITCH)[None, :], other=0.0
        )
        logits = product(q, pk, None, PRECISION) * (scale * LOG2E) + bias
        weights = tl.exp2(logits - tl.max(logits, 1)[:, None])
        total = tl.sum(weights, 1)
        v_head = v_ptr + b * vb + (BRANCH * G + g) * CV * vc
        values = load_tokens(v_head, row, column, vh, vw, vc, (row < H) & (column < W), CV, CVP)
        by_key = tl.permute(tl.reshape(tl.gather(weights, tap, 1), [16, 2, 32]), (0, 2, 1))
        acc = product(tl.reshape(by_key, [16, 64]).to(values.dtype), values, None, PRECISION)
        out = out_ptr + b * ob + (BRANCH * G + g) * CV * oc
        store_tokens(out, acc * (1 / total)[:, None], i, j, oh, ow, oc, inside, CV, CVP)


@triton.jit
def to_groups(x, GROUPS: tl.constexpr):
    """(a, b) -> (GROUPS, a, b), the same for each."""
    return tl.broadcast_to(x[None, :, :], [GROUPS, x.shape[0], x.shape[1]])


@triton.jit
def group_taps(first, GROUPS: tl.constexpr, ROWS: tl.constexpr, KP: tl.constexpr):
    """Row u and column v of every tap, (GROUPS, 1, ROWS*KP); row 0 of group 0 is row `first`."""
    t = tl.arange(0, GROUPS)[:, None, None] * (ROWS * KP) + tl.arange(0, ROWS * KP)[None, None, :]
    return first + t // KP, t % KP


@triton.jit
def load_taps(pk_ptr, first, PITCH: tl.constexpr,
              STRIDE: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr, KP: tl.constexpr,
              CQ: tl.constexpr, CQP: tl.constexpr):  # fmt: skip
    """(GROUPS, CQP, ROWS*KP) projected keys from window row `first` on; zeros outside the window."""
    t = tl.arange(0, GROUPS)[:, None, None] * (ROWS * KP) + tl.arange(0, ROWS * KP)[None, None, :] + first * KP
    c = tl.arange(0, CQP)[None, :, None]
    return tl.load(pk_ptr + c * STRIDE + t, mask=(c < CQ) & (t >= 0) & (t < PITCH), other=0.0)


@triton.jit
def load_keys(ptr, top, left, height, width, sh, sw, sc, GROUPS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
              C: tl.constexpr, CP: tl.constexpr):  # fmt: skip
    """(GROUPS, ROWS*KEYS, CP) values from row `top`, column `left` on; zeros from row `height`, column `width` on."""
    y = tl.arange(0, ROWS * KEYS)[None, :, None]
    row, column = top + tl.arange(0, GROUPS)[:, None, None] * ROWS + y // KEYS, left + y % KEYS
    c = tl.arange(0, CP)[None, None, :]
    return tl.load(ptr + row * sh + column * sw + c * sc, mask=(row < height) & (column < width) & (c < C), other=0.0)


@triton.jit
def to_keys(x, sj, left, K: tl.constexpr, KP: tl.constexpr, KEYS: tl.constexpr):
    """(GROUPS, M, ROWS*KP) by tap -> (GROUPS, M, ROWS*KEYS) by column of the map, counted from `left`.

    0 outside the windows, as x is at taps that do not exist; the last column of each row (KP > K) is one.
    """
    GROUPS: tl.constexpr = x.shape[0]
    M: tl.constexpr = x.shape[1]
    ROWS: tl.constexpr = x.shape[2] // KP
    v = left - sj[:, None] + tl.arange(0, KEYS)[None, :]
    v = tl.where((v >= 0) & (v < K), v, KP - 1)
    index = tl.broadcast_to(v[None, :, None, :], [GROUPS, M, ROWS, KEYS])
    return tl.reshape(tl.gather(tl.reshape(x, [GROUPS, M, ROWS, KP]), index, 3), [GROUPS, M, ROWS * KEYS])


@triton.jit
def to_taps(x, sj, left, K: tl.constexpr, KP: tl.constexpr, KEYS: tl.constexpr):
    """(GROUPS, M, ROWS*KEYS) by column of the map -> (GROUPS, M, ROWS*KP) by tap; 0 where there is no tap."""
    GROUPS: tl.constexpr = x.shape[0]
    M: tl.constexpr = x.shape[1]
    ROWS: tl.constexpr = x.shape[2] // KEYS
    v = tl.arange(0, KP)[None, :]
    real = (v < K) & (sj >= left)[:, None]
    index = tl.broadcast_to(tl.where(real, sj[:, None] - left + v, 0)[None, :, None, :], [GROUPS, M, ROWS, KP])
    moved = tl.gather(tl.reshape(x, [GROUPS, M, ROWS, KEYS]), index, 3)
    return tl.reshape(tl.where(real[None, :, None, :], moved, 0.0), [GROUPS, M, ROWS * KP])


@triton.jit
def sliding_kernel(
    q_ptr, qb, qc, qh, qw, pk_ptr, v_ptr, vb, vc, vh, vw, bias_ptr, rpb_ptr, out_ptr, ob, oc, oh, ow, B, G, H, W, scale,
    IMAGES, BRANCH: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, PITCH: tl.constexpr,
    STRIDE: tl.constexpr, CQ: tl.constexpr,
    CQP: tl.constexpr, CV: tl.constexpr, CVP: tl.constexpr, M: tl.constexpr, GROUPS: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One branch of the output of M neighbours in one row, for IMAGES images."""
    pid = tl.program_id(0)
    g, rest = pid % G, pid // G
    across = tl.cdiv(W, M)
    j0, rest = (rest % across) * M, rest // across
    i0, part = rest % H, (rest // H).to(tl.int64)
    j = j0 + tl.arange(0, M)
    i, inside = i0 + j * 0, j < W
    si, sj, left = window_start(i0, H, K), window_start(j, W, K), window_start(j0, W, K)
    u, v = group_taps(0, GROUPS, ROWS, KP)
    place = first_place(i, si, j, sj, K)[None, :, None]
    bias = tap_bias(bias_ptr, rpb_ptr + g * (2 * K - 1) * (2 * K - 1), place, u, v, inside[None, :, None], K)
    for b in range(part * IMAGES, tl.minimum((part + 1) * IMAGES, B)):
        q = load_tokens(q_ptr + b * qb + g * CQ * qc, i, j, qh, qw, qc, inside, CQ, CQP)
        pk = load_taps(pk_ptr + (b * G + g) * CQ * STRIDE, 0, PITCH, STRIDE, GROUPS, ROWS, KP, CQ, CQP)
        logits = product(to_groups(q, GROUPS), pk, None, PRECISION) * (scale * LOG2E) + bias
        top = tl.max(tl.max(logits, 2), 0)
        weights = tl.exp2(logits - top[None, :, None])
        total = tl.sum(tl.sum(weights, 2), 0)
        v_head = v_ptr + b * vb + (BRANCH * G + g) * CV * vc
        values = load_keys(v_head, si, left, si + K, W, vh, vw, vc, GROUPS, ROWS, KEYS, CV, CVP)
        by_key = to_keys(weights, sj, left, K, KP, KEYS)
        acc = tl.sum(product(by_key.to(values.dtype), values, None, PRECISION), 0)
        out = out_ptr + b * ob + (BRANCH * G + g) * CV * oc
        store_tokens(out, acc * (1 / total)[:, None], i, j, oh, ow, oc, inside, CV, CVP)
