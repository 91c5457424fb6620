/* The number that binds a projection to a model. */
#ifndef AQ_MODEL_FINGERPRINT_H
#define AQ_MODEL_FINGERPRINT_H

#include "src/model/model_weights.h"

/* XXH3-128, in its canonical byte order, of these bytes in order, all little-endian:
 *   the architecture's name and a NUL;
 *   int64: n_layer n_head n_kv_head d_head d_model d_ff n_vocab n_rot;
 *   fp32: norm_eps rope_base rope_factor; int64: the scaling's number, and for yarn
 *   rope_n_ctx_orig (else 0); fp32: rope_attn_factor;
 *   uint16, rounded to bf16: output_norm, then attn_norm and ffn_norm of each layer, then the
 *   rope divisors if there are any.
 * Weights are left out: the file formats of one model round them differently. Local. */
void aq_model_fingerprint(const aq_model_config *config, const aq_model_weights *weights,
                          uint8_t out[AQ_FINGERPRINT_BYTES]);

#endif
