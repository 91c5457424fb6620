#include "src/model/family_names.h"

/* Parts that several maps share. */
#define GGUF_TABLES                                                                                \
    [AQ_ROLE_EMBED] = "token_embd", [AQ_ROLE_OUTPUT_NORM] = "output_norm",                         \
    [AQ_ROLE_OUTPUT] = "output"
#define GGUF_QKV                                                                                   \
    [AQ_ROLE_Q] = "attn_q", [AQ_ROLE_K] = "attn_k", [AQ_ROLE_V] = "attn_v",                        \
    [AQ_ROLE_QKV] = "attn_qkv"
#define GGUF_NORMS [AQ_ROLE_ATTN_NORM] = "attn_norm", [AQ_ROLE_FFN_NORM] = "ffn_norm"
#define GGUF_POST_NORMS                                                                            \
    [AQ_ROLE_ATTN_POST_NORM] = "post_attention_norm", [AQ_ROLE_FFN_POST_NORM] = "post_ffw_norm"
#define GGUF_QK_NORMS [AQ_ROLE_Q_NORM] = "attn_q_norm", [AQ_ROLE_K_NORM] = "attn_k_norm"
#define GGUF_DENSE                                                                                 \
    [AQ_ROLE_O] = "attn_output", [AQ_ROLE_GATE] = "ffn_gate", [AQ_ROLE_UP] = "ffn_up",             \
    [AQ_ROLE_DOWN] = "ffn_down"
#define GGUF_EXPERTS                                                                               \
    [AQ_ROLE_ROUTER] = "ffn_gate_inp", [AQ_ROLE_EXPERT_GATE] = "ffn_gate.%d",                      \
    [AQ_ROLE_EXPERT_UP] = "ffn_up.%d", [AQ_ROLE_EXPERT_DOWN] = "ffn_down.%d",                      \
    [AQ_ROLE_EXPERTS_GATE] = "ffn_gate_exps", [AQ_ROLE_EXPERTS_UP] = "ffn_up_exps",                \
    [AQ_ROLE_EXPERTS_DOWN] = "ffn_down_exps", [AQ_ROLE_EXPERTS_GATE_UP] = "ffn_gate_up_exps"

const aq_name_map aq_names_gguf_llama = {
    .prefixes = {""},
    .layer = "blk.%d.",
    .roles = {GGUF_TABLES, GGUF_NORMS, GGUF_QKV, GGUF_DENSE,
              GGUF_EXPERTS, [AQ_ROLE_ROPE_DIVISORS] = "rope_freqs"},
    .rotary_neighbours = true,
    .ignored = {"attn_rot_embd"},
};

const aq_name_map aq_names_gguf_plain = {
    .prefixes = {""},
    .layer = "blk.%d.",
    .roles = {GGUF_TABLES, GGUF_NORMS, GGUF_QKV, GGUF_DENSE},
};

const aq_name_map aq_names_gguf_qk_norm = {
    .prefixes = {""},
    .layer = "blk.%d.",
    .roles = {GGUF_TABLES, GGUF_NORMS, GGUF_QKV, GGUF_QK_NORMS, GGUF_DENSE, GGUF_EXPERTS},
};

const aq_name_map aq_names_gguf_post_norm = {
    .prefixes = {""},
    .layer = "blk.%d.",
    .roles = {GGUF_TABLES, GGUF_POST_NORMS, GGUF_QKV, GGUF_QK_NORMS, GGUF_DENSE},
};

const aq_name_map aq_names_gguf_gemma3 = {
    .prefixes = {""},
    .layer = "blk.%d.",
    .roles = {GGUF_TABLES, GGUF_NORMS, GGUF_POST_NORMS, GGUF_QKV, GGUF_QK_NORMS, GGUF_DENSE},
};

const aq_name_map aq_names_gguf_phi3 = {
    .prefixes = {""},
    .layer = "blk.%d.",
    .roles = {GGUF_TABLES, GGUF_NORMS,
              GGUF_QKV, [AQ_ROLE_O] = "attn_output", [AQ_ROLE_GATE_UP] = "ffn_up",
              [AQ_ROLE_DOWN] = "ffn_down", [AQ_ROLE_ROPE_SHORT] = "rope_factors_short",
              [AQ_ROLE_ROPE_LONG] = "rope_factors_long"},
};

