/* What sets the families of models apart, as data: one entry a family, and what each file format
 * calls its tensors and keys. The readers of configurations and the loader of weights walk these
 * tables; no other code names a family. How to add one: docs/adding-a-model.md. */
#ifndef AQ_MODEL_FAMILY_H
#define AQ_MODEL_FAMILY_H

#include <stdbool.h>
#include <stdint.h>

#include "src/model/model_config.h"

/* What a tensor is for. Those of layers stand behind AQ_ROLE_ATTN_NORM. */
typedef enum {
    AQ_ROLE_EMBED,
    AQ_ROLE_POS_EMBED,
    AQ_ROLE_OUTPUT_NORM,
    AQ_ROLE_OUTPUT, /* its name has no prefix in front */
    AQ_ROLE_ROPE_DIVISORS,
    AQ_ROLE_ROPE_SHORT,
    AQ_ROLE_ROPE_LONG,
    AQ_ROLE_ATTN_NORM,
    AQ_ROLE_ATTN_POST_NORM,
    AQ_ROLE_FFN_NORM,
    AQ_ROLE_FFN_POST_NORM,
    AQ_ROLE_Q,
    AQ_ROLE_K,
    AQ_ROLE_V,
    AQ_ROLE_QKV, /* all three in one; used if it is there, or if there are no names for each */
    AQ_ROLE_O,
    AQ_ROLE_Q_NORM,
    AQ_ROLE_K_NORM,
    AQ_ROLE_GATE,
    AQ_ROLE_UP,
    AQ_ROLE_DOWN,
    AQ_ROLE_GATE_UP, /* the rows of gate, then those of up */
    AQ_ROLE_ROUTER,
    AQ_ROLE_EXPERT_GATE, /* of one expert; its number in place of %d */
    AQ_ROLE_EXPERT_UP,
    AQ_ROLE_EXPERT_DOWN,
    AQ_ROLE_EXPERTS_GATE, /* of all experts, [n_expert, n_out, n_in] */
    AQ_ROLE_EXPERTS_UP,
    AQ_ROLE_EXPERTS_DOWN,
    AQ_ROLE_EXPERTS_GATE_UP, /* gate and up rows of each */
    AQ_ROLE_COUNT
} aq_role;

/* How a family is stored in one file format. */
typedef struct {
    const char *prefixes[5]; /* in front of every name: the first that fits; ended by NULL */
    const char *layer;       /* in front of names of layers; the layer's number in place of %d */
    /* The name without ".weight", or alternatives as in "gate|router"; NULL: there is none, and for
     * norms: the family has none. */
    const char *roles[AQ_ROLE_COUNT];
    bool qkv_by_head;       /* QKV: rows of q, k, v of head 0, then of head 1, ...; else all q, all
                               k, all v */
    bool transposed;        /* matrices of layers are [n_in, n_out] */
    bool rotary_neighbours; /* rows of q and k in each head: pairs 2i, 2i + 1 */
    float norm_shift;       /* added to the stored weights of norms */
    const char *ignored[6]; /* parts of names of tensors that change nothing; ended by NULL */
} aq_name_map;

/* Whether a kind of bias exists: always (value), or as a key of config.json says. */
typedef struct {
    const char *key; /* NULL: fixed */
    bool value;      /* fixed, or where the key is absent */
} aq_key_rule;

typedef enum {
    AQ_WINDOW_NONE,
    AQ_WINDOW_ALL,    /* a window given is one of all layers */
    AQ_WINDOW_USED,   /* the same, if use_sliding_window */
    AQ_WINDOW_UPPER,  /* of the layers from max_window_layers on, if use_sliding_window */
    AQ_WINDOW_PATTERN /* of all layers but each 6th, or as a key of its own says */
} aq_window_rule;

/* Where config.json is silent; 0: it must not be. */
typedef struct {
    int n_head, n_kv_head, d_head, n_vocab; /* n_kv_head, d_head 0: n_head, d_model / n_head */
    int64_t n_ctx, window;                  /* window: null means none; 0: absence too */
    int64_t n_ctx_orig; /* before scaling, whatever the table says; 0: as it says */
    double norm_eps, rope_base, rope_local_base; /* rope_base 0: 10000; local 0: as rope */
    double rotary_factor;                        /* 0: 1 */
    /* Names of keys; NULL: hidden_act, rope_theta, partial_rotary_factor. */
    const char *activation_key, *rope_base_key, *rotary_factor_key;
    bool yarn_is_longrope;
    bool layer_types; /* the key is heeded */
} aq_hf_defaults;

struct aq_family {
    const char *arch; /* of the model whatever the format: part of fingerprints */
    const char *gguf; /* general.architecture; NULL: not from GGUF */
    const char *hf;   /* model_type; NULL: not from Hugging Face */
    const aq_name_map *gguf_names, *hf_names;
    aq_norm_kind norm;
    aq_activation activation;
    bool gated;
    bool qk_norm_per_head;
    bool learned_positions;
    int n_pos_offset;
    bool partial_rotary;   /* n_rot may be less than d_head */
    bool embed_scaled;     /* by sqrt(d_model) */
    const char *scale_key; /* of config.json: attn_scale = its value^-1/2, or d_head^-1/2 */
    bool tied;             /* where tie_word_embeddings is absent */
    aq_key_rule parallel_residual, qkv_bias, out_bias, ffn_bias;
    aq_window_rule window;
    bool experts;
    aq_key_rule renormalise; /* the weights of the experts used, in config.json */
    bool gguf_renormalise;
    int gguf_wide_layers; /* a GGUF file of that many layers has attn_scale sqrt(n_head / d_model)
                           */
    aq_hf_defaults hf_defaults;
};

/* The family that a GGUF file calls `name`, or NULL; the same for config.json's model_type. Static.
 * Local. */
const aq_family *aq_family_of_gguf(const char *name);
const aq_family *aq_family_of_hf(const char *name);

/* Family i, in no particular order; NULL behind the last. Static. Local. */
const aq_family *aq_family_at(int i);

/* The names of all families of a format, "llama, qwen2, ...", for messages; returns `text`. Local.
 */
const char *aq_family_list(aq_model_format format, char text[256]);

#endif
