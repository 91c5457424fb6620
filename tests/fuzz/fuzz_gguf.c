/* Model files: open, describe, configure, bind and read everything. */
#include <stdlib.h>
#include <string.h>

#include "src/model/model_weights.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/tiny_model.h"

static volatile uint64_t sink; /* so that reads are not optimised away */

static void read_bytes(const void *data, uint64_t bytes) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < bytes; i++)
        sum += ((const uint8_t *)data)[i];
    sink = sum;
}

static void read_keys(const aq_gguf *file) {
    static const char *const arrays[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges",
                                         "tokenizer.ggml.token_type"};
    char text[64];
    for (int64_t i = 0; i < aq_gguf_key_count(file); i++) {
        aq_gguf_string key;
        aq_gguf_key_describe(file, i, &key, text, sizeof text);
        read_bytes(key.data, key.bytes);
    }
    for (int i = 0; i < 3; i++) {
        for (int64_t j = 0; j < aq_gguf_string_count(file, arrays[i]); j++) {
            const aq_gguf_string string = aq_gguf_string_at(file, arrays[i], j);
            read_bytes(string.data, string.bytes);
        }
        for (int64_t j = 0; j < aq_gguf_float_count(file, arrays[i]); j++)
            sink = (uint64_t)(aq_gguf_float_at(file, arrays[i], j) > 0.0);
    }
}

static void read_weights(const aq_model_file *file) {
    aq_model_config config;
    aq_model_weights weights;
    if (aq_model_config_read(file, &config) != AQ_OK) return;
    float *inv_freq = malloc((size_t)config.n_rot / 2 * sizeof *inv_freq + 1);
    if (inv_freq && aq_model_weights_open(file, &config, &weights) == AQ_OK) {
        float attn_factor;
        aq_model_rope(&config.rope, config.n_rot, weights.rope_divisors, inv_freq, &attn_factor);
        for (int i = 0; i < config.n_layer; i++) {
            const aq_weight *wk = &weights.layers[i].wk;
            read_bytes(wk->data, (uint64_t)(wk->n_out * aq_dtype_row_bytes(wk->dtype, wk->n_in)));
            if (weights.layers[i].ffn_norm.w)
                read_bytes(weights.layers[i].ffn_norm.w, (uint64_t)config.d_model * sizeof(float));
        }
        aq_model_weights_close(&weights);
    }
    free(inv_freq);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1); /* aligned, and ends where the input ends */
    aq_model_file *file = NULL;
    if (!copy) return 0;
    if (bytes > 0) memcpy(copy, data, bytes);
    if (aq_model_file_open_gguf("fuzz.gguf", copy, bytes, &file) == AQ_OK) {
        read_keys(aq_model_file_gguf(file));
        for (int64_t i = 0; i < aq_model_file_tensor_count(file); i++) {
            const aq_tensor *t = aq_model_file_tensor_at(file, i);
            read_bytes(t->data, (uint64_t)t->bytes);
        }
        read_weights(file);
    }
    aq_model_file_close(file);
    free(copy);
    return 0;
}

/* Small models, so that most of the bytes are structure. */
aq_status aq_fuzz_seed(int i, uint8_t **data, size_t *bytes) {
    aq_tiny_model shape = aq_tiny_model_default();
    aq_gguf_writer w = aq_gguf_writer_make();
    *data = NULL;
    if (i > 2) return AQ_OK;
    shape.n_layer = 1 + i;
    shape.d_model = 32;
    shape.d_head = 8;
    shape.d_ff = 32;
    shape.n_vocab = AQ_TINY_MIN_VOCAB + i;
    shape.embed_dtype = shape.output_dtype = AQ_Q4_0;
    shape.tied = i > 0;
    shape.attn_dtype = i > 0 ? AQ_BF16 : AQ_Q8_0;
    shape.ffn_dtype = AQ_Q5_1;
    shape.rope_divisors = i == 1;
    shape.rope_scaling = i == 2 ? AQ_ROPE_YARN : AQ_ROPE_NONE;
    shape.rope_factor = 4.0;
    shape.rope_n_ctx_orig = 512;
    aq_status status = aq_tiny_model_put(&w, &shape);
    if (status == AQ_OK) status = aq_gguf_writer_finish(&w, data, bytes);
    aq_gguf_writer_close(&w);
    return status;
}
