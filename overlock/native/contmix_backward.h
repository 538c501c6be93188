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
    float *out;       /* (QUERIES, cp) */
    float *logits;    /* (QUERIES, Tp + LANES) */
    float *keys;      /* (Tp, cqp): projected, by tap */
    float *columns;   /* (cp, N + LANES): values, by channel */
    float *values;    /* (N, cp) */
    float *projected; /* (cq, Tp) */
    float *bias;      /* (Tp) */
    float *rpb;       /* (span*span + LANES) */
} Backward;

static long backward_floats(const Contmix *m, long k) {
    long tp = padded(k * k), span = 2 * k - 1, cp = padded(m->c), tokens = m->height * m->width;
    return QUERIES * (cp + tp + LANES) + tp * padded(m->cq) + cp * padded(tokens + LANES) + tokens * cp + m->cq * tp +
           tp + padded(span * span + LANES);
}

static float *zeros(float **memory, long floats) {
    float *taken = take(memory, floats);
    memset(taken, 0, padded(floats) * sizeof(float));
    return taken;
}

static void open_backward(Backward *d, const Half *h, const Contmix *m, float **memory) {
    long tokens = m->height * m->width, length = padded(tokens + LANES);
    d->out = zeros(memory, QUERIES * h->cp);
    d->logits = zeros(memory, QUERIES * (h->tp + LANES));
    d->keys = zeros(memory, h->tp * h->cqp);
    d->columns = zeros(memory, h->cp * length);
    d->values = zeros(memory, tokens * h->cp);
    d->projected = zeros(memory, m->cq * h->tp);
    d->bias = zeros(memory, h->tp);
    d->rpb = zeros(memory, h->span * h->span + LANES);
    for (long t = 0; t < h->taps; t++)
        for (long ch = 0; ch < m->cq; ch++)
            d->keys[t * h->cqp + ch] = h->projected[ch * h->tp + t];
    for (long ch = 0; ch < m->c; ch++)
        for (long n = 0; n < tokens; n++)
            d->columns[ch * length + n] = h->values[n * h->cp + ch];
}

