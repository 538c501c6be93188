/* Parallel depthwise convolutions of one map, each with a batch norm, for training: what the norms and the gradients need
 * of the convolutions' outputs, none of which is ever written.
 *
 * A block of channels of one image is laid out in planes, framed by zeros; an output is made in the cache each time that
 * it is asked for, at less than what it takes to write and read a map.
 */
#pragma once
#include "convolve.h"
#include "depthwise.h"

#define MOST_BRANCHES 8

typedef struct {
    const void *x;     /* (B, H, W, C), C a multiple of CHANNELS */
    const float *taps; /* of the branches one after the other, (k*k, C) each */
    long batch, height, width, channels, branches;
    long k[MOST_BRANCHES], dilation[MOST_BRANCHES]; /* odd k; a branch keeps the map's size */
    int bf16, threads;
} Branches;

/* A plane of LANES channels, and the room for what is made of it. */
typedef struct {
    long frame, wide, outputs, taps, tokens;
    float *values, *grads; /* (H + 2 frame, wide): the map, and the gradient of a branch's output */
    float *out, *sum;      /* (H, W): a branch's output or the gradient of their sum, and the gradient of the map */
    float *own, *flipped;  /* taps, (taps, LANES) */
    float *of_taps;        /* gradients, likewise */
} Plane;

static Plane plane_for(const Branches *m) {
    Plane p = {0};
    for (long i = 0; i < m->branches; i++) {
        p.frame = most(p.frame, m->dilation[i] * (m->k[i] / 2));
        p.taps += m->k[i] * m->k[i];
    }
    p.wide = framed(m->width, 2 * p.frame + 1) / LANES;
    p.outputs = outputs_for(m->width);
    p.tokens = m->height * m->width;
    return p;
}

static long plane_floats(const Plane *p, const Branches *m) {
    return (2 * (m->height + 2 * p->frame) * p->wide + 2 * p->tokens + 3 * p->taps) * LANES + 8 * 16;
}

static void open_plane(Plane *p, const Branches *m, float *memory) {
    long framed_floats = (m->height + 2 * p->frame) * p->wide * LANES;
    p->values = take(&memory, framed_floats);
    p->grads = take(&memory, framed_floats);
    p->out = take(&memory, p->tokens * LANES);
    p->sum = take(&memory, p->tokens * LANES);
    p->own = take(&memory, p->taps * LANES);
    p->flipped = take(&memory, p->taps * LANES);
    p->of_taps = take(&memory, p->taps * LANES);
    memset(p->values, 0, framed_floats * sizeof(float));
    memset(p->grads, 0, framed_floats * sizeof(float));
}

static void load_taps(const Plane *p, const Branches *m, long channel) {
    long before = 0;
    for (long i = 0; i < m->branches; before += m->k[i] * m->k[i], i++)
        for (long t = 0, last = m->k[i] * m->k[i] - 1; t <= last; t++) {
            vec tap = load(m->taps + (before + t) * m->channels + channel);
            store(p->own + (before + t) * LANES, tap);
            store(p->flipped + (before + last - t) * LANES, tap);
        }
}

/* Where row y of an image's plane begins in a map. */
INLINE long in_map(const Branches *m, long b, long y, long channel) {
    return (b * m->height + y) * m->width * m->channels + channel;
}

/* A plane of a map, to rows of `step` positions. */
static void read_plane(const Branches *m, const void *from, long b, long channel, float *to, long step) {
    for (long y = 0; y < m->height; y++)
        for (long x = 0; x < m->width; x++)
            store(to + (y * step + x) * LANES, load_as(from, in_map(m, b, y, channel) + x * m->channels, m->bf16));
}

static float *inside(const Plane *p, float *framed_plane) {
    return framed_plane + (p->frame * p->wide + p->frame) * LANES;
}

INLINE void dilated_outputs(vec *out, const float *const *rows, long count, long col, const float *taps, long k,
                            long dilation, const int outputs) {
    vec sum[16];
    UNROLL for (int i = 0; i < outputs; i++)
        sum[i] = (vec){0};
    for (long row = 0; row < count; row++) {
        const float *from = rows[row] + col * LANES;
        for (long at = 0; at < k; at++, taps += LANES, from += dilation * LANES) {
            vec tap = load(taps);
            UNROLL for (int i = 0; i < outputs; i++)
                sum[i] += tap * load(from + i * LANES);
        }
    }
    UNROLL for (int i = 0; i < outputs; i++)
        out[i] = sum[i];
}

