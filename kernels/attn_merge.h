/* Merge of partial attention over shards, in the order of the parts, so that the same parts give
 * the same bits everywhere:
 *
 *   M = max_r m_r,  out[i] = sum_r exp(m_r - M) o_r[i] / sum_r exp(m_r - M) l_r
 *
 * and, if asked for, M and L = sum_r exp(m_r - M) l_r: exp(a - M) / L is the share of the softmax
 * over all shards that a token of score a has (attn_mass.h).
 *
 * A part with m = -inf is neutral; if all are, out = 0, M = -inf, L = 0. Tolerance: reduction of
 * length n_part.
 * Source: the associativity of log-sum-exp; Dao et al. 2023 (flash-decoding). */
#ifndef AQ_KERNELS_ATTN_MERGE_H
#define AQ_KERNELS_ATTN_MERGE_H

#include <stdint.h>

typedef struct {
    const float *parts; /* [n_part, n_row, d_head + 2], see attn_partial.h */
    int n_part;
    int64_t n_row; /* n_tok * n_head */
    int d_head;
    float *out; /* [n_row, d_head] */
    float *ml;  /* [n_row, 2] M, then L; or NULL */
} aq_attn_merge_args;

#endif
