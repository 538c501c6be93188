/* The hidden map of an MLP, forward and backward: GELU, depthwise 3x3 convolution and GRN, and nothing kept of them but
 * the norms of GRN. What lies between is made again from the map before GELU, a few rows at a time.
 */
#pragma once
#include "grn.h"

typedef struct {
    const void *x;                           /* (B, H, W, C), C a multiple of CHANNELS: before GELU */
    const float *taps, *bias, *gamma, *beta; /* (9, C) and (C) */
    float *norms;                            /* (B, C): written by the forward, read by the backward */
    long batch, height, width, channels;
    int bf16, threads;
} Hidden;

/* Gradients; those of the parameters are one of each image. */
typedef struct {
    const void *out;      /* (B, H, W, C) */
    void *x;              /* likewise */
    float *taps, *bias;   /* (B, 9, C) and (B, C) */
    float *gamma, *beta;  /* (B, C) */
} HiddenGradients;

#define AT_ONCE 16 /* blocks of CHANNELS channels */

/* Rows of `planes` planes, in rings of three: values are framed by zeros, and so are rows above and below the map. */
typedef struct {
    long planes, first, wide, plane, outputs;
    float *values, *slopes, *grads; /* after GELU, of GELU, and of the convolution's output */
    float *taps, *flipped;          /* (planes, 9, LANES) */
    float *of_taps, *of_bias;       /* gradients, likewise */
} Rows;

static long hidden_floats(const Hidden *m) {
    return AT_ONCE * PLANES * (9 * framed(m->width, 3) + (3 * 9 + 1) * LANES) + 8 * 16;
}

static void open_rows(Rows *r, const Hidden *m, long first, float *memory) {
    r->first = first;
    r->planes = least(AT_ONCE, (m->channels - first) / CHANNELS) * PLANES;
    r->wide = framed(m->width, 3);
    r->plane = 3 * r->wide;
    r->outputs = outputs_for(m->width);
    long floats = r->planes * r->plane;
    r->values = take(&memory, floats);
    r->grads = take(&memory, floats);
    r->slopes = take(&memory, floats);
    r->taps = take(&memory, r->planes * 9 * LANES);
    r->flipped = take(&memory, r->planes * 9 * LANES);
    r->of_taps = take(&memory, r->planes * 9 * LANES);
    r->of_bias = take(&memory, r->planes * LANES);
    memset(r->values, 0, floats * sizeof(float));
    memset(r->grads, 0, floats * sizeof(float));
    memset(r->of_taps, 0, r->planes * 9 * LANES * sizeof(float));
    memset(r->of_bias, 0, r->planes * LANES * sizeof(float));
    for (long p = 0; p < r->planes; p++)
        for (long t = 0; t < 9; t++) {
            vec tap = load(m->taps + t * m->channels + first + p * LANES);
            store(r->taps + (p * 9 + t) * LANES, tap);
            store(r->flipped + (p * 9 + 8 - t) * LANES, tap);
        }
}

INLINE long place(const Hidden *m, long b, long y, long x, long channel) {
    return ((b * m->height + y) * m->width + x) * m->channels + channel;
}

/* Row y of the map to its place in the ring, after GELU; zeros below the map. */
INLINE void enter_row(Rows *r, const Hidden *m, long b, long y, const int with_slopes) {
    for (long p = 0; p < r->planes && y >= m->height; p++)
        memset(r->values + p * r->plane + y % 3 * r->wide, 0, r->wide * sizeof(float));
    for (long x = 0; x < m->width && y < m->height; x++)
        for (long p = 0; p < r->planes; p++) {
            Gelu of = gelu_and_slope(load_as(m->x, place(m, b, y, x, r->first + p * LANES), m->bf16));
            long at = p * r->plane + y % 3 * r->wide + x * LANES;
            store(r->values + at + LANES, of.value);
            if (with_slopes)
                store(r->slopes + at, of.slope);
        }
}

/* The three rows of a ring around row y. */
INLINE void around(const float *ring, long wide, long y, const float **rows) {
    for (long i = 0; i < 3; i++)
        rows[i] = ring + (y + 2 + i) % 3 * wide;
}

