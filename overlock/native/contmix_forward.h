/* ContMix, forward. */
#pragma once
#include "contmix_head.h"

/* One column of it, that the windows of all hold. */
INLINE void mix_column(vec sums[QUERIES][CHANNEL_VECTORS], const float *values, const float *const *w, const Group *own,
                       long at, const int count, const int vectors) {
    vec value[CHANNEL_VECTORS];
    for (int i = 0; i < vectors; i++)
        value[i] = load(values + i * LANES);
    for (int j = 0; j < count; j++) {
        vec weight = all(w[j][at - own->first[j]]);
        for (int i = 0; i < vectors; i++)
            sums[j][i] += weight * value[i];
    }
}

/* One row of taps of `count` queries: add weight times value to their sums. Values in the windows of all are read once
 * for all of them; those at the ends, which only some windows hold, once for each. */
INLINE void mix_row(vec sums[2][QUERIES][CHANNEL_VECTORS], const float *line, const float *const *w, const Group *own,
                    long k, long cp, const int count, const int vectors) {
    long last = own->first[count - 1], end = most(own->first[0] + k, last);
    UNROLL for (int j = 0; j < count - 1; j++)
        for (long at = own->first[j]; at < least(last, own->first[j] + k); at++)
            for (int i = 0; i < vectors; i++)
                sums[0][j][i] += w[j][at - own->first[j]] * load(line + at * cp + i * LANES);
    const int turns = count * vectors <= 4 ? 2 : 1; /* few sums would wait for themselves */
    long at = last;
    for (; at + turns <= end; at += turns)
        for (int turn = 0; turn < turns; turn++)
            mix_column(sums[turn], line + (at + turn) * cp, w, own, at + turn, count, vectors);
    if (at < end)
        mix_column(sums[0], line + at * cp, w, own, at, count, vectors);
    UNROLL for (int j = 1; j < count; j++)
        for (long at = end; at < own->first[j] + k; at++)
            for (int i = 0; i < vectors; i++)
                sums[0][j][i] += w[j][at - own->first[j]] * load(line + at * cp + i * LANES);
}

/* The weighted sums of `vectors` vectors of channels of a group, from channel ch on. */
INLINE void mix_channels(const Half *h, long width, const Group *own, long ch, float *out, const int count,
                         const int vectors) {
    vec sums[2][QUERIES][CHANNEL_VECTORS] = {{{{0}}}};
    const float *line = h->values + own->top * width * h->cp + ch, *w[QUERIES];
    for (int j = 0; j < count; j++)
        w[j] = row_of(h, j);
    for (long i = 0; i < h->k; i++) {
        mix_row(sums, line, w, own, h->k, h->cp, count, vectors);
        line += width * h->cp;
        for (int j = 0; j < count; j++)
            w[j] += h->k;
    }
    for (int j = 0; j < count; j++)
        for (int i = 0; i < vectors; i++)
            store(out + j * h->cp + ch + i * LANES, (sums[0][j][i] + sums[1][j][i]) * h->share[j]);
}

INLINE void mix_group(const Half *h, long width, const Group *own, float *out, const int count) {
    long ch = 0;
    for (; ch + CHANNEL_VECTORS * LANES <= h->cp; ch += CHANNEL_VECTORS * LANES)
        mix_channels(h, width, own, ch, out, count, CHANNEL_VECTORS);
    for (; ch < h->cp; ch += LANES)
        mix_channels(h, width, own, ch, out, count, 1);
}

static void mix(const Half *h, const Contmix *m, const Group *own, float *out) {
    switch (own->count) {
    case 4:
        mix_group(h, m->width, own, out, 4);
        break;
    case 3:
        mix_group(h, m->width, own, out, 3);
        break;
    case 2:
        mix_group(h, m->width, own, out, 2);
        break;
    default:
        mix_group(h, m->width, own, out, 1);
    }
}

/* out (B, N, 2*G*c). Returns 0, or 1 where memory ran out. */
int contmix_forward(const Contmix *m, void *out) {
    long tasks = m->batch * m->heads, blocks = 1;
    while (tasks * blocks < 4 * m->threads && blocks * 4 <= m->height)
        blocks *= 2;
    const float *biases = biases_of(m);
    int failed = 0;
    if (!biases)
        return 1;
#pragma omp parallel for schedule(dynamic) num_threads(m->threads) reduction(| : failed) if (m->threads > 1)
    for (long task = 0; task < tasks * blocks; task++) { /* a head's images one after the other: its biases stay */
        long g = task / blocks / m->batch, b = task / blocks % m->batch, block = task % blocks;
        long row0 = m->height * block / blocks, row1 = m->height * (block + 1) / blocks;
        long cp = padded(m->c);
        long tokens = m->height * m->width;
        float *memory = scratch(half_floats(m, m->sizes[0]) + half_floats(m, m->sizes[1]) + tokens * cp + 16);
        if (!memory) {
            failed |= 1;
            continue;
        }
        float *mixed = take(&memory, tokens * cp);
        for (int i = 0; i < 2; i++) {
            Half h;
            open_half(&h, m, biases, i, b, g, row0, row1, &memory);
            for (long row = row0; row < row1; row++)
                for (long n = 0; n < groups(m); n++) {
                    Group own = group_of(m, h.k, row, n);
                    weigh(&h, m, &own);
                    mix(&h, m, &own, mixed + (row * m->width + own.col) * cp);
                }
            for (long n = row0 * m->width; n < row1 * m->width; n++) /* at once: each row is in another line */
                write_row(out, ((b * tokens + n) * 2 + i) * m->heads * m->c + g * m->c, mixed + n * cp, m->c, m->bf16);
        }
    }
    return failed;
}
