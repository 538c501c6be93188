/* ContMix on a CPU, forward and backward, one head of one image at a time: nothing per query and tap leaves the cache.
 *
 * Maps are channels_last: (B, N, channels), N = H*W tokens; float32, or bfloat16 that is computed in float32.
 * Shapes: B batch, G heads, cq query and c value channels of one head, t = k*k taps of one kernel (padded to Tp, to
 * whole vectors, with logits of -inf), T taps of both kernels. Logits are in units of log(2).
 */
#pragma once
#include "vectors.h"

#define QUERIES 4                    /* at a time, of one row of the map */
#define TAP_VECTORS (MANY ? 4 : 3)   /* of QUERIES queries' logits, in registers */
#define CHANNEL_VECTORS (MANY ? 4 : 2)
#define LOG2_E 1.44269504f
#define LN_2 0.693147181f

typedef struct {
    const void *q, *v;      /* (B, N, G*cq), (B, N, 2*G*c) */
    const float *projected; /* (B*G, cq, T), keys projected to taps, scaled */
    const float *proj_bias; /* (T) */
    const float *rpb[2];    /* (G, (2k-1)*(2k-1)) */
    const float *biases;    /* what fill_biases made of the two before, or NULL: they are made at each call */
    long batch, heads, cq, c, height, width, sizes[2];
    int bf16, threads;
} Contmix;

/* One kernel of one head of one image. */
typedef struct {
    long k, taps, tp, cqp, cp, span; /* span = 2k-1 */
    const float *biases;             /* (k, k, Tp): of each place of a query in its window */
    float *projected;                /* (cq, Tp) */
    float *values;                   /* (N, cp) */
    float *q;                        /* (N + QUERIES, cqp): whole groups are read */
    float *weights;                  /* (QUERIES, Tp), softmax weights over `share` */
    float share[QUERIES];
} Half;

/* Up to QUERIES neighbours in a row of the map. */
typedef struct {
    long row, col, count, top, first[QUERIES]; /* where their windows begin */
} Group;

INLINE long window(long at, long k, long size) {
    long first = at - k / 2, last = size - k;
    return first < 0 ? 0 : first > last ? last : first;
}

static long groups(const Contmix *m) { return (m->width + QUERIES - 1) / QUERIES; }

/* The n-th of a row's groups, which are of even sizes. */
static Group group_of(const Contmix *m, long k, long row, long n) {
    Group own = {row, m->width * n / groups(m), 0, window(row, k, m->height), {0}};
    own.count = m->width * (n + 1) / groups(m) - own.col;
    for (long j = 0; j < own.count; j++)
        own.first[j] = window(own.col + j, k, m->width);
    return own;
}

static long half_floats(const Contmix *m, long k) {
    return m->cq * padded(k * k) + m->height * m->width * (padded(m->c) + padded(m->cq)) +
           QUERIES * (padded(m->cq) + padded(k * k)) + 64;
}

static long biases_floats(const Contmix *m, int i) {
    return m->sizes[i] * m->sizes[i] * padded(m->sizes[i] * m->sizes[i]);
}

static long first_tap(const Contmix *m, int i) { return i ? m->sizes[0] * m->sizes[0] : 0; }
static long all_taps(const Contmix *m) { return first_tap(m, 1) + m->sizes[1] * m->sizes[1]; }

/* The floats of all biases. */
long all_biases_floats(const Contmix *m) { return m->heads * (biases_floats(m, 0) + biases_floats(m, 1)); }

/* Both kernels' biases of every head: (G, k, k, Tp) and then the other's. */
int fill_biases(const Contmix *m, float *tables) {
#pragma omp parallel for schedule(static) num_threads(m->threads) if (m->threads > 1)
    for (long task = 0; task < m->heads * (m->sizes[0] + m->sizes[1]); task++) {
        long g = task / (m->sizes[0] + m->sizes[1]), row = task % (m->sizes[0] + m->sizes[1]);
        int i = row >= m->sizes[0];
        row -= i ? m->sizes[0] : 0;
        long k = m->sizes[i], tp = padded(k * k), span = 2 * k - 1;
        float *to = tables + (i ? m->heads * biases_floats(m, 0) : 0) + g * biases_floats(m, i) + row * k * tp;
        const float *shared = m->proj_bias + first_tap(m, i);
        for (long col = 0; col < k; col++, to += tp) {
            const float *from = m->rpb[i] + g * span * span + row * span + col;
            for (long y = 0; y < k; y++)
                for (long x = 0; x < k; x++)
                    to[y * k + x] = (from[y * span + x] + shared[y * k + x]) * LOG2_E;
            for (long t = k * k; t < tp; t++)
                to[t] = -INFINITY;
        }
    }
    return 0;
}

static __thread Kept biases_kept;

/* NULL where memory ran out. */
static const float *biases_of(const Contmix *m) {
    if (m->biases)
        return m->biases;
    float *tables = kept(&biases_kept, all_biases_floats(m));
    if (tables)
        fill_biases(m, tables);
    return tables;
}

