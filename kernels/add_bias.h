/* Bias: y[t, i] += b[i].
 * Tolerance: exact (one rounding). */
#ifndef AQ_KERNELS_ADD_BIAS_H
#define AQ_KERNELS_ADD_BIAS_H

#include <stdint.h>

typedef struct {
    const float *b; /* [width] */
    int64_t n_tok;
    int64_t width;
    float *y; /* [n_tok, width], changed in place */
} aq_add_bias_args;

#endif
