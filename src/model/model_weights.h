/* The tensors of a model, found, shape-checked and brought to one internal layout.
 *
 * Weights stay quantised and, where the file's layout is ours, stay in the map. GGUF files of
 * architecture `llama` hold the rows of Q and K in interleaved rotary order (pairs 2i, 2i + 1);
 * they are moved to the NEOX order (pairs i, i + n_rot / 2) here, whole rows, without dequantising.
 */
#ifndef AQ_MODEL_MODEL_WEIGHTS_H
#define AQ_MODEL_MODEL_WEIGHTS_H

#include "src/base/dtype.h"
#include "src/base/status.h"
#include "src/model/gguf.h"
#include "src/model/model_config.h"

/* One matrix [n_out, n_in], or one vector with n_out = 1. */
typedef struct {
    const void *data;
    aq_dtype dtype;
    int64_t n_out;
    int64_t n_in;
} aq_weight;

typedef struct {
    const float *attn_norm; /* [d_model] */
    aq_weight wq;           /* [n_head * d_head, d_model] */
    aq_weight wk;           /* [n_kv_head * d_head, d_model] */
    aq_weight wv;           /* [n_kv_head * d_head, d_model] */
    aq_weight wo;           /* [d_model, n_head * d_head] */
    const float *ffn_norm;  /* [d_model] */
    aq_weight w_gate;       /* [d_ff, d_model] */
    aq_weight w_up;         /* [d_ff, d_model] */
    aq_weight w_down;       /* [d_model, d_ff] */
} aq_layer_weights;

#define AQ_FINGERPRINT_BYTES 16

typedef struct {
    aq_weight embed;            /* [n_vocab, d_model] */
    const float *output_norm;   /* [d_model] */
    aq_weight output;           /* [n_vocab, d_model]; the embedding when tied */
    const float *rope_divisors; /* [n_rot / 2], or NULL */
    aq_layer_weights *layers;   /* [n_layer] */
    int64_t bytes;              /* of all tensors */
    /* What a projection is bound to: the architecture, shapes, rope and every norm vector (rounded
     * to bf16), so that the same model in another file format or quantisation has the same one. */
    uint8_t fingerprint[AQ_FINGERPRINT_BYTES];
    void *owned; /* memory of the moved rows */
} aq_model_weights;

/* Finds and checks all tensors; the file must stay open while the weights are used. The caller
 * closes *out. AQ_ERR_FORMAT (tensor missing, wrong shape: named with what was expected),
 * AQ_ERR_UNSUPPORTED (a tensor this architecture should not have, such as a bias), AQ_ERR_MEMORY.
 * Local. */
aq_status aq_model_weights_open(const aq_gguf *file, const aq_model_config *config,
                                aq_model_weights *out);

/* Frees what open made; a zeroed struct is allowed. Local. */
void aq_model_weights_close(aq_model_weights *weights);

#endif
