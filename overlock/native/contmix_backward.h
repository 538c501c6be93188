/* ContMix, backward: softmax weights are made again, a head's sums are kept until they are complete. */

/* Gradients. A thread takes whole heads of an image, so that each sum has one writer. */
typedef struct {
    const void *out;  /* (B, N, 2*G*c) */
    void *q, *v;      /* as Contmix's */
    float *projected; /* (B*G, cq, T) */
    float *proj_bias; /* (B*G, T) */
    float *rpb[2];    /* (B*G, span*span) */
} Gradients;

typedef struct {
    long union_floats; /* of one row of the windows of QUERIES queries together */
    float *out;        /* (QUERIES, cp) */
    float *unions;     /* (k, QUERIES, union_floats) */
    float *logits;     /* (QUERIES, Tp + LANES) */
    float *keys;       /* (Tp, cqp): projected, by tap */
    float *columns;    /* (cp, N + union_floats): values, by channel */
    float *values;     /* (N, cp) */
    float *projected;  /* (cq, Tp) */
    float *bias;       /* (Tp) */
    float *rpb;        /* (span*span + LANES) */
} Backward;

static long backward_floats(const Contmix *m, long k) {
    long tp = padded(k * k), span = 2 * k - 1, cp = padded(m->c), tokens = m->height * m->width;
    long wide = padded(k + QUERIES - 1);
    return QUERIES * (cp + tp + LANES + k * wide) + tp * padded(m->cq) + cp * padded(tokens + wide) + tokens * cp +
           m->cq * tp + tp + padded(span * span + LANES) + 9 * 16;
}

static float *zeros(float **memory, long floats) {
    float *taken = take(memory, floats);
    memset(taken, 0, floats * sizeof(float));
    return taken;
}

static long column_floats(const Backward *d, const Contmix *m) {
    return padded(m->height * m->width + d->union_floats);
}

static void open_backward(Backward *d, const Half *h, const Contmix *m, float **memory) {
    long tokens = m->height * m->width;
    d->union_floats = padded(h->k + QUERIES - 1);
    long length = column_floats(d, m);
    d->out = zeros(memory, QUERIES * h->cp);
    d->unions = zeros(memory, h->k * QUERIES * d->union_floats);
    d->logits = zeros(memory, QUERIES * (h->tp + LANES));
    d->keys = zeros(memory, h->tp * h->cqp);
    d->columns = zeros(memory, h->cp * length);
    d->values = zeros(memory, tokens * h->cp);
    d->projected = zeros(memory, m->cq * h->tp);
    d->bias = zeros(memory, h->tp);
    d->rpb = zeros(memory, h->span * h->span + LANES);
    for (long t = 0; t < h->taps; t++)
        for (long ch = 0; ch < m->cq; ch++)
            d->keys[t * h->cqp + ch] = h->projected[ch * h->tp + t] * LN_2;
    for (long ch = 0; ch < m->c; ch++)
        for (long n = 0; n < tokens; n++)
            d->columns[ch * length + n] = h->values[n * h->cp + ch];
}

/* Products of the output's gradients and the values of one row, `vectors` vectors of places for all queries. */
INLINE void products(const float *out, long cp, const float *column, long length, long channels, float *to, long stride,
                     const int vectors) {
    vec sums[QUERIES][2] = {{{0}}};
    for (long ch = 0; ch < channels; ch++) {
        vec values[2];
        for (int i = 0; i < vectors; i++)
            values[i] = load(column + ch * length + i * LANES);
        for (int j = 0; j < QUERIES; j++) {
            vec of_query = all(out[j * cp + ch]);
            for (int i = 0; i < vectors; i++)
                sums[j][i] += of_query * values[i];
        }
    }
    for (int j = 0; j < QUERIES; j++)
        for (int i = 0; i < vectors; i++)
            store(to + j * stride + i * LANES, sums[j][i]);
}

/* Gradients of the softmax weights, then of the logits, of a group. */
static void unweigh(Backward *d, Half *h, const Contmix *m, const Group *own) {
    long length = column_floats(d, m), wide = d->union_floats;
    for (long i = 0; i < h->k; i++) {
        const float *column = d->columns + (own->top + i) * m->width + own->first[0];
        float *to = d->unions + i * QUERIES * wide;
        long at = 0;
        for (; at + 2 * LANES <= wide; at += 2 * LANES)
            products(d->out, h->cp, column + at, length, m->c, to + at, wide, 2);
        if (at < wide)
            products(d->out, h->cp, column + at, length, m->c, to + at, wide, 1);
    }
    for (long j = 0; j < own->count; j++) {
        float *to = d->logits + j * (h->tp + LANES), *w = row_of(h, j);
        for (long i = 0; i < h->k; i++) { /* each row overwrites what the last one wrote too far */
            const float *from = d->unions + (i * QUERIES + j) * wide + own->first[j] - own->first[0];
            for (long at = 0; at < h->k; at += LANES)
                store(to + i * h->k + at, load(from + at));
        }
        for (long t = h->taps; t < h->tp; t++)
            to[t] = 0;
        vec dot = {0}, share = all(h->share[j]);
        for (long at = 0; at < h->tp; at += LANES) {
            vec weight = load(w + at) * share;
            dot += weight * load(to + at);
            store(w + at, weight);
        }
        vec mean = all(total(dot));
        for (long at = 0; at < h->tp; at += LANES)
            store(to + at, load(w + at) * (load(to + at) - mean));
    }
    for (long j = own->count; j < QUERIES; j++)
        memset(d->logits + j * (h->tp + LANES), 0, h->tp * sizeof(float));
}

