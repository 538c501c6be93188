/* Activations. */
#pragma once
#include "vectors.h"

/* exp(x) for x <= 0. */
INLINE vec exponential(vec x) { return power_of_2(x * 1.44269504f); }

/* 1 / x, to 2 units in the last place, where x is neither very large nor very small: a division takes 16 cycles. */
INLINE vec inverse(vec x) {
#if LANES == 16
    vec rough = (vec)_mm512_rcp14_ps((__m512)x);
    return rough * (2.0f - x * rough);
#else
    return 1.0f / x;
#endif
}

/* x Phi(x), exact but for 1.2e-6 or 2e-7 of it: erf(x / sqrt(2)) is x P(x^2) / Q(x^2) up to 5.6, and 1 in float32 from
 * there on. P and Q were fitted for the least largest error, 8e-8. */
INLINE vec gelu(vec x) {
    vec bounded = smaller(all(5.6f), larger(all(-5.6f), x)), square = bounded * bounded;
    vec p = all(2.190375976e-10f), q = all(6.396765555e-05f);
    p = p * square - 4.394291611e-08f;
    p = p * square + 6.575534617e-06f;
    p = p * square + 3.511603843e-04f;
    p = p * square + 9.086711390e-03f;
    p = p * square + 7.288884372e-02f;
    p = p * square + 7.978843379e-01f;
    q = q * square + 1.861475440e-03f;
    q = q * square + 2.939546510e-02f;
    q = q * square + 2.580172619e-01f;
    q = q * square + 1.0f;
    vec erf = where(x < -5.6f, all(-1.0f), bounded * p * inverse(q)), half = 0.5f * x;
    return half * erf + half;
}

/* GELU and its slope, for training: x P(x) with P the normal distribution, by P(-a) = exp(-a^2 / 2) M(a) for a >= 0.
 *
 * M is smooth and goes down from 1/2, here a polynomial in 1 / (1 + 0.21 a), to 1.2e-8 of its value for all a whose
 * exponential is no zero. So small values left of 0 are exact to the last bits too, where 1 + erf(x) cancels. */
typedef struct {
    vec value, slope;
} Gelu;

INLINE Gelu gelu_and_slope(vec x) {
    vec exponential = power_of_2(x * x * -0.72134752f); /* exp(-x^2 / 2) */
    vec t = 1.0f / (1.0f + 0.21f * (vec)((uvec)x & 0x7fffffff));
    vec p = all(-0.0724207999f);
    p = p * t + 0.287365913f;
    p = p * t - 0.338235668f;
    p = p * t + 0.358811187f;
    p = p * t - 0.100685385f;
    p = p * t + 0.127899601f;
    p = p * t + 0.0683680953f;
    p = p * t + 0.0851934878f;
    p = p * t + 0.083703563f;
    vec left = exponential * p * t, share = where(x < 0.0f, left, 1.0f - left);
    return (Gelu){x * share, share + x * exponential * 0.398942280f};
}

INLINE vec silu(vec x) {
    vec size = where(x < 0, -x, x), e = exponential(-size); /* e^-|x| */
    return x * where(x < 0, e, all(1.0f)) / (1.0f + e);
}