const aq_name_map aq_names_gguf_gptneox = {
    .prefixes = {""},
    .layer = "blk.%d.",
    .roles = {GGUF_TABLES, GGUF_NORMS, [AQ_ROLE_QKV] = "attn_qkv", [AQ_ROLE_O] = "attn_output",
              [AQ_ROLE_UP] = "ffn_up", [AQ_ROLE_DOWN] = "ffn_down"},
};

const aq_name_map aq_names_gguf_gpt2 = {
    .prefixes = {""},
    .layer = "blk.%d.",
    .roles = {GGUF_TABLES,
              GGUF_NORMS, [AQ_ROLE_POS_EMBED] = "position_embd", [AQ_ROLE_QKV] = "attn_qkv",
              [AQ_ROLE_O] = "attn_output", [AQ_ROLE_UP] = "ffn_up", [AQ_ROLE_DOWN] = "ffn_down"},
};

#define HF_TABLES                                                                                  \
    [AQ_ROLE_EMBED] = "embed_tokens", [AQ_ROLE_OUTPUT_NORM] = "norm", [AQ_ROLE_OUTPUT] = "lm_head"
#define HF_NORMS                                                                                   \
    [AQ_ROLE_ATTN_NORM] = "input_layernorm", [AQ_ROLE_FFN_NORM] = "post_attention_layernorm"
#define HF_QKV                                                                                     \
    [AQ_ROLE_Q] = "self_attn.q_proj", [AQ_ROLE_K] = "self_attn.k_proj",                            \
    [AQ_ROLE_V] = "self_attn.v_proj", [AQ_ROLE_O] = "self_attn.o_proj"
#define HF_QK_NORMS [AQ_ROLE_Q_NORM] = "self_attn.q_norm", [AQ_ROLE_K_NORM] = "self_attn.k_norm"
#define HF_DENSE                                                                                   \
    [AQ_ROLE_GATE] = "mlp.gate_proj", [AQ_ROLE_UP] = "mlp.up_proj", [AQ_ROLE_DOWN] = "mlp.down_proj"
#define HF_EXPERTS_FUSED                                                                           \
    [AQ_ROLE_EXPERTS_GATE_UP] = "mlp.experts.gate_up_proj", [AQ_ROLE_EXPERTS_DOWN] =               \
                                                                "mlp.experts.down_proj"
#define HF_FREQUENCIES "rotary_emb.inv_freq" /* what the configuration says, written out */

const aq_name_map aq_names_hf_llama = {
    .prefixes = {"model.", ""},
    .layer = "layers.%d.",
    .roles = {HF_TABLES, HF_NORMS, HF_QKV, HF_DENSE},
    .ignored = {HF_FREQUENCIES},
};

const aq_name_map aq_names_hf_mixtral = {
    .prefixes = {"model.", ""},
    .layer = "layers.%d.",
    .roles = {HF_TABLES, HF_NORMS, HF_QKV,
              HF_EXPERTS_FUSED, [AQ_ROLE_ROUTER] = "block_sparse_moe.gate|mlp.gate",
              [AQ_ROLE_EXPERT_GATE] = "block_sparse_moe.experts.%d.w1",
              [AQ_ROLE_EXPERT_UP] = "block_sparse_moe.experts.%d.w3",
              [AQ_ROLE_EXPERT_DOWN] = "block_sparse_moe.experts.%d.w2"},
    .ignored = {HF_FREQUENCIES},
};

const aq_name_map aq_names_hf_qk_norm = {
    .prefixes = {"model.", ""},
    .layer = "layers.%d.",
    .roles = {HF_TABLES, HF_NORMS, HF_QKV, HF_QK_NORMS, HF_DENSE, HF_EXPERTS_FUSED,
              [AQ_ROLE_ROUTER] = "mlp.gate", [AQ_ROLE_EXPERT_GATE] = "mlp.experts.%d.gate_proj",
              [AQ_ROLE_EXPERT_UP] = "mlp.experts.%d.up_proj",
              [AQ_ROLE_EXPERT_DOWN] = "mlp.experts.%d.down_proj"},
    .ignored = {HF_FREQUENCIES},
};

const aq_name_map aq_names_hf_olmo2 = {
    .prefixes = {"model.", ""},
    .layer = "layers.%d.",
    .roles = {HF_TABLES, HF_QKV, HF_QK_NORMS,
              HF_DENSE, [AQ_ROLE_ATTN_POST_NORM] = "post_attention_layernorm",
              [AQ_ROLE_FFN_POST_NORM] = "post_feedforward_layernorm"},
    .ignored = {HF_FREQUENCIES},
};

