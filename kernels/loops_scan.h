/* Private to kernels/, included by simd.c only: scores from the codes of a selector. simd.h says
 * what each does. As loops_levels.h has them, a score is a sum over the columns that all tokens of
 * a tile share, and one of q[c] unit[c] times levels, which are bytes. */
#ifndef AQ_KERNELS_LOOPS_SCAN_H
#define AQ_KERNELS_LOOPS_SCAN_H

#include "kernels/loops_levels.h"

#ifdef AQ_DOT_BYTES

/* Whole numbers of three digits; the largest is 127 (1 + 256 + 65536), less room for roundings. */
#define TILE_VECTORS (AQ_TILE / AQ_LANES)
#define DIGITS       3
#define TOP          8355700.0f

/* The factors of a row as whole numbers times *scale: those of a quad in digits[4 quad + d], a byte
 * a column. Returns the sum that all tokens share. */
AQ_INLINE float fold_row(const float *q, const float *unit, const float *origin, int n,
                         int32_t *digits, float *scale) {
    aq_v most = aq_v_set1(0.0f), shared = aq_v_set1(0.0f);
    for (int i = 0; i < n; i += AQ_LANES) {
        const aq_v factor = aq_v_mul(aq_v_load(q + i), aq_v_load(unit + i));
        most = aq_v_max(most, aq_v_max(factor, aq_v_sub(aq_v_set1(0.0f), factor)));
        shared = aq_v_fma(aq_v_load(q + i), aq_v_load(origin + i), shared);
    }
    const float largest = aq_v_largest(most);
    const aq_v inverse = aq_v_set1(largest > 0.0f ? TOP / largest : 0.0f);
    for (int i = 0; i < n; i += AQ_LANES) {
        const aq_v factor = aq_v_mul(aq_v_load(q + i), aq_v_load(unit + i));
        aq_vi_store(digits + i, aq_vi_digits(aq_vi_round(aq_v_mul(factor, inverse))));
    }
    *scale = largest / TOP;
    return aq_v_sum(shared);
}

/* Scores of one row. All tokens of the tile stay in registers, times three digits. */
AQ_INLINE void dot_row_levels(const aq_scan_args *a, const int32_t *level, const int32_t *digits,
                              float shared, float scale, float *out) {
    aq_vi sum[DIGITS][TILE_VECTORS];
    for (int d = 0; d < DIGITS; d++)
        for (int v = 0; v < TILE_VECTORS; v++)
            sum[d][v] = aq_vi_set1(0);
    for (int64_t j = 0; j < a->n_quad; j++) {
        const int32_t *digit = digits + 4 * a->quads[j];
        for (int v = 0; v < TILE_VECTORS; v++) {
            const aq_vi levels = aq_vi_load(level + AQ_TILE * j + AQ_LANES * v);
            for (int d = 0; d < DIGITS; d++)
                sum[d][v] = aq_vi_dot_bytes(sum[d][v], levels, aq_vi_set1(digit[d]));
        }
    }
    for (int v = 0; v < TILE_VECTORS; v++) {
        aq_v z = aq_v_from_int(sum[DIGITS - 1][v]);
        for (int d = DIGITS - 2; d >= 0; d--)
            z = aq_v_fma(z, aq_v_set1(256.0f), aq_v_from_int(sum[d][v]));
        aq_v_store(out + AQ_LANES * v, aq_v_fma(z, aq_v_set1(scale), aq_v_set1(shared)));
    }
}

static void dot_levels(const aq_scan_args *a, const int32_t *level, const float *unit,
                       const float *origin, float *factors) {
    int32_t *digits = (int32_t *)factors;
    for (int r = 0; r < a->n_row; r++) {
        float scale;
        const float shared =
            fold_row(a->q + (int64_t)r * a->n_place, unit, origin, a->n_place, digits, &scale);
        dot_row_levels(a, level, digits, shared, scale, a->out + r * a->out_stride);
    }
}

