/* Private to kernels/, included by loops_bytes.h only: parts of products with rows of bytes, codes
 * made floats on the way. */
#ifndef AQ_KERNELS_LOOPS_BYTES_FLOATS_H
#define AQ_KERNELS_LOOPS_BYTES_FLOATS_H

#include "kernels/loops_vector.h"

/* Rows of the result at once: with their vectors they stay in registers. */
#define BYTE_ROWS 4

/* Codes that a row is folded for at a time. */
#define BYTE_FOLD 256

/* folded[j] = a[j] step[j]; returns sum_j a[j] low[j]. */
static inline float fold_scales(const float *a, const float *step, const float *low, int n,
                                float *folded) {
    aq_v sum = aq_v_set1(0.0f);
    int j = 0;
    for (; j + AQ_LANES <= n; j += AQ_LANES) {
        const aq_v x = aq_v_load(a + j);
        aq_v_store(folded + j, aq_v_mul(x, aq_v_load(step + j)));
        sum = aq_v_fma(x, aq_v_load(low + j), sum);
    }
    float total = aq_v_sum(sum);
    for (; j < n; j++) {
        folded[j] = a[j] * step[j];
        total += a[j] * low[j];
    }
    return total;
}

/* Part of a product: rows row .. row + n_row with codes from .. from + n. */
typedef struct {
    int row, from, n;
    float folded[BYTE_ROWS][BYTE_FOLD];
    float start[BYTE_ROWS];
} bytes_part;

AQ_INLINE float bytes_keep(const aq_mix_bytes_args *args, const bytes_part *part, int r) {
    if (part->from > 0) return 1.0f;
    return args->keep ? args->keep[part->row + r] : 0.0f;
}

/* Columns col .. col + n_vec * AQ_LANES. */
AQ_INLINE void mix_bytes_block(const aq_mix_bytes_args *args, const bytes_part *part, int col,
                               int n_row, int n_vec) {
    float *c = args->c + part->row * args->c_stride + col;
    const bool fresh = part->from == 0 && !args->keep;
    aq_v sum[BYTE_ROWS][4];
    for (int r = 0; r < n_row; r++)
        for (int v = 0; v < n_vec; v++)
            sum[r][v] = fresh ? aq_v_set1(part->start[r])
                              : aq_v_fma(aq_v_set1(bytes_keep(args, part, r)),
                                         aq_v_load(c + r * args->c_stride + v * AQ_LANES),
                                         aq_v_set1(part->start[r]));
    const uint8_t *next = part->row == 0 ? args->next : NULL;
    for (int j = 0; j < part->n; j++) {
        const uint8_t *codes = args->rows[part->from + j] + col;
        ask_ahead(next, (int64_t)(part->from + j) * args->n_out + col, n_vec * AQ_LANES);
        aq_v b[4];
        for (int v = 0; v < n_vec; v++)
            b[v] = aq_v_from_int(aq_vi_load_u8(codes + v * AQ_LANES));
        for (int r = 0; r < n_row; r++) {
            const aq_v factor = aq_v_set1(part->folded[r][j]);
            for (int v = 0; v < n_vec; v++)
                sum[r][v] = aq_v_fma(factor, b[v], sum[r][v]);
        }
    }
    for (int r = 0; r < n_row; r++)
        for (int v = 0; v < n_vec; v++)
            aq_v_store(c + r * args->c_stride + v * AQ_LANES, sum[r][v]);
}

/* The columns that fill no vector. */
static void mix_bytes_rest(const aq_mix_bytes_args *args, const bytes_part *part, int n_row,
                           int col) {
    for (int r = 0; r < n_row; r++)
        for (int i = col; i < args->n_out; i++) {
            const float keep = bytes_keep(args, part, r);
            float *c = args->c + (part->row + r) * args->c_stride + i;
            float sum = part->start[r] + (keep != 0.0f ? keep * *c : 0.0f);
            for (int j = 0; j < part->n; j++)
                sum += part->folded[r][j] * (float)args->rows[part->from + j][i];
            *c = sum;
        }
}

AQ_INLINE void mix_bytes_strip(const aq_mix_bytes_args *args, bytes_part *part, int n_row) {
    const int wide = AQ_LANES >= 16 || n_row <= 3 ? 4 : 2;
    for (int r = 0; r < n_row; r++)
        part->start[r] =
            fold_scales(args->a + (part->row + r) * args->a_stride + part->from,
                        args->step + part->from, args->low + part->from, part->n, part->folded[r]);
    int col = 0;
    for (; col + wide * AQ_LANES <= args->n_out; col += wide * AQ_LANES)
        mix_bytes_block(args, part, col, n_row, wide);
    for (; col + AQ_LANES <= args->n_out; col += AQ_LANES)
        mix_bytes_block(args, part, col, n_row, 1);
    if (col < args->n_out) mix_bytes_rest(args, part, n_row, col);
}

#endif
