/* Private to kernels/: arguments of loops of attention, see simd.h. */
#ifndef AQ_KERNELS_SIMD_ATTN_PARTS_H
#define AQ_KERNELS_SIMD_ATTN_PARTS_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/kv_type.h"

/* Rows that are multiplied at once at most: with their tokens they stay in registers. */
#define AQ_SCAN_ROWS 6

/* A run of a selector's block (kv_append.h): the codes of a quad of columns, or of those left over
 * at the end of a segment. */
typedef struct {
    int32_t at;    /* its first byte, from the block's */
    int16_t place; /* its first column; a quad takes four places */
    uint8_t width, bits;
} aq_scan_quad;

/* Scores of a tile by the codes of a selector's block, the query held to one byte a column. With
 * code(s, p) = middle[p] + unit[p] (level(s, p) - half[p]), whole levels 0 .. 2 half[p],
 *   f[r, p] = q[r, p] unit[p],  F[r] = max_p abs(f[r, p]),  byte[r, p] = round(127 f[r, p] / F[r])
 *   out[r, s] = sum_p q[r, p] middle[p] + F[r] / 127 sum_p byte[r, p] (level(s, p) - half[p])
 * Places without a column, and columns that are not read, have q = 0. */
typedef struct {
    const uint8_t *block;
    const uint8_t *next; /* block that will be asked for next: memory is told so on the way */
    const aq_code_layout *layout;
    int n_code;                /* columns of the layout */
    const aq_scan_quad *quads; /* [n_quad] rising, those that are read; all others have q = 0 */
    int n_quad;
    const float *q; /* [n_row, n_place] */
    int n_place;    /* 4 for each quad, rounded up to AQ_COLUMNS_ALIGN */
    int n_row;
    float *out; /* [n_row, AQ_TILE], out_stride from one row to the next */
    int64_t out_stride;
    float *work; /* [(3 + AQ_SCAN_ROWS) n_place + n_quad AQ_TILE], of no use to the caller */
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

/* The scores of a tile as exponentials: m[r] = max_s z[r, s], z[r, s] = exp(z[r, s] - m[r]) to
 * within 2^-17 of it, and l[r] their sum; all 0 if m[r] = -inf. */
typedef struct {
    float *z; /* [n_row, AQ_TILE], z_stride from one row to the next */
    int64_t z_stride;
    int n_row;
    float *m, *l; /* [n_row], tile_stride from one row to the next */
    int64_t tile_stride;
} aq_soften_args;

/* Bounds that a pass over weights asks for. */
#define AQ_MASS_BOUNDS 8

/* The weight of tokens for a group: w[s] = the largest over the rows r of
 * e[r, s] factor[r, s / AQ_TILE], or their sum; and mass[k] = the sum of the w[s] >= least[k]. */
typedef struct {
    const float *e; /* [n_row, n_tile, AQ_TILE], e_stride from one row to the next */
    int64_t e_stride;
    const float *factor; /* [n_row, n_tile], factor_stride from one row to the next */
    int64_t factor_stride;
    int n_row;
    bool mean;
    int64_t n_tile;
    float *w;           /* [n_tile, AQ_TILE]; may be row 0 of e */
    const float *least; /* [AQ_MASS_BOUNDS] */
    float *mass;        /* [AQ_MASS_BOUNDS] */
} aq_weigh_args;

/* Weights by the bits of their floats: bucket[(bits(w[i]) - low) >> shift] += w[i], where that is a
 * bucket. */
typedef struct {
    const float *w;
    int64_t n; /* whole tiles */
    uint32_t low;
    int shift;
    int n_bucket;
    float *bucket;
} aq_fill_args;

#endif
