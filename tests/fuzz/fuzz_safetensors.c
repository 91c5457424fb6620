/* Hugging Face models: the input is the text of a config.json, a NUL, and a safetensors file. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "src/model/model_weights.h"
#include "tests/fuzz/fuzz.h"

static volatile uint64_t sink; /* so that reads are not optimised away */

static void read_bytes(const void *data, uint64_t bytes) {
    uint64_t sum = 0;
    for (uint64_t i = 0; data && i < bytes; i++)
        sum += ((const uint8_t *)data)[i];
    sink = sum;
}

static void read_matrix(const aq_weight *w) {
    if (!w->data) return;
    read_bytes(w->data, (uint64_t)(w->n_out * aq_dtype_row_bytes(w->dtype, w->n_in)));
    read_bytes(w->bias, (uint64_t)w->n_out * sizeof(float));
}

static void read_layer(const aq_model_config *config, const aq_layer_weights *w) {
    read_bytes(w->attn_norm.w, (uint64_t)config->d_model * sizeof(float));
    read_bytes(w->ffn_norm.b, (uint64_t)config->d_model * sizeof(float));
    read_bytes(w->q_norm, (uint64_t)config->d_head * sizeof(float));
    read_matrix(&w->wq);
    read_matrix(&w->wk);
    read_matrix(&w->wv);
    read_matrix(&w->wo);
    read_matrix(&w->ffn.w_gate);
    read_matrix(&w->ffn.w_down);
    for (int e = 0; w->experts && e < config->n_expert; e++)
        read_matrix(&w->experts[e].w_up);
}

static void read_model(const aq_model_file *file) {
    aq_model_config config;
    aq_model_weights weights;
    float attn_factor;
    if (aq_model_config_read(file, &config) != AQ_OK) return;
    float *inv_freq = malloc((size_t)config.n_rot / 2 * sizeof *inv_freq + 1);
    if (inv_freq && aq_model_weights_open(file, &config, &weights) == AQ_OK) {
        for (int64_t n_ctx = 1; n_ctx <= config.n_ctx; n_ctx += config.n_ctx)
            if (config.n_rot > 0)
                aq_model_rope(&config.rope, config.n_rot,
                              aq_model_rope_divisors(&config, &weights, n_ctx), inv_freq,
                              &attn_factor);
        read_matrix(&weights.embed);
        read_matrix(&weights.pos_embed);
        read_matrix(&weights.output);
        for (int i = 0; i < config.n_layer; i++)
            read_layer(&config, &weights.layers[i]);
        aq_model_weights_close(&weights);
    }
    free(inv_freq);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    const uint8_t *nul = bytes > 0 ? memchr(data, 0, bytes) : NULL;
    const size_t n_config = nul ? (size_t)(nul - data) : bytes;
    const size_t n_rest = nul ? bytes - n_config - 1 : 0;
    uint8_t *copy = malloc(n_rest + 1); /* ends where the input ends, but for one byte */
    aq_model_file *file = NULL;
    if (!copy) return 0;
    if (n_rest > 0) memcpy(copy, nul + 1, n_rest);
    if (aq_model_file_open_hf("fuzz", (const char *)data, n_config, copy, n_rest, &file) == AQ_OK) {
        for (int64_t i = 0; i < aq_model_file_tensor_count(file); i++) {
            const aq_tensor *t = aq_model_file_tensor_at(file, i);
            read_bytes(t->data, (uint64_t)t->bytes);
        }
        read_model(file);
    }
    aq_model_file_close(file);
    free(copy);
    return 0;
}

static aq_status read_part(const char *fixture, const char *name, char **data, size_t *bytes) {
    char path[1024];
    snprintf(path, sizeof path, "%s/hf/%s/%s", AQ_TEST_DATA_DIR, fixture, name);
    return aq_file_read(path, data, bytes);
}

/* The reference models. */
aq_status aq_fuzz_seed(int i, uint8_t **data, size_t *bytes) {
    static const char *const fixtures[] = {"llama",       "gemma3",    "gpt2",  "gpt_neox",
                                           "mistral_swa", "opt",       "phi3",  "llama_yarn",
                                           "qwen2",       "qwen3_moe", "olmo2", "mixtral"};
    char *config = NULL, *weights = NULL;
    size_t n_config, n_weights;
    *data = NULL;
    if (i >= (int)(sizeof fixtures / sizeof fixtures[0])) return AQ_OK;
    AQ_TRY(read_part(fixtures[i], "config.json", &config, &n_config));
    aq_status status = read_part(fixtures[i], "model.safetensors", &weights, &n_weights);
    if (status == AQ_OK) {
        *bytes = n_config + 1 + n_weights;
        *data = malloc(*bytes);
        if (!*data) status = aq_fail(AQ_ERR_MEMORY, "no memory for an input");
    }
    if (status == AQ_OK) {
        memcpy(*data, config, n_config);
        (*data)[n_config] = 0;
        memcpy(*data + n_config + 1, weights, n_weights);
    }
    free(config);
    free(weights);
    return status;
}
