/* Private to kernels/: arguments of loops of attention, see simd.h. */
#ifndef AQ_KERNELS_SIMD_ATTN_PARTS_H
#define AQ_KERNELS_SIMD_ATTN_PARTS_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/kv_type.h"

/* Rows that are multiplied at once: with their tokens they stay in registers. */
#define AQ_SCAN_ROWS 6

/* Scores of a tile by the codes of a selector's block (kv_append.h):
 * out[r, s] = sum_p q[r, p] code(s, p). Columns stand in places: a quad of them for every run of
 * the block, of which those that it has no columns for, and columns that are not read, have q = 0.
 */
typedef struct {
    const uint8_t *block;
    const uint8_t *next; /* block that will be asked for next: memory is told so on the way */
    const aq_code_layout *layout;
    int n_code;           /* columns of the layout */
    const int16_t *quads; /* [n_quad] rising, those that are read; all others have q = 0 */
    int n_quad;
    const float *q; /* [n_row, n_place] */
    int n_place;    /* 4 for each quad, rounded up to AQ_COLUMNS_ALIGN */
    int n_row;
    float *out; /* [n_row, AQ_TILE], out_stride from one row to the next */
    int64_t out_stride;
    float *work; /* [(2 + AQ_SCAN_ROWS) n_place + n_quad AQ_TILE], of no use to the caller */
} aq_scan_args;

/* Products with rows of codes of 8 bits, as a cache stores them (kv_append.h), wherever in memory
 * each row begins. step and low are what the codes stand for, low + step * code.
 *
 * Along the rows, as for scores of keys by token, with a step and low for each place of a row:
 *   y[r, j] = sum_i x[r, i] (low[i] + step[i] rows[j][i])
 * Nothing is read behind n_in codes. */
typedef struct {
    const uint8_t *const *rows; /* [n] of n_in codes */
    int n;
    const float *step, *low; /* [n_in] */
    int n_in;
    const float *x; /* [n_row, n_in], x_stride from one row to the next */
    int64_t x_stride;
    int n_row;
    float *y; /* [n_row, n], y_stride from one row to the next */
    int64_t y_stride;
    const uint8_t *next; /* [n, n_in] read soon after (aq_panel_args), or NULL */
} aq_dot_bytes_args;

/* Across the rows, as for values of tokens or scores of keys by column, with a step and low for
 * each row:
 *   c[r, i] = keep[r] c[r, i] + sum_j a[r, j] (low[j] + step[j] rows[j][i]) */
typedef struct {
    const uint8_t *const *rows; /* [n] of n_out codes */
    int n;
    const float *step, *low; /* [n] */
    const float *a;          /* [n_row, n], a_stride from one row to the next */
    int64_t a_stride;
    int n_row;
    int n_out;
    const float *keep; /* [n_row]; NULL: 0, and c is not read */
    float *c;          /* [n_row, n_out], c_stride from one row to the next */
    int64_t c_stride;
    const uint8_t *next; /* [n, n_out] read soon after (aq_panel_args), or NULL */
} aq_mix_bytes_args;

/* The weight of tokens for a group: w[s] = the largest over the rows r of
 * e[r, s] factor[r, s / AQ_TILE], or their sum. */
typedef struct {
    const float *e; /* [n_row, n_tile, AQ_TILE], e_stride from one row to the next */
    int64_t e_stride;
    const float *factor; /* [n_row, n_tile], factor_stride from one row to the next */
    int64_t factor_stride;
    int n_row;
    bool mean;
    int64_t n_tile;
    float *w; /* [n_tile, AQ_TILE]; may be row 0 of e */
} aq_weigh_args;

#define AQ_MASS_BOUNDS 8

#endif