/* Sums over an image: of its gradient, and of the product of that and the convolution's output. */
static void dot_image(const Hidden *m, const HiddenGradients *d, long b, long first, float *memory) {
    Rows r;
    open_rows(&r, m, first, memory);
    long at = b * m->channels + first;
    memset(d->gamma + at, 0, r.planes * LANES * sizeof(float));
    memset(d->beta + at, 0, r.planes * LANES * sizeof(float));
    enter_row(&r, m, b, 0, 0);
    for (long y = 0; y < m->height; y++) {
        enter_row(&r, m, b, y + 1, 0);
        for (long p = 0; p < r.planes; p++) {
            const float *rows[3];
            around(r.values + p * r.plane, r.wide, y, rows);
            vec bias = load(m->bias + first + p * LANES), dot = {0}, sum = {0};
            for (long x = 0; x < m->width; x += r.outputs) {
                vec out[16];
                convolve_some(out, rows, 3, x, r.taps + p * 9 * LANES, 3, bias, (int)r.outputs);
                for (long i = 0; i < least(r.outputs, m->width - x); i++) {
                    vec grad = load_as(d->out, place(m, b, y, x + i, first + p * LANES), m->bf16);
                    dot += out[i] * grad;
                    sum += grad;
                }
            }
            float *dots = d->gamma + at + p * LANES, *sums = d->beta + at + p * LANES;
            store(dots, load(dots) + dot); /* a sum of sums: rounding errors stay small */
            store(sums, load(sums) + sum);
        }
    }
}

/* From an image's products to the gradient of gamma, and to what its gradient and its convolution are multiplied by. */
static void ungrn(const Hidden *m, const HiddenGradients *d, long b, float *factor, float *along) {
    const float *norm = m->norms + b * m->channels;
    float *dot = d->gamma + b * m->channels;
    double sum = 0, weighted = 0;
    for (long c = 0; c < m->channels; c++)
        sum += norm[c];
    float mean = (float)(sum / m->channels) + 1e-6f;
    for (long c = 0; c < m->channels; c++)
        weighted += (double)dot[c] * m->gamma[c] * norm[c];
    float off = (float)(weighted / m->channels) / mean;
    for (long c = 0; c < m->channels; c++) {
        along[c] = norm[c] == 0 ? 0 : (dot[c] * m->gamma[c] - off) / mean / norm[c];
        factor[c] = m->gamma[c] * norm[c] / mean + 1;
        dot[c] *= norm[c] / mean;
    }
}

/* Gradients of the convolution's output in row y of a plane, and their products with the values around them. */
static void grads_of_row(const Rows *r, const Hidden *m, const HiddenGradients *d, long b, long y, long p, vec factor,
                         vec along) {
    const float *rows[3];
    float *to = r->grads + p * r->plane + y % 3 * r->wide + LANES, *sums = r->of_taps + p * 9 * LANES;
    vec bias = load(m->bias + r->first + p * LANES), of_bias = {0}, sum[9] = {{0}};
    around(r->values + p * r->plane, r->wide, y, rows);
    for (long x = 0; x < m->width; x += r->outputs) {
        vec out[16];
        convolve_some(out, rows, 3, x, r->taps + p * 9 * LANES, 3, bias, (int)r->outputs);
        for (long i = 0; i < least(r->outputs, m->width - x); i++) {
            vec grad = load_as(d->out, place(m, b, y, x + i, r->first + p * LANES), m->bf16);
            store(to + (x + i) * LANES, factor * grad + along * out[i]);
        }
    }
    for (long x = 0; x < m->width; x++) {
        vec grad = load(to + x * LANES);
        of_bias += grad;
        UNROLL for (int i = 0; i < 3; i++)
            UNROLL for (int j = 0; j < 3; j++)
                sum[3 * i + j] += grad * load(rows[i] + (x + j) * LANES);
    }
    store(r->of_bias + p * LANES, load(r->of_bias + p * LANES) + of_bias);
    UNROLL for (int t = 0; t < 9; t++)
        store(sums + t * LANES, load(sums + t * LANES) + sum[t]);
}

