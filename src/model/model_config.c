#include "src/model/model_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Bounds far above any model that exists; products of any two fit int64_t. */
#define MAX_LAYER 4096
#define MAX_HEAD  1024
#define MAX_DIM   1024 /* of a head */
#define MAX_WIDTH (1 << 22)
#define MAX_VOCAB (1 << 24)
#define MAX_CTX   ((int64_t)1 << 40)

#define KEY_BYTES 96

/* "llama" and "block_count" give "llama.block_count". */
static const char *key_of(const aq_model_config *config, const char *stem, char key[KEY_BYTES]) {
    snprintf(key, KEY_BYTES, "%s.%s", config->arch, stem);
    return key;
}

static aq_status check_range(const aq_gguf *file, const char *key, int64_t value, int64_t max) {
    if (value >= 1 && value <= max) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT, "%s: key %s is %lld, expected 1 to %lld", aq_gguf_path(file), key,
                   (long long)value, (long long)max);
}

/* An integer, or an array of equal ones: the shape of every layer. */
static aq_status read_same(const aq_gguf *file, const char *key, int64_t *out) {
    if (aq_gguf_int(file, key, out)) return AQ_OK;
    const int64_t n = aq_gguf_int_count(file, key);
    if (n < 1)
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s is not an integer", aq_gguf_path(file), key);
    *out = aq_gguf_int_at(file, key, 0);
    for (int64_t i = 1; i < n; i++)
        if (aq_gguf_int_at(file, key, i) != *out)
            return aq_fail(AQ_ERR_UNSUPPORTED,
                           "%s: key %s differs between layers (%lld, then %lld in layer %lld); "
                           "layers of different shapes are not supported",
                           aq_gguf_path(file), key, (long long)*out,
                           (long long)aq_gguf_int_at(file, key, i), (long long)i);
    return AQ_OK;
}

/* A size in 1 .. max; if the key is absent `fallback`, or a failure if that is 0. */
static aq_status read_size(const aq_gguf *file, const aq_model_config *config, const char *stem,
                           int64_t max, int64_t fallback, int64_t *out) {
    char key[KEY_BYTES];
    *out = fallback;
    if (aq_gguf_has(file, key_of(config, stem, key))) {
        AQ_TRY(read_same(file, key, out));
    } else if (fallback == 0) {
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s is missing", aq_gguf_path(file), key);
    }
    return check_range(file, key, *out, max);
}

static aq_status read_int_size(const aq_gguf *file, const aq_model_config *config, const char *stem,
                               int max, int fallback, int *out) {
    int64_t value;
    AQ_TRY(read_size(file, config, stem, max, fallback, &value));
    *out = (int)value;
    return AQ_OK;
}

/* A number in low .. high; if the key is absent `fallback`, or a failure if that is NaN. */
static aq_status read_number(const aq_gguf *file, const aq_model_config *config, const char *stem,
                             double low, double high, double fallback, double *out) {
    char key[KEY_BYTES];
    *out = fallback;
    if (!aq_gguf_has(file, key_of(config, stem, key))) {
        if (!isnan(fallback)) return AQ_OK;
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s is missing", aq_gguf_path(file), key);
    }
    if (!aq_gguf_float(file, key, out))
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s is not a number", aq_gguf_path(file), key);
    if (*out >= low && *out <= high) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT, "%s: key %s is %g, expected %g to %g", aq_gguf_path(file), key,
                   *out, low, high);
}

static aq_status read_arch(const aq_gguf *file, aq_model_config *out) {
    aq_gguf_string text;
    char shown[AQ_GGUF_SHOWN_BYTES];
    if (!aq_gguf_text(file, "general.architecture", &text))
        return aq_fail(AQ_ERR_FORMAT, "%s: key general.architecture is missing or not a string",
                       aq_gguf_path(file));
    aq_gguf_show(text, shown);
    if (strcmp(shown, "llama") != 0)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: architecture %s is not supported, expected llama",
                       aq_gguf_path(file), shown);
    snprintf(out->arch, sizeof out->arch, "llama");
    if (aq_gguf_text(file, "general.name", &text)) aq_gguf_show(text, shown);
    snprintf(out->name, sizeof out->name, "%s", shown);
    return AQ_OK;
}

