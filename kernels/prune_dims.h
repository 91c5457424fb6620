/* Leaves of each projected query the dimensions that decide and makes the others 0, where their
 * number differs from query to query. Columns are ranked by abs(q[t, h, i]) * weight[h / group, i]
 * (weight NULL: 1), as in topk_dims.h; of equal ones the lower column ranks higher. With e_i the
 * square of that, kept are
 *
 *   tau > 0:  the fewest of the highest ranks with  sum e_i over them >= tau sum e_i over all
 *   tau = 0:  those with  e_i >= least
 *
 * and the highest rank in any case. e_i is rounded to fp32. Tolerance: exact, but for where
 * rounding decides a sum that meets tau. Source: AQUA, arXiv 2509.11155, which leaves the adaptive
 * number open. */
#ifndef AQ_KERNELS_PRUNE_DIMS_H
#define AQ_KERNELS_PRUNE_DIMS_H

#include <stdint.h>

typedef struct {
    float *q;            /* [n_tok, n_head, n_col] projected queries, changed in place */
    const float *weight; /* [n_kv_head, n_col], not negative, or NULL */
    double tau;
    float least; /* with tau = 0 */
    int64_t n_tok;
    int n_head;
    int n_kv_head;
    int n_col;
    int64_t *n_kept; /* [1] kept columns of all rows are added to it */
} aq_prune_dims_args;

#endif