/* Norms multiply by 1 + w. Of the model that sees pictures too only the language is read. */
const aq_name_map aq_names_hf_gemma3 = {
    .prefixes = {"model.", "language_model.model.", "model.language_model.", ""},
    .layer = "layers.%d.",
    .roles = {HF_TABLES, HF_QKV, HF_QK_NORMS, HF_DENSE, [AQ_ROLE_ATTN_NORM] = "input_layernorm",
              [AQ_ROLE_ATTN_POST_NORM] = "post_attention_layernorm",
              [AQ_ROLE_FFN_NORM] = "pre_feedforward_layernorm",
              [AQ_ROLE_FFN_POST_NORM] = "post_feedforward_layernorm"},
    .norm_shift = 1.0f,
    .ignored = {HF_FREQUENCIES, "vision_tower.", "multi_modal_projector."},
};

const aq_name_map aq_names_hf_phi3 = {
    .prefixes = {"model.", ""},
    .layer = "layers.%d.",
    .roles = {HF_TABLES,
              HF_NORMS, [AQ_ROLE_QKV] = "self_attn.qkv_proj", [AQ_ROLE_O] = "self_attn.o_proj",
              [AQ_ROLE_GATE_UP] = "mlp.gate_up_proj", [AQ_ROLE_DOWN] = "mlp.down_proj"},
    .ignored = {HF_FREQUENCIES},
};

const aq_name_map aq_names_hf_opt = {
    .prefixes = {"model.decoder.", "decoder.", ""},
    .layer = "layers.%d.",
    .roles = {[AQ_ROLE_EMBED] = "embed_tokens",
              [AQ_ROLE_POS_EMBED] = "embed_positions",
              [AQ_ROLE_OUTPUT_NORM] = "final_layer_norm",
              [AQ_ROLE_OUTPUT] = "lm_head",
              [AQ_ROLE_ATTN_NORM] = "self_attn_layer_norm",
              [AQ_ROLE_FFN_NORM] = "final_layer_norm",
              [AQ_ROLE_Q] = "self_attn.q_proj",
              [AQ_ROLE_K] = "self_attn.k_proj",
              [AQ_ROLE_V] = "self_attn.v_proj",
              [AQ_ROLE_O] = "self_attn.out_proj",
              [AQ_ROLE_UP] = "fc1",
              [AQ_ROLE_DOWN] = "fc2"},
};

const aq_name_map aq_names_hf_gpt_neox = {
    .prefixes = {"gpt_neox.", ""},
    .layer = "layers.%d.",
    .roles = {[AQ_ROLE_EMBED] = "embed_in",
              [AQ_ROLE_OUTPUT_NORM] = "final_layer_norm",
              [AQ_ROLE_OUTPUT] = "embed_out|lm_head",
              [AQ_ROLE_ATTN_NORM] = "input_layernorm",
              [AQ_ROLE_FFN_NORM] = "post_attention_layernorm",
              [AQ_ROLE_QKV] = "attention.query_key_value",
              [AQ_ROLE_O] = "attention.dense",
              [AQ_ROLE_UP] = "mlp.dense_h_to_4h",
              [AQ_ROLE_DOWN] = "mlp.dense_4h_to_h"},
    .qkv_by_head = true,
    .ignored = {HF_FREQUENCIES, ".attention.bias", ".attention.masked_bias"},
};

const aq_name_map aq_names_hf_gpt2 = {
    .prefixes = {"transformer.", ""},
    .layer = "h.%d.",
    .roles = {[AQ_ROLE_EMBED] = "wte",
              [AQ_ROLE_POS_EMBED] = "wpe",
              [AQ_ROLE_OUTPUT_NORM] = "ln_f",
              [AQ_ROLE_OUTPUT] = "lm_head",
              [AQ_ROLE_ATTN_NORM] = "ln_1",
              [AQ_ROLE_FFN_NORM] = "ln_2",
              [AQ_ROLE_QKV] = "attn.c_attn",
              [AQ_ROLE_O] = "attn.c_proj",
              [AQ_ROLE_UP] = "mlp.c_fc",
              [AQ_ROLE_DOWN] = "mlp.c_proj"},
    .transposed = true,
    .ignored = {".attn.bias", ".attn.masked_bias"},
};
