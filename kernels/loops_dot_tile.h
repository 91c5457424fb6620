/* Private to kernels/, included by loops_dot.h only: the product of a few rows with a few tokens.
 */
#ifndef AQ_KERNELS_LOOPS_DOT_TILE_H
#define AQ_KERNELS_LOOPS_DOT_TILE_H

#include "kernels/loops_dot_token.h"

#define TILE_SUMS 8 /* R T of a tile at most */

/* `total` and one digit more of it. */
AQ_MELT aq_vi add_digit(const coded_format f, aq_vi total, const aq_vi *codes,
                        const int8_t *digits) {
    const aq_vi first = aq_vi_load_bytes((const uint8_t *)digits);
    if (f.code_vectors == 1) return aq_vi_dot_bytes(total, codes[0], first);
    return aq_vi_dot_bytes2(total, codes, first,
                            aq_vi_load_bytes((const uint8_t *)digits + VECTOR_BYTES));
}

/* sum + one total, its codes and digits and the scales of its lanes given. */
AQ_MELT aq_v add_total(const coded_format f, const aq_vi *codes, const int8_t *digits,
                       const float *step, aq_v sum) {
    const int digit = f.code_vectors * VECTOR_BYTES;
    aq_vi total = add_digit(f, aq_vi_set1(0), codes, digits);
    total = add_digit(f, aq_vi_left(total, 8), codes, digits + digit);
    total = add_digit(f, aq_vi_left(total, 8), codes, digits + 2 * digit);
    const aq_v each = f.spread == 4 ? aq_v_load_each4(step) : aq_v_load_each8(step, f.apart);
    return aq_v_fma(aq_v_from_int(total), each, sum);
}

/* sum[t] + one step over a row: n groups, of which the first is `group` in the part. */
AQ_MELT void dot_step(const coded_format f, const int T, const uint8_t *block, int n, int group,
                      const coded_token *token, const float (*step)[STEPS_A_PART], aq_v *sum) {
#pragma GCC unroll 8
    for (int k = 0; k < f.totals; k++) {
        const int64_t digit = (group * GROUP + k * f.code_vectors * VECTOR_BYTES) * DIGITS;
        const int scale = group * f.group_scales + first_scale(f, k);
        aq_vi codes[2];
        f.codes(block, k, n, codes);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++)
            sum[t] = add_total(f, codes, token[t].digits + digit, step[t] + scale, sum[t]);
    }
}

/* At most GROUPS_A_PART groups of R rows with T tokens. Memory is asked for what follows these R
 * rows, in the order in which it lies there: of the rows themselves, which are gone through side by
 * side, the last would come too late. */
AQ_MELT void dot_part(const coded_format f, const int R, const int T, const uint8_t *row,
                      int64_t row_bytes, int n, const coded_token *token,
                      aq_v sum[ROWS_AT_ONCE][TOKS_AT_ONCE]) {
    _Alignas(64) float step[TILE_SUMS][STEPS_A_PART]; /* [R, T] */
    const int groups = step_groups(f), step_bytes = groups / f.block_groups * f.block_bytes;
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
        f.steps(f, T, row + r * row_bytes, n, token, step + r * T, sum[r]);
    uintptr_t ahead = (uintptr_t)(row + R * row_bytes) + AHEAD_BYTES;
    int g = 0;
    for (; g + groups <= n; g += groups, row += step_bytes) {
        for (int line = 0; line < R * step_bytes; line += LINE_BYTES)
            __builtin_prefetch((const void *)(ahead + (uintptr_t)line));
        ahead += (uintptr_t)(R * step_bytes);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
            dot_step(f, T, row + r * row_bytes, groups, g, token, step + r * T, sum[r]);
    }
    if (g == n) return;
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
        dot_step(f, T, row + r * row_bytes, n - g, g, token, step + r * T, sum[r]);
}

/* The sums of R rows of one token. */
AQ_MELT void write_sums(const int R, const aq_v *sum, bool accumulate, float *y) {
    float total[ROWS_AT_ONCE];
    aq_v_sum4(sum, total);
    for (int r = 0; r < R; r++)
        y[r] = accumulate ? y[r] + total[r] : total[r];
}

/* R rows from `row` on with T tokens from `tok` on. */
AQ_MELT void dot_coded_tile(const coded_format f, const int R, const int T,
                            const aq_dot_rows_args *a, char *coded, int64_t row, int64_t tok) {
    const uint8_t *w = a->w + row * a->row_bytes;
    coded_token token[TOKS_AT_ONCE];
    aq_v sum[ROWS_AT_ONCE][TOKS_AT_ONCE];
#pragma GCC unroll 4
    for (int t = 0; t < T; t++)
        token[t] = coded_at(f, coded + (tok + t) * AQ_CODED_BYTES(a->n_in), a->n_in);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS_AT_ONCE; r++)
#pragma GCC unroll 4
        for (int t = 0; t < T; t++)
            sum[r][t] = aq_v_set1(0.0f);
    for (int64_t left = a->n_in / GROUP; left > 0; left -= GROUPS_A_PART) {
        const int n = (int)(left < GROUPS_A_PART ? left : GROUPS_A_PART);
        dot_part(f, R, T, w, a->row_bytes, n, token, sum);
        w += GROUPS_A_PART / f.block_groups * f.block_bytes;
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            token[t].digits += DIGITS * GROUPS_A_PART * GROUP;
            token[t].step += GROUPS_A_PART * f.group_scales;
            token[t].sum += GROUPS_A_PART * f.group_scales;
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
        const aq_v rows[ROWS_AT_ONCE] = {sum[0][t], sum[1][t], sum[2][t], sum[3][t]};
        write_sums(R, rows, a->accumulate, a->y + (tok + t) * a->y_stride + row);
    }
}

/* Rows [begin, end) with T tokens from `tok` on. */
AQ_MELT void dot_coded_rows(const coded_format f, const int R, const int T,
                            const aq_dot_rows_args *a, char *coded, int64_t begin, int64_t end,
                            int64_t tok) {
    for (; begin + R <= end; begin += R)
        dot_coded_tile(f, R, T, a, coded, begin, tok);
    for (; begin < end; begin++)
        dot_coded_tile(f, 1, T, a, coded, begin, tok);
}

#endif
