/* The router of a mixture of experts: per token, the n_used experts of largest logit, in falling
 * order, and what each counts for. Of equal logits the lower expert wins; NaN ranks below
 * everything, so that ids are in range whatever the logits are.
 *
 *   p[e] = exp(logit[t, e] - max) / sum_f exp(logit[t, f] - max), the sum over all experts
 *   weight[t, j] = p[ids[t, j]], or that divided by its sum over j if `renormalise`
 *
 * Tolerance: ids exact; weights are reductions of length n_expert, and the rounding of logit - max
 * enters them as a relative error. Sources: Shazeer et al. 2017, arXiv 1701.06538; Jiang et al.
 * 2024, arXiv 2401.04088. */
#ifndef AQ_KERNELS_ROUTE_H
#define AQ_KERNELS_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const float *logits; /* [n_tok, n_expert] */
    int64_t n_tok;
    int n_expert; /* at most AQ_ROUTE_MAX_EXPERT */
    int n_used;   /* 1 .. n_expert */
    bool renormalise;
    int32_t *ids;  /* [n_tok, n_used] */
    float *weight; /* [n_tok, n_used] */
} aq_route_args;

#define AQ_ROUTE_MAX_EXPERT 65536

#endif
