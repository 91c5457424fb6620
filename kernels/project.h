/* Projection of queries or keys into the calibrated basis of their KV head:
 *   y[t, h, j] = sum_i x[t, h, i] p[h / group, i, j],   j < n_col
 *
 * with group = n_head / n_kv_head (1 for keys). Columns are in falling order of importance; n_col <
 * d_head keeps the leading ones. x and y are different memory. Tolerance: reduction of length
 * d_head. Source: AQUA, arXiv 2509.11155, with one matrix for queries and one for keys. */
#ifndef AQ_KERNELS_PROJECT_H
#define AQ_KERNELS_PROJECT_H

#include <stdint.h>

typedef struct {
    const float *x; /* [n_tok, n_head, d_head] */
    const float *p; /* [n_kv_head, d_head, d_head] */
    int64_t n_tok;
    int n_head;
    int n_kv_head;
    int d_head;
    int n_col;
    float *y; /* [n_tok, n_head, n_col] */
} aq_project_args;

#endif
