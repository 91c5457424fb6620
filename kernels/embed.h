/* Embedding rows: out[t, :] = scale * table[ids[t], :], dequantised, or out[t, :] += ... if
 * `accumulate`, as learned positions are added to the tokens.
 *
 * Tolerance: exact. The dequantised value of the format (docs/formats.md), times scale, plus what
 * was there, each rounded to fp32. */
#ifndef AQ_KERNELS_EMBED_H
#define AQ_KERNELS_EMBED_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/dtype.h"

typedef struct {
    const void *table; /* [n_vocab, d_model] of dtype */
    aq_dtype dtype;
    int64_t d_model; /* a multiple of the type's block, at most AQ_EMBED_MAX_MODEL */
    int64_t n_tok;
    const int32_t *ids; /* [n_tok], each in 0 .. n_vocab - 1 */
    float scale;        /* 1, or what the model multiplies its embedding with */
    float *out;         /* [n_tok, d_model] */
    bool accumulate;
} aq_embed_args;

#define AQ_EMBED_MAX_MODEL 262144

#endif
