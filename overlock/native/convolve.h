/* Depthwise convolution of a row, and of a map with any odd kernel: values and taps are read into registers once for
 * several outputs and several taps.
 *
 * A block of channels is laid out in planes of LANES channels, each row framed by zeros on both sides. Rows of taps
 * that lie above or below the map are left out.
 */
#pragma once
#include "activation.h"

#define CHANNELS 16       /* of a block: a cache line of each position */
#define PLANES (CHANNELS / LANES)
#define LONGEST 33        /* kernel */
#define ROW_TAPS (MANY ? 3 : 2) /* at a time, of one row */

/* `outputs` neighbours of one row: `bias` and taps (rows, k) times rows of values, whose windows begin at `col`. */
INLINE void convolve_outputs(vec *out, const float *const *rows, long count, long col, const float *taps, long k,
                             vec bias, const int outputs) {
    vec sum[16];
    UNROLL for (int i = 0; i < outputs; i++)
        sum[i] = bias;
    for (long row = 0; row < count; row++) {
        const float *from = rows[row] + col * LANES;
        long at = 0;
        for (; at + ROW_TAPS <= k; at += ROW_TAPS, taps += ROW_TAPS * LANES, from += ROW_TAPS * LANES) {
            vec tap[ROW_TAPS];
            UNROLL for (int j = 0; j < ROW_TAPS; j++)
                tap[j] = load(taps + j * LANES);
            UNROLL for (int i = 0; i < outputs + ROW_TAPS - 1; i++) {
                vec value = load(from + i * LANES);
                UNROLL for (int j = 0; j < ROW_TAPS; j++)
                    if (i - j >= 0 && i - j < outputs)
                        sum[i - j] += tap[j] * value;
            }
        }
        for (; at < k; at++, taps += LANES, from += LANES) {
            vec tap = load(taps);
            UNROLL for (int i = 0; i < outputs; i++)
                sum[i] += tap * load(from + i * LANES);
        }
    }
    UNROLL for (int i = 0; i < outputs; i++)
        out[i] = sum[i];
}

/* How many outputs at a time waste the fewest of a row. */
static int outputs_for(long width) {
    const int sizes[] = {16, 14, 8, 7};
    int chosen = 0;
    long waste = 0;
    for (int i = MANY ? 0 : 2; i < 4; i++) {
        long own = (width + sizes[i] - 1) / sizes[i] * sizes[i];
        if (!chosen || own < waste) {
            chosen = sizes[i];
            waste = own;
        }
    }
    return chosen;
}

static inline void convolve_some(vec *out, const float *const *rows, long count, long col, const float *taps, long k,
                                 vec bias, int outputs) {
    switch (outputs) {
#if MANY
    case 16:
        convolve_outputs(out, rows, count, col, taps, k, bias, 16);
        break;
    case 14:
        convolve_outputs(out, rows, count, col, taps, k, bias, 14);
        break;
#endif
    case 8:
        convolve_outputs(out, rows, count, col, taps, k, bias, 8);
        break;
    default:
        convolve_outputs(out, rows, count, col, taps, k, bias, 7);
    }
}

/* Floats of a framed row of one plane: the last outputs may lie beyond the map. */
static long framed(long width, long k) {
    long outputs = outputs_for(width);
    return ((width + outputs - 1) / outputs * outputs + k - 1) * LANES;
}

/* How many of the lanes of a plane that begins at channel `first` are channels. */
INLINE long lanes_from(long channels, long first) { return most(0, least(LANES, channels - first)); }

/* One row of a block of channels into its planes, which are `plane` floats apart; the frame is zero already. */
static inline void read_planes(float *to, long plane, const void *x, long at, long first, long channels, long width,
                               long frame, int bf16) {
    for (int p = 0; p < PLANES; p++) {
        long lanes = lanes_from(channels, first + p * LANES);
        for (long col = 0; lanes && col < width; col++)
            store(to + p * plane + (col + frame) * LANES,
                  load_lanes(x, at + col * channels + first + p * LANES, lanes, bf16));
    }
}

