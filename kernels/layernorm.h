/* Layer norm: y[t, i] = (x[t, i] - mean) / sqrt(var + eps) * w[i] + b[i], or y[t, i] += ... if
 * `accumulate`; mean and var = mean_j (x[t, j] - mean)^2 are those of x[t, :], taken one after the
 * other.
 *
 * x and y may be the same memory. Tolerance: mean and var are reductions of length d_model; the
 * error of the mean is relative to the mean of abs(x) and is as large in each x - mean.
 * Source: Ba et al. 2016, arXiv 1607.06450. */
#ifndef AQ_KERNELS_LAYERNORM_H
#define AQ_KERNELS_LAYERNORM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const float *x; /* [n_tok, d_model] */
    const float *w; /* [d_model] */
    const float *b; /* [d_model], or NULL for none */
    float eps;
    int64_t n_tok;
    int64_t d_model;
    float *y; /* [n_tok, d_model] */
    bool accumulate;
} aq_layernorm_args;

#endif
