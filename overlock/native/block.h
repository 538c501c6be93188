/* A folded block in one call: its small operators would each take as long to begin as to run.
 *
 * Where there is an image or more for each thread, a thread runs a whole image: its maps stay in that core's cache, and
 * nobody waits for another. Else the images run together, some at a time, and threads share each operator.
 */
#pragma once
#include "contmix_forward.h"
#include "convolve.h"
#include "grn.h"
#include "norm.h"
#include "pool.h"
#include "product.h"
#include "squeeze.h"
#include <omp.h>

#define APART 100               /* tokens of an image from which it is worth its own pass over the weights */
#define CHUNK_BYTES (8l << 20)  /* of the maps between a block's operators, at a time */
#define REGIONS 7               /* a side, of ContMix's context */

/* Weights as the kernels read them: float32 but for those of products, which pack_product packs. */
typedef struct {
    const void *weights;
    const float *bias; /* or NULL */
    long inputs, outputs;
} Linear;

typedef struct {
    const float *taps, *bias; /* (k*k, C) and (C) */
    long k;
} Depthwise2d;

typedef struct {
    const float *weight, *bias;
    float eps;
} Norm;

typedef struct {
    const float *down, *down_bias, *up, *up_bias;
    long inner;
} Excitation;

typedef struct {
    Linear up, down;
    Depthwise2d dwconv;
    const float *gamma;
} Mlp;

typedef struct {
    long channels;
    Depthwise2d dwconv, large;
    Norm norm;
    Excitation se;
    Mlp mlp;
    const float *residual_scale; /* or NULL */
} RepConv;

typedef struct {
    long dim, context; /* channels */
    const float *context_scale, *prior_scale, *prior_shift; /* or NULL */
    Depthwise2d dwconv1, fusion_dw, lepe, dwconv2;
    Norm norm1, norm2;
    Linear fusion_point, gate, query, key, taps, dyconv_proj, proj; /* taps: from regions, its bias apart */
    const float *fusion_gamma, *fusion_beta, *biases; /* biases: by fill_biases */
    long heads, sizes[2];
    Excitation se;
    Mlp mlp;
    const float *residual_scale1, *residual_scale2;
} DynamicConv;

/* Maps are (B, H, W, C). */
typedef struct {
    long batch, height, width;
    int bf16, threads;
} Images;

static long tokens_of(const Images *s) { return s->batch * s->height * s->width; }

/* A map of so many channels out of free memory. */
static void *take_map(char **free_memory, const Images *s, long channels) {
    void *taken = *free_memory;
    *free_memory += (tokens_of(s) * channels * (s->bf16 ? 2 : 4) + 63) / 64 * 64;
    return taken;
}

static int depthwise(const Depthwise2d *m, const Images *s, const void *x, void *out, long channels, int gelu) {
    Convolution own = {.x = x, .out = out, .taps = m->taps, .bias = m->bias, .k = m->k, .gelu = gelu};
    own.batch = s->batch, own.height = s->height, own.width = s->width, own.channels = channels;
    own.bf16 = s->bf16, own.threads = s->threads;
    return depthwise_convolution(&own);
}

static int linear(const Linear *m, const Images *s, const void *x, long stride, void *out, int then) {
    Product own = {.x = x, .out = out, .weights = m->weights, .bias = m->bias, .then = then};
    own.rows = tokens_of(s), own.stride = stride, own.step = 1, own.inputs = m->inputs, own.outputs = m->outputs;
    own.bf16 = s->bf16, own.threads = s->threads;
    return product(&own);
}

/* Of x, or of its convolution, in place. */
static int respond(const Images *s, void *x, const Depthwise2d *conv, const float *gamma, const float *beta,
                     long channels) {
    Grn own = {.x = x, .gamma = gamma, .beta = beta};
    if (conv)
        own.taps = conv->taps, own.bias = conv->bias;
    own.batch = s->batch, own.height = s->height, own.width = s->width, own.channels = channels;
    own.bf16 = s->bf16, own.threads = s->threads;
    return grn_(&own);
}

static int excited(const Excitation *m, const Images *s, void *x, const void *gate, long channels) {
    Squeeze own = {.x = x, .gate = gate, .down = m->down, .down_bias = m->down_bias};
    own.up = m->up, own.up_bias = m->up_bias;
    own.batch = s->batch, own.tokens = s->height * s->width, own.channels = channels, own.inner = m->inner;
    own.bf16 = s->bf16, own.threads = s->threads;
    return squeeze_(&own);
}

