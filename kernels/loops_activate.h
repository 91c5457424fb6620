/* Private to kernels/, included by simd.c only: activations. activate.h says what each is. */
#ifndef AQ_KERNELS_LOOPS_ACTIVATE_H
#define AQ_KERNELS_LOOPS_ACTIVATE_H

#include "kernels/activate.h"
#include "kernels/loops_vector.h"

static inline aq_v minus_abs(aq_v x) {
    return aq_v_where_negative(x, x, aq_v_sub(aq_v_set1(0.0f), x));
}

/* x / (1 + exp(-a)), where a has the sign of x. With e = exp(-abs(a)) nothing overflows: below 0 it
 * is x e / (1 + e). */
static inline aq_v logistic_times(aq_v x, aq_v a) {
    const aq_v e = aq_v_exp(minus_abs(a));
    const aq_v top = aq_v_where_negative(x, aq_v_mul(x, e), x);
    return aq_v_div(top, aq_v_add(aq_v_set1(1.0f), e));
}

/* x Phi(x). With z = abs(x) / sqrt(2) and t = 1 / (1 + 0.38 z), erfc(z) = t p(t) exp(-z^2), the
 * form of Abramowitz and Stegun 1964, 7.1.26; Phi(x) is half of it below 0, and 1 minus that above.
 * p interpolates erfc(z) exp(z^2) / t in 9 Chebyshev points of 0 <= z <= 10.3 and is within 3e-8 of
 * it, relative; beyond, exp(-z^2) is 0. */
static inline aq_v gelu(aq_v x) {
    const aq_v one = aq_v_set1(1.0f), half = aq_v_set1(0.5f);
    const aq_v slope = aq_v_set1(-0.38f * 0.70710678f);
    const aq_v t = aq_v_div(one, aq_v_fma(minus_abs(x), slope, one));
    aq_v p = aq_v_set1(0.0597345941f);
    p = aq_v_fma(p, t, aq_v_set1(-0.266088942f));
    p = aq_v_fma(p, t, aq_v_set1(0.371877013f));
    p = aq_v_fma(p, t, aq_v_set1(-0.170781961f));
    p = aq_v_fma(p, t, aq_v_set1(0.236555053f));
    p = aq_v_fma(p, t, aq_v_set1(0.135839585f));
    p = aq_v_fma(p, t, aq_v_set1(0.204629932f));
    p = aq_v_fma(p, t, aq_v_set1(0.213817852f));
    p = aq_v_fma(p, t, aq_v_set1(0.214416895f));
    const aq_v e = aq_v_exp(aq_v_mul(aq_v_mul(x, aq_v_set1(-0.5f)), x));
    const aq_v tail = aq_v_mul(aq_v_mul(half, aq_v_mul(t, p)), e);
    return aq_v_mul(x, aq_v_where_negative(x, tail, aq_v_sub(one, tail)));
}

/* (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)). */
static inline aq_v gelu_tanh(aq_v x) {
    const aq_v linear = aq_v_set1(1.59576912f), cubic = aq_v_set1(0.0713548163f);
    return logistic_times(x, aq_v_mul(x, aq_v_fma(aq_v_mul(x, x), cubic, linear)));
}

AQ_INLINE aq_v activation(aq_activate_kind kind, aq_v x) {
    switch (kind) {
    case AQ_ACTIVATE_GELU:
        return gelu(x);
    case AQ_ACTIVATE_GELU_TANH:
        return gelu_tanh(x);
    case AQ_ACTIVATE_RELU:
        return aq_v_max(aq_v_set1(0.0f), x);
    case AQ_ACTIVATE_SILU:
        break;
    }
    return logistic_times(x, x);
}

AQ_INLINE void activate_as(aq_activate_kind kind, const aq_activate_args *args) {
    const float *x = args->x, *up = args->up;
    const int64_t n = args->n;
    float *y = args->y;
    int64_t i = 0;
    for (; i + AQ_LANES <= n; i += AQ_LANES) {
        const aq_v a = activation(kind, aq_v_load(x + i));
        aq_v_store(y + i, up ? aq_v_mul(a, aq_v_load(up + i)) : a);
    }
    if (i < n) {
        const aq_v a = activation(kind, aq_v_load_part(x + i, n - i));
        aq_v_store_part(y + i, up ? aq_v_mul(a, aq_v_load_part(up + i, n - i)) : a, n - i);
    }
}

static void activate(const aq_activate_args *args) {
    switch (args->kind) {
    case AQ_ACTIVATE_SILU:
        activate_as(AQ_ACTIVATE_SILU, args);
        break;
    case AQ_ACTIVATE_GELU:
        activate_as(AQ_ACTIVATE_GELU, args);
        break;
    case AQ_ACTIVATE_GELU_TANH:
        activate_as(AQ_ACTIVATE_GELU_TANH, args);
        break;
    case AQ_ACTIVATE_RELU:
        activate_as(AQ_ACTIVATE_RELU, args);
        break;
    }
}

#endif