/* Taps (k*k, C) of a block of channels as (PLANES, k*k, LANES). */
static inline void pack_taps(float *to, const float *taps, long k, long channels, long first) {
    for (int p = 0; p < PLANES; p++)
        for (long t = 0; t < k * k; t++, to += LANES) {
            long at = first + p * LANES, lanes = lanes_from(channels, at);
            store(to, lanes ? load_lanes(taps, t * channels + at, lanes, 0) : (vec){0});
        }
}

typedef struct {
    const void *x;            /* (B, H, W, C) */
    void *out;                /* likewise */
    const float *taps, *bias; /* (k*k, C) and (C); bias may be NULL */
    long batch, height, width, channels, k;
    int gelu, bf16, threads; /* gelu: of what comes out */
} Convolution;

#define BAND_FLOATS (1 << 16) /* of values at a time, for the second-level cache */

/* Rows row0 to row1 of a block of channels of an image. */
static void convolve_band(const Convolution *m, long b, long first, long row0, long row1, float *memory) {
    long k = m->k, frame = k / 2, wide = framed(m->width, k), outputs = outputs_for(m->width);
    long top = most(row0 - frame, 0), end = least(row1 + frame, m->height), plane = (end - top) * wide;
    float *taps = take(&memory, PLANES * k * k * LANES), *values = take(&memory, PLANES * plane);
    pack_taps(taps, m->taps, k, m->channels, first);
    memset(values, 0, PLANES * plane * sizeof(float));
    for (long row = top; row < end; row++)
        read_planes(values + (row - top) * wide, plane, m->x,
                    ((b * m->height + row) * m->width) * m->channels, first, m->channels, m->width, frame, m->bf16);
    for (long row = row0; row < row1; row++) {
        long from = most(row - frame, 0), count = least(row + frame + 1, m->height) - from;
        for (int p = 0; p < PLANES; p++) {
            const float *rows[LONGEST];
            long at = first + p * LANES, lanes = lanes_from(m->channels, at);
            if (!lanes)
                break;
            for (long i = 0; i < count; i++)
                rows[i] = values + p * plane + (from - top + i) * wide;
            vec bias = m->bias ? load_lanes(m->bias, at, lanes, 0) : (vec){0};
            const float *own = taps + (p * k + from - row + frame) * k * LANES;
            for (long col = 0; col < m->width; col += outputs) {
                vec out[16];
                convolve_some(out, rows, count, col, own, k, bias, (int)outputs);
                for (long i = 0; i < least(outputs, m->width - col); i++)
                    store_lanes(m->out, ((b * m->height + row) * m->width + col + i) * m->channels + at,
                                m->gelu ? gelu(out[i]) : out[i], lanes, m->bf16);
            }
        }
    }
}

/* Returns 0, or 1 where memory ran out. */
int depthwise_convolution(const Convolution *m) {
    long wide = framed(m->width, m->k), blocks = (m->channels + CHANNELS - 1) / CHANNELS, failed = 0;
    long rows = most(BAND_FLOATS / (PLANES * wide) - m->k + 1, m->k), bands = (m->height + rows - 1) / rows;
    if (m->height * PLANES * wide <= BAND_FLOATS)
        bands = 1;
    while (m->batch * blocks * bands < 2 * m->threads && bands * 2 * m->k <= m->height)
        bands *= 2;
    rows = (m->height + bands - 1) / bands;
#pragma omp parallel for schedule(dynamic) num_threads(m->threads) reduction(| : failed) if (m->threads > 1)
    for (long task = 0; task < m->batch * bands * blocks; task++) {
        long b = task / blocks / bands, row0 = task / blocks % bands * rows, row1 = least(row0 + rows, m->height);
        float *memory = scratch(PLANES * (m->k * m->k * LANES + (rows + m->k) * wide) + 32);
        if (!memory)
            failed |= 1;
        else if (row0 < row1)
            convolve_band(m, b, task % blocks * CHANNELS, row0, row1, memory);
    }
    return (int)failed;
}
