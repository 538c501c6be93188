/* Vectors of floats as wide as the target's registers, rows in two dtypes, scratch memory. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* LANES floats a register, and whether there are 32 registers (else 16): what loops are blocked for. */
#if defined(__AVX512F__)
#define LANES 16
#define MANY 1
#elif defined(__AVX__)
#define LANES 8
#define MANY 0
#else
#define LANES 4
#ifdef __aarch64__
#define MANY 1
#else
#define MANY 0
#endif
#endif
#ifdef __AVX__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

INLINE vec load(const float *p) { return *(const loose *)p; }
INLINE void store(float *p, vec x) { *(loose *)p = x; }
INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec where(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }
INLINE long padded(long n) { return (n + LANES - 1) / LANES * LANES; }
INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE long most(long a, long b) { return a > b ? a : b; }

/* The larger of each pair; x where it is not a number. */
INLINE vec larger(vec bound, vec x) {
#if LANES == 16
    return (vec)_mm512_max_ps((__m512)bound, (__m512)x);
#elif LANES == 8
    return (vec)_mm256_max_ps((__m256)bound, (__m256)x);
#else
    return where(bound > x, bound, x);
#endif
}

/* The first n lanes of x, zeros after them. */
INLINE vec first_lanes(vec x, long n) {
    ivec lane;
    for (int i = 0; i < LANES; i++)
        lane[i] = i;
    return where(lane < (int32_t)n, x, (vec){0});
}

/* Of all lanes, in halves; their order is the same whatever the compiler. */
#if LANES > 4
#if LANES == 16
#define HALVED(OP, x) OP(_mm512_castps512_ps256((__m512)x), _mm512_extractf32x8_ps((__m512)x, 1))
#else
#define HALVED(OP, x) ((__m256)x)
#endif
INLINE float largest(vec x) {
    __m256 half = HALVED(_mm256_max_ps, x);
    __m128 top = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    top = _mm_max_ps(top, _mm_movehl_ps(top, top));
    return _mm_cvtss_f32(_mm_max_ss(top, _mm_movehdup_ps(top)));
}

INLINE float total(vec x) {
    __m256 half = HALVED(_mm256_add_ps, x);
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
#else
INLINE float largest(vec x) {
    float even = x[0] > x[2] ? x[0] : x[2], odd = x[1] > x[3] ? x[1] : x[3];
    return even > odd ? even : odd;
}

INLINE float total(vec x) { return (x[0] + x[2]) + (x[1] + x[3]); }
#endif

/* 2^x for x <= 0, to 2 units in the last place: 2^n times a polynomial in x - n, which is within 1/2. It is 0 below
 * 2^-110: denormal numbers would slow down every product they meet a hundredfold. */
INLINE vec power_of_2(vec x) {
    x = larger(all(-110.0f), x);
    vec shifted = x + 12582912.0f; /* rounds to an integer in the low bits */
    vec r = x - (shifted - 12582912.0f);
    vec p = all(1.545316295e-4f);
    p = p * r + 1.339086336e-3f;
    p = p * r + 9.618082557e-3f;
    p = p * r + 5.550357114e-2f;
    p = p * r + 2.402265076e-1f;
    p = p * r + 6.931471880e-1f;
    p = p * r + 1.0f;
    return (vec)((ivec)p + ((ivec)shifted << 23)) - 0x1p-110f; /* the integer is added to the exponent */
}

static inline void copy(float *to, const float *from, long n) {
    long i = 0;
    for (; i + LANES <= n; i += LANES)
        store(to + i, load(from + i));
    for (; i < n; i++)
        to[i] = from[i];
}

static inline void read_row(float *to, const void *from, long at, long n, int bf16) {
    if (!bf16) {
        copy(to, (const float *)from + at, n);
        return;
    }
    const uint16_t *row = (const uint16_t *)from + at;
    for (long i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)row[i] << 16;
        memcpy(to + i, &bits, 4);
    }
}

/* Zeros up to whole vectors. */
static inline void read_padded(float *to, const void *from, long at, long n, int bf16) {
    for (long i = n; i < padded(n); i++)
        to[i] = 0;
    read_row(to, from, at, n, bf16);
}

static inline void write_row(void *to, long at, const float *from, long n, int bf16) {
    if (!bf16) {
        copy((float *)to + at, from, n);
        return;
    }
    uint16_t *row = (uint16_t *)to + at;
    for (long i = 0; i < n; i++) { /* to nearest, ties to even; NaN stays one */
        uint32_t bits;
        memcpy(&bits, from + i, 4);
        row[i] = from[i] != from[i] ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
}

/* Memory that a thread keeps between calls: fresh memory would fault in page by page. */
typedef struct {
    float *memory;
    long size;
} Kept;

static __thread Kept scratch_kept;

static float *kept(Kept *of, long floats) {
    if (floats > of->size) {
        free(of->memory);
        of->memory = aligned_alloc(64, (floats + 15) / 16 * 64);
        of->size = of->memory ? floats : 0;
    }
    return of->memory;
}

static float *scratch(long floats) { return kept(&scratch_kept, floats); }

/* Each piece begins at a cache line. */
static float *take(float **free_memory, long floats) {
    float *taken = *free_memory;
    *free_memory += (floats + 15) / 16 * 16;
    return taken;
}
