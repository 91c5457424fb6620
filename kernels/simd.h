/* Private to kernels/: the inner loops that exist once per instruction set.
 *
 * simd.c is compiled four times: each time CMake names the instruction set by its lanes header
 * (lanes_portable.h, lanes_avx2.h, lanes_avx512.h, lanes_avx512vnni.h), its compiler flags, and the
 * table the loops are put in. The loops themselves are written once, in loops_*.h, in terms of
 * lanes. */
#ifndef AQ_KERNELS_SIMD_H
#define AQ_KERNELS_SIMD_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/activate.h"
#include "kernels/simd_attn_parts.h"
#include "src/base/dtype.h"
#include "src/base/kv_type.h"

/* A product of stored rows with a few tokens: y[t, j] (+)= sum_i x[t, i] w[j, i]. */
typedef struct {
    aq_dtype dtype;
    const uint8_t *w;  /* first row */
    int64_t row_bytes; /* from one row to the next */
    int64_t n_row;
    int64_t n_in;
    const float *x; /* [n_tok, n_in] */
    int64_t n_tok;
    float *y; /* y[t * y_stride + j] */
    int64_t y_stride;
    bool accumulate;
} aq_dot_rows_args;

/* Memory of a coded token of n elements: see loops_dot.h. */
#define AQ_CODED_BYTES(n) (((n) / 256 + 1) * 256 * 4)

/* Rows to columns: out[i, r] = w[r, i], r < n_row, i < n. */
typedef struct {
    aq_dtype dtype;
    const uint8_t *w;  /* first element of the first row; a block begins there */
    int64_t row_bytes; /* from one row to the next */
    int64_t n_row;
    int64_t n;          /* elements of a row, whole blocks */
    float *out;         /* [n, out_stride] */
    int64_t out_stride; /* n_row rounded up to AQ_COLUMNS_ALIGN at least; what fills up is not for
                           use */
} aq_columns_args;

/* Multiple of the lanes of every instruction set. */
#define AQ_COLUMNS_ALIGN 16

/* A product kept in rows: c[r, j] = keep[r] c[r, j] + sum_i a[r, i] b[i, j]. */
typedef struct {
    const float *a; /* [n_row, n_in], a_stride from one row to the next */
    int64_t a_stride;
    int64_t n_row;
    int64_t n_in;
    const void *b;    /* [n_in, n_out], b_stride elements from one row to the next */
    aq_dtype b_dtype; /* AQ_F32 or AQ_BF16 */
    int64_t b_stride;
    int64_t n_out;
    const float *keep; /* [n_row]; NULL: 0, and c is not read */
    float *c;          /* c_stride from one row to the next */
    int64_t c_stride;
    const void *next; /* as large as b, read soon after: memory is asked for it on the way, a piece
                         for each piece of b, so that it is there when it is needed. Or NULL */
} aq_panel_args;

/* A scaled vector: y[i] (+)= (x[i] - shift) * scale * w[i] + b[i]. */
typedef struct {
    const float *x;
    float shift, scale;
    const float *w;
    const float *b; /* or NULL for none */
    int64_t n;
    float *y; /* may be x */
    bool accumulate;
} aq_scale_by_args;

