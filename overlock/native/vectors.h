/* Vectors of 16 floats (the compiler splits them where the machine's are shorter), rows in two dtypes, scratch memory.
 */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

static inline vec load(const float *p) { return *(const loose *)p; }
static inline void store(float *p, vec x) { *(loose *)p = x; }
static inline vec all(float x) { return x - (vec){0}; }
static inline vec where(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }
static inline long padded(long n) { return (n + LANES - 1) / LANES * LANES; }
static inline long least(long a, long b) { return a < b ? a : b; }

#define SWAPPED(x, by) __builtin_shuffle(x, (ivec){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} ^ by)

static inline float largest(vec x) {
    for (int by = LANES / 2; by; by /= 2) {
        vec other = SWAPPED(x, by);
        x = where(other > x, other, x);
    }
    return x[0];
}

static inline float total(vec x) {
    for (int by = LANES / 2; by; by /= 2)
        x += SWAPPED(x, by);
    return x[0];
}

/* exp(x) for x <= 0, to 2 units in the last place: 2^n times a polynomial on |r| <= log(2)/2. Below exp(-87) it is 0:
 * denormal numbers would slow down every product they meet a hundredfold. */
static inline vec exponential(vec x) {
    ivec vanishes = x < -87.0f;
    x = where(vanishes, (vec){0}, x);
    vec shifted = x * 1.44269504f + 12582912.0f; /* rounds to an integer in the low bits */
    vec n = shifted - 12582912.0f;
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec bits = ((ivec)shifted << 23) + 0x3f800000; /* the integer's low bits, moved to the exponent */
    return where(vanishes, (vec){0}, p * (vec)bits);
}

static void read_row(float *to, const void *from, long at, long n, int bf16) {
    if (!bf16) {
        const float *row = (const float *)from + at;
        for (long i = 0; i < n; i++)
            to[i] = row[i];
        return;
    }
    const uint16_t *row = (const uint16_t *)from + at;
    for (long i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)row[i] << 16;
        memcpy(to + i, &bits, 4);
    }
}

static void write_row(void *to, long at, const float *from, long n, int bf16) {
    if (!bf16) {
        float *row = (float *)to + at;
        for (long i = 0; i < n; i++)
            row[i] = from[i];
        return;
    }
    uint16_t *row = (uint16_t *)to + at;
    for (long i = 0; i < n; i++) { /* to nearest, ties to even; NaN stays one */
        uint32_t bits;
        memcpy(&bits, from + i, 4);
        row[i] = from[i] != from[i] ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
}

/* Scratch that a thread keeps between calls: fresh memory would fault in page by page. */
static __thread float *scratch_memory;
static __thread long scratch_size;

static float *scratch(long floats) {
    if (floats > scratch_size) {
        free(scratch_memory);
        scratch_memory = aligned_alloc(64, padded(floats) * sizeof(float));
        scratch_size = scratch_memory ? padded(floats) : 0;
    }
    return scratch_memory;
}

static float *take(float **free_memory, long floats) {
    float *taken = *free_memory;
    *free_memory += padded(floats);
    return taken;
}
