"""Triton kernels of ContMix's backward, experimental. They make the weights again, in base 2; none uses atomics.

With dO the output's gradient of one branch, p the softmax weights and delta = sum(p * dW), dW = dO v^T in tap order and
dS = p (dW - delta):

    d_query, d_rpb   `query_kernel`: dS pk, and dS summed over images by query row, window row and relative column;
                     it also leaves each query's log-sum-exp and delta for the two below
    d_pk, d_bias     `taps_kernel`: dS^T q and the sum of dS, over all queries of an image and head
    d_value          `value_kernel`: p^T dO, over the queries whose windows reach a block of keys

Queries come M neighbours of a row at a time; names as in `forward`.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from overlock.contmix.triton.forward import (
    LOG2E,
    first_place,
    group_taps,
    load_keys,
    load_taps,
    load_tokens,
    store_tokens,
    tap_bias,
    to_groups,
    to_keys,
    to_taps,
    window_start,
)
from overlock.triton_product import product


@triton.jit
def first_reader(row, K: tl.constexpr):
    """The first position whose window holds `row`."""
    return tl.where(row < K, 0, row - K + 1 + K // 2)


@triton.jit
def last_reader(row, size, K: tl.constexpr):
    """The last position whose window holds `row`."""
    return tl.where(row >= size - K, size - 1, row + K // 2)


@triton.jit
def query_kernel(
    q_ptr, qb, qc, qh, qw, pk_ptr, v_ptr, vb, vc, vh, vw, grad_ptr, gb, gc, gh, gw, bias_ptr, rpb_ptr,
    lse_ptr, delta_ptr, dq_ptr, db, dc, dh, dw, part_ptr, B, G, H, W, scale, IMAGES,
    BRANCH: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, PITCH: tl.constexpr,
    STRIDE: tl.constexpr, CQ: tl.constexpr, CQP: tl.constexpr,
    CV: tl.constexpr, CVP: tl.constexpr, M: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, PLACES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A branch's d_query of M neighbours, for IMAGES images, and its part of d_rpb: (parts, G, H, tiles, K, 2K-1)."""
    pid = tl.program_id(0)
    g, rest = pid % G, pid // G
    across = tl.cdiv(W, M)
    tile, rest = rest % across, rest // across
    i0, part = rest % H, (rest // H).to(tl.int64)
    j = tile * M + tl.arange(0, M)
    i, inside = i0 + j * 0, j < W
    si, sj, left = window_start(i0, H, K), window_start(j, W, K), window_start(tile * M, W, K)
    u, v = group_taps(0, GROUPS, ROWS, KP)
    place = first_place(i, si, j, sj, K)[None, :, None]
    bias = tap_bias(bias_ptr, rpb_ptr + g * (2 * K - 1) * (2 * K - 1), place, u, v, inside[None, :, None], K)
    table = tl.zeros([GROUPS, M, ROWS * KP], tl.float32)
    for b in range(part * IMAGES, tl.minimum((part + 1) * IMAGES, B)):
        bg, head = b * G + g, (BRANCH * G + g) * CV
        q = load_tokens(q_ptr + b * qb + g * CQ * qc, i, j, qh, qw, qc, inside, CQ, CQP)
        grad = load_tokens(grad_ptr + b * gb + head * gc, i, j, gh, gw, gc, inside, CV, CVP)
        pk = load_taps(pk_ptr + bg * CQ * STRIDE, 0, PITCH, STRIDE, GROUPS, ROWS, KP, CQ, CQP)
        logits = product(to_groups(q, GROUPS), pk, None, PRECISION) * (scale * LOG2E) + bias
        top = tl.max(tl.max(logits, 2), 0)
        weights = tl.exp2(logits - top[None, :, None])
        total = tl.sum(tl.sum(weights, 2), 0)
        weights = weights * (1 / total)[None, :, None]
        v_head = v_ptr + b * vb + head * vc
        values = load_keys(v_head, si, left, si + K, W, vh, vw, vc, GROUPS, ROWS, KEYS, CV, CVP)
        d_weights = product(to_groups(grad, GROUPS), tl.permute(values, (0, 2, 1)), None, PRECISION)
        d_weights = to_taps(d_weights, sj, left, K, KP, KEYS)
        delta = tl.sum(tl.sum(weights * d_weights, 2), 0)
        d_logits = weights * (d_weights - delta[None, :, None])
        table += d_logits
        d_query = tl.sum(product(d_logits.to(pk.dtype), tl.permute(pk, (0, 2, 1)), None, PRECISION), 0) * scale
        store_tokens(dq_ptr + b * db + g * CQ * dc, d_query, i, j, dh, dw, dc, inside, CQ, CQP)
        token = bg * H * W + i * W + j
        tl.store(lse_ptr + token, top + tl.log2(total), mask=inside)
        tl.store(delta_ptr + token, delta, mask=inside)
    # tap column v of query column j stands at column v + (sj - j + K - 1) of its row of the table
    by_place = tl.sum(to_keys(table, sj - j + K - 1, 0, K, KP, PLACES), 1)  # GROUPS, ROWS * PLACES
    r = tl.arange(0, GROUPS)[:, None] * (ROWS * PLACES) + tl.arange(0, ROWS * PLACES)[None, :]
    u, column = r // PLACES, r % PLACES
    offset = ((((part * G + g) * H + i0) * across + tile) * K + u) * (2 * K - 1) + column
    tl.store(part_ptr + offset, by_place, mask=(u < K) & (column < 2 * K - 1))


@triton.jit
def taps_kernel(
    q_ptr, qb, qc, qh, qw, pk_ptr, v_ptr, vb, vc, vh, vw, grad_ptr, gb, gc, gh, gw, bias_ptr, rpb_ptr,
    lse_ptr, delta_ptr, d_pk_ptr, d_tap_ptr, B, G, H, W, scale,
    BRANCH: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, PITCH: tl.constexpr,
    STRIDE: tl.constexpr, CQ: tl.constexpr, CQP: tl.constexpr,
    CV: tl.constexpr, CVP: tl.constexpr, M: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """d_pk (B, G, CQ, K*K) and the sum of dS over queries (B, G, K*K), of one branch, image and head."""
    bg = tl.program_id(0).to(tl.int64)
    b, g = bg // G, bg % G
    head = (BRANCH * G + g) * CV
    pk = load_taps(pk_ptr + bg * CQ * STRIDE, 0, PITCH, STRIDE, GROUPS, ROWS, KP, CQ, CQP)
    u, v = group_taps(0, GROUPS, ROWS, KP)
    across = tl.cdiv(W, M)
    acc = tl.zeros([GROUPS, CQP, ROWS * KP], tl.float32)
    total = tl.zeros([GROUPS, ROWS * KP], tl.float32)
    for tile in range(0, H * across):
        i0, j0 = tile // across, (tile % across) * M
        j = j0 + tl.arange(0, M)
        i, inside = i0 + j * 0, j < W
        si, sj, left = window_start(i0, H, K), window_start(j, W, K), window_start(j0, W, K)
        q = load_tokens(q_ptr + b * qb + g * CQ * qc, i, j, qh, qw, qc, inside, CQ, CQP)
        grad = load_tokens(grad_ptr + b * gb + head * gc, i, j, gh, gw, gc, inside, CV, CVP)
        place = first_place(i, si, j, sj, K)[None, :, None]
        bias = tap_bias(bias_ptr, rpb_ptr + g * (2 * K - 1) * (2 * K - 1), place, u, v, inside[None, :, None], K)
        token = bg * H * W + i * W + j
        lse = tl.load(lse_ptr + token, mask=inside, other=float("inf"))[None, :, None]
        delta = tl.load(delta_ptr + token, mask=inside, other=0.0)[None, :, None]
        weights = tl.exp2(product(to_groups(q, GROUPS), pk, None, PRECISION) * (scale * LOG2E) + bias - lse)
        v_head = v_ptr + b * vb + head * vc
        values = load_keys(v_head, si, left, si + K, W, vh, vw, vc, GROUPS, ROWS, KEYS, CV, CVP)
        d_weights = product(to_groups(grad, GROUPS), tl.permute(values, (0, 2, 1)), None, PRECISION)
        d_logits = weights * (to_taps(d_weights, sj, left, K, KP, KEYS) - delta)
        acc = product(to_groups(tl.trans(q), GROUPS), d_logits.to(q.dtype), acc, PRECISION)
        total += tl.sum(d_logits, 1)
    t = tl.arange(0, GROUPS)[:, None] * (ROWS * KP) + tl.arange(0, ROWS * KP)[None, :]
    u, v = t // KP, t % KP
    real, tap = (u < K) & (v < K), u * K + v
    c = tl.arange(0, CQP)[None, :, None]
    offset = bg * CQ * K * K + c * (K * K) + tap[:, None, :]
    tl.store(d_pk_ptr + offset, acc * scale, mask=(c < CQ) & real[:, None, :])
    tl.store(d_tap_ptr + bg * K * K + tap, total, mask=real)


@triton.jit
def value_kernel(
    q_ptr, qb, qc, qh, qw, pk_ptr, grad_ptr, gb, gc, gh, gw, bias_ptr, rpb_ptr, lse_ptr,
    dv_ptr, db, dc, dh, dw, B, G, H, W, scale,
    BRANCH: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, PITCH: tl.constexpr,
    STRIDE: tl.constexpr, CQ: tl.constexpr, CQP: tl.constexpr,
    CV: tl.constexpr, CVP: tl.constexpr, M: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """d_value of a block of GROUPS*ROWS x KEYS keys of one branch: over all queries whose windows reach into it."""
    pid = tl.program_id(0)
    g, rest = pid % G, pid // G
    left, rest = (rest % tl.cdiv(W, KEYS)) * KEYS, rest // tl.cdiv(W, KEYS)
    blocks = tl.cdiv(H, GROUPS * ROWS)
    top, b = (rest % blocks) * (GROUPS * ROWS), (rest // blocks).to(tl.int64)
    bg, head = b * G + g, (BRANCH * G + g) * CV
    bottom, right = tl.minimum(top + GROUPS * ROWS, H) - 1, tl.minimum(left + KEYS, W) - 1
    first_row, first_tile = first_reader(top, K), first_reader(left, K) // M
    tiles = last_reader(right, W, K) // M - first_tile + 1
    acc = tl.zeros([GROUPS, ROWS * KEYS, CVP], tl.float32)
    for step in range(0, (last_reader(bottom, H, K) - first_row + 1) * tiles):
        i0, j = first_row + step // tiles, (first_tile + step % tiles) * M + tl.arange(0, M)
        i, inside = i0 + j * 0, j < W
        si, sj = window_start(i0, H, K), window_start(j, W, K)
        u, v = group_taps(top - si, GROUPS, ROWS, KP)  # the taps of these windows that fall on the block's rows
        pk = load_taps(pk_ptr + bg * CQ * STRIDE, top - si, PITCH, STRIDE, GROUPS, ROWS, KP, CQ, CQP)
        q = load_tokens(q_ptr + b * qb + g * CQ * qc, i, j, qh, qw, qc, inside, CQ, CQP)
        grad = load_tokens(grad_ptr + b * gb + head * gc, i, j, gh, gw, gc, inside, CV, CVP)
        place = first_place(i, si, j, sj, K)[None, :, None]
        bias = tap_bias(bias_ptr, rpb_ptr + g * (2 * K - 1) * (2 * K - 1), place, u, v, inside[None, :, None], K)
        lse = tl.load(lse_ptr + bg * H * W + i * W + j, mask=inside, other=float("inf"))[None, :, None]
        weights = tl.exp2(product(to_groups(q, GROUPS), pk, None, PRECISION) * (scale * LOG2E) + bias - lse)
        by_key = to_keys(weights, sj, left, K, KP, KEYS).to(grad.dtype)
        acc = product(tl.permute(by_key, (0, 2, 1)), to_groups(grad, GROUPS), acc, PRECISION)
    y = tl.arange(0, GROUPS)[:, None, None] * (ROWS * KEYS) + tl.arange(0, ROWS * KEYS)[None, :, None]
    c = tl.arange(0, CVP)[None, None, :]
    i, j = top + y // KEYS, left + y % KEYS
    offset = i * dh + j * dw + c * dc
    mask = (i < H) & (j < W) & (c < CV)
    tl.store(dv_ptr + b * db + head * dc + offset, acc.to(dv_ptr.dtype.element_ty), mask=mask)