/* A convolution and its norm, without a prior. */
static ConvNorm normed(const Depthwise2d *conv, const Norm *norm, const Images *s, const void *x, void *out, void *y,
                       const float *scale, long channels) {
    ConvNorm own = {.x = x, .out = out, .normed = y, .taps = conv->taps, .bias = conv->bias, .scale = scale};
    own.weight = norm->weight, own.shift = norm->bias, own.eps = norm->eps;
    own.batch = s->batch, own.height = s->height, own.width = s->width, own.channels = own.own = channels;
    own.bf16 = s->bf16, own.threads = s->threads;
    return own;
}

/* residual += down(GRN(dw3x3(GELU(up(x))))) */
static int mlp(const Mlp *m, const Images *s, const void *x, void *residual, void *hidden) {
    return linear(&m->up, s, x, m->up.inputs, hidden, GELU) ||
           respond(s, hidden, &m->dwconv, m->gamma, NULL, m->up.outputs) ||
           linear(&m->down, s, hidden, m->down.inputs, residual, ADD);
}

static long rep_conv_channels(const void *block) {
    const RepConv *m = block;
    return 2 * m->channels + m->mlp.up.outputs;
}

static int rep_conv_images(const void *block, const Images *s, const void *const *x, void *out, char *memory) {
    const RepConv *m = block;
    void *features = take_map(&memory, s, m->channels), *y = take_map(&memory, s, m->channels);
    ConvNorm first = normed(&m->dwconv, &m->norm, s, x[0], out, features, m->residual_scale, m->channels);
    return conv_norm(&first) || depthwise(&m->large, s, features, y, m->channels, 0) ||
           excited(&m->se, s, y, NULL, m->channels) || mlp(&m->mlp, s, y, out, memory);
}

/* ContMix of `value` by kernels made from `features`. */
static int context_mixing(const DynamicConv *m, const Images *s, const void *features, const void *value, void *query,
                          void *mixed) {
    long width = m->dim + m->context, regions = REGIONS * REGIONS, cq = m->query.outputs;
    static __thread Kept keys_kept;
    float *memory = kept(&keys_kept, s->batch * (regions * (m->context + cq) + cq * m->taps.outputs) + 64);
    if (!memory)
        return 1;
    float *context = take(&memory, s->batch * regions * m->context), *keys = take(&memory, s->batch * regions * cq);
    float *projected = memory;
    Pool pool = {.x = features, .out = context, .stride = width, .first = m->dim, .channels = m->context};
    pool.batch = s->batch, pool.height = s->height, pool.width = s->width, pool.side = REGIONS;
    pool.bf16 = s->bf16, pool.threads = s->threads;
    Images centres = {s->batch, REGIONS, REGIONS, 0, s->threads};
    if (linear(&m->query, s, features, width, query, NOTHING) || pool_regions(&pool) ||
        linear(&m->key, &centres, context, m->context, keys, NOTHING))
        return 1;
    for (long b = 0; b < s->batch; b++) {
        Product own = {.x = keys + b * regions * cq, .out = projected + b * cq * m->taps.outputs};
        own.weights = m->taps.weights, own.rows = cq, own.stride = 1, own.step = cq; /* the keys' transpose */
        own.inputs = regions, own.outputs = m->taps.outputs, own.threads = s->threads;
        if (product(&own))
            return 1;
    }
    Contmix own = {.q = query, .v = value, .projected = projected, .biases = m->biases};
    own.batch = s->batch, own.height = s->height, own.width = s->width;
    own.heads = m->heads, own.cq = cq / m->heads, own.c = m->dim / 2 / m->heads;
    own.sizes[0] = m->sizes[0], own.sizes[1] = m->sizes[1];
    own.bf16 = s->bf16, own.threads = s->threads;
    return contmix_forward(&own, mixed);
}

static long dynamic_conv_channels(const void *block) {
    const DynamicConv *m = block;
    long width = m->dim + m->context;
    return 2 * width + most(m->mlp.up.outputs, width + 4 * m->dim + m->query.outputs);
}

