/* ContMix, forward. */

static void mix(const Half *h, const Contmix *m, long row, long col, long count, float *out) {
    const float *top = h->values + window(row, h->k, m->height) * m->width * h->cp;
    for (long j = 0; j < count; j++) {
        const float *w = row_of(h, j), *corner = top + window(col + j, h->k, m->width) * h->cp;
        for (long ch = 0; ch < h->cp; ch += LANES) {
            vec sums[4] = {{0}, {0}, {0}, {0}};
            for (long i = 0; i < h->k; i++) {
                const float *v = corner + i * m->width * h->cp + ch, *taps = w + i * h->k;
                long t = 0;
                for (; t + 4 <= h->k; t += 4)
                    for (int u = 0; u < 4; u++)
                        sums[u] += taps[t + u] * load(v + (t + u) * h->cp);
                for (; t < h->k; t++)
                    sums[0] += taps[t] * load(v + t * h->cp);
            }
            store(out + j * h->cp + ch, ((sums[0] + sums[1]) + (sums[2] + sums[3])) * h->share[j]);
        }
    }
}

/* out (B, N, 2*G*c). Returns 0, or 1 where memory ran out. */
int contmix_forward(const Contmix *m, void *out) {
    long tasks = m->batch * m->heads, blocks = 1;
    while (tasks * blocks < 4 * m->threads && blocks * 4 <= m->height)
        blocks *= 2;
    int failed = 0;
#pragma omp parallel for schedule(dynamic) num_threads(m->threads) reduction(| : failed) if (m->threads > 1)
    for (long task = 0; task < tasks * blocks; task++) {
        long b = task / blocks / m->heads, g = task / blocks % m->heads, block = task % blocks;
        long row0 = m->height * block / blocks, row1 = m->height * (block + 1) / blocks;
        long cp = padded(m->c);
        float *memory = scratch(half_floats(m, m->sizes[0]) + half_floats(m, m->sizes[1]) + QUERIES * cp + 16 * LANES);
        if (!memory) {
            failed |= 1;
            continue;
        }
        float *mixed = take(&memory, QUERIES * cp);
        for (int i = 0; i < 2; i++) {
            Half h;
            open_half(&h, m, i, b, g, row0, row1, &memory);
            for (long row = row0; row < row1; row++)
                for (long col = 0; col < m->width; col += QUERIES) {
                    long count = least(QUERIES, m->width - col);
                    weigh(&h, m, b, g, row, col, count);
                    mix(&h, m, row, col, count, mixed);
                    for (long j = 0; j < count; j++)
                        write_row(out,
                                  (((b * m->height + row) * m->width + col + j) * 2 + i) * m->heads * m->c + g * m->c,
                                  mixed + j * cp, m->c, m->bf16);
                }
        }
    }
    return failed;
}