/* Gradients of the softmax weights, then of the logits, of `count` queries from (row, col) on. */
static void unweigh(Backward *d, Half *h, const Contmix *m, long row, long col, long count) {
    long length = padded(m->height * m->width + LANES), corner = window(row, h->k, m->height) * m->width;
    for (long j = 0; j < count; j++) {
        float *to = d->logits + j * (h->tp + LANES), *w = row_of(h, j);
        const float *from = d->columns + corner + window(col + j, h->k, m->width), *out = d->out + j * h->cp;
        for (long i = 0; i < h->k; i++)
            for (long at = 0; at < h->k; at += LANES) {
                const float *column = from + i * m->width + at;
                vec sums[2] = {{0}, {0}};
                long ch = 0;
                for (; ch + 2 <= m->c; ch += 2) {
                    sums[0] += out[ch] * load(column + ch * length);
                    sums[1] += out[ch + 1] * load(column + (ch + 1) * length);
                }
                if (ch < m->c)
                    sums[0] += out[ch] * load(column + ch * length);
                store(to + i * h->k + at, sums[0] + sums[1]);
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
    for (long j = count; j < QUERIES; j++)
        memset(d->logits + j * (h->tp + LANES), 0, h->tp * sizeof(float));
}

/* The logits' gradients, spread to the projected keys, the biases, the queries (into `q`, (QUERIES, cqp)). */
static void spread(Backward *d, const Half *h, const Contmix *m, long row, long col, long count, float *q) {
    long stride = h->tp + LANES, k = h->k, row_bias = window(row, k, m->height) - row + k - 1;
    for (long at = 0; at < h->tp; at += LANES) {
        vec dl[QUERIES], sum = load(d->bias + at);
        for (int j = 0; j < QUERIES; j++) {
            dl[j] = load(d->logits + j * stride + at);
            sum += dl[j];
        }
        store(d->bias + at, sum);
        for (long ch = 0; ch < m->cq; ch++) {
            vec keys = load(d->projected + ch * h->tp + at);
            for (int j = 0; j < QUERIES; j++)
                keys += h->q[j * h->cqp + ch] * dl[j];
            store(d->projected + ch * h->tp + at, keys);
        }
    }
    const ivec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (long j = 0; j < count; j++) {
        const float *dl = d->logits + j * stride;
        float *table = d->rpb + row_bias * h->span + window(col + j, k, m->width) - (col + j) + k - 1;
        for (long i = 0; i < k; i++)
            for (long at = 0; at < k; at += LANES) {
                vec own = where(lane < (int32_t)(k - at), load(dl + i * k + at), (vec){0});
                store(table + i * h->span + at, load(table + i * h->span + at) + own);
            }
    }
    for (long ch = 0; ch < h->cqp; ch += LANES) {
        vec sums[QUERIES] = {{0}};
        for (long t = 0; t < h->taps; t++) {
            vec key = load(d->keys + t * h->cqp + ch);
            for (int j = 0; j < QUERIES; j++)
                sums[j] += d->logits[j * stride + t] * key;
        }
        for (int j = 0; j < QUERIES; j++)
            store(q + j * h->cqp + ch, sums[j]);
    }
}

static void unmix(Backward *d, const Half *h, const Contmix *m, long row, long col, long count) {
    float *top = d->values + window(row, h->k, m->height) * m->width * h->cp;
    for (long j = 0; j < count; j++) {
        const float *w = row_of(h, j);
        float *corner = top + window(col + j, h->k, m->width) * h->cp;
        for (long ch = 0; ch < h->cp; ch += LANES) {
            vec out = load(d->out + j * h->cp + ch);
            for (long i = 0; i < h->k; i++) {
                float *v = corner + i * m->width * h->cp + ch;
                for (long t = 0; t < h->k; t++)
                    store(v + t * h->cp, load(v + t * h->cp) + w[i * h->k + t] * out);
            }
        }
    }
}

/* Returns 0, or 1 where memory ran out. */
int contmix_backward(const Contmix *m, const Gradients *to) {
    long taps = m->sizes[0] * m->sizes[0] + m->sizes[1] * m->sizes[1], tokens = m->height * m->width;
    int failed = 0;
#pragma omp parallel for schedule(dynamic) num_threads(m->threads) reduction(| : failed) if (m->threads > 1)
    for (long task = 0; task < m->batch * m->heads; task++) {
        long b = task / m->heads, g = task % m->heads, cqp = padded(m->cq), floats = 16 * LANES;
        for (int i = 0; i < 2; i++)
            floats += half_floats(m, m->sizes[i]) + backward_floats(m, m->sizes[i]) + 32 * LANES;
        float *memory = scratch(floats + (tokens + QUERIES) * cqp);
        if (!memory) {
            failed |= 1;
            continue;
        }
        float *queries = zeros(&memory, tokens * cqp), *q = take(&memory, QUERIES * cqp);
        for (int i = 0; i < 2; i++) {
            Half h;
            Backward d;
            open_half(&h, m, i, b, g, 0, m->height, &memory);
            open_backward(&d, &h, m, &memory);
            for (long row = 0; row < m->height; row++)
                for (long col = 0; col < m->width; col += QUERIES) {
                    long count = least(QUERIES, m->width - col), token = row * m->width + col;
                    weigh(&h, m, b, g, row, col, count);
                    for (long j = 0; j < count; j++)
                        read_row(d.out + j * h.cp, to->out,
                                 ((b * tokens + token + j) * 2 + i) * m->heads * m->c + g * m->c, m->c, m->bf16);
                    unweigh(&d, &h, m, row, col, count);
                    spread(&d, &h, m, row, col, count, q);
                    unmix(&d, &h, m, row, col, count);
                    for (long at = 0; at < count * cqp; at += LANES)
                        store(queries + token * cqp + at, load(queries + token * cqp + at) + load(q + at));
                }
            long first = i ? m->sizes[0] * m->sizes[0] : 0;
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