#else

/* The factors of a row; returns the sum that all tokens share. */
AQ_INLINE float fold_row(const float *q, const float *unit, const float *origin, int n,
                         float *factors) {
    aq_v shared = aq_v_set1(0.0f);
    for (int i = 0; i < n; i += AQ_LANES) {
        aq_v_store(factors + i, aq_v_mul(aq_v_load(q + i), aq_v_load(unit + i)));
        shared = aq_v_fma(aq_v_load(q + i), aq_v_load(origin + i), shared);
    }
    return aq_v_sum(shared);
}

/* Scores of n_row rows, out[r, ...]. */
AQ_INLINE void dot_rows_levels(const aq_scan_args *a, const int32_t *level, const float *factors,
                               const float *shared, float *out, int n_row) {
    const int64_t n = a->n_place;
    for (int s = 0; s < AQ_TILE; s += 2 * AQ_LANES) {
        aq_v sum[AQ_SCAN_ROWS][2];
        for (int r = 0; r < n_row; r++)
            sum[r][0] = sum[r][1] = aq_v_set1(shared[r]);
        for (int64_t j = 0; j < a->n_quad; j++) {
            const aq_vi byte = aq_vi_set1(255);
            const aq_vi low = aq_vi_load(level + AQ_TILE * j + s);
            const aq_vi high = aq_vi_load(level + AQ_TILE * j + s + AQ_LANES);
            for (int k = 0; k < 4; k++) {
                const aq_v x = aq_v_from_int(aq_vi_and(aq_vi_right(low, 8 * k), byte));
                const aq_v y = aq_v_from_int(aq_vi_and(aq_vi_right(high, 8 * k), byte));
                for (int r = 0; r < n_row; r++) {
                    const aq_v factor = aq_v_set1(factors[r * n + 4 * a->quads[j] + k]);
                    sum[r][0] = aq_v_fma(factor, x, sum[r][0]);
                    sum[r][1] = aq_v_fma(factor, y, sum[r][1]);
                }
            }
        }
        for (int r = 0; r < n_row; r++)
            for (int v = 0; v < 2; v++)
                aq_v_store(out + r * a->out_stride + s + v * AQ_LANES, sum[r][v]);
    }
}

static void dot_levels(const aq_scan_args *a, const int32_t *level, const float *unit,
                       const float *origin, float *factors) {
    for (int row = 0; row < a->n_row; row += AQ_SCAN_ROWS) {
        const int n_row = a->n_row - row < AQ_SCAN_ROWS ? a->n_row - row : AQ_SCAN_ROWS;
        const float *q = a->q + (int64_t)row * a->n_place;
        float *out = a->out + row * a->out_stride, shared[AQ_SCAN_ROWS];
        for (int r = 0; r < n_row; r++)
            shared[r] = fold_row(q + (int64_t)r * a->n_place, unit, origin, a->n_place,
                                 factors + (int64_t)r * a->n_place);
        switch (n_row) {
        case 1:
            dot_rows_levels(a, level, factors, shared, out, 1);
            break;
        case 2:
            dot_rows_levels(a, level, factors, shared, out, 2);
            break;
        case 3:
            dot_rows_levels(a, level, factors, shared, out, 3);
            break;
        case 4:
            dot_rows_levels(a, level, factors, shared, out, 4);
            break;
        case 5:
            dot_rows_levels(a, level, factors, shared, out, 5);
            break;
        default:
            dot_rows_levels(a, level, factors, shared, out, 6);
            break;
        }
    }
}

#endif

static void scan_codes(const aq_scan_args *a) {
    float *unit = a->work, *origin = unit + a->n_place, *factors = origin + a->n_place;
    int32_t *level = (int32_t *)(factors + AQ_SCAN_ROWS * a->n_place);
    open_codes(a, unit, origin, level);
    dot_levels(a, level, unit, origin, factors);
}

#endif
