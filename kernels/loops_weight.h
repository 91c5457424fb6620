/* Private to kernels/, included by simd.c only: stored weights to floats, as rows or as columns,
 * and their product with a few tokens. */
#ifndef AQ_KERNELS_LOOPS_WEIGHT_H
#define AQ_KERNELS_LOOPS_WEIGHT_H

#include <string.h>

#include "kernels/loops_unpack.h"

#define ROWS_AT_ONCE 4
#define TOKS_AT_ONCE 4

/* Rows lie one behind the other, so the bytes R rows ahead of the ones in work are the next needed.
 * The processor sees R streams of a few hundred bytes and does not guess that; asked for this far
 * ahead, memory delivers twice as fast (2 to 8 KiB measured alike). */
#define AHEAD_BYTES 4096
#define LINE_BYTES  64

/* A row that ends inside a group: the rest is copied to where a whole group can be read, with zeros
 * behind it. */
typedef struct {
    _Alignas(64) uint8_t w[ROWS_AT_ONCE][4 * GROUP];
    _Alignas(64) float x[TOKS_AT_ONCE][GROUP];
} short_group;

AQ_MELT void dequantise_as(const weight_format f, const uint8_t *row, int64_t n, float *out) {
    aq_v w[GROUP_VECTORS];
    const int64_t n_block = n / (GROUP * f.block_groups);
    for (int64_t b = 0; b < n_block; b++)
        for (int g = 0; g < f.block_groups; g++) {
            f.unpack(row + b * f.block_bytes, g, w);
            for (int v = 0; v < GROUP_VECTORS; v++)
                aq_v_store(out + (b * f.block_groups + g) * GROUP + AQ_LANES * v, w[v]);
        }
    if (!f.any_length || n % GROUP == 0) return;
    const int64_t done = n_block * GROUP;
    _Alignas(64) uint8_t rest[4 * GROUP] = {0};
    _Alignas(64) float value[GROUP];
    memcpy(rest, row + n_block * f.block_bytes, (size_t)((n - done) * f.block_bytes / GROUP));
    f.unpack(rest, 0, w);
    for (int v = 0; v < GROUP_VECTORS; v++)
        aq_v_store(value + AQ_LANES * v, w[v]);
    memcpy(out + done, value, (size_t)(n - done) * sizeof *out);
}

/* One group of up to AQ_LANES rows, row r at `block` + r * row_bytes, to columns: out[e, r]. The
 * columns of rows that are not there are filled with zeros. */
AQ_MELT void turn_group(const weight_format f, const uint8_t *block, int group, int64_t row_bytes,
                        int n_row, int n_elem, float *out, int64_t out_stride) {
    _Alignas(64) float value[AQ_LANES][GROUP] = {{0}};
    aq_v w[GROUP_VECTORS];
    for (int r = 0; r < n_row; r++) {
        f.unpack(block + r * row_bytes, group, w);
        for (int v = 0; v < GROUP_VECTORS; v++)
            aq_v_store(value[r] + AQ_LANES * v, w[v]);
    }
    for (int e = 0; e < n_elem; e++)
        for (int r = 0; r < AQ_LANES; r++)
            out[e * out_stride + r] = value[r][e];
}

/* The last group of rows that end inside it: read from copies with zeros behind them. */
AQ_MELT void turn_rest(const weight_format f, const uint8_t *block, int64_t row_bytes, int n_row,
                       int n_elem, float *out, int64_t out_stride) {
    _Alignas(64) uint8_t rest[AQ_LANES][4 * GROUP] = {{0}};
    for (int r = 0; r < n_row; r++)
        memcpy(rest[r], block + r * row_bytes, (size_t)(n_elem * f.block_bytes / GROUP));
    turn_group(f, rest[0], 0, 4 * GROUP, n_row, n_elem, out, out_stride);
}

AQ_MELT void columns_as(const weight_format f, const aq_columns_args *a) {
    const int64_t n_block = a->n / (GROUP * f.block_groups);
    for (int64_t r = 0; r < a->n_row; r += AQ_LANES) {
        const int n_row = (int)(a->n_row - r < AQ_LANES ? a->n_row - r : AQ_LANES);
        const uint8_t *block = a->w + r * a->row_bytes;
        float *out = a->out + r;
        for (int64_t b = 0; b < n_block; b++, block += f.block_bytes)
            for (int g = 0; g < f.block_groups; g++, out += GROUP * a->out_stride)
                turn_group(f, block, g, a->row_bytes, n_row, GROUP, out, a->out_stride);
        if (f.any_length && a->n % GROUP != 0)
            turn_rest(f, block, a->row_bytes, n_row, (int)(a->n % GROUP), out, a->out_stride);
    }
}

