/* The tensors of a model, found, shape-checked and brought to one internal layout.
 *
 * Weights stay in their stored type and, where the file's layout is ours, stay in the map. Copied,
 * in whole rows or elements, are: Q and K of GGUF files that hold rotary pairs as neighbours (moved
 * to pairs i, i + n_rot / 2), Q, K and V of files that interleave them head by head, matrices that
 * are stored transposed, and tensors at odd addresses. Norms and biases are fp32; norms mean what
 * aq_norm_kind says, whatever the file adds to them. */
#ifndef AQ_MODEL_MODEL_WEIGHTS_H
#define AQ_MODEL_MODEL_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/dtype.h"
#include "src/base/status.h"
#include "src/model/model_config.h"
#include "src/model/model_file.h"

/* One matrix [n_out, n_in], rows of whole blocks; data NULL: this model has none here. */
typedef struct {
    const void *data;
    aq_dtype dtype;
    int64_t n_out;
    int64_t n_in;
    const float *bias; /* [n_out], or NULL */
} aq_weight;

typedef struct {
    const float *w; /* NULL: this norm is absent, y = x */
    const float *b; /* of AQ_NORM_LAYER; NULL: none */
} aq_norm_weight;

/* A feed-forward: dense [d_ff], or one expert [d_expert]. */
typedef struct {
    aq_weight w_gate; /* [d_ff, d_model]; data NULL unless gated */
    aq_weight w_up;   /* [d_ff, d_model] */
    aq_weight w_down; /* [d_model, d_ff] */
} aq_ffn_weights;

typedef struct {
    aq_norm_weight attn_norm;      /* [d_model], before attention */
    aq_norm_weight attn_post_norm; /* [d_model], of its output before it is added */
    aq_norm_weight ffn_norm;       /* [d_model], before the feed-forward */
    aq_norm_weight ffn_post_norm;  /* [d_model], of its output before it is added */
    aq_weight wq;                  /* [n_head * d_head, d_model] */
    aq_weight wk;                  /* [n_kv_head * d_head, d_model] */
    aq_weight wv;                  /* [n_kv_head * d_head, d_model] */
    aq_weight wo;                  /* [d_model, n_head * d_head] */
    const float *q_norm;           /* see qk_norm_per_head; NULL: none */
    const float *k_norm;
    aq_ffn_weights ffn;      /* dense layers; data NULL in expert layers */
    aq_weight router;        /* expert layers: [n_expert, d_model]; data NULL in dense layers */
    aq_ffn_weights *experts; /* [n_expert]; NULL in dense layers */
} aq_layer_weights;

#define AQ_FINGERPRINT_BYTES 16

typedef struct {
    aq_weight embed;            /* [n_vocab, d_model] */
    aq_weight pos_embed;        /* [n_ctx + n_pos_offset, d_model]; data NULL: positions rotate */
    aq_norm_weight output_norm; /* [d_model] */
    aq_weight output;           /* [n_vocab, d_model]; the embedding when tied */
    /* Divisors of the rope frequencies of config.rope, [n_rot / 2] or NULL. */
    const float *rope_divisors; /* Llama 3 */
    const float *rope_short;    /* longrope, contexts up to rope.n_ctx_orig */
    const float *rope_long;     /* longrope, longer ones */
    aq_layer_weights *layers;   /* [n_layer] */
    int64_t bytes;              /* of all tensors */
    /* What a projection is bound to: the family, shapes, rope and every norm vector (rounded to
     * bf16), so that the same model in another file format or quantisation has the same one. */
    uint8_t fingerprint[AQ_FINGERPRINT_BYTES];
    void *owned;         /* memory of what was copied */
    int64_t owned_bytes; /* of it */
} aq_model_weights;

/* Finds and checks all tensors; the file must stay open while the weights are used. The caller
 * closes *out. AQ_ERR_FORMAT (tensor missing, wrong shape, not finite: named with what was
 * expected), AQ_ERR_UNSUPPORTED (a tensor this family should not have, or of a type that is not
 * supported), AQ_ERR_MEMORY. Local. */
aq_status aq_model_weights_open(const aq_model_file *file, const aq_model_config *config,
                                aq_model_weights *out);

/* Frees what open made; a zeroed struct is allowed. Local. */
void aq_model_weights_close(aq_model_weights *weights);

/* The divisors of config.rope's frequencies for a session of n_ctx tokens: with longrope rope_long
 * if n_ctx > rope.n_ctx_orig, else rope_short; Llama 3's; or NULL. With two_ropes the other table,
 * rope_local, has none. Local. */
const float *aq_model_rope_divisors(const aq_model_config *config, const aq_model_weights *weights,
                                    int64_t n_ctx);

#endif