/* Keys that, if present, must have the one value that is supported. */
static aq_status refuse_variants(const aq_gguf *file, const aq_model_config *config) {
    static const struct {
        const char *stem;
        double expected;
        const char *noun;
    } keys[] = {
        {"expert_count", 0, "mixtures of experts are"},
        {"attention.sliding_window", 0, "sliding windows are"},
        {"rope.scaling.yarn_ext_factor", 1, "other ramps of yarn are"},
        {"rope.scaling.yarn_attn_factor", 1, "other attention factors of yarn are"},
        {"rope.scaling.yarn_beta_fast", 32, "other ramps of yarn are"},
        {"rope.scaling.yarn_beta_slow", 1, "other ramps of yarn are"},
        {"rope.scaling.yarn_log_multiplier", 0, "other attention factors of yarn are"},
    };
    char key[KEY_BYTES];
    double value;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (aq_gguf_float(file, key_of(config, keys[i].stem, key), &value) &&
            value != keys[i].expected)
            return aq_fail(AQ_ERR_UNSUPPORTED, "%s: key %s is %g, expected %g: %s not supported",
                           aq_gguf_path(file), key, value, keys[i].expected, keys[i].noun);
    return AQ_OK;
}

/* Tokens: the key, or the length of the vocabulary, which must not be longer. */
static aq_status read_vocab_size(const aq_gguf *file, aq_model_config *out) {
    const int64_t n_token = aq_gguf_string_count(file, "tokenizer.ggml.tokens");
    const int fallback = n_token < 1 ? 0 : n_token > MAX_VOCAB ? MAX_VOCAB : (int)n_token;
    AQ_TRY(read_int_size(file, out, "vocab_size", MAX_VOCAB, fallback, &out->n_vocab));
    if (n_token <= out->n_vocab) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT,
                   "%s: key tokenizer.ggml.tokens has %lld tokens, expected at most "
                   "%d (%s.vocab_size)",
                   aq_gguf_path(file), (long long)n_token, out->n_vocab, out->arch);
}

/* Heads and their width. */
static aq_status read_heads(const aq_gguf *file, aq_model_config *out) {
    int d_value;
    AQ_TRY(read_int_size(file, out, "attention.head_count", MAX_HEAD, 0, &out->n_head));
    AQ_TRY(read_int_size(file, out, "attention.head_count_kv", MAX_HEAD, out->n_head,
                         &out->n_kv_head));
    if (out->n_head % out->n_kv_head != 0)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s: key %s.attention.head_count is %d, expected a multiple of "
                       "%s.attention.head_count_kv, %d",
                       aq_gguf_path(file), out->arch, out->n_head, out->arch, out->n_kv_head);
    const bool divides = out->d_model % out->n_head == 0;
    AQ_TRY(read_int_size(file, out, "attention.key_length", MAX_DIM,
                         divides ? out->d_model / out->n_head : 0, &out->d_head));
    AQ_TRY(read_int_size(file, out, "attention.value_length", MAX_DIM, out->d_head, &d_value));
    if (d_value != out->d_head)
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s: key %s.attention.value_length is %d, expected %d as key_length: keys "
                       "and values of different width are not supported",
                       aq_gguf_path(file), out->arch, d_value, out->d_head);
    AQ_TRY(read_int_size(file, out, "rope.dimension_count", MAX_DIM, out->d_head, &out->n_rot));
    if (out->n_rot != out->d_head)
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s: key %s.rope.dimension_count is %d, expected %d: rotating a part of the "
                       "head is not supported",
                       aq_gguf_path(file), out->arch, out->n_rot, out->d_head);
    if (out->d_head % 2 == 0) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT,
                   "%s: heads are %d wide (%s.attention.key_length), expected an "
                   "even width",
                   aq_gguf_path(file), out->d_head, out->arch);
}