/* No entry may be NULL in a table that was built. */
typedef struct {
    const char *name;

    /* loops_weight.h. A row of n elements of dtype to float, exactly rounded; the same for several
     * rows at once, as columns; and the product. The bits of y do not depend on n_row or n_tok. */
    void (*dequantise)(aq_dtype dtype, const uint8_t *row, int64_t n, float *out);
    void (*columns)(const aq_columns_args *args);
    void (*dot_rows)(const aq_dot_rows_args *args);

    /* loops_dot.h. The same product in integers: code_token codes a token for all rows of dtype,
     * into AQ_CODED_BYTES(n) bytes, or returns false where this instruction set has no such product
     * or gains nothing by it; dot_coded multiplies n_tok of them, which lie one behind the other.
     * The bits of y do not depend on n_row or n_tok. */
    bool (*code_token)(aq_dtype dtype, const float *x, int64_t n, void *coded);
    void (*dot_coded)(const aq_dot_rows_args *args, void *coded);

    /* loops_vector.h. Sum; sum of (x[i] - shift)^2; the scaled vector above; y += x * scale, each
     * rounded; and the rotation of one head, x[i] and x[half + i] by cos[i] and sin[i]. */
    float (*sum)(const float *x, int64_t n);
    float (*sum_squares)(const float *x, float shift, int64_t n);
    void (*scale_by)(const aq_scale_by_args *args);
    void (*add_scaled)(const float *x, float scale, int64_t n, float *y);
    void (*rotate)(float *x, const float *cos, const float *sin, int64_t half);

    /* loops_codes.h. The n codes of a run of `bits` bits; and what codes stand for,
     * out[i] = low + step * codes[i], with one low and step or with those of each. If step has no
     * more than 16 significant bits, rounded once. */
    void (*unpack)(const uint8_t *run, int n, int bits, uint8_t *codes);
    void (*widen)(const uint8_t *codes, int n, float step, float low, float *out);
    void (*widen_each)(const uint8_t *codes, int n, const float *step, const float *low,
                       float *out);

    /* loops_bytes.h. The products above. Where the processor multiplies bytes, x[r, i] step[i] and
     * a[r, j] step[j] are rounded to whole numbers of 2^-23 of the largest of 256 of a row. */
    void (*dot_bytes)(const aq_dot_bytes_args *args);
    void (*mix_bytes)(const aq_mix_bytes_args *args);

    /* loops_activate.h. The whole operation, see activate.h. */
    void (*activate)(const aq_activate_args *args);

    /* loops_vector.h. out[i] = exp(x[i] - shift), returns their sum; exp(-inf) = 0, out may be x;
     * error of each at most 2 units in the last place. */
    float (*exp_shifted)(const float *x, float shift, int64_t n, float *out);

    /* loops_attn.h. The product above; the bits of a row of c do not depend on n_row. */
    void (*panel)(const aq_panel_args *args);

    /* loops_attn.h. Scores of one tile: out[s] = sum_j q[j] keys[dims[j], s], s < AQ_TILE; keys is
     * AQ_F32 or AQ_BF16. */
    void (*score_chosen)(const float *q, const int16_t *dims, int n_dim, const void *keys,
                         aq_dtype dtype, float *out);

    /* loops_attn.h. One step of the online softmax over a tile of scores, of which those from
     * first_seen to n_seen are visible: brings m and l up to date, turns the scores into exp(s -
     * m), 0 where not visible, and returns the factor by which sums taken under the old m are to be
     * multiplied. */
    float (*soften)(float *s, int first_seen, int n_seen, float *m, float *l);

    /* loops_scan.h. The scores above: error of a sum over the columns of the layout of
     * abs(q middle) + abs(q unit half). */
    void (*scan_codes)(const aq_scan_args *args);

    /* loops_select.h. The exponentials, the weights, of which the sum is returned, and the buckets
     * above; and a bit for each of AQ_TILE weights that is at least `least`. */
    void (*soften_rows)(const aq_soften_args *args);
    float (*weigh)(const aq_weigh_args *args);
    void (*fill_buckets)(const aq_fill_args *args);
    uint64_t (*bits_from)(const float *w, float least);

    /* loops_dims.h. topk_dims of one query; `rank` is n_col integers of working memory. */
    void (*choose)(const float *q, const float *weight, int n_col, int n_dim, int32_t *rank,
                   int16_t *dims);

    /* loops_dims.h. How many columns topk_dims must keep for `share` of the energy of one query,
     * see prune_dims.h; at least 1. rank and energy are working memory of n_col elements, rounded
     * up to AQ_COLUMNS_ALIGN. */
    int (*fewest)(const float *q, const float *weight, int n_col, float share, int32_t *rank,
                  float *energy);
} aq_simd;

extern const aq_simd aq_simd_portable;
extern const aq_simd aq_simd_avx2;
extern const aq_simd aq_simd_avx512;
extern const aq_simd aq_simd_avx512vnni;

#endif
