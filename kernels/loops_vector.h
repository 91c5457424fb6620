/* Private to kernels/, included by simd.c only: exponential, and loops over plain vectors. */
#ifndef AQ_KERNELS_LOOPS_VECTOR_H
#define AQ_KERNELS_LOOPS_VECTOR_H

#include <string.h>

/* Compiled with constant arguments wherever it is called. */
#define AQ_INLINE static inline __attribute__((always_inline))

#define AQ_LINE_BYTES 64

/* Asks memory for what lies at `next`, if anything, to come to the second-level cache: a core has
 * too few lines on their way into the first to keep up with the products. */
AQ_INLINE void ask_ahead(const void *next, int64_t at, int bytes) {
    if (!next) return;
    for (int line = 0; line < bytes; line += AQ_LINE_BYTES)
        __builtin_prefetch((const char *)next + at + line, 0, 2);
}

/* The first n < AQ_LANES floats at p, zeros behind them; and the same for a store. */
static inline aq_v aq_v_load_part(const float *p, int64_t n) {
    float lane[AQ_LANES] = {0};
    memcpy(lane, p, (size_t)n * sizeof *p);
    return aq_v_load(lane);
}

static inline void aq_v_store_part(float *p, aq_v a, int64_t n) {
    float lane[AQ_LANES];
    aq_v_store(lane, a);
    memcpy(p, lane, (size_t)n * sizeof *p);
}

/* 2^n for n in -126 .. 127. */
static inline aq_v aq_v_power2(aq_vi n) {
    return aq_v_from_bits(aq_vi_left(aq_vi_add(n, aq_vi_set1(127)), 23));
}

/* exp(x) = 2^n p: returns p. NaN stays.
 *
 * x = n ln 2 + r with abs(r) <= ln(2)/2, exp(x) = 2^n exp(r). ln 2 is split in two so that n times
 * the leading part is exact (Cody and Waite 1980); exp(r) is its Taylor polynomial of degree 7,
 * whose remainder r^8/8! is below 6e-9. */
static inline aq_v aq_v_exp_part(aq_v x, aq_vi *n) {
    *n = aq_vi_round(aq_v_mul(x, aq_v_set1(1.44269504f)));
    const aq_v nf = aq_v_from_int(*n);
    aq_v r = aq_v_fma(nf, aq_v_set1(-0.693359375f), x);
    r = aq_v_fma(nf, aq_v_set1(2.12194440e-4f), r);
    aq_v p = aq_v_set1(1.0f / 5040);
    p = aq_v_fma(p, r, aq_v_set1(1.0f / 720));
    p = aq_v_fma(p, r, aq_v_set1(1.0f / 120));
    p = aq_v_fma(p, r, aq_v_set1(1.0f / 24));
    p = aq_v_fma(p, r, aq_v_set1(1.0f / 6));
    p = aq_v_fma(p, r, aq_v_set1(0.5f));
    p = aq_v_fma(aq_v_mul(p, r), r, r);
    return aq_v_add(p, aq_v_set1(1.0f));
}

/* exp(x) for every float: overflow gives inf, underflow rounds to subnormals and 0, NaN stays. 2^n
 * is applied in two steps, as n reaches -150. */
static inline aq_v aq_v_exp(aq_v x) {
    aq_vi n;
    x = aq_v_max(aq_v_set1(-105.0f), x);
    x = aq_v_min(aq_v_set1(89.0f), x);
    const aq_v p = aq_v_exp_part(x, &n);
    const aq_vi n1 = aq_vi_half(n);
    return aq_v_mul(aq_v_mul(p, aq_v_power2(n1)), aq_v_power2(aq_vi_sub(n, n1)));
}

/* exp(x) for x <= 0, but 0 where it is below 2e-38: results that are no normal numbers, as of every
 * token that is left out by a score of -inf, take the processor a hundred cycles. 2^n is normal. */
static inline aq_v aq_v_exp_normal(aq_v x) {
    aq_vi n;
    const aq_v p = aq_v_exp_part(aq_v_max(aq_v_set1(-87.0f), x), &n);
    return aq_v_keep_from(aq_v_mul(p, aq_v_power2(n)), aq_v_set1(2e-38f));
}

static float exp_shifted(const float *x, float shift, int64_t n, float *out) {
    const aq_v s = aq_v_set1(shift);
    aq_v total = aq_v_set1(0.0f);
    int64_t i = 0;
    for (; i + AQ_LANES <= n; i += AQ_LANES) {
        const aq_v e = aq_v_exp(aq_v_sub(aq_v_load(x + i), s));
        aq_v_store(out + i, e);
        total = aq_v_add(total, e);
    }
    float sum = aq_v_sum(total);
    if (i < n) {
        float lane[AQ_LANES];
        aq_v_store(lane, aq_v_exp(aq_v_sub(aq_v_load_part(x + i, n - i), s)));
        for (int64_t j = 0; i + j < n; j++) {
            out[i + j] = lane[j];
            sum += lane[j];
        }
    }
    return sum;
}