static inline void dilated_some(vec *out, const float *const *rows, long count, long col, const float *taps, long k,
                                long dilation, long outputs) {
    switch (outputs) {
#if MANY
    case 16:
        dilated_outputs(out, rows, count, col, taps, k, dilation, 16);
        break;
    case 14:
        dilated_outputs(out, rows, count, col, taps, k, dilation, 14);
        break;
#endif
    case 8:
        dilated_outputs(out, rows, count, col, taps, k, dilation, 8);
        break;
    default:
        dilated_outputs(out, rows, count, col, taps, k, dilation, 7);
    }
}

/* Outputs of row y from column x on, of a framed plane and the taps of branch i. */
static void some_outputs(vec *out, const Plane *p, const Branches *m, const float *framed_plane, const float *taps,
                         long i, long y, long x) {
    const float *rows[LONGEST];
    long k = m->k[i], dilation = m->dilation[i], reach = dilation * (k / 2), count = 0;
    long first = y >= reach ? 0 : (reach - y + dilation - 1) / dilation; /* rows of taps above the map are left out */
    for (long row = first; row < k && y - reach + row * dilation < m->height; row++)
        rows[count++] = framed_plane + ((y + p->frame - reach + row * dilation) * p->wide + p->frame - reach) * LANES;
    if (dilation == 1)
        convolve_some(out, rows, count, x, taps + first * k * LANES, k, (vec){0}, (int)p->outputs);
    else
        dilated_some(out, rows, count, x, taps + first * k * LANES, k, dilation, p->outputs);
}

/* Mean of a branch's output in an image, and the sum of the squares of what deviates from it. */
static void measure(const Plane *p, const Branches *m, const float *taps, long i, float *mean, float *squares) {
    vec sum = {0}, deviation = {0};
    for (long y = 0; y < m->height; y++) {
        vec of_row = {0}; /* a sum of sums: rounding errors stay small */
        for (long x = 0; x < m->width; x += p->outputs) {
            vec out[16];
            some_outputs(out, p, m, p->values, taps, i, y, x);
            for (long j = 0; j < least(p->outputs, m->width - x); j++) {
                of_row += out[j];
                store(p->out + (y * m->width + x + j) * LANES, out[j]);
            }
        }
        sum += of_row;
    }
    sum /= (float)p->tokens;
    for (long y = 0; y < m->height; y++) {
        vec of_row = {0};
        for (long x = 0; x < m->width; x++) {
            vec centred = load(p->out + (y * m->width + x) * LANES) - sum;
            of_row += centred * centred;
        }
        deviation += of_row;
    }
    store(mean, sum);
    store(squares, deviation);
}

/* What is done with the plane from `channel` on in one part of the work, whose taps are loaded. */
typedef void (*Work)(Plane *p, const Branches *m, long part, long channel, const void *arguments);

/* All planes of all parts. Returns 0, or 1 where memory ran out. */
static int each_plane(const Branches *m, long parts, Work work, const void *arguments) {
    long blocks = m->channels / CHANNELS, failed = 0;
#pragma omp parallel for schedule(dynamic) num_threads(m->threads) reduction(| : failed) if (m->threads > 1)
    for (long task = 0; task < parts * blocks; task++) {
        Plane p = plane_for(m);
        float *memory = scratch(plane_floats(&p, m));
        failed |= !memory;
        if (!memory)
            continue;
        open_plane(&p, m, memory);
        for (long channel = task % blocks * CHANNELS, end = channel + CHANNELS; channel < end; channel += LANES) {
            load_taps(&p, m, channel);
            work(&p, m, task / blocks, channel, arguments);
        }
    }
    return (int)failed;
}

typedef struct {
    float *means, *squares;
} Statistics;

static void statistics_of(Plane *p, const Branches *m, long b, long channel, const void *arguments) {
    const Statistics *to = arguments;
    const float *taps = p->own;
    read_plane(m, m->x, b, channel, inside(p, p->values), p->wide);
    for (long i = 0; i < m->branches; taps += m->k[i] * m->k[i] * LANES, i++) {
        long at = (b * m->branches + i) * m->channels + channel;
        measure(p, m, taps, i, to->means + at, to->squares + at);
    }
}

/* Each image's mean of each branch's output, and its sum of squared deviations: (B, branches, C) both. Returns 0, or 1
 * where memory ran out, as the others do. */
int branch_statistics(const Branches *m, float *means, float *squares) {
    return each_plane(m, m->batch, statistics_of, &(Statistics){means, squares});
}

typedef struct {
    const void *grad;
    const float *means;
    float *sums, *products;
} Products;

