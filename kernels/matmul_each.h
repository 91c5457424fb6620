/* Products of several stored weights with the same tokens, in one go. For each part p
 *
 *   y_p[t, j] = sum_i x[t, i] w_p[j, i] + b_p[j]
 *
 * and after that, if the result is activated, y_0[t, j] = act(y_0[t, j]) y_1[t, j], or
 * act(y_0[t, j]) where there is one part (activate.h). y_1 is then not for use: it may hold the
 * product or not. The same as matmul, add_bias and activate one after the other, and so are the
 * tolerances; for few tokens the team is called once. */
#ifndef AQ_KERNELS_MATMUL_EACH_H
#define AQ_KERNELS_MATMUL_EACH_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/activate.h"
#include "src/base/dtype.h"

typedef struct {
    const void *w; /* [n_out, n_in] of dtype */
    aq_dtype dtype;
    int64_t n_out;
    const float *b;  /* [n_out], or NULL for none */
    float *y;        /* [n_tok, n_out]; not the memory of x */
    bool accumulate; /* y += ... instead */
} aq_matmul_part;

typedef struct {
    const aq_matmul_part *parts; /* [n_part] of the host, copied before return */
    int n_part;
    int64_t n_in; /* of all parts; as in matmul.h */
    int64_t n_tok;
    const float *x; /* [n_tok, n_in] */
    bool activated; /* then one part, or two of one n_out */
    aq_activate_kind activation;
} aq_matmul_each_args;

#endif
