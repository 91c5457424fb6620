/* What a model is: its shape, and which of the variants of a transformer it is made of. Read from
 * its file once, validated once, then trusted everywhere. Nothing above src/model knows families:
 * what differs between them is said here. Which file says what: docs/formats.md.
 *
 * A layer of a model, with norm1 .. norm4 present or not (aq_layer_weights):
 *     a = attention(norm1(x))            x' = x + norm2(a)
 *     f = feed_forward(norm3(x'))        y = x' + norm4(f)
 * and with parallel_residual  y = x + a + feed_forward(norm3(x)). */
#ifndef AQ_MODEL_MODEL_CONFIG_H
#define AQ_MODEL_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/model/model_file.h"

#define AQ_MAX_LAYER 1024

/* One bit a layer. */
typedef struct {
    uint64_t bits[AQ_MAX_LAYER / 64];
} aq_layer_set;

static inline bool aq_layer_set_has(const aq_layer_set *set, int layer) {
    return set->bits[layer / 64] >> (layer % 64) & 1;
}

static inline void aq_layer_set_add(aq_layer_set *set, int layer) {
    set->bits[layer / 64] |= (uint64_t)1 << (layer % 64);
}

/* Layers of the set. */
static inline int aq_layer_set_count(const aq_layer_set *set) {
    int n = 0;
    for (int layer = 0; layer < AQ_MAX_LAYER; layer++)
        n += aq_layer_set_has(set, layer);
    return n;
}

typedef enum {
    AQ_NORM_RMS,  /* x / sqrt(mean(x^2) + eps) * w */
    AQ_NORM_LAYER /* (x - mean) / sqrt(var + eps) * w + b */
} aq_norm_kind;

/* The order of the numbers is shared with kernels/activate.h. */
typedef enum {
    AQ_ACT_SILU,      /* x / (1 + e^-x) */
    AQ_ACT_GELU,      /* x (1 + erf(x / sqrt 2)) / 2 */
    AQ_ACT_GELU_TANH, /* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 */
    AQ_ACT_RELU       /* max(x, 0) */
} aq_activation;

typedef enum {
    AQ_ROPE_NONE,
    AQ_ROPE_LINEAR,
    AQ_ROPE_YARN,
    AQ_ROPE_LLAMA3,  /* the divisors of the weights hold it all: like none here */
    AQ_ROPE_LONGROPE /* the divisors rope_short or rope_long of the weights; see aq_model_rope */
} aq_rope_scaling;

/* One rotary table. */
typedef struct {
    double base;
    aq_rope_scaling scaling;
    double factor;      /* linear, yarn, llama3; longrope: n_ctx / n_ctx_orig. 1 without scaling */
    double attn_factor; /* yarn, longrope: multiplies their attention factor. 1 unless said */
    int64_t n_ctx_orig; /* context before scaling; n_ctx if the file is silent */
    double beta_fast;   /* yarn: turns over n_ctx_orig from which on a dimension stays plain; 32 */
    double beta_slow;   /* yarn: turns up to which it is interpolated; 1 */
    double low_freq, high_freq; /* llama3: low_freq_factor and high_freq_factor */
} aq_rope_config;

/* Whether a kind of tensor belongs to the model. */
typedef enum {
    AQ_PART_ABSENT,   /* refused when there */
    AQ_PART_OPTIONAL, /* used when there: GGUF does not say */
    AQ_PART_REQUIRED
} aq_part;

typedef struct aq_family aq_family; /* src/model/family.h */

