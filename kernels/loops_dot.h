/* Private to kernels/, included by simd.c only: the product of quantised weights with one token in
 * integers, where the processor multiplies bytes.
 *
 * The token is coded once for all rows: in each block of 32, x = step X with integers
 * abs(X) < 2^21, kept as three digits of eight bits, X = 65536 hi + 256 mid + lo, so that an error
 * of x is at most 2^-22 of the largest in its block. A weight is w = d c + m with a code c of no
 * more than eight bits, so of a block
 *
 *   sum_i w_i x_i = d step sum_i c_i X_i + m sum_i step X_i.
 *
 * The left sum is exact: the digits' sums of four products follow each other in 32 bits, as
 * 4 * 255 * 2^21 < 2^31. The right one does not depend on the row. */
#ifndef AQ_KERNELS_LOOPS_DOT_H
#define AQ_KERNELS_LOOPS_DOT_H

#ifdef AQ_DOT_BYTES

#include "kernels/loops_dot_token.h"

#define BLOCKS_A_PART 64 /* whose steps are made at once; a multiple of AQ_LANES */

/* d step of n <= AQ_LANES blocks of a row from b on; returns sum and what their m add to it. */
AQ_MELT aq_v some_steps(const coded_format f, const uint8_t *block, int b, int n,
                        const coded_token token, float *out, aq_v sum) {
    const uint8_t *head = block + b * f.block_bytes;
    const aq_v d = aq_v_gather_f16(head, f.block_bytes, n);
    const aq_v m =
        f.has_base ? aq_v_gather_f16(head + 2, f.block_bytes, n) : aq_v_mul(d, aq_v_set1(f.centre));
    aq_v_store(out + b, aq_v_mul(d, aq_v_load(token.step + b)));
    return aq_v_fma(m, aq_v_load(token.sum + b), sum);
}

/* The same of n <= BLOCKS_A_PART blocks. */
AQ_MELT aq_v row_steps(const coded_format f, const uint8_t *block, int n, const coded_token token,
                       float *out, aq_v sum) {
    int b = 0;
    for (; b + AQ_LANES <= n; b += AQ_LANES)
        sum = some_steps(f, block, b, AQ_LANES, token, out, sum);
    return b < n ? some_steps(f, block, b, n - b, token, out, sum) : sum;
}

/* One digit more of a row's total. */
AQ_MELT aq_vi add_digit(const coded_format f, aq_vi total, const aq_vi *codes,
                        const int8_t *digits) {
    total = aq_vi_dot_bytes(total, codes[0], aq_vi_load_bytes((const uint8_t *)digits));
    if (f.code_vectors == 1) return total;
    return aq_vi_dot_bytes(total, codes[1],
                           aq_vi_load_bytes((const uint8_t *)digits + VECTOR_BYTES));
}

/* sum + one step over a row: n blocks. */
AQ_MELT aq_v dot_step(const coded_format f, const uint8_t *block, int n, const int8_t *digits,
                      const float *step, aq_v sum) {
    const int digit = f.code_vectors * VECTOR_BYTES;
    aq_vi codes[2];
    f.codes(block, n, codes);
    aq_vi total = add_digit(f, aq_vi_set1(0), codes, digits);
    total = add_digit(f, aq_vi_left(total, 8), codes, digits + digit);
    total = add_digit(f, aq_vi_left(total, 8), codes, digits + 2 * digit);
    return aq_v_fma(aq_v_from_int(total),
                    f.spread == 4 ? aq_v_load_each4(step) : aq_v_load_each8(step), sum);
}