/* Of the joint map of features and context, and of the prior. */
static int dynamic_conv_images(const void *block, const Images *s, const void *const *maps, void *out, char *memory) {
    const DynamicConv *m = block;
    long width = m->dim + m->context;
    void *x = take_map(&memory, s, width), *features = take_map(&memory, s, width), *hidden = memory;
    void *fused = take_map(&memory, s, width), *value = take_map(&memory, s, m->dim), *y = take_map(&memory, s, m->dim);
    void *gate = take_map(&memory, s, m->dim), *mixed = take_map(&memory, s, m->dim), *query = memory;
    ConvNorm first = normed(&m->dwconv1, &m->norm1, s, maps[0], x, features, m->residual_scale1, width);
    ConvNorm second = normed(&m->dwconv2, &m->norm2, s, x, out, features, m->residual_scale2, width);
    if (m->context_scale) {
        first.prior = maps[1], first.own = m->dim, first.context_scale = m->context_scale;
        first.prior_scale = m->prior_scale, first.prior_shift = m->prior_shift;
    }
    return conv_norm(&first) || depthwise(&m->fusion_dw, s, features, fused, width, 1) ||
           linear(&m->fusion_point, s, fused, width, value, NOTHING) ||
           respond(s, value, NULL, m->fusion_gamma, m->fusion_beta, m->dim) ||
           depthwise(&m->lepe, s, value, y, m->dim, 0) || context_mixing(m, s, features, value, query, mixed) ||
           linear(&m->dyconv_proj, s, mixed, m->dim, y, ADD) || linear(&m->gate, s, value, m->dim, gate, SILU) ||
           excited(&m->se, s, y, gate, m->dim) || linear(&m->proj, s, y, m->dim, x, ADD) ||
           conv_norm(&second) || mlp(&m->mlp, s, features, out, hidden);
}

typedef int (*Run)(const void *block, const Images *s, const void *const *maps, void *out, char *memory);

/* Bytes of the maps between the operators of so many images. */
static long between_bytes(const Images *s, long count, long channels) {
    return count * s->height * s->width * channels * (s->bf16 ? 2 : 4) + 64 * 16;
}

/* Whether each image has a thread to itself. */
static int are_apart(const Images *s) {
    return s->height * s->width >= APART && (s->batch % s->threads == 0 || s->batch >= 4 * s->threads);
}

/* How many images run together. */
static long together(const Images *s, long channels) {
    long fitting = most(CHUNK_BYTES / between_bytes(s, 1, channels), 1);
    long chunks = (s->batch + fitting - 1) / fitting;
    return (s->batch + chunks - 1) / chunks;
}

static long memory_bytes(const Images *s, long channels) {
    if (are_apart(s))
        return s->threads * between_bytes(s, 1, channels);
    return between_bytes(s, together(s, channels), channels);
}

/* `count` images from `first` on. `channels`: of the maps, the output's last. */
static int some_images(Run run, const void *block, const Images *all, const long *channels, const void *const *maps,
                       void *out, long first, long count, int threads, char *memory) {
    Images s = {count, all->height, all->width, all->bf16, threads};
    long bytes = all->height * all->width * (all->bf16 ? 2 : 4);
    const void *own[2] = {(const char *)maps[0] + first * bytes * channels[0],
                          maps[1] ? (const char *)maps[1] + first * bytes * channels[1] : NULL};
    return run(block, &s, own, (char *)out + first * bytes * channels[2], memory);
}

static int all_images(Run run, const void *block, const Images *s, long between, const long *channels,
                      const void *const *maps, void *out, char *memory) {
    long failed = 0, step = together(s, between), bytes = between_bytes(s, 1, between);
    if (are_apart(s)) {
#pragma omp parallel for schedule(dynamic) num_threads(s->threads) reduction(| : failed) if (s->threads > 1)
        for (long b = 0; b < s->batch; b++)
            failed |= some_images(run, block, s, channels, maps, out, b, 1, 1, memory + omp_get_thread_num() * bytes);
        return (int)failed;
    }
    for (long first = 0; first < s->batch && !failed; first += step)
        failed |= some_images(run, block, s, channels, maps, out, first, least(step, s->batch - first), s->threads,
                              memory);
    return (int)failed;
}

/* Bytes of memory that a call needs. */
long rep_conv_block_bytes(const RepConv *m, const Images *s) { return memory_bytes(s, rep_conv_channels(m)); }

long dynamic_conv_block_bytes(const DynamicConv *m, const Images *s) {
    return memory_bytes(s, dynamic_conv_channels(m));
}

/* Return 0, or 1 where memory ran out. */
int rep_conv_block(const RepConv *m, const Images *s, const void *x, void *out, char *memory) {
    const void *maps[2] = {x, NULL};
    const long channels[3] = {m->channels, 0, m->channels};
    return all_images(rep_conv_images, m, s, rep_conv_channels(m), channels, maps, out, memory);
}

int dynamic_conv_block(const DynamicConv *m, const Images *s, const void *joint, const void *prior, void *out,
                       char *memory) {
    const void *maps[2] = {joint, prior};
    long width = m->dim + m->context;
    const long channels[3] = {width, m->context, width};
    return all_images(dynamic_conv_images, m, s, dynamic_conv_channels(m), channels, maps, out, memory);
}