static void differentiate(const Hidden *m, const HiddenGradients *d, long b, long first, const float *factor,
                          const float *along, float *memory) {
    Rows r;
    open_rows(&r, m, first, memory);
    enter_row(&r, m, b, 0, 1);
    for (long y = 0; y <= m->height; y++) { /* the gradient of row y - 1 needs those of row y */
        if (y < m->height)
            enter_row(&r, m, b, y + 1, 1);
        for (long p = 0; p < r.planes; p++) {
            if (y < m->height)
                grads_of_row(&r, m, d, b, y, p, load(factor + first + p * LANES), load(along + first + p * LANES));
            else
                memset(r.grads + p * r.plane + y % 3 * r.wide, 0, r.wide * sizeof(float));
            if (y == 0)
                continue;
            const float *rows[3], *slopes = r.slopes + p * r.plane + (y - 1) % 3 * r.wide;
            around(r.grads + p * r.plane, r.wide, y - 1, rows);
            for (long x = 0; x < m->width; x += r.outputs) {
                vec out[16];
                convolve_some(out, rows, 3, x, r.flipped + p * 9 * LANES, 3, (vec){0}, (int)r.outputs);
                for (long i = 0; i < least(r.outputs, m->width - x); i++)
                    store_as(d->x, place(m, b, y - 1, x + i, first + p * LANES), out[i] * load(slopes + (x + i) * LANES),
                             m->bf16);
            }
        }
    }
    for (long p = 0; p < r.planes; p++) {
        long channel = first + p * LANES;
        store(d->bias + b * m->channels + channel, load(r.of_bias + p * LANES));
        for (long t = 0; t < 9; t++)
            store(d->taps + (b * 9 + t) * m->channels + channel, load(r.of_taps + (p * 9 + t) * LANES));
    }
}

/* Both return 0, or 1 where memory ran out. */
int hidden_forward(const Hidden *m, void *out) {
    Grn grn = {out,      m->taps,  m->bias,     m->gamma, m->beta,   m->batch,
               m->height, m->width, m->channels, m->bf16,  m->threads};
    Before before = {m->x, m->norms, 1};
    return normalise(&grn, &before);
}

int hidden_backward(const Hidden *m, const HiddenGradients *d) {
    long step = AT_ONCE * CHANNELS, blocks = (m->channels + step - 1) / step;
    int failed = 0, whole = m->batch % m->threads == 0 || m->batch >= 4 * m->threads;
    float *factor = aligned_alloc(64, 2 * m->batch * m->channels * sizeof(float));
    if (!factor)
        return 1;
    float *along = factor + m->batch * m->channels;
#pragma omp parallel num_threads(m->threads) reduction(| : failed) if (m->threads > 1)
    {
        float *memory = scratch(hidden_floats(m));
        failed |= !memory;
        if (whole) { /* an image stays in the cache from its sums to its gradients */
#pragma omp for schedule(dynamic)
            for (long b = 0; b < m->batch; b++) {
                long at = b * m->channels;
                for (long first = 0; first < m->channels && memory; first += step)
                    dot_image(m, d, b, first, memory);
                if (memory)
                    ungrn(m, d, b, factor + at, along + at);
                for (long first = 0; first < m->channels && memory; first += step)
                    differentiate(m, d, b, first, factor + at, along + at, memory);
            }
        } else {
#pragma omp for schedule(static)
            for (long task = 0; task < m->batch * blocks; task++)
                if (memory)
                    dot_image(m, d, task / blocks, task % blocks * step, memory);
#pragma omp for schedule(static)
            for (long b = 0; b < m->batch; b++)
                ungrn(m, d, b, factor + b * m->channels, along + b * m->channels);
#pragma omp for schedule(static)
            for (long task = 0; task < m->batch * blocks; task++) {
                long b = task / blocks, at = b * m->channels;
                if (memory)
                    differentiate(m, d, b, task % blocks * step, factor + at, along + at, memory);
            }
        }
    }
    free(factor);
    return failed;
}
