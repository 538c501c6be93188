/* Depthwise 3x3 convolution and global response normalisation (GRN), both in place on a channels_last map.
 *
 * The convolution keeps three rows of a block of channels aside, so it needs no second map; the norms that GRN asks for
 * are summed as the rows are written.
 */
#include "vectors.h"

#define BLOCK 4 /* vectors of channels at a time */

typedef struct {
    void *x;                   /* (B, H, W, C), C a multiple of LANES */
    const float *taps, *bias;  /* (9, C) and (C); NULL: no convolution */
    const float *gamma, *beta; /* (C); beta may be NULL */
    long batch, height, width, channels;
    int bf16, threads;
} Grn;

/* One block of `n` vectors of channels of one image: convolution in place, sums of squares to `squares`. */
static inline void convolve(const Grn *m, long b, long first, long n, float *rows, float *squares) {
    long wide = (m->width + 2) * n * LANES;
    vec sums[BLOCK] = {{0}};
    memset(rows, 0, 4 * wide * sizeof(float));
    for (long y = 0; y <= m->height; y++) {
        float *newest = rows + (y % 3) * wide;
        if (y < m->height) {
            for (long x = 0; x < m->width; x++)
                read_row(newest + (x + 1) * n * LANES, m->x, ((b * m->height + y) * m->width + x) * m->channels + first,
                         n * LANES, m->bf16);
        } else {
            newest = rows + 3 * wide; /* below the map: zeros */
        }
        if (y == 0)
            continue;
        const float *above = y == 1 ? rows + 3 * wide : rows + ((y - 2) % 3) * wide,
                    *middle = rows + ((y - 1) % 3) * wide;
        const float *lines[3] = {above, middle, newest};
        vec of_row[BLOCK] = {{0}}; /* a sum of sums: rounding errors stay small */
        for (long x = 0; x < m->width; x++) {
            vec out[BLOCK];
            for (long i = 0; i < n; i++)
                out[i] = load(m->bias + first + i * LANES);
            for (int row = 0; row < 3; row++)
                for (int col = 0; col < 3; col++) {
                    const float *from = lines[row] + (x + col) * n * LANES,
                                *tap = m->taps + (row * 3 + col) * m->channels + first;
                    for (long i = 0; i < n; i++)
                        out[i] += load(tap + i * LANES) * load(from + i * LANES);
                }
            float flat[BLOCK * LANES];
            for (long i = 0; i < n; i++) {
                of_row[i] += out[i] * out[i];
                store(flat + i * LANES, out[i]);
            }
            write_row(m->x, ((b * m->height + y - 1) * m->width + x) * m->channels + first, flat, n * LANES, m->bf16);
        }
        for (long i = 0; i < n; i++)
            sums[i] += of_row[i];
    }
    for (long i = 0; i < n; i++)
        store(squares + i * LANES, sums[i]);
}

static inline void square(const Grn *m, long b, long first, long n, float *squares) {
    vec sums[BLOCK] = {{0}};
    float flat[BLOCK * LANES];
    for (long y = 0; y < m->height; y++) {
        vec of_row[BLOCK] = {{0}};
        for (long x = 0; x < m->width; x++) {
            read_row(flat, m->x, ((b * m->height + y) * m->width + x) * m->channels + first, n * LANES, m->bf16);
            for (long i = 0; i < n; i++)
                of_row[i] += load(flat + i * LANES) * load(flat + i * LANES);
        }
        for (long i = 0; i < n; i++)
            sums[i] += of_row[i];
    }
    for (long i = 0; i < n; i++)
        store(squares + i * LANES, sums[i]);
}

/* In place. Returns 0, or 1 where memory ran out. */
int grn_(const Grn *m) {
    long vectors = m->channels / LANES, blocks = (vectors + BLOCK - 1) / BLOCK, bands = 1;
    float *scales = aligned_alloc(64, m->batch * m->channels * sizeof(float));
    int failed = !scales;
    while (m->batch * bands < 4 * m->threads && bands * 2 <= m->height)
        bands *= 2;
#pragma omp parallel num_threads(m->threads) reduction(| : failed) if (m -> threads > 1)
    {
        float *rows = scratch(4 * (m->width + 2) * BLOCK * LANES);
        failed |= !rows;
#pragma omp for schedule(static)
        for (long task = 0; task < m->batch * blocks; task++) {
            if (failed)
                continue;
            long b = task / blocks, first = task % blocks * BLOCK * LANES,
                 n = least(BLOCK, vectors - task % blocks * BLOCK);
            float *squares = scales + b * m->channels + first;
            if (m->taps && n == BLOCK)
                convolve(m, b, first, BLOCK, rows, squares);
            else if (m->taps)
                convolve(m, b, first, n, rows, squares);
            else if (n == BLOCK)
                square(m, b, first, BLOCK, squares);
            else
                square(m, b, first, n, squares);
        }
#pragma omp for schedule(static)
        for (long b = 0; b < m->batch; b++) {
            if (failed)
                continue;
            float *scale = scales + b * m->channels;
            double sum = 0;
            for (long c = 0; c < m->channels; c++)
                sum += scale[c] = sqrtf(scale[c]);
            float mean = (float)(sum / m->channels) + 1e-6f;
            for (long c = 0; c < m->channels; c++)
                scale[c] = m->gamma[c] * scale[c] / mean + 1;
        }
#pragma omp for schedule(static)
        for (long task = 0; task < m->batch * bands; task++) {
            if (failed)
                continue;
            long b = task / bands, band = task % bands, tokens = m->height * m->width;
            const float *scale = scales + b * m->channels;
            float flat[BLOCK * LANES];
            for (long at = b * tokens + tokens * band / bands; at < b * tokens + tokens * (band + 1) / bands; at++)
                for (long c = 0; c < m->channels; c += BLOCK * LANES) {
                    long n = least(BLOCK * LANES, m->channels - c);
                    read_row(flat, m->x, at * m->channels + c, n, m->bf16);
                    for (long i = 0; i < n; i++)
                        flat[i] = flat[i] * scale[c + i] + (m->beta ? m->beta[c + i] : 0);
                    write_row(m->x, at * m->channels + c, flat, n, m->bf16);
                }
        }
    }
    free(scales);
    return failed;
}
