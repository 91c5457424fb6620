/* Embedding rows: out[t, :] = table[ids[t], :], dequantised.
 *
 * Tolerance: exact (the dequantised value of the format, docs/formats.md). */
#ifndef AQ_KERNELS_EMBED_H
#define AQ_KERNELS_EMBED_H

#include <stdint.h>

#include "src/base/dtype.h"

typedef struct {
    const void *table; /* [n_vocab, d_model] of dtype */
    aq_dtype dtype;
    int64_t d_model;
    int64_t n_tok;
    const int32_t *ids; /* [n_tok], each in 0 .. n_vocab - 1 */
    float *out;         /* [n_tok, d_model] */
} aq_embed_args;

#endif
