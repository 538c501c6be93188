/* Depthwise 3x3 convolution of a channels_last map and LayerNorm over the channels of that, a row at a time: a row of
 * all channels stays in the cache between the two.
 */
#pragma once
#include "convolve.h"

typedef struct {
    const void *x;                /* (B, H, W, C) */
    void *out, *normed;           /* likewise: the convolution times `scale`, and the norm of the convolution */
    const float *taps, *bias;     /* (9, C) and (C) */
    const float *scale;           /* (C) or NULL */
    const float *weight, *shift;  /* (C), of the norm */
    const void *prior;            /* (B, H, W, C - own), or NULL: mixed first into the channels from `own` on, which */
    const float *context_scale;   /* (C - own) is for, as is */
    const float *prior_scale, *prior_shift; /* what the prior is multiplied by, and what is added */
    long batch, height, width, channels, own; /* `own`: a multiple of LANES */
    float eps;
    int bf16, threads;
} ConvNorm;

static long planes_of(const ConvNorm *m) { return padded(m->channels) / LANES; }

/* Row y of image b to its planes, `plane` floats apart. */
static void read_mixed(const ConvNorm *m, long b, long y, float *to, long plane) {
    long first = (b * m->height + y) * m->width, mixed = m->channels - m->own;
    for (long p = 0; p < planes_of(m); p++) {
        long n = lanes_from(m->channels, p * LANES), c = p * LANES - m->own;
        float *line = to + p * plane + LANES;
        if (!m->prior || c < 0) {
            for (long x = 0; x < m->width; x++)
                store(line + x * LANES, load_lanes(m->x, (first + x) * m->channels + p * LANES, n, m->bf16));
            continue;
        }
        vec scale = load_lanes(m->context_scale, c, n, 0), factor = load_lanes(m->prior_scale, c, n, 0);
        vec shift = load_lanes(m->prior_shift, c, n, 0);
        for (long x = 0; x < m->width; x++)
            store(line + x * LANES, load_lanes(m->x, (first + x) * m->channels + p * LANES, n, m->bf16) * scale +
                                        load_lanes(m->prior, (first + x) * mixed + c, n, m->bf16) * factor + shift);
    }
}

/* The norm of one position, whose channels are followed by zeros up to whole vectors, and the position itself. */
static void write_normed(const ConvNorm *m, const float *from, long at) {
    long whole = m->channels / LANES * LANES, left = m->channels - whole;
    vec sum = {0}, squares = {0};
    for (long c = 0; c < padded(m->channels); c += LANES)
        sum += load(from + c);
    float mean = total(sum) / m->channels;
    for (long c = 0; c < whole; c += LANES) {
        vec centred = load(from + c) - mean;
        squares += centred * centred;
    }
    if (left) {
        vec centred = first_lanes(load(from + whole) - mean, left);
        squares += centred * centred;
    }
    float factor = 1.0f / sqrtf(total(squares) / m->channels + m->eps);
    for (long p = 0; p < planes_of(m); p++) {
        long n = lanes_from(m->channels, p * LANES), c = p * LANES;
        vec own = load(from + c), normed = (own - mean) * factor;
        store_lanes(m->normed, at + c, normed * load_lanes(m->weight, c, n, 0) + load_lanes(m->shift, c, n, 0), n,
                    m->bf16);
        store_lanes(m->out, at + c, m->scale ? own * load_lanes(m->scale, c, n, 0) : own, n, m->bf16);
    }
}

static long conv_norm_floats(const ConvNorm *m) {
    return planes_of(m) * (10 * LANES + 3 * framed(m->width, 3)) + m->width * padded(m->channels) + 64;
}

/* Rows row0 to row1 of an image, by a ring of three rows of its input. */
static void conv_norm_band(const ConvNorm *m, long b, long row0, long row1, float *memory) {
    long planes = planes_of(m), wide = framed(m->width, 3), plane = 3 * wide, outputs = outputs_for(m->width);
    long cp = padded(m->channels), top = most(row0 - 1, 0), end = least(row1 + 1, m->height);
    float *taps = take(&memory, planes * 9 * LANES), *bias = take(&memory, cp);
    float *values = take(&memory, planes * plane), *line = take(&memory, m->width * cp);
    memset(values, 0, planes * plane * sizeof(float));
    for (long p = 0; p < planes; p++) {
        store(bias + p * LANES, load_lanes(m->bias, p * LANES, lanes_from(m->channels, p * LANES), 0));
        for (long t = 0; t < 9; t++) {
            long at = t * m->channels + p * LANES;
            store(taps + (p * 9 + t) * LANES, load_lanes(m->taps, at, lanes_from(m->channels, p * LANES), 0));
        }
    }
    for (long next = top, y = row0; y < row1; y++) {
        for (; next < least(y + 2, end); next++)
            read_mixed(m, b, next, values + next % 3 * wide, plane);
        long from = most(y - 1, 0), count = least(y + 2, m->height) - from;
        for (long p = 0; p < planes; p++) {
            const float *rows[3], *own = taps + (p * 9 + (from - y + 1) * 3) * LANES;
            for (long i = 0; i < count; i++)
                rows[i] = values + p * plane + (from + i) % 3 * wide;
            for (long col = 0; col < m->width; col += outputs) {
                vec out[16];
                convolve_some(out, rows, count, col, own, 3, load(bias + p * LANES), (int)outputs);
                for (long i = 0; i < least(outputs, m->width - col); i++)
                    store(line + (col + i) * cp + p * LANES, out[i]);
            }
        }
        for (long x = 0; x < m->width; x++)
            write_normed(m, line + x * cp, ((b * m->height + y) * m->width + x) * m->channels);
    }
}

/* Returns 0, or 1 where memory ran out. */
int conv_norm(const ConvNorm *m) {
    long bands = 1, failed = 0;
    while (m->batch % m->threads && m->batch * bands < 4 * m->threads && bands * 6 <= m->height)
        bands *= 2;
#pragma omp parallel for schedule(dynamic) num_threads(m->threads) reduction(| : failed) if (m->threads > 1)
    for (long task = 0; task < m->batch * bands; task++) {
        long b = task / bands, band = task % bands;
        float *memory = scratch(conv_norm_floats(m));
        if (!memory)
            failed |= 1;
        else
            conv_norm_band(m, b, m->height * band / bands, m->height * (band + 1) / bands, memory);
    }
    return (int)failed;
}
