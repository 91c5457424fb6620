/* How much attention the tokens of one rank have got: for each token s held here, over the queries
 * t and query heads h that see it (attn_partial.h says which do, and what the score a[t, h, s] is),
 *
 *   acc[s] += sum_t sum_h exp(a[t, h, s] - m[t, h]) / l[t, h]
 *
 * with m and l of the softmax over the tokens of ALL ranks (attn_merge.h), so that a query gives
 * 1 for each of its heads, over all tokens of all ranks together. One number a token, all KV heads
 * together: tokens are kept or dropped for all of them. Where tokens are selected, it is taken over
 * all tokens held, from exact scores.
 *
 * A query head with l = 0 saw nothing and gives nothing. Slots that no query sees are not changed.
 * The same bits for any number of threads. Sums in fp32. Tolerance: reduction of length
 * n_q * n_head of terms with the relative errors of the weights of attn_partial.
 * Source: H2O, arXiv 2306.14048. */
#ifndef AQ_KERNELS_ATTN_MASS_H
#define AQ_KERNELS_ATTN_MASS_H

#include "kernels/attn_partial.h"

typedef struct {
    aq_attn_partial_args scores; /* part is not used, values are not read */
    const float *ml;             /* [n_q, n_head, 2] m, then l */
    float *acc;                  /* [places, AQ_TILE], as slot_pos */
} aq_attn_mass_args;

#endif
