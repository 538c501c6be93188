/* Matrix products, as 1x1 convolutions of channels_last maps are: rows of channels times weights, plus a bias, then an
 * activation, or added to what is there.
 *
 * Weights are packed once, into panels of two vectors of outputs. A tile of rows times a panel stays in registers. A
 * panel serves a chunk of rows that fits the second-level cache, tile by tile. bfloat16 is widened to float32, a chunk
 * at a time, where there is no unit for it (amx.h).
 */
#pragma once
#include "activation.h"
#include "amx.h"

#define PANEL (2 * LANES)      /* outputs */
#define TILE (MANY ? 14 : 6)   /* rows */
#define CHUNK_FLOATS (1 << 17) /* of inputs */

enum { NOTHING, GELU, SILU, ADD };

typedef struct {
    const void *x;       /* M rows of K inputs: `stride` from row to row, `step` from input to input */
    void *out;           /* (M, N) */
    const void *weights; /* (panels, K, PANEL), by pack_product */
    const float *bias;   /* (N), or NULL */
    long rows, stride, step, inputs, outputs;
    int then, bf16, threads;
} Product;

/* What follows a sum, for `lanes` outputs of a row. */
INLINE void finish(const Product *m, vec y, long at, long lanes) {
    if (m->then == GELU)
        y = gelu(y);
    else if (m->then == SILU)
        y = silu(y);
    else if (m->then == ADD)
        y += load_lanes(m->out, at, lanes, m->bf16);
    store_lanes(m->out, at, y, lanes, m->bf16);
}