/* sum[r][t] += the product of one group of R rows with T tokens. */
AQ_MELT void dot_group(const weight_format f, const int R, const int T, const uint8_t *const *block,
                       int group, const float *const *x, int64_t at,
                       aq_v sum[ROWS_AT_ONCE][TOKS_AT_ONCE]) {
    for (int r = 0; r < R; r++) {
        aq_v w[GROUP_VECTORS];
        f.unpack(block[r], group, w);
        for (int v = 0; v < GROUP_VECTORS; v++)
            for (int t = 0; t < T; t++)
                sum[r][t] = aq_v_fma(w[v], aq_v_load(x[t] + at + AQ_LANES * v), sum[r][t]);
    }
}

/* R rows from `row` on with T tokens from `tok` on. */
AQ_MELT void dot_tile(const weight_format f, const int R, const int T, const aq_dot_rows_args *a,
                      int64_t row, int64_t tok) {
    const uint8_t *block[ROWS_AT_ONCE];
    const float *x[TOKS_AT_ONCE];
    aq_v sum[ROWS_AT_ONCE][TOKS_AT_ONCE];
    for (int r = 0; r < R; r++)
        block[r] = a->w + (row + r) * a->row_bytes;
    for (int t = 0; t < T; t++)
        x[t] = a->x + (tok + t) * a->n_in;
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            sum[r][t] = aq_v_set1(0.0f);
    const int64_t n_group = a->n_in / GROUP;
    uintptr_t ahead = (uintptr_t)block[0] + AHEAD_BYTES;
    for (int64_t i = 0; i < n_group; i += f.block_groups) {
        for (int line = 0; line < R * f.block_bytes; line += LINE_BYTES)
            __builtin_prefetch((const void *)(ahead + (uintptr_t)line));
        ahead += (uintptr_t)(R * f.block_bytes);
        for (int g = 0; g < f.block_groups; g++)
            dot_group(f, R, T, block, g, x, (i + g) * GROUP, sum);
        for (int r = 0; r < R; r++)
            block[r] += f.block_bytes;
    }
    if (f.any_length && a->n_in % GROUP != 0) {
        const int64_t n_rest = a->n_in % GROUP;
        short_group rest = {0};
        for (int r = 0; r < R; r++) {
            memcpy(rest.w[r], block[r], (size_t)(n_rest * f.block_bytes / GROUP));
            block[r] = rest.w[r];
        }
        for (int t = 0; t < T; t++) {
            memcpy(rest.x[t], x[t] + n_group * GROUP, (size_t)n_rest * sizeof(float));
            x[t] = rest.x[t];
        }
        dot_group(f, R, T, block, 0, x, 0, sum);
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) {
            float *y = a->y + (tok + t) * a->y_stride + row + r;
            *y = a->accumulate ? *y + aq_v_sum(sum[r][t]) : aq_v_sum(sum[r][t]);
        }
}

/* All rows with T tokens from `tok` on. */
AQ_MELT void dot_columns(const weight_format f, const int R, const int T, const aq_dot_rows_args *a,
                         int64_t tok) {
    int64_t row = 0;
    for (; row + R <= a->n_row; row += R)
        dot_tile(f, R, T, a, row, tok);
    for (; row < a->n_row; row++)
        dot_tile(f, 1, T, a, row, tok);
}

AQ_MELT void dot_rows_as(const weight_format f, const aq_dot_rows_args *a) {
    int64_t tok = 0;
    for (; tok + 4 <= a->n_tok; tok += 4)
        dot_columns(f, 2, 4, a, tok);
    for (; tok + 2 <= a->n_tok; tok += 2)
        dot_columns(f, 2, 2, a, tok);
    for (; tok < a->n_tok; tok++)
        dot_columns(f, ROWS_AT_ONCE, 1, a, tok);
}

static void dequantise(aq_dtype dtype, const uint8_t *row, int64_t n, float *out) {
    WITH_FORMAT(dtype, dequantise_as, row, n, out)
}

static void columns(const aq_columns_args *a) {
    WITH_FORMAT(a->dtype, columns_as, a)
}

static void dot_rows(const aq_dot_rows_args *a) {
    WITH_FORMAT(a->dtype, dot_rows_as, a)
}

#endif