/* `vectors` vectors of the logits' gradients, spread to the projected keys and the biases. */
INLINE void spread_to_keys(Backward *d, const Half *h, const float *q, long cq, long at, const int vectors) {
    vec dl[QUERIES][2];
    for (int i = 0; i < vectors; i++) {
        vec sum = load(d->bias + at + i * LANES);
        for (int j = 0; j < QUERIES; j++) {
            dl[j][i] = load(d->logits + j * (h->tp + LANES) + at + i * LANES);
            sum += dl[j][i];
        }
        store(d->bias + at + i * LANES, sum);
    }
    for (long ch = 0; ch < cq; ch++) {
        float *keys = d->projected + ch * h->tp + at;
        vec sum[2];
        for (int i = 0; i < vectors; i++)
            sum[i] = load(keys + i * LANES);
        for (int j = 0; j < QUERIES; j++) {
            vec query = all(q[j * h->cqp + ch]);
            for (int i = 0; i < vectors; i++)
                sum[i] += query * dl[j][i];
        }
        for (int i = 0; i < vectors; i++)
            store(keys + i * LANES, sum[i]);
    }
}

/* Likewise to `vectors` vectors of channels of the queries (QUERIES, cqp). */
INLINE void spread_to_queries(const Backward *d, const Half *h, long ch, float *q, const int vectors) {
    vec sums[QUERIES][2] = {{{0}}};
    for (long t = 0; t < h->taps; t++) {
        vec key[2];
        for (int i = 0; i < vectors; i++)
            key[i] = load(d->keys + t * h->cqp + ch + i * LANES);
        for (int j = 0; j < QUERIES; j++) {
            vec dl = all(d->logits[j * (h->tp + LANES) + t]);
            for (int i = 0; i < vectors; i++)
                sums[j][i] += dl * key[i];
        }
    }
    for (int j = 0; j < QUERIES; j++)
        for (int i = 0; i < vectors; i++)
            store(q + j * h->cqp + ch + i * LANES, sums[j][i]);
}

/* The logits' gradients, spread to the projected keys, the biases, the queries (into `d_q`, (QUERIES, cqp)). */
static void spread(Backward *d, const Half *h, const Contmix *m, const Group *own, float *d_q) {
    const float *q = queries_of(h, m, own);
    long at = 0, ch = 0, k = h->k;
    for (; at + 2 * LANES <= h->tp; at += 2 * LANES)
        spread_to_keys(d, h, q, m->cq, at, 2);
    if (at < h->tp)
        spread_to_keys(d, h, q, m->cq, at, 1);
    for (; ch + 2 * LANES <= h->cqp; ch += 2 * LANES)
        spread_to_queries(d, h, ch, d_q, 2);
    if (ch < h->cqp)
        spread_to_queries(d, h, ch, d_q, 1);
    for (long j = 0; j < own->count; j++) {
        const float *dl = d->logits + j * (h->tp + LANES);
        float *table = d->rpb + (own->top - own->row + k - 1) * h->span + own->first[j] - (own->col + j) + k - 1;
        for (long i = 0; i < k; i++)
            for (at = 0; at < k; at += LANES) {
                vec more = load(dl + i * k + at);
                more = at + LANES <= k ? more : first_lanes(more, k - at);
                store(table + i * h->span + at, load(table + i * h->span + at) + more);
            }
    }
}

/* One row of taps, spread to the values: as `mix_row`. */
INLINE void unmix_row(float *line, const vec out[QUERIES][2], const float *const *w, const Group *own, long k, long cp,
                      const int count, const int vectors) {
    long last = own->first[count - 1], end = most(own->first[0] + k, last);
    UNROLL for (int j = 0; j < count - 1; j++)
        for (long at = own->first[j]; at < least(last, own->first[j] + k); at++)
            for (int i = 0; i < vectors; i++) {
                float *value = line + at * cp + i * LANES;
                store(value, load(value) + w[j][at - own->first[j]] * out[j][i]);
            }
    for (long at = last; at < end; at++) {
        vec value[2];
        for (int i = 0; i < vectors; i++)
            value[i] = load(line + at * cp + i * LANES);
        for (int j = 0; j < count; j++) {
            vec weight = all(w[j][at - own->first[j]]);
            for (int i = 0; i < vectors; i++)
                value[i] += weight * out[j][i];
        }
        for (int i = 0; i < vectors; i++)
            store(line + at * cp + i * LANES, value[i]);
    }
    UNROLL for (int j = 1; j < count; j++)
        for (long at = end; at < own->first[j] + k; at++)
            for (int i = 0; i < vectors; i++) {
                float *value = line + at * cp + i * LANES;
                store(value, load(value) + w[j][at - own->first[j]] * out[j][i]);
            }
}

