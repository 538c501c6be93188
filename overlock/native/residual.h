/* A residual connection in training: x * weight + bias + share * y, with a weight and a bias of each channel (LayerScale)
 * and a share of each image (stochastic depth), and its gradients, in one pass over the maps each.
 */
#pragma once
#include "vectors.h"

typedef struct {
    const float *weight, *bias; /* (C), whole vectors */
    const float *share;         /* (B) */
    long batch, tokens, channels;
    int bf16, threads;
} Residual;

#define TOGETHER 32 /* tokens: in a sum of sums rounding errors stay small */

INLINE vec share_of(const Residual *m, long b) { return all(m->share[b]); }

/* Of maps (B, N, C). */
int residual_forward(const Residual *m, const void *x, const void *y, void *out) {
    long tokens = m->batch * m->tokens;
#pragma omp parallel for schedule(static) num_threads(m->threads) if (m->threads > 1)
    for (long n = 0; n < tokens; n++) {
        vec share = share_of(m, n / m->tokens);
        for (long c = 0; c < m->channels; c += LANES) {
            long at = n * m->channels + c;
            vec scaled = load_as(x, at, m->bf16) * load(m->weight + c) + load(m->bias + c);
            store_as(out, at, scaled + share * load_as(y, at, m->bf16), m->bf16);
        }
    }
    return 0;
}

/* Gradients of x and y, and those of weight and bias by parts of the tokens, (parts, C). */
int residual_backward(const Residual *m, const void *grad, const void *x, long parts, void *d_x, void *d_y,
                      float *d_weight, float *d_bias) {
    long tokens = m->batch * m->tokens;
#pragma omp parallel for schedule(static) num_threads(m->threads) if (m->threads > 1)
    for (long part = 0; part < parts; part++) {
        float *of_weight = d_weight + part * m->channels, *of_bias = d_bias + part * m->channels;
        long end = tokens * (part + 1) / parts;
        memset(of_weight, 0, m->channels * sizeof(float));
        memset(of_bias, 0, m->channels * sizeof(float));
        for (long from = tokens * part / parts; from < end; from += TOGETHER)
            for (long c = 0; c < m->channels; c += LANES) {
                vec weight = load(m->weight + c), dot = {0}, sum = {0};
                for (long n = from; n < least(from + TOGETHER, end); n++) {
                    long at = n * m->channels + c;
                    vec g = load_as(grad, at, m->bf16);
                    dot += g * load_as(x, at, m->bf16);
                    sum += g;
                    store_as(d_x, at, g * weight, m->bf16);
                    store_as(d_y, at, g * share_of(m, n / m->tokens), m->bf16);
                }
                store(of_weight + c, load(of_weight + c) + dot);
                store(of_bias + c, load(of_bias + c) + sum);
            }
    }
    return 0;
}
