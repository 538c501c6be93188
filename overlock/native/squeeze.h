/* Squeeze-and-excitation in place: a channels_last map times a factor for each image and channel, made from the means
 * of the channels, and times a second map where there is one. A thread that has a whole image keeps it in its cache.
 */
#pragma once
#include "vectors.h"

#define SUMMED 64 /* tokens at a time: in a sum of sums rounding errors stay small */

typedef struct {
    void *x;                             /* (B, N, C) */
    const void *gate;                    /* likewise, or NULL */
    const float *down, *down_bias;       /* (C, inner) and (inner) */
    const float *up, *up_bias;           /* (inner, C) and (C) */
    long batch, tokens, channels, inner;
    int bf16, threads;
} Squeeze;

/* Added to `sums`, a whole number of vectors: tokens `from` to `to` of an image. */
static void sum_tokens(const Squeeze *m, long b, long from, long to, float *sums) {
    for (; from < to; from += SUMMED)
        for (long c = 0; c < m->channels; c += LANES) {
            long lanes = least(LANES, m->channels - c);
            vec sum = {0};
            for (long n = from; n < least(from + SUMMED, to); n++)
                sum += load_lanes(m->x, (b * m->tokens + n) * m->channels + c, lanes, m->bf16);
            store(sums + c, load(sums + c) + sum);
        }
}

/* From an image's sums to its factors, in place: sigmoid(up(GELU(down(means)))). */
static void excite(const Squeeze *m, float *sums, float *hidden) {
    memcpy(hidden, m->down_bias, m->inner * sizeof(float));
    for (long c = 0; c < m->channels; c++) {
        float mean = sums[c] / m->tokens;
        for (long j = 0; j < m->inner; j++)
            hidden[j] += mean * m->down[c * m->inner + j];
    }
    memcpy(sums, m->up_bias, m->channels * sizeof(float));
    for (long j = 0; j < m->inner; j++) {
        float gelu = 0.5f * hidden[j] * (1.0f + erff(hidden[j] * 0.707106781f));
        for (long c = 0; c < m->channels; c++)
            sums[c] += gelu * m->up[j * m->channels + c];
    }
    for (long c = 0; c < m->channels; c++)
        sums[c] = 1.0f / (1.0f + expf(-sums[c]));
}

static void scale_tokens(const Squeeze *m, long b, long from, long to, const float *factors) {
    for (long at = (b * m->tokens + from) * m->channels; from < to; from++, at += m->channels)
        for (long c = 0; c < m->channels; c += LANES) {
            long lanes = least(LANES, m->channels - c);
            vec y = load_lanes(m->x, at + c, lanes, m->bf16) * load(factors + c);
            if (m->gate)
                y *= load_lanes(m->gate, at + c, lanes, m->bf16);
            store_lanes(m->x, at + c, y, lanes, m->bf16);
        }
}

/* Returns 0, or 1 where memory ran out. */
int squeeze_(const Squeeze *m) {
    long bands = 1, stride = padded(m->channels);
    int whole = m->batch % m->threads == 0 || m->batch >= 4 * m->threads;
    while (!whole && m->batch * bands < 4 * m->threads)
        bands *= 2;
    long rows = m->batch * bands;
    float *sums = aligned_alloc(64, (rows * stride + m->batch * m->inner + 15) / 16 * 64);
    if (!sums)
        return 1;
    float *hidden = sums + rows * stride;
    memset(sums, 0, rows * stride * sizeof(float));
#pragma omp parallel num_threads(m->threads) if (m->threads > 1)
    {
#pragma omp for schedule(static)
        for (long row = 0; row < rows; row++) {
            long b = row / bands, band = row % bands;
            sum_tokens(m, b, m->tokens * band / bands, m->tokens * (band + 1) / bands, sums + row * stride);
            if (whole) {
                excite(m, sums + row * stride, hidden + b * m->inner);
                scale_tokens(m, b, 0, m->tokens, sums + row * stride);
            }
        }
        if (!whole) {
#pragma omp for schedule(static)
            for (long b = 0; b < m->batch; b++) {
                float *own = sums + b * bands * stride;
                for (long at = stride; at < bands * stride; at++)
                    own[at % stride] += own[at];
                excite(m, own, hidden + b * m->inner);
            }
#pragma omp for schedule(static)
            for (long row = 0; row < rows; row++) {
                long b = row / bands, band = row % bands;
                scale_tokens(m, b, m->tokens * band / bands, m->tokens * (band + 1) / bands, sums + b * bands * stride);
            }
        }
    }
    free(sums);
    return 0;
}