/* `rows` rows from `row` on, whose inputs are at x, times one panel. Constant, so that the sums become registers. */
INLINE void multiply_tile(const Product *m, const float *x, long stride, long step, const float *panel, long row,
                          long first, const int rows) {
    vec sum[TILE][2], bias[2] = {{0}};
    long lanes[2] = {least(LANES, m->outputs - first), most(0, least(LANES, m->outputs - first - LANES))};
    for (int half = 0; half < 2; half++)
        if (m->bias && lanes[half])
            bias[half] = load_lanes(m->bias, first + half * LANES, lanes[half], 0);
    UNROLL for (int i = 0; i < rows; i++) {
        sum[i][0] = bias[0];
        sum[i][1] = bias[1];
    }
    for (long k = 0; k < m->inputs; k++, panel += PANEL, x += step) {
        vec left = load(panel), right = load(panel + LANES);
        UNROLL for (int i = 0; i < rows; i++) {
            vec value = all(x[i * stride]);
            sum[i][0] += value * left;
            sum[i][1] += value * right;
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        for (int half = 0; half < 2; half++)
            if (lanes[half])
                finish(m, sum[i][half], (row + i) * m->outputs + first + half * LANES, lanes[half]);
}

/* Rows row0 to row1, whose inputs are at x, times a panel. */
static void multiply_panel(const Product *m, const float *x, long stride, long step, const float *panel, long first,
                           long row0, long row1) {
    for (; row0 + TILE <= row1; row0 += TILE, x += TILE * stride)
        multiply_tile(m, x, stride, step, panel, row0, first, TILE);
    for (; row0 + TILE / 2 <= row1; row0 += TILE / 2, x += TILE / 2 * stride)
        multiply_tile(m, x, stride, step, panel, row0, first, TILE / 2);
    for (; row0 + 3 <= row1; row0 += 3, x += 3 * stride)
        multiply_tile(m, x, stride, step, panel, row0, first, 3);
    for (; row0 < row1; row0++, x += stride)
        multiply_tile(m, x, stride, step, panel, row0, first, 1);
}

/* Rows row0 to row1 times some panels. Returns 0, or 1 where memory ran out. */
static int multiply_chunk(const Product *m, long row0, long row1, long panel0, long panel1) {
    const float *x = (const float *)m->x + row0 * m->stride;
    long stride = m->stride, step = m->step;
    if (m->bf16) {
        stride = padded(m->inputs), step = 1;
        float *wide = scratch((row1 - row0) * stride);
        if (!wide)
            return 1;
        for (long row = row0; row < row1; row++)
            read_padded(wide + (row - row0) * stride, m->x, row * m->stride, m->inputs, 1);
        x = wide;
    }
    for (long p = panel0; p < panel1; p++)
        multiply_panel(m, x, stride, step, (const float *)m->weights + p * m->inputs * PANEL, p * PANEL, row0, row1);
    return 0;
}

#ifdef __AMX_BF16__
/* Rows row0 to row1 times some blocks of AMX_OUTPUTS outputs. Returns 0, or 1 where memory ran out. */
static int multiply_by_amx(const Product *m, long row0, long row1, long block0, long block1) {
    long inputs = amx_inputs(m->inputs), stride = m->stride;
    const uint16_t *x = (const uint16_t *)m->x + row0 * stride;
    float sums[2 * AMX_ROWS * AMX_OUTPUTS];
    if (inputs != m->inputs) { /* whole steps of inputs, the last ones zeros */
        uint16_t *whole = (uint16_t *)scratch((row1 - row0) * inputs / 2);
        if (!whole)
            return 1;
        for (long row = 0; row < row1 - row0; row++) {
            memcpy(whole + row * inputs, x + row * stride, m->inputs * 2);
            memset(whole + row * inputs + m->inputs, 0, (inputs - m->inputs) * 2);
        }
        x = whole;
        stride = inputs;
    }
    for (long block = block0; block < block1; block++) {
        const uint16_t *weights = (const uint16_t *)m->weights + block * AMX_OUTPUTS * inputs;
        for (long row = row0; row < row1; row += 2 * AMX_ROWS) {
            long rows = least(2 * AMX_ROWS, row1 - row), second = most(0, rows - AMX_ROWS);
            if (row == row0 || rows < 2 * AMX_ROWS)
                amx_configure(rows - second, second);
            amx_block(x + (row - row0) * stride, stride, weights, inputs, second > 0, sums);
            for (long c = 0; c < AMX_OUTPUTS; c += LANES) {
                long output = block * AMX_OUTPUTS + c, lanes = least(LANES, m->outputs - output);
                if (lanes <= 0)
                    break;
                vec bias = m->bias ? load_lanes(m->bias, output, lanes, 0) : (vec){0};
                for (long i = 0; i < rows; i++)
                    finish(m, load(sums + i * AMX_OUTPUTS + c) + bias, (row + i) * m->outputs + output, lanes);
            }
        }
    }
    _tile_release();
    return 0;
}
#endif

static int is_by_amx(int bf16) { return bf16 && amx_granted(); }

/* Returns 0, or 1 where memory ran out. In bfloat16 `step` must be 1. Threads share out what there is more of, rows or
 * outputs, and read all of the other. */
int product(const Product *m) {
    long panel = is_by_amx(m->bf16) ? AMX_OUTPUTS : PANEL;
    long panels = (m->outputs + panel - 1) / panel, tiles = (m->rows + TILE - 1) / TILE, groups = 1, failed = 0;
    long chunk = most(CHUNK_FLOATS / (m->inputs * TILE), 1), turns = m->threads > 1 ? 4 * m->threads : 1;
    if (m->rows >= m->outputs)
        chunk = least(chunk, (tiles + turns - 1) / turns);
    long chunks = (tiles + chunk - 1) / chunk;
    chunk = (tiles + chunks - 1) / chunks;
    while (chunks * groups < turns && groups * 2 <= panels)
        groups *= 2;
#pragma omp parallel for schedule(dynamic) num_threads(m->threads) reduction(| : failed) if (m->threads > 1)
    for (long task = 0; task < chunks * groups; task++) {
        long row = task / groups * chunk * TILE, end = least(row + chunk * TILE, m->rows), group = task % groups;
        long first = panels * group / groups, last = panels * (group + 1) / groups;
#ifdef __AMX_BF16__
        if (is_by_amx(m->bf16)) {
            failed |= multiply_by_amx(m, row, end, first, last);
            continue;
        }
#endif
        failed |= multiply_chunk(m, row, end, first, last);
    }
    return (int)failed;
}

/* The floats that packed weights take, for inputs of a dtype. */
long packed_floats(long outputs, long inputs, int bf16) {
#ifdef __AMX_BF16__
    if (is_by_amx(bf16))
        return (outputs + AMX_OUTPUTS - 1) / AMX_OUTPUTS * AMX_OUTPUTS * amx_inputs(inputs) / 2;
#endif
    (void)bf16;
    return (outputs + PANEL - 1) / PANEL * PANEL * inputs;
}

/* Weights (N, K), as PyTorch has them but in float32, with zeros after the last output. Returns 0. */
int pack_product(const float *weight, float *packed, long outputs, long inputs, int bf16) {
#ifdef __AMX_BF16__
    if (is_by_amx(bf16)) {
        amx_pack(weight, (uint16_t *)packed, outputs, inputs);
        return 0;
    }
#endif
    (void)bf16;
    for (long first = 0; first < outputs; first += PANEL)
        for (long k = 0; k < inputs; k++)
            for (long i = 0; i < PANEL; i++)
                *packed++ = first + i < outputs ? weight[(first + i) * inputs + k] : 0;
    return 0;
}
