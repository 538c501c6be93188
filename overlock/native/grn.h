/* Depthwise 3x3 convolution and global response normalisation (GRN) of a channels_last map, in place where that is asked
 * for; before them GELU, where that is.
 *
 * The convolution keeps three rows of a block of channels aside, so it needs no second map; the norms that GRN asks for
 * are summed as the rows are written. A thread that has a whole image normalises it while it is in its cache.
 */
#pragma once
#include "convolve.h"

#define BLOCKS 4 /* of CHANNELS channels at a time */

typedef struct {
    void *x;                   /* (B, H, W, C) */
    const float *taps, *bias;  /* (9, C) and (C); NULL: no convolution */
    const float *gamma, *beta; /* (C); beta may be NULL */
    long batch, height, width, channels;
    int bf16, threads;
} Grn;

static long convolution_floats(const Grn *m) {
    return BLOCKS * PLANES * (9 * LANES + 3 * framed(m->width, 3)) + 64;
}

/* What is done before the convolution, and what for. */
typedef struct {
    const void *x; /* the map that is read */
    float *norms;  /* (B, C), of each channel, or NULL */
    int gelu;
} Before;

/* `n` blocks of channels of one image: its convolution, and the sums of squares to `squares`. */
INLINE void convolve_image(const Grn *m, const Before *before, long b, long first, long n, float *memory, float *squares,
                           const int with_gelu) {
    long wide = framed(m->width, 3), plane = 3 * wide, outputs = outputs_for(m->width);
    float *taps = take(&memory, n * PLANES * 9 * LANES), *values = take(&memory, n * PLANES * plane);
    memset(values, 0, n * PLANES * plane * sizeof(float));
    memset(squares, 0, n * CHANNELS * sizeof(float));
    for (long block = 0; block < n; block++)
        pack_taps(taps + block * PLANES * 9 * LANES, m->taps, 3, m->channels, first + block * CHANNELS);
    for (long y = 0; y <= m->height; y++) {
        long row = (b * m->height + y) * m->width * m->channels + first;
        if (y < m->height)
            for (long p = 0; p < n * PLANES; p++) {
                long lanes = lanes_from(m->channels, first + p * LANES);
                for (long col = 0; lanes && col < m->width; col++) {
                    vec x = load_lanes(before->x, row + col * m->channels + p * LANES, lanes, m->bf16);
                    store(values + p * plane + y % 3 * wide + (col + 1) * LANES, with_gelu ? gelu_and_slope(x).value : x);
                }
            }
        if (y == 0)
            continue;
        long from = most(y - 2, 0), count = least(y + 1, m->height) - from;
        row -= m->width * m->channels;
        for (long p = 0; p < n * PLANES; p++) {
            const float *rows[3], *own = taps + (p * 9 + (from - y + 2) * 3) * LANES;
            for (long i = 0; i < count; i++)
                rows[i] = values + p * plane + (from + i) % 3 * wide;
            long lanes = lanes_from(m->channels, first + p * LANES);
            if (!lanes)
                break;
            vec bias = load_lanes(m->bias, first + p * LANES, lanes, 0);
            vec of_row = {0}; /* a sum of sums: rounding errors stay small */
            for (long col = 0; col < m->width; col += outputs) {
                vec out[16];
                convolve_some(out, rows, count, col, own, 3, bias, (int)outputs);
                for (long i = 0; i < least(outputs, m->width - col); i++) {
                    of_row += out[i] * out[i];
                    store_lanes(m->x, row + (col + i) * m->channels + p * LANES, out[i], lanes, m->bf16);
                }
            }
            store(squares + p * LANES, load(squares + p * LANES) + of_row);
        }
    }
}

static void square(const Grn *m, long b, long first, long n, float *squares) {
    memset(squares, 0, n * CHANNELS * sizeof(float));
    for (long y = 0; y < m->height; y++)
        for (long p = 0; p < n * PLANES; p++) {
            long lanes = lanes_from(m->channels, first + p * LANES), row = (b * m->height + y) * m->width;
            vec of_row = {0};
            for (long x = 0; lanes && x < m->width; x++) {
                vec own = load_lanes(m->x, (row + x) * m->channels + first + p * LANES, lanes, m->bf16);
                of_row += own * own;
            }
            store(squares + p * LANES, load(squares + p * LANES) + of_row);
        }
}

