#include "src/model/fingerprint.h"

#include <math.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* a hash state on the stack */
#include <xxhash.h>

#include "src/model/family.h"

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
    for (int64_t i = 0; values && i < n; i++)
        add_number(state, aq_f32_to_bf16(values[i]), 2);
}

static void add_norm(XXH3_state_t *state, const aq_norm_weight *norm, int64_t n) {
    add_vector(state, norm->w, n);
    add_vector(state, norm->b, n);
}

static void add_rope(XXH3_state_t *state, const aq_rope_config *rope) {
    const bool divided = rope->scaling == AQ_ROPE_LLAMA3;
    add_float(state, rope->base);
    add_float(state, divided ? 1.0 : rope->factor);
    add_number(state, divided ? AQ_ROPE_NONE : (uint64_t)rope->scaling, 8);
    add_number(state, rope->scaling == AQ_ROPE_YARN ? (uint64_t)rope->n_ctx_orig : 0, 8);
    add_float(state, (double)aq_bf16_to_f32(aq_f32_to_bf16((float)rope->attn_factor)));
}

static void add_set(XXH3_state_t *state, const aq_layer_set *set) {
    for (int i = 0; i < AQ_MAX_LAYER / 64; i++)
        add_number(state, set->bits[i], 8);
}

/* What sets a model apart from a plain one, so that the fingerprints of plain ones stay what they
 * were before there were others. */
static void add_traits(XXH3_state_t *state, const aq_model_config *config) {
    aq_model_config fitted = *config; /* files may or may not say a window that hides nothing */
    const aq_model_config *c = &fitted;
    aq_model_config_fit_window(&fitted);
    if (c->window > 0) {
        add_number(state, 1, 1);
        add_number(state, (uint64_t)c->window, 8);
        add_set(state, &c->windowed);
    }
    if (c->two_ropes) {
        add_number(state, 2, 1);
        add_rope(state, &c->rope_local);
    }
    if (c->n_expert > 0) {
        add_number(state, 3, 1);
        add_number(state, (uint64_t)c->n_expert, 8);
        add_number(state, (uint64_t)c->n_expert_used, 8);
        add_number(state, (uint64_t)c->d_expert, 8);
        add_number(state, c->expert_renormalise, 8);
        add_set(state, &c->expert_layers);
    }
    if (c->parallel_residual) {
        add_number(state, 4, 1);
        add_number(state, 1, 8);
    }
    if (c->attn_scale != 0.0f && c->attn_scale != (float)(1.0 / sqrt((double)c->d_head))) {
        add_number(state, 5, 1);
        add_float(state, (double)c->attn_scale);
    }
    if (c->rope.scaling == AQ_ROPE_YARN &&
        (c->rope.beta_fast != 32.0 || c->rope.beta_slow != 1.0)) {
        add_number(state, 6, 1);
        add_float(state, c->rope.beta_fast);
        add_float(state, c->rope.beta_slow);
    }
    if (c->family && c->activation != c->family->activation) {
        add_number(state, 7, 1);
        add_number(state, (uint64_t)c->activation, 8);
    }
}

static void add_config(XXH3_state_t *state, const aq_model_config *c) {
    const int64_t sizes[] = {c->n_layer, c->n_head, c->n_kv_head, c->d_head,
                             c->d_model, c->d_ff,   c->n_vocab,   c->n_rot};
    XXH3_128bits_update(state, c->arch, strlen(c->arch) + 1);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        add_number(state, (uint64_t)sizes[i], 8);
    add_float(state, c->norm_eps);
    add_rope(state, &c->rope);
    add_traits(state, c);
}

static void add_layer(XXH3_state_t *state, const aq_model_config *c, const aq_layer_weights *w) {
    const int64_t d_q = (int64_t)(c->qk_norm_per_head ? 1 : c->n_head) * c->d_head;
    const int64_t d_k = (int64_t)(c->qk_norm_per_head ? 1 : c->n_kv_head) * c->d_head;
    add_norm(state, &w->attn_norm, c->d_model);
    add_norm(state, &w->attn_post_norm, c->d_model);
    add_norm(state, &w->ffn_norm, c->d_model);
    add_norm(state, &w->ffn_post_norm, c->d_model);
    add_vector(state, w->q_norm, d_q);
    add_vector(state, w->k_norm, d_k);
}

void aq_model_fingerprint(const aq_model_config *config, const aq_model_weights *weights,
                          uint8_t out[AQ_FINGERPRINT_BYTES]) {
    XXH3_state_t state;
    XXH128_canonical_t canonical;
    XXH3_INITSTATE(&state);
    XXH3_128bits_reset(&state);
    add_config(&state, config);
    add_norm(&state, &weights->output_norm, config->d_model);
    for (int i = 0; i < config->n_layer; i++)
        add_layer(&state, config, &weights->layers[i]);
    add_vector(&state, weights->rope_divisors, config->n_rot / 2);
    add_vector(&state, weights->rope_short, config->n_rot / 2);
    add_vector(&state, weights->rope_long, config->n_rot / 2);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
    memcpy(out, canonical.digest, AQ_FINGERPRINT_BYTES);
}

uint64_t aq_bytes_fingerprint(const void *data, size_t bytes) {
    return XXH3_64bits(data, bytes);
}