static inline aq_v sum_of_four(const aq_v *sum) {
    return aq_v_add(aq_v_add(sum[0], sum[1]), aq_v_add(sum[2], sum[3]));
}

static float sum_all(const float *x, int64_t n) {
    aq_v sum[4] = {aq_v_set1(0.0f), aq_v_set1(0.0f), aq_v_set1(0.0f), aq_v_set1(0.0f)};
    int64_t i = 0;
    for (; i + 4 * AQ_LANES <= n; i += 4 * AQ_LANES)
        for (int j = 0; j < 4; j++)
            sum[j] = aq_v_add(sum[j], aq_v_load(x + i + AQ_LANES * j));
    for (; i < n; i += AQ_LANES)
        sum[0] =
            aq_v_add(sum[0], i + AQ_LANES <= n ? aq_v_load(x + i) : aq_v_load_part(x + i, n - i));
    return aq_v_sum(sum_of_four(sum));
}

static float sum_squares(const float *x, float shift, int64_t n) {
    aq_v sum[4] = {aq_v_set1(0.0f), aq_v_set1(0.0f), aq_v_set1(0.0f), aq_v_set1(0.0f)};
    const aq_v s = aq_v_set1(shift);
    int64_t i = 0;
    for (; i + 4 * AQ_LANES <= n; i += 4 * AQ_LANES)
        for (int j = 0; j < 4; j++) {
            const aq_v a = aq_v_sub(aq_v_load(x + i + AQ_LANES * j), s);
            sum[j] = aq_v_fma(a, a, sum[j]);
        }
    for (; i + AQ_LANES <= n; i += AQ_LANES) {
        const aq_v a = aq_v_sub(aq_v_load(x + i), s);
        sum[0] = aq_v_fma(a, a, sum[0]);
    }
    if (i < n) {
        float lane[AQ_LANES] = {0};
        for (int64_t j = 0; i + j < n; j++)
            lane[j] = x[i + j] - shift;
        const aq_v a = aq_v_load(lane);
        sum[0] = aq_v_fma(a, a, sum[0]);
    }
    return aq_v_sum(sum_of_four(sum));
}

static void scale_by(const aq_scale_by_args *args) {
    const float *x = args->x, *w = args->w, *b = args->b;
    const aq_v shift = aq_v_set1(args->shift), scale = aq_v_set1(args->scale);
    const int64_t n = args->n;
    const bool accumulate = args->accumulate;
    float *y = args->y;
    int64_t i = 0;
    for (; i + AQ_LANES <= n; i += AQ_LANES) {
        const aq_v shifted = aq_v_sub(aq_v_load(x + i), shift);
        aq_v a = aq_v_mul(aq_v_mul(shifted, scale), aq_v_load(w + i));
        if (b) a = aq_v_add(a, aq_v_load(b + i));
        if (accumulate) a = aq_v_add(a, aq_v_load(y + i));
        aq_v_store(y + i, a);
    }
    for (; i < n; i++) {
        float a = (x[i] - args->shift) * args->scale * w[i];
        if (b) a += b[i];
        y[i] = accumulate ? y[i] + a : a;
    }
}

static void add_scaled(const float *x, float scale, int64_t n, float *y) {
    const aq_v s = aq_v_set1(scale);
    int64_t i = 0;
    for (; i + AQ_LANES <= n; i += AQ_LANES)
        aq_v_store(y + i, aq_v_add(aq_v_load(y + i), aq_v_mul(aq_v_load(x + i), s)));
    for (; i < n; i++)
        y[i] += x[i] * scale;
}

static void rotate(float *x, const float *cos, const float *sin, int64_t half) {
    int64_t i = 0;
    for (; i + AQ_LANES <= half; i += AQ_LANES) {
        const aq_v a = aq_v_load(x + i), b = aq_v_load(x + half + i);
        const aq_v c = aq_v_load(cos + i), s = aq_v_load(sin + i);
        aq_v_store(x + i, aq_v_sub(aq_v_mul(a, c), aq_v_mul(b, s)));
        aq_v_store(x + half + i, aq_v_add(aq_v_mul(b, c), aq_v_mul(a, s)));
    }
    for (; i < half; i++) {
        const float a = x[i], b = x[half + i];
        x[i] = a * cos[i] - b * sin[i];
        x[half + i] = b * cos[i] + a * sin[i];
    }
}

#endif
