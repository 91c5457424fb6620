/* Small random models of architecture `llama`, for tests of everything above src/model.
 *
 * Weights are scaled so that activations and logits stay near 1 and attention scores have a
 * standard deviation near 2: errors show, nothing saturates. Each tensor's numbers depend on the
 * seed and on its place only, so variants of one seed that differ in dtype share their norms.
 *
 * The vocabulary is byte-level (tokenizer.ggml.model gpt2, pre smollm): ids 0 to 255 are the bytes
 * themselves, AQ_TINY_ENDOFTEXT to AQ_TINY_IM_END the special tokens of chatml, then up to
 * AQ_TINY_MERGES merged tokens (" t", "he", " the", ...), then unused ones. */
#ifndef AQ_TESTS_SUPPORT_TINY_MODEL_H
#define AQ_TESTS_SUPPORT_TINY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/dtype.h"
#include "src/base/status.h"
#include "src/model/model_config.h"
#include "tests/support/gguf_writer.h"

enum { AQ_TINY_ENDOFTEXT = 256, AQ_TINY_IM_START = 257, AQ_TINY_IM_END = 258 };
#define AQ_TINY_MIN_VOCAB 259
#define AQ_TINY_MERGES    8

typedef struct {
    int n_layer;
    int n_head;
    int n_kv_head;
    int d_head;
    int d_model;
    int d_ff;
    int n_vocab; /* at least AQ_TINY_MIN_VOCAB */
    int64_t n_ctx;
    uint64_t seed;
    /* Rows must be whole blocks: d_model, n_head * d_head, d_ff multiples of the type's block. */
    aq_dtype embed_dtype;
    aq_dtype attn_dtype; /* q, k, v and output projections */
    aq_dtype ffn_dtype;
    aq_dtype output_dtype; /* unused when tied */
    bool tied;
    double rope_base;
    aq_rope_scaling rope_scaling;
    double rope_factor;      /* written unless the scaling is none */
    int64_t rope_n_ctx_orig; /* 0: not written */
    bool rope_divisors;      /* write rope_freqs.weight, rising from 1 to 8 */
} aq_tiny_model;

/* 2 layers, 4 query heads, 2 KV heads, d_head 16, d_model 64, d_ff 128, 288 tokens, context 2048,
 * seed 1, all F32, not tied, rope base 10000 without scaling. Local. */
aq_tiny_model aq_tiny_model_default(void);

/* Writes the model to a file. AQ_ERR_USAGE (impossible shape), AQ_ERR_IO, AQ_ERR_MEMORY. Local. */
aq_status aq_tiny_model_write(const char *path, const aq_tiny_model *shape);

/* Puts all keys and tensors into a writer, which may then be changed or broken. AQ_ERR_USAGE,
 * AQ_ERR_MEMORY. Local. */
aq_status aq_tiny_model_put(aq_gguf_writer *w, const aq_tiny_model *shape);

#endif
