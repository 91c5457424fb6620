/* Root-mean-square norm: y[t, i] = x[t, i] / sqrt(mean_j x[t, j]^2 + eps) * w[i], or y[t, i] += ...
 * if `accumulate`, as a norm behind a layer is added to the residual stream.
 *
 * x and y may be the same memory. Tolerance: reduction of length d_model.
 * Source: Zhang and Sennrich 2019, arXiv 1910.07467. */
#ifndef AQ_KERNELS_RMSNORM_H
#define AQ_KERNELS_RMSNORM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const float *x; /* [n_tok, d_model] */
    const float *w; /* [d_model] */
    float eps;
    int64_t n_tok;
    int64_t d_model;
    float *y; /* [n_tok, d_model] */
    bool accumulate;
} aq_rmsnorm_args;

#endif
