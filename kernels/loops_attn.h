/* Private to kernels/, included by simd.c only: the loops of attention. simd.h says what each does.
 */
#ifndef AQ_KERNELS_LOOPS_ATTN_H
#define AQ_KERNELS_LOOPS_ATTN_H

#include <math.h>
#include <string.h>

#include "kernels/kv_append.h"
#include "kernels/loops_vector.h"

/* A block of the product stays in registers: at most PANEL_ROWS rows by PANEL_WIDE vectors. */
#define PANEL_ROWS 6
#define PANEL_WIDE (AQ_LANES >= 16 ? 4 : 2)

AQ_INLINE aq_v load_either(const void *b, bool half, int64_t i) {
    return half ? aq_v_load_bf16((const uint8_t *)b + 2 * i) : aq_v_load((const float *)b + i);
}

static float load_one(const void *b, bool half, int64_t i) {
    return half ? aq_bf16_to_f32(((const uint16_t *)b)[i]) : ((const float *)b)[i];
}

/* Rows row .. row + n_row, columns col .. col + n_vec * AQ_LANES of the product. */
AQ_INLINE void panel_block(const aq_panel_args *args, int64_t row, int64_t col, int n_row,
                           int n_vec, bool half) {
    const float *a = args->a + row * args->a_stride;
    float *c = args->c + row * args->c_stride + col;
    const void *next = row == 0 ? args->next : NULL;
    const int size = half ? 2 : 4;
    aq_v sum[PANEL_ROWS][4];
    for (int r = 0; r < n_row; r++)
        for (int v = 0; v < n_vec; v++)
            sum[r][v] = args->keep ? aq_v_mul(aq_v_set1(args->keep[row + r]),
                                              aq_v_load(c + r * args->c_stride + v * AQ_LANES))
                                   : aq_v_set1(0.0f);
    for (int64_t i = 0; i < args->n_in; i++) {
        aq_v b[4];
        ask_ahead(next, (i * args->b_stride + col) * size, n_vec * AQ_LANES * size);
        for (int v = 0; v < n_vec; v++)
            b[v] = load_either(args->b, half, i * args->b_stride + col + v * AQ_LANES);
        for (int r = 0; r < n_row; r++) {
            const aq_v factor = aq_v_set1(a[r * args->a_stride + i]);
            for (int v = 0; v < n_vec; v++)
                sum[r][v] = aq_v_fma(factor, b[v], sum[r][v]);
        }
    }
    for (int r = 0; r < n_row; r++)
        for (int v = 0; v < n_vec; v++)
            aq_v_store(c + r * args->c_stride + v * AQ_LANES, sum[r][v]);
}

/* The columns that fill no vector. */
static void panel_rest(const aq_panel_args *args, int64_t row, int n_row, int64_t col, bool half) {
    for (int64_t r = row; r < row + n_row; r++)
        for (int64_t j = col; j < args->n_out; j++) {
            float *c = args->c + r * args->c_stride + j;
            float sum = args->keep ? args->keep[r] * *c : 0.0f;
            for (int64_t i = 0; i < args->n_in; i++)
                sum += args->a[r * args->a_stride + i] *
                       load_one(args->b, half, i * args->b_stride + j);
            *c = sum;
        }
}

AQ_INLINE void panel_strip(const aq_panel_args *args, int64_t row, int n_row, bool half) {
    const int wide = n_row <= 3 ? 4 : PANEL_WIDE;
    int64_t col = 0;
    for (; col + wide * AQ_LANES <= args->n_out; col += wide * AQ_LANES)
        panel_block(args, row, col, n_row, wide, half);
    for (; col + AQ_LANES <= args->n_out; col += AQ_LANES)
        panel_block(args, row, col, n_row, 1, half);
    if (col < args->n_out) panel_rest(args, row, n_row, col, half);
}

AQ_INLINE void panel_of(const aq_panel_args *args, bool half) {
    int64_t row = 0;
    for (; row + 6 <= args->n_row; row += 6)
        panel_strip(args, row, 6, half);
    switch (args->n_row - row) {
    case 5:
        panel_strip(args, row, 5, half);
        break;
    case 4:
        panel_strip(args, row, 4, half);
        break;
    case 3:
        panel_strip(args, row, 3, half);
        break;
    case 2:
        panel_strip(args, row, 2, half);
        break;
    case 1:
        panel_strip(args, row, 1, half);
        break;
    default:
        break;
    }
}

static void panel(const aq_panel_args *args) {
    if (args->b_dtype == AQ_BF16)
        panel_of(args, true);
    else
        panel_of(args, false);
}

/* Scores of n_vec * AQ_LANES tokens. */
AQ_INLINE void chosen_block(const float *q, const int16_t *dims, int n_dim, const void *keys,
                            int first, int n_vec, bool half, float *out) {
    aq_v sum[8];
    for (int v = 0; v < n_vec; v++)
        sum[v] = aq_v_set1(0.0f);
    for (int j = 0; j < n_dim; j++) {
        const aq_v factor = aq_v_set1(q[j]);
        const int64_t at = (int64_t)dims[j] * AQ_TILE + first;
        for (int v = 0; v < n_vec; v++)
            sum[v] = aq_v_fma(factor, load_either(keys, half, at + v * AQ_LANES), sum[v]);
    }
    for (int v = 0; v < n_vec; v++)
        aq_v_store(out + first + v * AQ_LANES, sum[v]);
}

AQ_INLINE void chosen_of(const float *q, const int16_t *dims, int n_dim, const void *keys,
                         bool half, float *out) {
    const int n_vec = AQ_TILE / AQ_LANES < 8 ? AQ_TILE / AQ_LANES : 8;
    for (int first = 0; first < AQ_TILE; first += n_vec * AQ_LANES)
        chosen_block(q, dims, n_dim, keys, first, n_vec, half, out);
}

static void score_chosen(const float *q, const int16_t *dims, int n_dim, const void *keys,
                         aq_dtype dtype, float *out) {
    if (dtype == AQ_BF16)
        chosen_of(q, dims, n_dim, keys, true, out);
    else
        chosen_of(q, dims, n_dim, keys, false, out);
}

static float soften(float *s, int first_seen, int n_seen, float *m, float *l) {
    for (int i = 0; i < first_seen; i++)
        s[i] = -INFINITY;
    for (int i = n_seen; i < AQ_TILE; i++)
        s[i] = -INFINITY;
    aq_v most = aq_v_load(s);
    for (int i = AQ_LANES; i < AQ_TILE; i += AQ_LANES)
        most = aq_v_max(most, aq_v_load(s + i));
    const float here = aq_v_largest(most), before = *m;
    const float largest = before > here ? before : here; /* NaN if here is */
    if (largest == -INFINITY) {
        memset(s, 0, AQ_TILE * sizeof *s);
        return 1.0f;
    }
    const aq_v shift = aq_v_set1(largest);
    aq_v sum = aq_v_set1(0.0f);
    for (int i = 0; i < AQ_TILE; i += AQ_LANES) {
        const aq_v e = aq_v_exp_normal(aq_v_sub(aq_v_load(s + i), shift));
        aq_v_store(s + i, e);
        sum = aq_v_add(sum, e);
    }
    const float keep = largest == before ? 1.0f : expf(before - largest);
    *m = largest;
    *l = *l * keep + aq_v_sum(sum);
    return keep;
}

#endif