/* Rows of queries from row0 to row1 are to come. */
static void open_half(Half *h, const Contmix *m, const float *biases, int i, long b, long g, long row0, long row1,
                      float **memory) {
    long k = m->sizes[i];
    *h = (Half){k, k * k, padded(k * k), padded(m->cq), padded(m->c), 2 * k - 1, 0, 0, 0, 0, 0, {0}};
    h->biases = biases + (i ? m->heads * biases_floats(m, 0) : 0) + g * biases_floats(m, i);
    h->projected = take(memory, m->cq * h->tp);
    h->values = take(memory, m->height * m->width * h->cp);
    h->q = take(memory, (m->height * m->width + QUERIES) * h->cqp);
    memset(h->q + m->height * m->width * h->cqp, 0, QUERIES * h->cqp * sizeof(float));
    h->weights = take(memory, QUERIES * h->tp);
    for (long ch = 0; ch < m->cq; ch++) {
        float *row = h->projected + ch * h->tp;
        const float *from = m->projected + ((b * m->heads + g) * m->cq + ch) * all_taps(m) + first_tap(m, i);
        for (long t = 0; t < h->taps; t++)
            row[t] = from[t] * LOG2_E;
        for (long t = h->taps; t < h->tp; t++)
            row[t] = 0;
    }
    memset(h->weights, 0, QUERIES * h->tp * sizeof(float));
    long from = window(row0, k, m->height) * m->width, to = (window(row1 - 1, k, m->height) + k) * m->width;
    for (long n = from; n < to; n++)
        read_padded(h->values + n * h->cp, m->v,
                    ((b * m->height * m->width + n) * 2 + i) * m->heads * m->c + g * m->c, m->c, m->bf16);
    for (long n = row0 * m->width; n < row1 * m->width; n++)
        read_padded(h->q + n * h->cqp, m->q, ((b * m->height * m->width + n) * m->heads + g) * m->cq, m->cq, m->bf16);
}

INLINE const float *queries_of(const Half *h, const Contmix *m, const Group *own) {
    return h->q + (own->row * m->width + own->col) * h->cqp;
}

INLINE float *row_of(const Half *h, long j) { return h->weights + j * h->tp; }

/* Logits of `vectors` vectors of taps of `count` queries: bias plus query times projected key. Both are constant, so
 * that the sums become registers. */
INLINE void logits(const Half *h, const float *q, const float *const *bias, long cq, long at, const int count,
                   const int vectors) {
    vec sum[QUERIES][TAP_VECTORS];
    for (int j = 0; j < count; j++)
        for (int i = 0; i < vectors; i++)
            sum[j][i] = load(bias[j] + at + i * LANES);
    for (long ch = 0; ch < cq; ch++) {
        vec taps[TAP_VECTORS];
        for (int i = 0; i < vectors; i++)
            taps[i] = load(h->projected + ch * h->tp + at + i * LANES);
        for (int j = 0; j < count; j++) {
            vec query = all(q[j * h->cqp + ch]);
            for (int i = 0; i < vectors; i++)
                sum[j][i] += query * taps[i];
        }
    }
    for (int j = 0; j < count; j++)
        for (int i = 0; i < vectors; i++)
            store(row_of(h, j) + at + i * LANES, sum[j][i]);
}

/* All logits, a nearly even number of vectors at a time. */
INLINE void all_logits(const Half *h, const float *q, const float *const *bias, long cq, const int count) {
    for (long at = 0; at < h->tp;) {
        long left = (h->tp - at) / LANES, times = (left + TAP_VECTORS - 1) / TAP_VECTORS;
        long vectors = (left + times - 1) / times;
        if (vectors == TAP_VECTORS)
            logits(h, q, bias, cq, at, count, TAP_VECTORS);
        else if (vectors == TAP_VECTORS - 1)
            logits(h, q, bias, cq, at, count, TAP_VECTORS - 1);
        else if (vectors == TAP_VECTORS - 2)
            logits(h, q, bias, cq, at, count, TAP_VECTORS - 2);
        else
            logits(h, q, bias, cq, at, count, vectors = 1);
        at += vectors * LANES;
    }
}

/* Softmax weights (over `share`) of a group. */
static void weigh(Half *h, const Contmix *m, const Group *own) {
    const float *bias[QUERIES], *q = queries_of(h, m, own);
    for (long j = 0; j < own->count; j++) {
        long place = (own->top - own->row + h->k - 1) * h->k + own->first[j] - (own->col + j) + h->k - 1;
        bias[j] = h->biases + place * h->tp;
    }
    switch (own->count) {
    case 4:
        all_logits(h, q, bias, m->cq, 4);
        break;
    case 3:
        all_logits(h, q, bias, m->cq, 3);
        break;
    case 2:
        all_logits(h, q, bias, m->cq, 2);
        break;
    default:
        all_logits(h, q, bias, m->cq, 1);
    }
    for (long j = 0; j < own->count; j++) {
        float *w = row_of(h, j);
        vec top = load(w);
        for (long at = LANES; at < h->tp; at += LANES)
            top = larger(top, load(w + at));
        vec highest = all(largest(top)), sum = {0};
        for (long at = 0; at < h->tp; at += LANES) {
            vec e = power_of_2(load(w + at) - highest);
            sum += e;
            store(w + at, e);
        }
        h->share[j] = 1.0f / total(sum);
    }
}
