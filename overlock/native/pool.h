/* The means of a channels_last map over a grid of regions, which may overlap (PyTorch's adaptive average pooling). */
#pragma once
#include "vectors.h"

typedef struct {
    const void *x; /* (B, H, W, stride), of which C channels from `first` on are read */
    float *out;    /* (B, side * side, C) */
    long batch, height, width, stride, first, channels, side;
    int bf16, threads;
} Pool;

int pool_regions(const Pool *m) {
    long regions = m->side * m->side;
#pragma omp parallel for schedule(static) num_threads(m->threads) if (m->threads > 1)
    for (long task = 0; task < m->batch * regions; task++) {
        long b = task / regions, region = task % regions, i = region / m->side, j = region % m->side;
        long row0 = i * m->height / m->side, row1 = ((i + 1) * m->height + m->side - 1) / m->side;
        long col0 = j * m->width / m->side, col1 = ((j + 1) * m->width + m->side - 1) / m->side;
        for (long c = 0; c < m->channels; c += LANES) {
            long lanes = least(LANES, m->channels - c);
            vec sum = {0};
            for (long row = row0; row < row1; row++) {
                vec of_row = {0}; /* a sum of sums: rounding errors stay small */
                for (long col = col0; col < col1; col++) {
                    long token = (b * m->height + row) * m->width + col;
                    of_row += load_lanes(m->x, token * m->stride + m->first + c, lanes, m->bf16);
                }
                sum += of_row;
            }
            sum /= (float)((row1 - row0) * (col1 - col0));
            store_lanes(m->out, task * m->channels + c, sum, lanes, 0);
        }
    }
    return 0;
}
