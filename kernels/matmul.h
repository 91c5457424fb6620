/* Product with a stored weight: y[t, j] = sum_i x[t, i] w[j, i], or y[t, j] += ... if `accumulate`.
 *
 * Weights stay in their stored type and are dequantised on the fly; activations and sums are fp32.
 * Few tokens go through matrix-vector kernels, many through dequantised panels: the two differ only
 * in the order of their sums. Tolerance: reduction of length n_in against the product
 * of the dequantised weights.
 *
 * A device with matrix units may, for more than AQ_MATMUL_EXACT_TOKS tokens and weights that are
 * not F32, round weights and tokens to the 11 bits of IEEE half floats, the tokens times one power
 * of two that brings their largest element to 2^14 .. 2^15; sums are fp32 all the same. Every term
 * gets two relative errors of up to 2^-11, which fall either way: 4 * 2^-11 sqrt(sum_i (x[t, i]
 * w[j, i])^2) is allowed besides. Weights beyond 65504 are cut off there; those below 2^-14, and
 * elements of tokens below 2^-28 of the largest, have the error of that size. */
#ifndef AQ_KERNELS_MATMUL_H
#define AQ_KERNELS_MATMUL_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/dtype.h"

typedef struct {
    const void *w; /* [n_out, n_in] of dtype */
    aq_dtype dtype;
    int64_t n_out;
    int64_t n_in; /* a multiple of the type's block, at most AQ_MATMUL_MAX_IN */
    int64_t n_tok;
    const float *x; /* [n_tok, n_in] */
    float *y;       /* [n_tok, n_out]; not the memory of x */
    bool accumulate;
} aq_matmul_args;

#define AQ_MATMUL_MAX_IN     262144
#define AQ_MATMUL_EXACT_TOKS 8

#endif