INLINE void unmix_channels(Backward *d, const Half *h, long width, const Group *own, long ch, const int count,
                           const int vectors) {
    vec out[QUERIES][2];
    const float *w[QUERIES];
    for (int j = 0; j < count; j++) {
        w[j] = row_of(h, j);
        for (int i = 0; i < vectors; i++)
            out[j][i] = load(d->out + j * h->cp + ch + i * LANES);
    }
    float *line = d->values + own->top * width * h->cp + ch;
    for (long i = 0; i < h->k; i++, line += width * h->cp) {
        unmix_row(line, out, w, own, h->k, h->cp, count, vectors);
        for (int j = 0; j < count; j++)
            w[j] += h->k;
    }
}

INLINE void unmix_group(Backward *d, const Half *h, long width, const Group *own, const int count) {
    long ch = 0;
    for (; ch + 2 * LANES <= h->cp; ch += 2 * LANES)
        unmix_channels(d, h, width, own, ch, count, 2);
    if (ch < h->cp)
        unmix_channels(d, h, width, own, ch, count, 1);
}

static void unmix(Backward *d, const Half *h, const Contmix *m, const Group *own) {
    switch (own->count) {
    case 4:
        unmix_group(d, h, m->width, own, 4);
        break;
    case 3:
        unmix_group(d, h, m->width, own, 3);
        break;
    case 2:
        unmix_group(d, h, m->width, own, 2);
        break;
    default:
        unmix_group(d, h, m->width, own, 1);
    }
}

/* Returns 0, or 1 where memory ran out. */
int contmix_backward(const Contmix *m, const Gradients *to) {
    long taps = all_taps(m), tokens = m->height * m->width;
    const float *biases = biases_of(m);
    int failed = 0;
    if (!biases)
        return 1;
#pragma omp parallel for schedule(dynamic) num_threads(m->threads) reduction(| : failed) if (m->threads > 1)
    for (long of = 0; of < m->batch * m->heads; of++) { /* a head's images one after the other: its biases stay */
        long g = of / m->batch, b = of % m->batch, task = b * m->heads + g, cqp = padded(m->cq), floats = 0;
        for (int i = 0; i < 2; i++)
            floats += half_floats(m, m->sizes[i]) + backward_floats(m, m->sizes[i]);
        float *memory = scratch(floats + (tokens + QUERIES) * cqp + 32);
        if (!memory) {
            failed |= 1;
            continue;
        }
        float *queries = zeros(&memory, tokens * cqp), *q = take(&memory, QUERIES * cqp);
        for (int i = 0; i < 2; i++) {
            Half h;
            Backward d;
            open_half(&h, m, biases, i, b, g, 0, m->height, &memory);
            open_backward(&d, &h, m, &memory);
            for (long row = 0; row < m->height; row++)
                for (long n = 0; n < groups(m); n++) {
                    Group own = group_of(m, h.k, row, n);
                    long token = row * m->width + own.col;
                    weigh(&h, m, &own);
                    for (long j = 0; j < own.count; j++)
                        read_padded(d.out + j * h.cp, to->out,
                                 ((b * tokens + token + j) * 2 + i) * m->heads * m->c + g * m->c, m->c, m->bf16);
                    unweigh(&d, &h, m, &own);
                    spread(&d, &h, m, &own, q);
                    unmix(&d, &h, m, &own);
                    for (long at = 0; at < own.count * cqp; at += LANES)
                        store(queries + token * cqp + at, load(queries + token * cqp + at) + load(q + at));
                }
            long first = first_tap(m, i);
            for (long n = 0; n < tokens; n++)
                write_row(to->v, ((b * tokens + n) * 2 + i) * m->heads * m->c + g * m->c, d.values + n * h.cp, m->c,
                          m->bf16);
            for (long ch = 0; ch < m->cq; ch++)
                memcpy(to->projected + (task * m->cq + ch) * taps + first, d.projected + ch * h.tp,
                       h.taps * sizeof(float));
            memcpy(to->proj_bias + task * taps + first, d.bias, h.taps * sizeof(float));
            memcpy(to->rpb[i] + task * h.span * h.span, d.rpb, h.span * h.span * sizeof(float));
        }
        for (long n = 0; n < tokens; n++)
            write_row(to->q, (b * tokens + n) * m->heads * m->cq + g * m->cq, queries + n * cqp, m->cq, m->bf16);
    }
    return failed;
}