typedef struct {
    const aq_family *family; /* its names of tensors; for src/model */
    char arch[32];           /* "llama": of the same model the same in every file format */
    char name[128];
    int n_layer;
    int n_head;
    int n_kv_head; /* divides n_head */
    int d_head;
    int d_model;
    int d_ff; /* of dense layers; of expert layers it is d_expert */
    int n_vocab;
    int64_t n_ctx; /* longest context the model was made for */
    float norm_eps;
    aq_norm_kind norm; /* of all norms over d_model */
    aq_activation activation;
    bool gated; /* feed_forward(x) = W_down (act(W_gate x) * W_up x); else W_down act(W_up x) */
    bool parallel_residual;
    bool qk_norm_per_head; /* q_norm, k_norm: RMS over each head, weights [d_head]; else over all
                              heads together, weights [n_head * d_head], [n_kv_head * d_head] */
    float embed_scale;     /* multiplies the rows of the embedding */
    float attn_scale;      /* multiplies q k; 1 / sqrt(d_head) unless said */
    /* positions */
    int n_rot;                 /* first dimensions of each head that rotate, even; 0: learned */
    int n_pos_offset;          /* learned: row of pos_embed = position + n_pos_offset */
    aq_rope_config rope;       /* of layers that see everything */
    bool two_ropes;            /* rope_local is not rope */
    aq_rope_config rope_local; /* of windowed layers; with two_ropes, without divisors */
    int64_t window;            /* a windowed layer's query p sees keys p - window + 1 .. p; 0: no
                                  layer is windowed. See aq_model_config_fit_window */
    aq_layer_set windowed;     /* empty if window is 0 */
    /* experts: p = softmax(router x) over all; the n_expert_used largest, ties to the lower id;
     * y = sum of p_e expert_e(x), each p divided by the sum of those used if renormalised */
    int n_expert; /* 0: none */
    int n_expert_used;
    int d_expert;
    bool expert_renormalise;
    aq_layer_set expert_layers; /* layers with experts in place of the dense feed-forward */
    /* tensors that a model of this family may or may not have */
    aq_part qkv_bias;
    aq_part out_bias; /* of the attention's output */
    aq_part ffn_bias;
    bool tied; /* HF: the embedding is the output matrix. GGUF says it by the tensor's absence */
} aq_model_config;

/* Reads and validates the configuration of an opened file of either format. Every size is positive
 * and bounded so that products of two fit int64_t. AQ_ERR_FORMAT (key missing or out of range,
 * named), AQ_ERR_UNSUPPORTED (family, or a key whose value would need what is not there, named).
 * Local. */
aq_status aq_model_config_read(const aq_model_file *file, aq_model_config *out);

/* Once n_ctx is final, which options may have changed: a window as long as the context hides
 * nothing, so its layers become like the others; or, if they differ from them by their table too,
 * the window becomes n_ctx. Local. */
void aq_model_config_fit_window(aq_model_config *config);

/* Whether a layer sees a window only, and whether its feed-forward are experts. Local. */
static inline bool aq_model_windowed(const aq_model_config *config, int layer) {
    return aq_layer_set_has(&config->windowed, layer);
}

static inline bool aq_model_has_experts(const aq_model_config *config, int layer) {
    return aq_layer_set_has(&config->expert_layers, layer);
}

/* Inverse frequencies inv_freq[n_rot / 2] and the attention factor (multiplies cos and sin):
 *   none, llama3, longrope   base^(-2i / n_rot)
 *   linear                   the same, divided by factor
 *   yarn                     per-dimension mix of both
 * then divided by divisors[i] if divisors is not NULL. The attention factor is
 *   yarn                     attn_factor (1 + 0.1 ln factor)
 *   longrope                 attn_factor sqrt(1 + ln factor / ln n_ctx_orig); if factor <= 1 only
 *                            attn_factor
 *   the others               1
 * The divisors are the caller's to choose: aq_model_rope_divisors of model_weights.h. In fp32 where
 * the reference implementation is. Source: docs/formats.md, section rope; yarn: arXiv 2309.00071;
 * longrope: arXiv 2402.13753. Local. */
void aq_model_rope(const aq_rope_config *rope, int n_rot, const float *divisors, float *inv_freq,
                   float *attn_factor);

#endif
