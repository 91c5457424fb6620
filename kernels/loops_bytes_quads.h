/* Private to kernels/, included by loops_bytes_digits.h only: factors as digits, and their product
 * with quads of codes.
 *
 * The factors of a row of the result become whole numbers of three digits, which keeps as many bits
 * as a float has; the codes of four rows (or places of a row) are brought together in a quad, and
 * one instruction adds four products of a digit. */
#ifndef AQ_KERNELS_LOOPS_BYTES_QUADS_H
#define AQ_KERNELS_LOOPS_BYTES_QUADS_H

#include "kernels/kv_append.h"
#include "kernels/loops_vector.h"

/* Rows of the result at once, and codes that a row is folded for at a time: sums of digits stay
 * below 2^24, exact as floats. */
#define BYTE_ROWS 4
#define BYTE_FOLD 256

#define DIGITS 3
/* 127 (1 + 256 + 65536), less room for roundings. */
#define DIGITS_TOP 8355700.0f

/* Factors are rounded to 2^-23 of this at least: it has an inverse. */
#define LEAST_TOP 1e-30f

/* Results of a product at once. */
#define QUAD_OUT (2 * AQ_LANES)

/* A part of a product: rows row, row + 1, ... of the result, codes from .. from + n. */
typedef struct {
    int row, from, n;
    int32_t digits[BYTE_ROWS][BYTE_FOLD]; /* digit d of the factors of quad j at [4 j + d] */
    float scale[BYTE_ROWS], shared[BYTE_ROWS];
} bytes_part;

/* Takes n factors a[j] step[j] as digits; shared = sum_j a[j] low[j]. */
AQ_INLINE void fold_digits(const float *a, const float *step, const float *low, int n,
                           int32_t *digits, float *scale, float *shared) {
    float factor[BYTE_FOLD];
    aq_v most = aq_v_set1(0.0f), sum = aq_v_set1(0.0f);
    int j = 0;
    for (; j < n; j += AQ_LANES) {
        const bool whole = j + AQ_LANES <= n;
        const aq_v x = whole ? aq_v_load(a + j) : aq_v_load_part(a + j, n - j);
        const aq_v s = whole ? aq_v_load(step + j) : aq_v_load_part(step + j, n - j);
        const aq_v l = whole ? aq_v_load(low + j) : aq_v_load_part(low + j, n - j);
        const aq_v f = aq_v_mul(x, s);
        aq_v_store(factor + j, f);
        most = aq_v_max(most, aq_v_abs(f));
        sum = aq_v_fma(x, l, sum);
    }
    const float largest = aq_v_largest(most), top = largest > LEAST_TOP ? largest : LEAST_TOP;
    const aq_v inverse = aq_v_set1(DIGITS_TOP / top);
    for (int i = 0; i < j; i += AQ_LANES)
        aq_vi_store(digits + i,
                    aq_vi_digits(aq_vi_round(aq_v_mul(aq_v_load(factor + i), inverse))));
    *scale = top / DIGITS_TOP;
    *shared = aq_v_sum(sum);
}

AQ_INLINE void fold_rows(const float *a, int64_t a_stride, const float *step, const float *low,
                         int n_row, bytes_part *part) {
    for (int r = 0; r < n_row; r++)
        fold_digits(a + (part->row + r) * a_stride + part->from, step + part->from,
                    low + part->from, part->n, part->digits[r], &part->scale[r], &part->shared[r]);
}

/* QUAD_OUT results of each row of a part. */
typedef struct {
    const int32_t *level; /* quad j of their codes at level + j stride */
    int stride;
    const uint8_t *next; /* asked for on the way, a line a quad; or NULL */
    const float *keep;   /* [n_row] or NULL, as in aq_mix_bytes_args */
    float *c;            /* of the first row */
    int64_t c_stride;
    int n; /* results that are stored */
} quad_block;

/* out[0 .. n) = keep out + the lanes of total; keep 0: out is not read. */
AQ_INLINE void add_part(float *out, int n, float keep, aq_v total) {
    const bool whole = n >= AQ_LANES;
    if (n <= 0) return;
    if (keep != 0.0f)
        total = aq_v_fma(aq_v_set1(keep), whole ? aq_v_load(out) : aq_v_load_part(out, n), total);
    if (whole)
        aq_v_store(out, total);
    else
        aq_v_store_part(out, total, n);
}

/* Memory is asked for lines in rising order, which lets the processor's own prefetcher run ahead;
 * for half of them while codes are brought together: it drops what it is asked for all at once.
 *
 * c[r, i] = keep[r] c[r, i] + shared[r] + scale[r] sum_j factor[r, j] code[j, i]. */
AQ_INLINE void quad_product(const bytes_part *part, const quad_block *b, int n_row) {
    const uint8_t *next = b->next ? b->next : (const uint8_t *)b->level; /* saves a branch */
    aq_vi sum[BYTE_ROWS][DIGITS][2];
    for (int r = 0; r < n_row; r++)
        for (int d = 0; d < DIGITS; d++)
            sum[r][d][0] = sum[r][d][1] = aq_vi_set1(0);
    for (int j = 0; 4 * j < part->n; j++) {
        const aq_vi code0 = aq_vi_load(b->level + j * b->stride);
        const aq_vi code1 = aq_vi_load(b->level + j * b->stride + AQ_LANES);
        ask_ahead(next, j * AQ_LINE_BYTES, AQ_LINE_BYTES);
        for (int r = 0; r < n_row; r++)
            for (int d = 0; d < DIGITS; d++) {
                const aq_vi digit = aq_vi_set1(part->digits[r][4 * j + d]);
                sum[r][d][0] = aq_vi_dot_bytes(sum[r][d][0], code0, digit);
                sum[r][d][1] = aq_vi_dot_bytes(sum[r][d][1], code1, digit);
            }
    }
    for (int r = 0; r < n_row; r++)
        for (int v = 0; v < 2; v++) {
            const float keep = part->from > 0 ? 1.0f : b->keep ? b->keep[r] : 0.0f;
            aq_v whole = aq_v_from_int(sum[r][DIGITS - 1][v]);
            for (int d = DIGITS - 2; d >= 0; d--)
                whole = aq_v_fma(whole, aq_v_set1(256.0f), aq_v_from_int(sum[r][d][v]));
            whole = aq_v_fma(whole, aq_v_set1(part->scale[r]), aq_v_set1(part->shared[r]));
            add_part(b->c + r * b->c_stride + v * AQ_LANES, b->n - v * AQ_LANES, keep, whole);
        }
}

#endif
