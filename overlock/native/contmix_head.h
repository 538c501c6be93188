/* ContMix on a CPU, forward and backward, one head of one image at a time: nothing per query and tap leaves the cache.
 *
 * Maps are channels_last: (B, N, channels), N = H*W tokens; float32, or bfloat16 that is computed in float32.
 * Shapes: B batch, G heads, cq query and c value channels of one head, t = k*k taps of one kernel (padded to Tp, to
 * whole vectors, with logits of -inf), T taps of both kernels.
 */
#pragma once
#include "vectors.h"

#define QUERIES 4 /* at a time, of one row of the map */

typedef struct {
    const void *q, *v;      /* (B, N, G*cq), (B, N, 2*G*c) */
    const float *projected; /* (B*G, cq, T), keys projected to taps, scaled */
    const float *proj_bias; /* (T) */
    const float *rpb[2];    /* (G, (2k-1)*(2k-1)) */
    long batch, heads, cq, c, height, width, sizes[2];
    int bf16, threads;
} Contmix;

/* One kernel of one head of one image. */
typedef struct {
    long k, taps, tp, cqp, cp, span; /* span = 2k-1 */
    float *projected;                /* (cq, Tp) */
    float *bias;                     /* (Tp) */
    float *rpb;                      /* (span*span + LANES) */
    float *values;                   /* (N, cp) */
    float *q;                        /* (QUERIES, cqp) */
    float *weights;                  /* (QUERIES, Tp + LANES), softmax weights over `share` */
    float share[QUERIES];
} Half;

static inline long window(long at, long k, long size) {
    long first = at - k / 2, last = size - k;
    return first < 0 ? 0 : first > last ? last : first;
}

static long half_floats(const Contmix *m, long k) {
    long tp = padded(k * k), span = 2 * k - 1;
    return m->cq * tp + tp + padded(span * span + LANES) + m->height * m->width * padded(m->c) +
           QUERIES * (padded(m->cq) + tp + LANES);
}

static void open_half(Half *h, const Contmix *m, int i, long b, long g, long row0, long row1, float **memory) {
    long k = m->sizes[i], first = i ? m->sizes[0] * m->sizes[0] : 0,
         taps = m->sizes[0] * m->sizes[0] + m->sizes[1] * m->sizes[1];
    *h = (Half){k, k * k, padded(k * k), padded(m->cq), padded(m->c), 2 * k - 1, 0, 0, 0, 0, 0, 0, {0}};
    h->projected = take(memory, m->cq * h->tp);
    h->bias = take(memory, h->tp);
    h->rpb = take(memory, h->span * h->span + LANES);
    h->values = take(memory, m->height * m->width * h->cp);
    h->q = take(memory, QUERIES * h->cqp);
    h->weights = take(memory, QUERIES * (h->tp + LANES));
    for (long ch = 0; ch < m->cq; ch++) {
        float *row = h->projected + ch * h->tp;
        memcpy(row, m->projected + ((b * m->heads + g) * m->cq + ch) * taps + first, h->taps * sizeof(float));
        memset(row + h->taps, 0, (h->tp - h->taps) * sizeof(float));
    }
    memcpy(h->bias, m->proj_bias + first, h->taps * sizeof(float));
    for (long t = h->taps; t < h->tp; t++)
        h->bias[t] = -INFINITY;
    memcpy(h->rpb, m->rpb[i] + g * h->span * h->span, h->span * h->span * sizeof(float));
    memset(h->rpb + h->span * h->span, 0, LANES * sizeof(float));
    memset(h->q, 0, QUERIES * h->cqp * sizeof(float));
    memset(h->weights, 0, QUERIES * (h->tp + LANES) * sizeof(float));
    long from = window(row0, k, m->height) * m->width, to = (window(row1 - 1, k, m->height) + k) * m->width;
    for (long n = from; n < to; n++) {
        float *row = h->values + n * h->cp;
        for (long ch = m->c; ch < h->cp; ch++)
            row[ch] = 0;
        read_row(row, m->v, ((b * m->height * m->width + n) * 2 + i) * m->heads * m->c + g * m->c, m->c, m->bf16);
    }
}

static inline float *row_of(const Half *h, long j) { return h->weights + j * (h->tp + LANES); }

/* Logits of some vectors of taps, of QUERIES queries: bias already there, plus query times projected key. */
#define LOGITS(VECTORS)                                                                                                \
    static void logits##VECTORS(const Half *h, long cq, long at) {                                                     \
        vec sum[QUERIES][VECTORS];                                                                                     \
        for (int j = 0; j < QUERIES; j++)                                                                              \
            for (int i = 0; i < VECTORS; i++)                                                                          \
                sum[j][i] = load(row_of(h, j) + at + i * LANES) + load(h->bias + at + i * LANES);                      \
        for (long ch = 0; ch < cq; ch++) {                                                                             \
            const float *key = h->projected + ch * h->tp + at;                                                         \
            for (int i = 0; i < VECTORS; i++) {                                                                        \
                vec taps = load(key + i * LANES);                                                                      \
                for (int j = 0; j < QUERIES; j++)                                                                      \
                    sum[j][i] += h->q[j * h->cqp + ch] * taps;                                                         \
            }                                                                                                          \
        }                                                                                                              \
        for (int j = 0; j < QUERIES; j++)                                                                              \
            for (int i = 0; i < VECTORS; i++)                                                                          \
                store(row_of(h, j) + at + i * LANES, sum[j][i]);                                                       \
    }
LOGITS(4)
LOGITS(3)
LOGITS(2)
LOGITS(1)

/* Softmax weights (over `share`) of up to QUERIES queries from (row, col) on; those beyond `count` are never read. */
static void weigh(Half *h, const Contmix *m, long b, long g, long row, long col, long count) {
    long k = h->k, row_bias = window(row, k, m->height) - row + k - 1;
    for (long j = 0; j < count; j++) {
        float *to = row_of(h, j);
        read_row(h->q + j * h->cqp, m->q, ((b * m->height + row) * m->width + col + j) * m->heads * m->cq + g * m->cq,
                 m->cq, m->bf16);
        const float *from = h->rpb + row_bias * h->span + window(col + j, k, m->width) - (col + j) + k - 1;
        for (long i = 0; i < k; i++) /* each row overwrites what the last one wrote too far */
            for (long at = 0; at < k; at += LANES)
                store(to + i * k + at, load(from + i * h->span + at));
        for (long t = h->taps; t < h->tp; t++)
            to[t] = 0;
    }
    long at = 0;
    for (; at + 4 * LANES <= h->tp; at += 4 * LANES)
        logits4(h, m->cq, at);
    switch ((h->tp - at) / LANES) {
    case 3:
        logits3(h, m->cq, at);
        break;
    case 2:
        logits2(h, m->cq, at);
        break;
    case 1:
        logits1(h, m->cq, at);
        break;
    }
    for (long j = 0; j < count; j++) {
        float *w = row_of(h, j);
        vec top = load(w);
        for (at = LANES; at < h->tp; at += LANES) {
            vec x = load(w + at);
            top = where(x > top, x, top);
        }
        vec most = all(largest(top)), sum = {0};
        for (at = 0; at < h->tp; at += LANES) {
            vec e = exponential(load(w + at) - most);
            sum += e;
            store(w + at, e);
        }
        h->share[j] = 1.0f / total(sum);
    }
}
