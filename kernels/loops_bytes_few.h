/* Private to kernels/, included by loops_bytes.h only: products along rows of bytes whose codes
 * become numbers on the way, once for all rows of the result. For few rows of codes, such as the
 * tokens chosen of a tile, this is quicker than to fold the factors with the scales of the tile and
 * to bring codes together for products of bytes. */
#ifndef AQ_KERNELS_LOOPS_BYTES_FEW_H
#define AQ_KERNELS_LOOPS_BYTES_FEW_H

#include "kernels/loops_vector.h"

/* Tokens and rows of the result at once: their sums stay in registers. */
#define FEW_TOKENS 4
#define FEW_ROWS   (AQ_LANES >= 16 ? 4 : 2)

typedef struct {
    int row, token;
} few_place;

/* Adds the products of places i .. i + AQ_LANES of the rows of codes, or of the n that are left. */
AQ_INLINE void add_few(const aq_dot_bytes_args *args, few_place at, int i, int n, int n_row,
                       int n_token, aq_v sum[FEW_ROWS][FEW_TOKENS]) {
    const bool whole = n >= AQ_LANES;
    const float *x = args->x + at.row * args->x_stride + i;
    const aq_v step = whole ? aq_v_load(args->step + i) : aq_v_load_part(args->step + i, n);
    const aq_v low = whole ? aq_v_load(args->low + i) : aq_v_load_part(args->low + i, n);
    aq_v key[FEW_TOKENS];
    for (int j = 0; j < n_token; j++) {
        uint8_t part[AQ_LANES] = {0};
        const uint8_t *codes = args->rows[at.token + j] + i;
        if (!whole) codes = memcpy(part, codes, (size_t)n);
        key[j] = aq_v_fma(step, aq_v_from_int(aq_vi_load_u8(codes)), low);
    }
    for (int r = 0; r < n_row; r++) {
        const float *from = x + r * args->x_stride;
        const aq_v factor = whole ? aq_v_load(from) : aq_v_load_part(from, n);
        for (int j = 0; j < n_token; j++)
            sum[r][j] = aq_v_fma(factor, key[j], sum[r][j]);
    }
}

AQ_INLINE void dot_few_block(const aq_dot_bytes_args *args, few_place at, int n_row, int n_token) {
    aq_v sum[FEW_ROWS][FEW_TOKENS];
    for (int r = 0; r < n_row; r++)
        for (int j = 0; j < FEW_TOKENS; j++)
            sum[r][j] = aq_v_set1(0.0f);
    int i = 0;
    for (; i + AQ_LANES <= args->n_in; i += AQ_LANES)
        add_few(args, at, i, AQ_LANES, n_row, n_token, sum);
    if (i < args->n_in) add_few(args, at, i, args->n_in - i, n_row, n_token, sum);
    for (int r = 0; r < n_row; r++) {
        float total[FEW_TOKENS];
        aq_v_sum4(sum[r], total);
        memcpy(args->y + (at.row + r) * args->y_stride + at.token, total,
               (size_t)n_token * sizeof *total);
    }
}

AQ_INLINE void dot_few_rows(const aq_dot_bytes_args *args, int row, int n_row) {
    few_place at = {row, 0};
    for (; at.token + FEW_TOKENS <= args->n; at.token += FEW_TOKENS) {
        if (row == 0)
            ask_ahead(args->next, (int64_t)at.token * args->n_in, FEW_TOKENS * args->n_in);
        dot_few_block(args, at, n_row, FEW_TOKENS);
    }
    switch (args->n - at.token) {
    case 1:
        dot_few_block(args, at, n_row, 1);
        break;
    case 2:
        dot_few_block(args, at, n_row, 2);
        break;
    case 3:
        dot_few_block(args, at, n_row, 3);
        break;
    default:
        break;
    }
}

static void dot_numbers(const aq_dot_bytes_args *args) {
    for (int row = 0; row < args->n_row; row += FEW_ROWS)
        switch (args->n_row - row) {
        case 1:
            dot_few_rows(args, row, 1);
            break;
        case 2:
            dot_few_rows(args, row, 2);
            break;
        case 3:
            dot_few_rows(args, row, FEW_ROWS < 3 ? FEW_ROWS : 3);
            break;
        default:
            dot_few_rows(args, row, FEW_ROWS);
            break;
        }
}

#endif