/* At most BLOCKS_A_PART blocks of R = 4 rows or 1, sum [R]. */
AQ_MELT void dot_part(const coded_format f, const int R, const uint8_t *row, int64_t row_bytes,
                      int n, const coded_token token, aq_v *sum) {
    float step[ROWS_AT_ONCE][BLOCKS_A_PART];
    const int blocks = AQ_LANES / f.spread;
    const int8_t *digits = token.digits;
    aq_v sum0 = row_steps(f, row, n, token, step[0], sum[0]), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    if (R == 4) {
        sum1 = row_steps(f, row + row_bytes, n, token, step[1], sum[1]);
        sum2 = row_steps(f, row + 2 * row_bytes, n, token, step[2], sum[2]);
        sum3 = row_steps(f, row + 3 * row_bytes, n, token, step[3], sum[3]);
    }
    uintptr_t ahead = (uintptr_t)row + AHEAD_BYTES;
    int b = 0;
    for (; b + blocks <= n; b += blocks) {
        for (int line = 0; line < R * blocks * f.block_bytes; line += LINE_BYTES)
            __builtin_prefetch((const void *)(ahead + (uintptr_t)line));
        ahead += (uintptr_t)(R * blocks * f.block_bytes);
        sum0 = dot_step(f, row, blocks, digits, step[0] + b, sum0);
        if (R == 4) {
            sum1 = dot_step(f, row + row_bytes, blocks, digits, step[1] + b, sum1);
            sum2 = dot_step(f, row + 2 * row_bytes, blocks, digits, step[2] + b, sum2);
            sum3 = dot_step(f, row + 3 * row_bytes, blocks, digits, step[3] + b, sum3);
        }
        digits += DIGITS * f.code_vectors * VECTOR_BYTES;
        row += blocks * f.block_bytes;
    }
    if (b < n) {
        sum0 = dot_step(f, row, n - b, digits, step[0] + b, sum0);
        if (R == 4) {
            sum1 = dot_step(f, row + row_bytes, n - b, digits, step[1] + b, sum1);
            sum2 = dot_step(f, row + 2 * row_bytes, n - b, digits, step[2] + b, sum2);
            sum3 = dot_step(f, row + 3 * row_bytes, n - b, digits, step[3] + b, sum3);
        }
    }
    sum[0] = sum0;
    if (R == 4) {
        sum[1] = sum1;
        sum[2] = sum2;
        sum[3] = sum3;
    }
}

AQ_MELT void dot_coded_tile(const coded_format f, const int R, const aq_dot_rows_args *a,
                            coded_token token, int64_t row) {
    const uint8_t *w = a->w + row * a->row_bytes;
    aq_v sum[ROWS_AT_ONCE];
    float total[ROWS_AT_ONCE];
    for (int r = 0; r < ROWS_AT_ONCE; r++)
        sum[r] = aq_v_set1(0.0f);
    for (int64_t left = a->n_in / GROUP; left > 0; left -= BLOCKS_A_PART) {
        const int n = (int)(left < BLOCKS_A_PART ? left : BLOCKS_A_PART);
        dot_part(f, R, w, a->row_bytes, n, token, sum);
        w += BLOCKS_A_PART * f.block_bytes;
        token.digits += DIGITS * BLOCKS_A_PART * GROUP;
        token.step += BLOCKS_A_PART;
        token.sum += BLOCKS_A_PART;
    }
    aq_v_sum4(sum, total);
    for (int r = 0; r < R; r++) {
        float *y = a->y + row + r;
        *y = a->accumulate ? *y + total[r] : total[r];
    }
}

AQ_MELT void dot_coded_as(const coded_format f, const aq_dot_rows_args *a, void *coded) {
    const coded_token token = coded_at(coded, a->n_in);
    int64_t row = 0;
    for (; row + ROWS_AT_ONCE <= a->n_row; row += ROWS_AT_ONCE)
        dot_coded_tile(f, ROWS_AT_ONCE, a, token, row);
    for (; row < a->n_row; row++)
        dot_coded_tile(f, 1, a, token, row);
}

static bool code_token(aq_dtype dtype, const float *x, int64_t n, void *coded) {
    WITH_CODED(dtype, code_as, x, n, coded)
    return is_coded(dtype);
}

static void dot_coded(const aq_dot_rows_args *a, void *coded) {
    WITH_CODED(a->dtype, dot_coded_as, a, coded)
}

#else

static bool code_token(aq_dtype dtype, const float *x, int64_t n, void *coded) {
    (void)dtype;
    (void)x;
    (void)n;
    (void)coded;
    return false;
}

static void dot_coded(const aq_dot_rows_args *a, void *coded) {
    (void)coded;
    dot_rows(a);
}

#endif
#endif