static void sum_image(const Grn *m, const Before *before, long b, long first, float *memory, float *squares) {
    long n = least(BLOCKS, (m->channels - first + CHANNELS - 1) / CHANNELS);
    if (m->taps && before->gelu)
        convolve_image(m, before, b, first, n, memory, squares + first, 1);
    else if (m->taps)
        convolve_image(m, before, b, first, n, memory, squares + first, 0);
    else
        square(m, b, first, n, squares + first);
}

/* From the sums of squares of image b to the factors. */
static void make_scale(const Grn *m, const Before *before, long b, float *scale) {
    double sum = 0;
    for (long c = 0; c < m->channels; c++)
        sum += scale[c] = sqrtf(scale[c]);
    if (before->norms)
        memcpy(before->norms + b * m->channels, scale, m->channels * sizeof(float));
    float mean = (float)(sum / m->channels) + 1e-6f;
    for (long c = 0; c < m->channels; c++)
        scale[c] = m->gamma[c] * scale[c] / mean + 1;
}

/* Tokens `from` to `to` of one image times its factors. */
static void apply_scale(const Grn *m, const float *scale, long from, long to) {
    for (long at = from; at < to; at++)
        for (long c = 0; c < m->channels; c += LANES) {
            long lanes = lanes_from(m->channels, c);
            vec y = load_lanes(m->x, at * m->channels + c, lanes, m->bf16) * load(scale + c);
            if (m->beta)
                y += load_lanes(m->beta, c, lanes, 0);
            store_lanes(m->x, at * m->channels + c, y, lanes, m->bf16);
        }
}

/* The floats of an image's scales: whole blocks of channels. */
static long scale_floats(const Grn *m) { return (m->channels + CHANNELS - 1) / CHANNELS * CHANNELS; }

/* Returns 0, or 1 where memory ran out. */
static int normalise(const Grn *m, const Before *before) {
    long step = BLOCKS * CHANNELS, stride = scale_floats(m), blocks = (m->channels + step - 1) / step;
    long bands = 1, tokens = m->height * m->width;
    float *scales = aligned_alloc(64, m->batch * stride * sizeof(float));
    int failed = 0, whole = m->batch % m->threads == 0 || m->batch >= 4 * m->threads;
    if (!scales)
        return 1;
    while (m->batch * bands < 4 * m->threads && bands * 2 <= m->height)
        bands *= 2;
#pragma omp parallel num_threads(m->threads) reduction(| : failed) if (m->threads > 1)
    {
        float *memory = scratch(convolution_floats(m));
        failed |= !memory;
        if (whole) {
#pragma omp for schedule(dynamic)
            for (long b = 0; b < m->batch; b++) {
                float *scale = scales + b * stride;
                for (long first = 0; first < m->channels && memory; first += step)
                    sum_image(m, before, b, first, memory, scale);
                if (memory) {
                    make_scale(m, before, b, scale);
                    apply_scale(m, scale, b * tokens, (b + 1) * tokens);
                }
            }
        } else {
#pragma omp for schedule(static)
            for (long task = 0; task < m->batch * blocks; task++)
                if (memory)
                    sum_image(m, before, task / blocks, task % blocks * step, memory, scales + task / blocks * stride);
#pragma omp for schedule(static)
            for (long b = 0; b < m->batch; b++)
                make_scale(m, before, b, scales + b * stride);
#pragma omp for schedule(static)
            for (long task = 0; task < m->batch * bands; task++) {
                long b = task / bands, band = task % bands;
                apply_scale(m, scales + b * stride, b * tokens + tokens * band / bands,
                            b * tokens + tokens * (band + 1) / bands);
            }
        }
    }
    free(scales);
    return failed;
}

/* In place. Returns 0, or 1 where memory ran out. */
int grn_(const Grn *m) {
    Before before = {m->x, NULL, 0};
    return normalise(m, &before);
}
