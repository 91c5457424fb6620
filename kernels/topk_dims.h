/* The dimensions that decide: per token and query head, the n_dim columns of largest
 *   abs(q[t, h, i]) * weight[h / group, i]      (weight NULL: 1)
 * written in rising order. The product is rounded to fp32. Of equal ones the lower column wins. NaN
 * ranks below everything.
 *
 * weight NULL is the paper's rule (magnitude); weight = sigma_k is the expected share of a column
 * in the score (energy). Tolerance: exact. Source: AQUA, arXiv 2509.11155. */
#ifndef AQ_KERNELS_TOPK_DIMS_H
#define AQ_KERNELS_TOPK_DIMS_H

#include <stdint.h>

typedef struct {
    const float *q;      /* [n_tok, n_head, n_col] projected queries */
    const float *weight; /* [n_kv_head, n_col], not negative, or NULL */
    int64_t n_tok;
    int n_head;
    int n_kv_head;
    int n_col;
    int n_dim;     /* 1 .. n_col */
    int16_t *dims; /* [n_tok, n_head, n_dim] */
} aq_topk_dims_args;

#endif
