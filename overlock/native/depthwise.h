/* Weight gradients of depthwise convolutions: the correlation of the input and the output's gradient at each tap.
 *
 * A block of channels of one image is laid out densely, framed by zeros; the taps' sums stay in registers, one or
 * several rows of taps at a time.
 */
#pragma once
#include "vectors.h"

typedef struct {
    const void *x, *grad; /* (B, H, W, C), C a multiple of LANES */
    float *weight;        /* (k*k, C) */
    long batch, height, width, channels, k, dilation;
    int bf16, threads;
} Depthwise;

/* Of the taps, `count` rows from `row0` on, `across` from `col0` on. Constant counts: their sums become registers.
 * Rows of x are `wide` positions, those of the gradient `step`. */
INLINE void some_taps(const Depthwise *m, const float *x, const float *grad, float *sums, long wide, long step, long row0,
                      long col0, const int count, const int across) {
    vec sum[27]; /* a constant size, to become registers */
    UNROLL for (int i = 0; i < count; i++)
        UNROLL for (int j = 0; j < across; j++)
            sum[i * across + j] = load(sums + ((row0 + i) * m->k + col0 + j) * LANES);
    long reach = m->k / 2, first = most((reach - row0 - count + 1) * m->dilation, 0);
    long end = m->height - most((row0 - reach) * m->dilation, 0); /* of the rows that one of these taps meets the map in */
    for (long row = first; row < end; row++) {
        const float *from = x + ((row + row0 * m->dilation) * wide + col0 * m->dilation) * LANES;
        for (long col = 0; col < m->width; col++, from += LANES) {
            vec g = load(grad + (row * step + col) * LANES);
            UNROLL for (int i = 0; i < count; i++)
                UNROLL for (int j = 0; j < across; j++)
                    sum[i * across + j] += g * load(from + (i * wide + j) * m->dilation * LANES);
        }
    }
    UNROLL for (int i = 0; i < count; i++)
        UNROLL for (int j = 0; j < across; j++)
            store(sums + ((row0 + i) * m->k + col0 + j) * LANES, sum[i * across + j]);
}

/* COUNT rows at a time, and those left over singly; each in one piece, or in two. */
#define TAPS(K, COUNT, PIECE)                                                                                          \
    case K: {                                                                                                          \
        long row = 0;                                                                                                  \
        for (; row + COUNT <= K; row += COUNT)                                                                         \
            some_taps(m, x, grad, sums, wide, step, row, 0, COUNT, PIECE);                                                   \
        for (; COUNT > 1 && row < K; row++)                                                                            \
            some_taps(m, x, grad, sums, wide, step, row, 0, 1, PIECE);                                                       \
        for (row = 0; PIECE < K && row < K; row++)                                                                     \
            some_taps(m, x, grad, sums, wide, step, row, PIECE, 1, K - PIECE);                                               \
        break;                                                                                                         \
    }

static void correlate(const Depthwise *m, const float *x, const float *grad, float *sums, long wide, long step) {
    switch (m->k) {
#if MANY
        TAPS(3, 3, 3)
        TAPS(5, 5, 5)
        TAPS(7, 3, 7)
        TAPS(9, 2, 9)
        TAPS(11, 2, 11)
        TAPS(13, 1, 13)
        TAPS(15, 1, 15)
        TAPS(17, 1, 17)
#else
        TAPS(3, 3, 3)
        TAPS(5, 2, 5)
        TAPS(7, 1, 7)
        TAPS(9, 1, 9)
        TAPS(11, 1, 11)
        TAPS(13, 1, 7)
        TAPS(15, 1, 8)
        TAPS(17, 1, 9)
#endif
    }
}

/* Returns 0, or 1 where memory ran out. */
int depthwise_weight_gradient(const Depthwise *m) {
    long frame = m->dilation * (m->k / 2), wide = m->width + 2 * frame, high = m->height + 2 * frame;
    long taps = m->k * m->k, tokens = m->height * m->width;
    int failed = 0;
#pragma omp parallel for schedule(dynamic) num_threads(m->threads) reduction(| : failed) if (m->threads > 1)
    for (long first = 0; first < m->channels; first += LANES) {
        float *memory = scratch((wide * high + tokens + taps) * LANES);
        if (!memory) {
            failed |= 1;
            continue;
        }
        float *x = take(&memory, wide * high * LANES), *grad = take(&memory, tokens * LANES);
        float *sums = take(&memory, taps * LANES);
        memset(x, 0, wide * high * LANES * sizeof(float));
        memset(sums, 0, taps * LANES * sizeof(float));
        for (long b = 0; b < m->batch; b++) {
            for (long row = 0; row < m->height; row++)
                for (long col = 0; col < m->width; col++) {
                    long at = ((b * m->height + row) * m->width + col) * m->channels + first;
                    store(x + ((row + frame) * wide + col + frame) * LANES, load_as(m->x, at, m->bf16));
                    store(grad + (row * m->width + col) * LANES, load_as(m->grad, at, m->bf16));
                }
            correlate(m, x, grad, sums, wide, m->width);
        }
        for (long t = 0; t < taps; t++)
            store(m->weight + t * m->channels + first, load(sums + t * LANES));
    }
    return failed;
}
