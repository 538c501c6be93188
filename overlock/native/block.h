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
    Convolution own = {x,           out,      m->taps,  m->bias, s->batch, s->height,
                       s->width,    channels, m->k,     gelu,    s->bf16,  s->threads};
    return depthwise_convolution(&own);
}

static int linear(const Linear *m, const Images *s, const void *x, long stride, void *out, int then) {
    Product own = {x,         out,        m->weights, m->bias, tokens_of(s), stride, 1,
                   m->inputs, m->outputs, then,       s->bf16, s->threads};
    return product(&own);
}

static int normalise(const Images *s, void *x, const Depthwise2d *conv, const float *gamma, const float *beta,
                     long channels) {
    Grn own = {x,         conv ? conv->taps : NULL, conv ? conv->bias : NULL, gamma, beta, s->batch, s->height, s->width, channels,
               s->bf16, s->threads};
    return grn_(&own);
}

static int excited(const Excitation *m, const Images *s, void *x, const void *gate, long channels) {
    Squeeze own = {x,         gate,     m->down,  m->down_bias, m->up, m->up_bias, s->batch, s->height * s->width,
                   channels, m->inner, s->bf16, s->threads};
    return squeeze_(&own);
}

static int normed(const Depthwise2d *conv, const Norm *norm, const Images *s, const void *x, void *out, void *y,
                  const float *scale, long channels) {
    ConvNorm own = {x,        out,       y,        conv->taps, conv->bias, scale, norm->weight, norm->bias,
                    NULL,     NULL,      NULL,     NULL,       s->batch,   s->height, s->width, channels,
                    channels, norm->eps, s->bf16, s->threads};
    return conv_norm(&own);
}

/* residual += down(GRN(dw3x3(GELU(up(x))))) */
static int mlp(const Mlp *m, const Images *s, const void *x, void *residual, void *hidden) {
    return linear(&m->up, s, x, m->up.inputs, hidden, GELU) ||
           normalise(s, hidden, &m->dwconv, m->gamma, NULL, m->up.outputs) ||
           linear(&m->down, s, hidden, m->down.inputs, residual, ADD);
}

static long rep_conv_channels(const void *block) {
    const RepConv *m = block;
    return 2 * m->channels + m->mlp.up.outputs;
}

static int rep_conv_images(const void *block, const Images *s, const void *const *x, void *out, char *memory) {
    const RepConv *m = block;
    void *features = take_map(&memory, s, m->channels), *y = take_map(&memory, s, m->channels);
    return normed(&m->dwconv, &m->norm, s, x[0], out, features, m->residual_scale, m->channels) ||
           depthwise(&m->large, s, features, y, m->channels, 0) || excited(&m->se, s, y, NULL, m->channels) ||
           mlp(&m->mlp, s, y, out, memory);
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
    Pool pool = {features, context, s->batch, s->height, s->width, width, m->dim, m->context, REGIONS, s->bf16, s->threads};
    Images centres = {s->batch, REGIONS, REGIONS, 0, s->threads};
    if (linear(&m->query, s, features, width, query, NOTHING) || pool_regions(&pool) ||
        linear(&m->key, &centres, context, m->context, keys, NOTHING))
        return 1;
    for (long b = 0; b < s->batch; b++) {
        Product own = {keys + b * regions * cq, projected + b * cq * m->taps.outputs, m->taps.weights, NULL, cq, 1, cq,
                       regions, m->taps.outputs, NOTHING, 0, s->threads};
        if (product(&own))
            return 1;
    }
    Contmix own = {.q = query,       .v = value,          .projected = projected,      .biases = m->biases,
                   .batch = s->batch, .heads = m->heads,   .cq = cq / m->heads,         .c = m->dim / 2 / m->heads,
                   .height = s->height, .width = s->width, .sizes = {m->sizes[0], m->sizes[1]}, .bf16 = s->bf16,
                   .threads = s->threads};
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
    ConvNorm first = {maps[0], x, features, m->dwconv1.taps, m->dwconv1.bias, m->residual_scale1, m->norm1.weight,
                      m->norm1.bias, m->context_scale ? maps[1] : NULL, m->context_scale, m->prior_scale,
                      m->prior_shift, s->batch, s->height, s->width, width, m->dim, m->norm1.eps, s->bf16, s->threads};
    return conv_norm(&first) || depthwise(&m->fusion_dw, s, features, fused, width, 1) ||
           linear(&m->fusion_point, s, fused, width, value, NOTHING) ||
           normalise(s, value, NULL, m->fusion_gamma, m->fusion_beta, m->dim) ||
           depthwise(&m->lepe, s, value, y, m->dim, 0) || context_mixing(m, s, features, value, query, mixed) ||
           linear(&m->dyconv_proj, s, mixed, m->dim, y, ADD) || linear(&m->gate, s, value, m->dim, gate, SILU) ||
           excited(&m->se, s, y, gate, m->dim) || linear(&m->proj, s, y, m->dim, x, ADD) ||
           normed(&m->dwconv2, &m->norm2, s, x, out, features, m->residual_scale2, width) ||
           mlp(&m->mlp, s, features, out, hidden);
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
    long most_of_them = most(CHUNK_BYTES / between_bytes(s, 1, channels), 1), chunks;
    chunks = (s->batch + most_of_them - 1) / most_of_them;
    return (s->batch + chunks - 1) / chunks;
}

static long memory_bytes(const Images *s, long channels) {
    return are_apart(s) ? s->threads * between_bytes(s, 1, channels) : between_bytes(s, together(s, channels), channels);
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
        failed |= some_images(run, block, s, channels, maps, out, first, least(step, s->batch - first), s->threads, memory);
    return (int)failed;
}

/* Bytes of memory that a call needs. */
long rep_conv_block_bytes(const RepConv *m, const Images *s) { return memory_bytes(s, rep_conv_channels(m)); }
long dynamic_conv_block_bytes(const DynamicConv *m, const Images *s) { return memory_bytes(s, dynamic_conv_channels(m)); }

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
