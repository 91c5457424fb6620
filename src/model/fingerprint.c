#include "src/model/fingerprint.h"

#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* a hash state on the stack */
#include <xxhash.h>

static void add_number(XXH3_state_t *state, uint64_t value, int n_byte) {
    uint8_t bytes[8];
    for (int i = 0; i < n_byte; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    XXH3_128bits_update(state, bytes, (size_t)n_byte);
}

static void add_float(XXH3_state_t *state, double value) {
    const float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    add_number(state, bits, 4);
}

static void add_vector(XXH3_state_t *state, const float *values, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        add_number(state, aq_f32_to_bf16(values[i]), 2);
}

static void add_config(XXH3_state_t *state, const aq_model_config *c) {
    const int64_t sizes[] = {c->n_layer, c->n_head, c->n_kv_head, c->d_head,
                             c->d_model, c->d_ff,   c->n_vocab,   c->n_rot};
    XXH3_128bits_update(state, c->arch, strlen(c->arch) + 1);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        add_number(state, (uint64_t)sizes[i], 8);
    add_float(state, c->norm_eps);
    add_float(state, c->rope_base);
    add_float(state, c->rope_factor);
    add_number(state, (uint64_t)c->rope_scaling, 8);
    add_number(state, c->rope_scaling == AQ_ROPE_YARN ? (uint64_t)c->rope_n_ctx_orig : 0, 8);
    add_float(state, c->rope_attn_factor);
}

void aq_model_fingerprint(const aq_model_config *config, const aq_model_weights *weights,
                          uint8_t out[AQ_FINGERPRINT_BYTES]) {
    XXH3_state_t state;
    XXH128_canonical_t canonical;
    XXH3_INITSTATE(&state);
    XXH3_128bits_reset(&state);
    add_config(&state, config);
    add_vector(&state, weights->output_norm, config->d_model);
    for (int i = 0; i < config->n_layer; i++) {
        add_vector(&state, weights->layers[i].attn_norm, config->d_model);
        add_vector(&state, weights->layers[i].ffn_norm, config->d_model);
    }
    if (weights->rope_divisors) add_vector(&state, weights->rope_divisors, config->n_rot / 2);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
    memcpy(out, canonical.digest, AQ_FINGERPRINT_BYTES);
}
