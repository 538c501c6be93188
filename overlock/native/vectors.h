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
#define UNROLL _Pragma("GCC unroll 32")

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES))); /* bfloat16 */

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

/* The smaller of each pair; x where it is not a number. */
INLINE vec smaller(vec bound, vec x) {
#if LANES == 16
    return (vec)_mm512_min_ps((__m512)bound, (__m512)x);
#elif LANES == 8
    return (vec)_mm256_min_ps((__m256)bound, (__m256)x);
#else
    return where(bound < x, bound, x);
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

/* The first n of LANES values from element `at` on, float32 or bfloat16; zeros after them. */
INLINE vec load_some(const void *from, long at, long n, int bf16) {
    if (!bf16) {
        vec x = {0};
        memcpy(&x, (const float *)from + at, n * sizeof(float));
        return x;
    }
    halves x = {0};
    memcpy(&x, (const uint16_t *)from + at, n * sizeof(uint16_t));
    return (vec)(__builtin_convertvector(x, uvec) << 16);
}

/* To nearest, ties to even; what is not a number stays so. */
INLINE halves rounded_to_bf16(vec x) {
    uvec bits = (uvec)x;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector((uvec)where(x != x, (vec)((uvec){0} + 0x7fc0), (vec)bits), halves);
}

INLINE halves to_bf16(vec x) {
#if defined(__AVX512BF16__) && LANES == 16
    const int unlike = 0xa1; /* not numbers, and denormal ones, which the instruction takes for zeros */
    if (__builtin_expect(_mm512_fpclass_ps_mask((__m512)x, unlike) == 0, 1))
        return (halves)_mm512_cvtneps_pbh((__m512)x);
#endif
    return rounded_to_bf16(x);
}

INLINE void store_some(void *to, long at, vec x, long n, int bf16) {
    if (!bf16) {
        memcpy((float *)to + at, &x, n * sizeof(float));
        return;
    }
    halves rounded = to_bf16(x);
    memcpy((uint16_t *)to + at, &rounded, n * sizeof(uint16_t));
}

INLINE vec load_as(const void *from, long at, int bf16) { return load_some(from, at, LANES, bf16); }
INLINE void store_as(void *to, long at, vec x, int bf16) { store_some(to, at, x, LANES, bf16); }

/* A whole vector in most cases, for which `n` is made a constant. */
INLINE vec load_lanes(const void *from, long at, long n, int bf16) {
    return n == LANES ? load_as(from, at, bf16) : load_some(from, at, n, bf16);
}

INLINE void store_lanes(void *to, long at, vec x, long n, int bf16) {
    if (n == LANES)
        store_as(to, at, x, bf16);
    else
        store_some(to, at, x, n, bf16);
}

/* Zeros up to whole vectors. */
static inline void read_padded(float *to, const void *from, long at, long n, int bf16) {
    long i = 0;
    for (; i + LANES <= n; i += LANES)
        store(to + i, load_as(from, at + i, bf16));
    if (i < n)
        store(to + i, load_some(from, at + i, n - i, bf16));
}

/* From whole vectors. */
static inline void write_row(void *to, long at, const float *from, long n, int bf16) {
    long i = 0;
    for (; i + LANES <= n; i += LANES)
        store_as(to, at + i, load(from + i), bf16);
    if (i < n)
        store_some(to, at + i, load(from + i), n - i, bf16);
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
