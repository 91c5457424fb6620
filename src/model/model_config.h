/* The shape of a model: read from its file once, validated once, then trusted everywhere. */
#ifndef AQ_MODEL_MODEL_CONFIG_H
#define AQ_MODEL_MODEL_CONFIG_H

#include "src/base/status.h"
#include "src/model/gguf.h"

typedef enum { AQ_ROPE_NONE, AQ_ROPE_LINEAR, AQ_ROPE_YARN } aq_rope_scaling;

typedef struct {
    char arch[32]; /* "llama" */
    char name[128];
    int n_layer;
    int n_head;
    int n_kv_head; /* divides n_head */
    int d_head;
    int d_model;
    int d_ff;
    int n_vocab;
    int64_t n_ctx; /* longest context the model was made for */
    float norm_eps;
    /* rotary embedding */
    int n_rot; /* even, <= d_head */
    double rope_base;
    aq_rope_scaling rope_scaling;
    double rope_factor;      /* 1 without scaling */
    double rope_attn_factor; /* yarn: multiplies the attention factor; 1 if absent */
    int64_t rope_n_ctx_orig; /* context before scaling; n_ctx if absent */
} aq_model_config;

/* Reads and validates the configuration of an opened file. Every size is positive and bounded so
 * that products of two fit int64_t. AQ_ERR_FORMAT (key missing or out of range, named),
 * AQ_ERR_UNSUPPORTED (architecture or rope scaling, named). Local. */
aq_status aq_model_config_read(const aq_gguf *file, aq_model_config *out);

/* Inverse frequencies inv_freq[n_rot / 2] and the attention factor (multiplies cos and sin) of a
 * configuration:
 *   none    base^(-2i / n_rot)
 *   linear  the same, divided by rope_factor
 *   yarn    per-dimension mix of both, attention factor rope_attn_factor * (1 + 0.1 ln rope_factor)
 * then divided by divisors[i] if divisors is not NULL (Llama 3's `rope_freqs.weight`). In fp32
 * where the reference implementation is. Source: docs/formats.md, section rope; yarn: arXiv
 * 2309.00071. Local. */
void aq_model_rope(const aq_model_config *config, const float *divisors, float *inv_freq,
                   float *attn_factor);

#endif
