/* Products of bfloat16 by the matrix unit of Intel's CPUs (AMX), where the compiler's target and the kernel have it.
 *
 * A block is two tiles of 16 rows times two tiles of 16 outputs, whose four sums stay in the unit; 32 inputs at a time.
 */
#pragma once
#include "vectors.h"

#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#define AMX_ROWS 16
#define AMX_OUTPUTS 32 /* of a block */
#define AMX_INPUTS 32

/* Linux lends the unit's registers to a process that asks. */
static int amx_granted(void) {
    static int granted; /* 1: yes, -1: no */
    if (!granted)
        granted = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) ? -1 : 1;
    return granted > 0;
}

/* Sums in tiles 0 to 3, of rows in tiles 4 and 5 (the second may have none) and weights in tiles 6 and 7. */
static void amx_configure(long first_rows, long second_rows) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    const long rows[8] = {first_rows, first_rows, second_rows, second_rows, first_rows, second_rows, 16, 16};
    for (int i = 0; i < 8; i++) {
        config.rows[i] = (uint8_t)(rows[i] ? rows[i] : 1);
        config.bytes[i] = 64;
    }
    _tile_loadconfig(&config);
}

/* `inputs` (a multiple of AMX_INPUTS) of rows that are `stride` apart times one block of weights, to (2 * AMX_ROWS,
 * AMX_OUTPUTS) sums. */
static void amx_block(const uint16_t *x, long stride, const uint16_t *weights, long inputs, int second, float *sums) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long k = 0; k < inputs; k += AMX_INPUTS, weights += AMX_INPUTS * AMX_OUTPUTS) {
        _tile_loadd(4, x + k, stride * 2);
        _tile_loadd(6, weights, 64);
        _tile_loadd(7, weights + AMX_INPUTS * 16, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (second) {
            _tile_loadd(5, x + AMX_ROWS * stride + k, stride * 2);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, AMX_OUTPUTS * 4);
    _tile_stored(1, sums + 16, AMX_OUTPUTS * 4);
    if (second) {
        _tile_stored(2, sums + AMX_ROWS * AMX_OUTPUTS, AMX_OUTPUTS * 4);
        _tile_stored(3, sums + AMX_ROWS * AMX_OUTPUTS + 16, AMX_OUTPUTS * 4);
    }
}

static long amx_inputs(long inputs) { return (inputs + AMX_INPUTS - 1) / AMX_INPUTS * AMX_INPUTS; }

/* (blocks, K / 32, 2, 16 pairs of inputs, 16 outputs, 2), with zeros after the last input and output. */
static void amx_pack(const float *weight, uint16_t *packed, long outputs, long inputs) {
    for (long first = 0; first < outputs; first += AMX_OUTPUTS)
        for (long k = 0; k < amx_inputs(inputs); k += AMX_INPUTS)
            for (long half = 0; half < 2; half++)
                for (long pair = 0; pair < 16; pair++)
                    for (long i = 0; i < 32; i++, packed++) {
                        long output = first + half * 16 + i / 2, input = k + 2 * pair + i % 2;
                        vec own = all(output < outputs && input < inputs ? weight[output * inputs + input] : 0.0f);
                        *packed = to_bf16(own)[0];
                    }
}
#else
#define AMX_OUTPUTS PANEL
static int amx_granted(void) { return 0; }
#endif
