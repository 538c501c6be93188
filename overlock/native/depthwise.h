/* Weight gradients of depthwise convolutions: the correlation of the input and the output's gradient at each tap.
 *
 * A block of channels of one image is laid out densely, framed by zeros; the taps' sums stay in registers, one or
 * several rows of taps at a time.
 */
#include "vectors.h"

typedef struct {
    const void *x, *grad; /* (B, H, W, C), C a multiple of LANES */
    float *weight;        /* (k*k, C) */
    long batch, height, width, channels, k, dilation;
    int bf16, threads;
} Depthwise;

/* Rows `first` to `first + count` of the taps. Constant k and count: their sums become registers. */
static inline __attribute__((always_inline)) void
tap_rows(const Depthwise *m, const float *x, const float *grad, float *sums, long wide, long first, int k, int count) {
    vec sum[27]; /* at most 25 are used: a constant size, to become registers */
    for (int t = 0; t < count * k; t++)
        sum[t] = load(sums + (first * k + t) * LANES);
    for (long row = 0; row < m->height; row++)
        for (long col = 0; col < m->width; col++) {
            vec g = load(grad + (row * m->width + col) * LANES);
            for (int i = 0; i < count; i++)
                for (int j = 0; j < k; j++)
                    sum[i * k + j] +=
                        g * load(x + ((row + (first + i) * m->dilation) * wide + col + j * m->dilation) * LANES);
        }
    for (int t = 0; t < count * k; t++)
        store(sums + (first * k + t) * LANES, sum[t]);
}

#define TAPS(K, COUNT)                                                                                                 \
    case K: {                                                                                                          \
        long first = 0;                                                                                                \
        for (; first + COUNT <= K; first += COUNT)                                                                     \
            tap_rows(m, x, grad, sums, wide, first, K, COUNT);                                                         \
        for (; first < K; first++)                                                                                     \
            tap_rows(m, x, grad, sums, wide, first, K, 1);                                                             \
        break;                                                                                                         \
    }

static void correlate(const Depthwise *m, const float *x, const float *grad, float *sums, long wide) {
    switch (m->k) {
        TAPS(3, 3)
        TAPS(5, 5)
        TAPS(7, 3)
        TAPS(9, 2)
        TAPS(11, 2)
        TAPS(13, 1)
        TAPS(15, 1)
        TAPS(17, 1)
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
                    read_row(x + ((row + frame) * wide + col + frame) * LANES, m->x, at, LANES, m->bf16);
                    read_row(grad + (row * m->width + col) * LANES, m->grad, at, LANES, m->bf16);
                }
            correlate(m, x, grad, sums, wide);
        }
        for (long t = 0; t < taps; t++)
            store(m->weight + t * m->channels + first, load(sums + t * LANES));
    }
    return failed;
}
