#include "src/model/family.h"

#include <stdio.h>
#include <string.h>

#include "src/model/family_names.h"

#define NEVER                                                                                      \
    { NULL, false }
#define ALWAYS                                                                                     \
    { NULL, true }
#define ATTENTION_BIAS                                                                             \
    { "attention_bias", false }

/* GGUF calls Llama, Mistral and Mixtral by one name, and says by its keys and tensors which of them
 * it is; of the three the fingerprints agree in both formats. */
static const aq_family families[] = {
    {.arch = "llama",
     .gguf = "llama",
     .gguf_names = &aq_names_gguf_llama,
     .gated = true,
     .qkv_bias = ATTENTION_BIAS,
     .out_bias = ATTENTION_BIAS,
     .ffn_bias = {"mlp_bias", false},
     .window = AQ_WINDOW_ALL,
     .experts = true,
     .gguf_renormalise = true},
    {.arch = "llama",
     .hf = "llama",
     .hf_names = &aq_names_hf_llama,
     .gated = true,
     .qkv_bias = ATTENTION_BIAS,
     .out_bias = ATTENTION_BIAS,
     .ffn_bias = {"mlp_bias", false}},
    {.arch = "llama",
     .hf = "mistral",
     .hf_names = &aq_names_hf_llama,
     .gated = true,
     .window = AQ_WINDOW_ALL,
     .hf_defaults = {.n_kv_head = 8, .window = 4096, .layer_types = true}},
    {.arch = "llama",
     .hf = "mixtral",
     .hf_names = &aq_names_hf_mixtral,
     .gated = true,
     .window = AQ_WINDOW_ALL,
     .experts = true,
     .renormalise = ALWAYS,
     .hf_defaults = {.n_kv_head = 8, .rope_base = 1e6}},
    {.arch = "qwen2",
     .gguf = "qwen2",
     .hf = "qwen2",
     .gguf_names = &aq_names_gguf_plain,
     .hf_names = &aq_names_hf_llama,
     .gated = true,
     .qkv_bias = ALWAYS,
     .window = AQ_WINDOW_UPPER,
     .hf_defaults = {.n_kv_head = 32, .window = 4096, .layer_types = true}},
    {.arch = "qwen3",
     .gguf = "qwen3",
     .hf = "qwen3",
     .gguf_names = &aq_names_gguf_qk_norm,
     .hf_names = &aq_names_hf_qk_norm,
     .gated = true,
     .qk_norm_per_head = true,
     .qkv_bias = ATTENTION_BIAS,
     .out_bias = ATTENTION_BIAS,
     .window = AQ_WINDOW_UPPER,
     .hf_defaults = {.n_kv_head = 32, .d_head = 128, .window = 4096, .layer_types = true}},
    {.arch = "qwen3moe",
     .gguf = "qwen3moe",
     .hf = "qwen3_moe",
     .gguf_names = &aq_names_gguf_qk_norm,
     .hf_names = &aq_names_hf_qk_norm,
     .gated = true,
     .qk_norm_per_head = true,
     .qkv_bias = ATTENTION_BIAS,
     .out_bias = ATTENTION_BIAS,
     .window = AQ_WINDOW_USED,
     .experts = true,
     .renormalise = {"norm_topk_prob", false},
     .gguf_renormalise = true,
     .hf_defaults = {.n_kv_head = 4, .window = 4096}},
    {.arch = "olmo2",
     .gguf = "olmo2",
     .hf = "olmo2",
     .gguf_names = &aq_names_gguf_post_norm,
     .hf_names = &aq_names_hf_olmo2,
     .gated = true,
     .qkv_bias = ATTENTION_BIAS,
     .out_bias = ATTENTION_BIAS},
    {.arch = "olmoe",
     .gguf = "olmoe",
     .hf = "olmoe",
     .gguf_names = &aq_names_gguf_qk_norm,
     .hf_names = &aq_names_hf_qk_norm,
     .gated = true,
     .qkv_bias = ATTENTION_BIAS,
     .out_bias = ATTENTION_BIAS,
     .experts = true,
     .renormalise = {"norm_topk_prob", false}},
    {.arch = "gemma3",
     .gguf = "gemma3",
     .hf = "gemma3_text",
     .gguf_names = &aq_names_gguf_gemma3,
     .hf_names = &aq_names_hf_gemma3,
     .activation = AQ_ACT_GELU_TANH,
     .gated = true,
     .qk_norm_per_head = true,
     .embed_scaled = true,
     .scale_key = "query_pre_attn_scalar",
     .tied = true,
     .qkv_bias = ATTENTION_BIAS,
     .out_bias = ATTENTION_BIAS,
     .window = AQ_WINDOW_PATTERN,
     .gguf_wide_layers = 62, /* the 27B */
     .hf_defaults = {.n_head = 8,
                     .n_kv_head = 4,
                     .d_head = 256,
                     .n_vocab = 262208,
                     .n_ctx = 131072,
                     .window = 4096,
                     .norm_eps = 1e-6,
                     .rope_base = 1e6,
                     .rope_local_base = 1e4,
                     .activation_key = "hidden_activation",
                     .layer_types = true}},
    {.arch = "phi3",
     .gguf = "phi3",
     .hf = "phi3",
     .gguf_names = &aq_names_gguf_phi3,
     .hf_names = &aq_names_hf_phi3,
     .gated = true,
     .partial_rotary = true,
     .window = AQ_WINDOW_ALL,
     .hf_defaults = {.n_ctx_orig = 4096, .yarn_is_longrope = true}},
    {.arch = "opt",
     .hf = "opt",
     .hf_names = &aq_names_hf_opt,
     .norm = AQ_NORM_LAYER,
     .activation = AQ_ACT_RELU,
     .learned_positions = true,
     .n_pos_offset = 2,
     .tied = true,
     .qkv_bias = {"enable_bias", true},
     .out_bias = {"enable_bias", true},
     .ffn_bias = {"enable_bias", true},
     .hf_defaults = {.norm_eps = 1e-5, .activation_key = "activation_function"}},
    {.arch = "gptneox",
     .gguf = "gptneox",
     .hf = "gpt_neox",
     .gguf_names = &aq_names_gguf_gptneox,
     .hf_names = &aq_names_hf_gpt_neox,
     .norm = AQ_NORM_LAYER,
     .activation = AQ_ACT_GELU,
     .partial_rotary = true,
     .parallel_residual = {"use_parallel_residual", true},
     .qkv_bias = {"attention_bias", true},
     .out_bias = {"attention_bias", true},
     .ffn_bias = ALWAYS,
     .hf_defaults = {.norm_eps = 1e-5,
                     .rotary_factor = 0.25,
                     .rope_base_key = "rotary_emb_base",
                     .rotary_factor_key = "rotary_pct"}},
    {.arch = "gpt2",
     .gguf = "gpt2",
     .hf = "gpt2",
     .gguf_names = &aq_names_gguf_gpt2,
     .hf_names = &aq_names_hf_gpt2,
     .norm = AQ_NORM_LAYER,
     .activation = AQ_ACT_GELU_TANH,
     .learned_positions = true,
     .tied = true,
     .qkv_bias = ALWAYS,
     .out_bias = ALWAYS,
     .ffn_bias = ALWAYS,
     .hf_defaults = {.norm_eps = 1e-5, .n_ctx = 1024, .activation_key = "activation_function"}},
};

#define N_FAMILY ((int)(sizeof families / sizeof families[0]))

static const aq_family *find(const char *name, bool gguf) {
    for (int i = 0; i < N_FAMILY; i++) {
        const char *own = gguf ? families[i].gguf : families[i].hf;
        if (own && strcmp(own, name) == 0) return &families[i];
    }
    return NULL;
}

const aq_family *aq_family_of_gguf(const char *name) {
    return find(name, true);
}

const aq_family *aq_family_of_hf(const char *name) {
    return find(name, false);
}

const aq_family *aq_family_at(int i) {
    return i < N_FAMILY ? &families[i] : NULL;
}

const char *aq_family_list(aq_model_format format, char text[256]) {
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < N_FAMILY; i++) {
        const char *name = format == AQ_MODEL_GGUF ? families[i].gguf : families[i].hf;
        if (name && used < 256)
            used += (size_t)snprintf(text + used, 256 - used, "%s%s", used > 0 ? ", " : "", name);
    }
    return text;
}
