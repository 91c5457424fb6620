/* Gated unit: y[t, i] = silu(gate[t, i]) * up[t, i], silu(g) = g / (1 + exp(-g)).
 *
 * y may be the memory of gate or up. Tolerance: elementwise. Source: Shazeer 2020, arXiv
 * 2002.05202. */
#ifndef AQ_KERNELS_SWIGLU_H
#define AQ_KERNELS_SWIGLU_H

#include <stdint.h>

typedef struct {
    const float *gate; /* [n] */
    const float *up;   /* [n] */
    int64_t n;         /* n_tok * d_ff */
    float *y;          /* [n] */
} aq_swiglu_args;

#endif
