/* Private to kernels/, included by loops_bytes.h only: parts of products with rows of bytes where
 * the processor multiplies bytes. */
#ifndef AQ_KERNELS_LOOPS_BYTES_DIGITS_H
#define AQ_KERNELS_LOOPS_BYTES_DIGITS_H

#include "kernels/loops_bytes_quads.h"

/* Up to so many rows are multiplied along as numbers: a product of digits takes as long for one as
 * for QUAD_OUT of them. */
#define DOT_FEW (3 * QUAD_OUT / 4)

/* Four rows of fewer than 64 codes, or fewer rows, the last of which then stands for the others. */
static void quad_across_part(const aq_mix_bytes_args *args, int row, int col, int width,
                             int32_t *level) {
    const uint8_t *rows[4];
    uint8_t codes[4][AQ_TILE];
    for (int k = 0; k < 4; k++) {
        const int at = row + k < args->n ? row + k : args->n - 1;
        memcpy(codes[k], args->rows[at] + col, (size_t)width);
        rows[k] = codes[k];
    }
    aq_bytes_across(rows, 0, level);
}

/* The codes of a part in columns col .. col + 64, or up to n_out, as quads of four rows. The first
 * half of what lies at `next` is asked for on the way. */
static void quads_across(const aq_mix_bytes_args *args, const bytes_part *part, int col,
                         const uint8_t *next, int32_t *level) {
    const int width = args->n_out - col < AQ_TILE ? args->n_out - col : AQ_TILE;
    int j = 0;
    for (; j + 4 <= part->n && width == AQ_TILE; j += 4, level += AQ_TILE) {
        ask_ahead(next, j * (AQ_LINE_BYTES / 2), 2 * AQ_LINE_BYTES);
        aq_bytes_across(args->rows + part->from + j, col, level);
    }
    for (; j < part->n; j += 4, level += AQ_TILE)
        quad_across_part(args, part->from + j, col, width, level);
}

AQ_INLINE void mix_bytes_strip(const aq_mix_bytes_args *args, bytes_part *part, int n_row) {
    _Alignas(64) int32_t level[BYTE_FOLD / 4 * AQ_TILE];
    const bool ask = args->next && part->row == 0;
    fold_rows(args->a, args->a_stride, args->step, args->low, n_row, part);
    for (int col = 0; col < args->n_out; col += AQ_TILE) {
        const int64_t done = part->from * (int64_t)args->n_out + part->n * col;
        const uint8_t *next = ask ? args->next + done : NULL;
        quads_across(args, part, col, next, level);
        for (int half = 0; half < 2; half++) {
            const int at = col + half * QUAD_OUT;
            if (at >= args->n_out) break;
            quad_product(
                part,
                &(quad_block){.level = level + half * QUAD_OUT,
                              .stride = AQ_TILE,
                              .next = next ? next + (2 + half) * (QUAD_OUT / 2) * part->n : NULL,
                              .keep = args->keep ? args->keep + part->row : NULL,
                              .c = args->c + part->row * args->c_stride + at,
                              .c_stride = args->c_stride,
                              .n = args->n_out - at},
                n_row);
        }
    }
}

/* The codes of a part of tokens token .. token + QUAD_OUT as quads of four places of a row. The
 * last token stands for those behind it, zeros for places behind the row. The first half of what
 * lies at `next` is asked for on the way. */
static void quads_along(const aq_dot_bytes_args *args, const bytes_part *part, int token,
                        const uint8_t *next, int32_t *level) {
    const int n_whole = part->n / 16 * 16, last = args->n - 1;
    const uint8_t *rows[QUAD_OUT];
    for (int j = 0; j < QUAD_OUT; j++)
        rows[j] = args->rows[token + j < last ? token + j : last] + part->from;
    for (int i = 0; i < n_whole; i += 16)
        for (int j = 0; j < QUAD_OUT; j += 16) {
            ask_ahead(next, i * (QUAD_OUT / 2) + j * 8, 2 * AQ_LINE_BYTES);
            aq_bytes_along(rows + j, i, level + i / 4 * QUAD_OUT + j, QUAD_OUT);
        }
    for (int i = n_whole; i < part->n; i += 4)
        for (int j = 0; j < QUAD_OUT; j++) {
            int32_t quad = 0;
            memcpy(&quad, rows[j] + i, (size_t)(part->n - i < 4 ? part->n - i : 4));
            level[i / 4 * QUAD_OUT + j] = quad;
        }
}

AQ_INLINE void dot_bytes_strip(const aq_dot_bytes_args *args, bytes_part *part, int n_row) {
    _Alignas(64) int32_t level[BYTE_FOLD / 4 * QUAD_OUT];
    const bool ask = args->next && part->row == 0;
    fold_rows(args->x, args->x_stride, args->step, args->low, n_row, part);
    for (int token = 0; token < args->n; token += QUAD_OUT) {
        const int64_t done = token * (int64_t)args->n_in + QUAD_OUT * part->from;
        const uint8_t *next = ask ? args->next + done : NULL;
        quads_along(args, part, token, next, level);
        quad_product(part,
                     &(quad_block){.level = level,
                                   .stride = QUAD_OUT,
                                   .next = next ? next + QUAD_OUT / 2 * part->n : NULL,
                                   .c = args->y + part->row * args->y_stride + token,
                                   .c_stride = args->y_stride,
                                   .n = args->n - token},
                     n_row);
    }
}

static void dot_digits(const aq_dot_bytes_args *args) {
    bytes_part part;
    for (part.from = 0; part.from < args->n_in; part.from += BYTE_FOLD) {
        part.n = args->n_in - part.from < BYTE_FOLD ? args->n_in - part.from : BYTE_FOLD;
        for (part.row = 0; part.row < args->n_row; part.row += BYTE_ROWS)
            switch (args->n_row - part.row) {
            case 1:
                dot_bytes_strip(args, &part, 1);
                break;
            case 2:
                dot_bytes_strip(args, &part, 2);
                break;
            case 3:
                dot_bytes_strip(args, &part, 3);
                break;
            default:
                dot_bytes_strip(args, &part, BYTE_ROWS);
                break;
            }
    }
}

#endif
