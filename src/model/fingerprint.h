/* The number that binds a projection to a model, and one of any bytes. */
#ifndef AQ_MODEL_FINGERPRINT_H
#define AQ_MODEL_FINGERPRINT_H

#include <stddef.h>
#include <stdint.h>

#include "src/model/model_weights.h"

/* XXH3-128, in its canonical byte order, of these bytes in order, all little-endian:
 *   the architecture's name and a NUL;
 *   int64: n_layer n_head n_kv_head d_head d_model d_ff n_vocab n_rot;
 *   fp32: norm_eps; the table rope: fp32 base factor; int64: the scaling's number, and for yarn
 *   n_ctx_orig (else 0); fp32: attn_factor, rounded to bf16. Llama 3's scaling counts as none: its
 *   divisors come below;
 *   only if they are not as in a plain Llama: one byte that names the trait and its value:
 *     1 int64 window and the int64s of windowed; 2 the table rope_local, if two_ropes; 3 int64
 *     n_expert n_expert_used d_expert expert_renormalise and the int64s of expert_layers; 4 int64
 *     parallel_residual; 5 fp32 attn_scale; 6 yarn's fp32 beta_fast beta_slow; 7 int64 activation;
 *   uint16, rounded to bf16: output_norm; of each layer attn_norm, attn_post_norm, ffn_norm,
 *   ffn_post_norm, q_norm, k_norm, each its weights, then its biases, as far as it has them; the
 *   rope divisors, rope_short, rope_long, as far as there are any.
 * Weights are left out: the file formats of one model round them differently. Local. */
void aq_model_fingerprint(const aq_model_config *config, const aq_model_weights *weights,
                          uint8_t out[AQ_FINGERPRINT_BYTES]);

/* XXH3-64 of data[bytes]; NULL is allowed with 0 bytes. Local. */
uint64_t aq_bytes_fingerprint(const void *data, size_t bytes);

#endif