/* The kind of scaling. Files without the key scale linearly by their factor, which then is 1 if
 * absent; 0 is written by old converters for "none". */
static aq_status read_scaling_type(const aq_gguf *file, aq_model_config *out) {
    static const char *const names[] = {"none", "linear", "yarn"};
    char key[KEY_BYTES], shown[AQ_GGUF_SHOWN_BYTES];
    aq_gguf_string text;
    out->rope_scaling = AQ_ROPE_LINEAR;
    if (!aq_gguf_has(file, key_of(out, "rope.scaling.type", key))) return AQ_OK;
    if (!aq_gguf_text(file, key, &text))
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s is not a string", aq_gguf_path(file), key);
    aq_gguf_show(text, shown);
    for (int i = AQ_ROPE_NONE; i <= AQ_ROPE_YARN; i++) {
        out->rope_scaling = (aq_rope_scaling)i;
        if (strcmp(shown, names[i]) == 0) return AQ_OK;
    }
    return aq_fail(AQ_ERR_UNSUPPORTED, "%s: key %s is %s, expected none, linear or yarn",
                   aq_gguf_path(file), key, shown);
}

static aq_status read_rope(const aq_gguf *file, aq_model_config *out) {
    double old_factor;
    AQ_TRY(read_number(file, out, "rope.freq_base", 1.001, 1e15, 10000.0, &out->rope_base));
    AQ_TRY(read_scaling_type(file, out));
    AQ_TRY(read_number(file, out, "rope.scale_linear", 0.0, 1e6, 0.0, &old_factor));
    AQ_TRY(read_number(file, out, "rope.scaling.factor", 0.0, 1e6, old_factor, &out->rope_factor));
    AQ_TRY(
        read_number(file, out, "rope.scaling.attn_factor", 1e-3, 1e3, 1.0, &out->rope_attn_factor));
    AQ_TRY(read_size(file, out, "rope.scaling.original_context_length", MAX_CTX, out->n_ctx,
                     &out->rope_n_ctx_orig));
    if (out->rope_factor == 0.0) out->rope_factor = 1.0;
    if (out->rope_factor < 1.0)
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s.rope.scaling.factor is %g, expected at least 1",
                       aq_gguf_path(file), out->arch, out->rope_factor);
    if (out->rope_factor == 1.0) out->rope_scaling = AQ_ROPE_NONE;
    if (out->rope_scaling == AQ_ROPE_NONE) out->rope_factor = 1.0;
    if (out->rope_scaling != AQ_ROPE_YARN) out->rope_attn_factor = 1.0;
    return AQ_OK;
}

aq_status aq_model_config_read(const aq_gguf *file, aq_model_config *out) {
    double eps;
    memset(out, 0, sizeof *out);
    AQ_TRY(read_arch(file, out));
    AQ_TRY(refuse_variants(file, out));
    AQ_TRY(read_int_size(file, out, "block_count", MAX_LAYER, 0, &out->n_layer));
    AQ_TRY(read_int_size(file, out, "embedding_length", MAX_WIDTH, 0, &out->d_model));
    AQ_TRY(read_int_size(file, out, "feed_forward_length", MAX_WIDTH, 0, &out->d_ff));
    AQ_TRY(read_size(file, out, "context_length", MAX_CTX, 0, &out->n_ctx));
    AQ_TRY(read_heads(file, out));
    AQ_TRY(read_vocab_size(file, out));
    AQ_TRY(read_number(file, out, "attention.layer_norm_rms_epsilon", 0.0, 0.1, NAN, &eps));
    out->norm_eps = (float)eps;
    return read_rope(file, out);
}