static void products_of(Plane *p, const Branches *m, long b, long channel, const void *arguments) {
    const Products *to = arguments;
    const float *taps = p->own;
    read_plane(m, m->x, b, channel, inside(p, p->values), p->wide);
    read_plane(m, to->grad, b, channel, p->out, m->width);
    vec sum = {0};
    for (long y = 0; y < m->height; y++) {
        vec of_row = {0};
        for (long x = 0; x < m->width; x++)
            of_row += load(p->out + (y * m->width + x) * LANES);
        sum += of_row;
    }
    store(to->sums + b * m->channels + channel, sum);
    for (long i = 0; i < m->branches; taps += m->k[i] * m->k[i] * LANES, i++) {
        vec mean = load(to->means + i * m->channels + channel), product = {0};
        for (long y = 0; y < m->height; y++) {
            vec of_row = {0};
            for (long x = 0; x < m->width; x += p->outputs) {
                vec out[16];
                some_outputs(out, p, m, p->values, taps, i, y, x);
                for (long j = 0; j < least(p->outputs, m->width - x); j++)
                    of_row += (out[j] - mean) * load(p->out + (y * m->width + x + j) * LANES);
            }
            product += of_row;
        }
        store(to->products + (b * m->branches + i) * m->channels + channel, product);
    }
}

/* Each image's sum of the output's gradient (B, C), and of its products with the branches' outputs, which deviate from
 * their `means` (branches, C): (B, branches, C). */
int branch_products(const Branches *m, const void *grad, const float *means, float *sums, float *products) {
    return each_plane(m, m->batch, products_of, &(Products){grad, means, sums, products});
}

/* The gradient of a branch's output: of = (factor, along, shift), which the output's gradient and the branch's output
 * are multiplied by, and what is added. Then what it means to the map and to the taps. */
static void differentiate_branch(const Plane *p, const Branches *m, long i, long before, const vec *of) {
    float *grads = inside(p, p->grads);
    long reach = m->dilation[i] * (m->k[i] / 2), off = ((p->frame - reach) * p->wide + p->frame - reach) * LANES;
    for (long y = 0; y < m->height; y++)
        for (long x = 0; x < m->width; x += p->outputs) {
            vec out[16];
            some_outputs(out, p, m, p->values, p->own + before * LANES, i, y, x);
            for (long j = 0; j < least(p->outputs, m->width - x); j++)
                store(grads + (y * p->wide + x + j) * LANES,
                      load(p->out + (y * m->width + x + j) * LANES) * of[0] + out[j] * of[1] + of[2]);
        }
    Depthwise one = {.height = m->height, .width = m->width, .k = m->k[i], .dilation = m->dilation[i]};
    correlate(&one, p->values + off, grads, p->of_taps + before * LANES, p->wide, p->wide);
    for (long y = 0; y < m->height; y++)
        for (long x = 0; x < m->width; x += p->outputs) {
            vec out[16];
            some_outputs(out, p, m, p->grads, p->flipped + before * LANES, i, y, x);
            for (long j = 0; j < least(p->outputs, m->width - x); j++) {
                float *to = p->sum + (y * m->width + x + j) * LANES;
                store(to, load(to) + out[j]);
            }
        }
}

typedef struct {
    const void *grad;
    const float *factors;
    long parts;
    void *x;
    float *taps;
} BranchGradients;

static void gradients_of(Plane *p, const Branches *m, long part, long channel, const void *arguments) {
    const BranchGradients *to = arguments;
    memset(p->of_taps, 0, p->taps * LANES * sizeof(float));
    for (long b = m->batch * part / to->parts; b < m->batch * (part + 1) / to->parts; b++) {
        read_plane(m, m->x, b, channel, inside(p, p->values), p->wide);
        read_plane(m, to->grad, b, channel, p->out, m->width);
        memset(p->sum, 0, p->tokens * LANES * sizeof(float));
        for (long i = 0, before = 0; i < m->branches; before += m->k[i] * m->k[i], i++) {
            vec of[3];
            for (int j = 0; j < 3; j++)
                of[j] = load(to->factors + (j * m->branches + i) * m->channels + channel);
            differentiate_branch(p, m, i, before, of);
        }
        for (long y = 0; y < m->height; y++)
            for (long x = 0; x < m->width; x++)
                store_as(to->x, in_map(m, b, y, channel) + x * m->channels, load(p->sum + (y * m->width + x) * LANES),
                         m->bf16);
    }
    for (long t = 0; t < p->taps; t++)
        store(to->taps + (part * p->taps + t) * m->channels + channel, load(p->of_taps + t * LANES));
}

/* Gradients of the map and of the taps (parts, taps, C), of as many parts of the batch, by factors (3, branches, C). */
int branch_gradients(const Branches *m, const void *grad, const float *factors, long parts, void *d_x, float *d_taps) {
    return each_plane(m, parts, gradients_of, &(BranchGradients){grad, factors, parts, d_x, d_taps});
}
