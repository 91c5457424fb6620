/* Activation, gated or not: y[i] = act(x[i]) * up[i], or act(x[i]) if `up` is NULL:
 *
 *   silu       x / (1 + exp(-x))
 *   gelu       x Phi(x), Phi(x) = (1 + erf(x / sqrt(2))) / 2
 *   gelu_tanh  x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
 *   relu       max(x, 0)
 *
 * y may be the memory of x or up. NaN stays. Tolerance: elementwise; of both gelus the exponent,
 * x^2 / 2 and its like, is rounded, which is a relative error where the result is nearly 0.
 * Sources: Shazeer 2020, arXiv 2002.05202 (gated units); Hendrycks and Gimpel 2016, arXiv
 * 1606.08415. */
#ifndef AQ_KERNELS_ACTIVATE_H
#define AQ_KERNELS_ACTIVATE_H

#include <stdint.h>

typedef enum {
    AQ_ACTIVATE_SILU,
    AQ_ACTIVATE_GELU,
    AQ_ACTIVATE_GELU_TANH,
    AQ_ACTIVATE_RELU
} aq_activate_kind;

typedef struct {
    aq_activate_kind kind;
    const float *x;  /* [n]: the gate, if gated */
    const float *up; /* [n], or NULL */
    int64_t n;       /* n_tok * d_ff */
    float *y;        /* [n] */
} aq_activate_args;

#endif
