/* Rotary position embedding on the NEOX layout: dimension i is paired with i + n_rot / 2.
 *
 *   angle(p, i) = (float)p * inv_freq[i]     (one fp32 product, as the models were trained)
 *   table[t, i] = scale * (cos, sin)(angle(pos[t], i))
 *   x'[i]             = x[i] cos - x[i + n_rot/2] sin
 *   x'[i + n_rot/2]   = x[i + n_rot/2] cos + x[i] sin
 * Dimensions past n_rot are left alone. The table is made once a step and serves all layers.
 * Tolerance: elementwise, given the fp32 angle. Source: Su et al. 2021, arXiv 2104.09864. */
#ifndef AQ_KERNELS_ROPE_H
#define AQ_KERNELS_ROPE_H

#include <stdint.h>

typedef struct {
    const int64_t *pos;    /* [n_tok] */
    const float *inv_freq; /* [n_rot / 2] */
    float scale;           /* 1, or the attention factor of yarn */
    int64_t n_tok;
    int n_rot;    /* even */
    float *table; /* [n_tok, n_rot / 2, 2]: cos, sin */
} aq_rope_table_args;

typedef struct {
    const float *table; /* [n_tok, n_rot / 2, 2] */
    int64_t n_tok;
    int n_head;
    int d_head;
    int n_rot; /* even, <= d_head */
    float *x;  /* [n_tok, n_head, d_head], changed in place */
} aq_rope_args;

#endif
