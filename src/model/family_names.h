/* Private to family.c: what the file formats call tensors. */
#ifndef AQ_MODEL_FAMILY_NAMES_H
#define AQ_MODEL_FAMILY_NAMES_H

#include "src/model/family.h"

/* GGUF */
extern const aq_name_map aq_names_gguf_llama; /* also Mistral and Mixtral */
extern const aq_name_map aq_names_gguf_plain; /* what most converters write */
extern const aq_name_map aq_names_gguf_qk_norm;
extern const aq_name_map aq_names_gguf_post_norm; /* OLMo 2 */
extern const aq_name_map aq_names_gguf_gemma3;
extern const aq_name_map aq_names_gguf_phi3;
extern const aq_name_map aq_names_gguf_gptneox;
extern const aq_name_map aq_names_gguf_gpt2;

/* Hugging Face */
extern const aq_name_map aq_names_hf_llama; /* also Mistral, Qwen 2 */
extern const aq_name_map aq_names_hf_mixtral;
extern const aq_name_map aq_names_hf_qk_norm; /* Qwen 3, OLMoE */
extern const aq_name_map aq_names_hf_olmo2;
extern const aq_name_map aq_names_hf_gemma3;
extern const aq_name_map aq_names_hf_phi3;
extern const aq_name_map aq_names_hf_opt;
extern const aq_name_map aq_names_hf_gpt_neox;
extern const aq_name_map aq_names_hf_gpt2;

#endif
