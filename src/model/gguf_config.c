/* The configuration of a GGUF file, from its metadata. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/model/config_parts.h"

#define KEY_BYTES 96

/* "llama" and "block_count" give "llama.block_count". */
static const char *key_of(const aq_model_config *config, const char *stem, char key[KEY_BYTES]) {
    snprintf(key, KEY_BYTES, "%s.%s", config->family->gguf, stem);
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
    char shown[AQ_GGUF_SHOWN_BYTES], known[256];
    if (!aq_gguf_text(file, "general.architecture", &text))
        return aq_fail(AQ_ERR_FORMAT, "%s: key general.architecture is missing or not a string",
                       aq_gguf_path(file));
    aq_gguf_show(text, shown);
    const aq_family *family = aq_family_of_gguf(shown);
    if (!family)
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s: architecture %s is not supported, expected one of %s",
                       aq_gguf_path(file), shown, aq_family_list(AQ_MODEL_GGUF, known));
    aq_config_begin(family, out);
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
        {"expert_shared_count", 0, "shared experts are"},
        {"expert_shared_feed_forward_length", 0, "shared experts are"},
        {"expert_group_count", 0, "groups of experts are"},
        {"leading_dense_block_count", 0, "dense layers before those with experts are"},
        {"expert_gating_func", 1, "other routers than softmax are"},
        {"expert_weights_scale", 1, "scaled experts are"},
        {"nextn_predict_layers", 0, "layers that predict further tokens are"},
        {"attention.causal", 1, "models that look ahead are"},
        {"attention.clamp_kqv", 0, "clamped queries and keys are"},
        {"attention.scale", 0, "other scales of attention are"},
        {"attn_logit_softcapping", 0, "capped scores are"},
        {"router_logit_softcapping", 0, "capped routers are"},
        {"final_logit_softcapping", 0, "capped logits are"},
        {"logit_scale", 0, "scaled logits are"},
        {"embedding_scale", 0, "scaled embeddings are"},
        {"residual_scale", 0, "scaled residuals are"},
        {"rope.scaling.yarn_ext_factor", 1, "other ramps of yarn are"},
        {"rope.scaling.yarn_attn_factor", 1, "other attention factors of yarn are"},
        {"rope.scaling.yarn_log_multiplier", 0, "other attention factors of yarn are"},
        {"rope.scaling.alpha", 0, "bases scaled by alpha are"},
    };
    char key[KEY_BYTES];
    double value;
    bool truth;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        key_of(config, keys[i].stem, key);
        if (aq_gguf_bool(file, key, &truth))
            value = truth;
        else if (!aq_gguf_float(file, key, &value))
            continue;
        if (value != keys[i].expected)
            return aq_fail(AQ_ERR_UNSUPPORTED, "%s: key %s is %g, expected %g: %s not supported",
                           aq_gguf_path(file), key, value, keys[i].expected, keys[i].noun);
    }
    return AQ_OK;
}

/* Tokens: the key, or the length of the vocabulary, which must not be longer. */
static aq_status read_vocab_size(const aq_gguf *file, aq_model_config *out) {
    const int64_t n_token = aq_gguf_string_count(file, "tokenizer.ggml.tokens");
    const int fallback = n_token < 1 ? 0 : n_token > AQ_MAX_VOCAB ? AQ_MAX_VOCAB : (int)n_token;
    AQ_TRY(read_int_size(file, out, "vocab_size", AQ_MAX_VOCAB, fallback, &out->n_vocab));
    if (n_token <= out->n_vocab) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT,
                   "%s: key tokenizer.ggml.tokens has %lld tokens, expected at most "
                   "%d (%s.vocab_size)",
                   aq_gguf_path(file), (long long)n_token, out->n_vocab, out->family->gguf);
}

/* Heads and their width. */
static aq_status read_heads(const aq_gguf *file, aq_model_config *out) {
    const char *arch = out->family->gguf;
    int d_value, n_rot;
    AQ_TRY(read_int_size(file, out, "attention.head_count", AQ_MAX_HEAD, 0, &out->n_head));
    AQ_TRY(read_int_size(file, out, "attention.head_count_kv", AQ_MAX_HEAD, out->n_head,
                         &out->n_kv_head));
    if (out->n_head % out->n_kv_head != 0)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s: key %s.attention.head_count is %d, expected a multiple of "
                       "%s.attention.head_count_kv, %d",
                       aq_gguf_path(file), arch, out->n_head, arch, out->n_kv_head);
    const bool divides = out->d_model % out->n_head == 0;
    AQ_TRY(read_int_size(file, out, "attention.key_length", AQ_MAX_DIM,
                         divides ? out->d_model / out->n_head : 0, &out->d_head));
    AQ_TRY(read_int_size(file, out, "attention.value_length", AQ_MAX_DIM, out->d_head, &d_value));
    if (d_value != out->d_head)
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s: key %s.attention.value_length is %d, expected %d as key_length: keys "
                       "and values of different width are not supported",
                       aq_gguf_path(file), arch, d_value, out->d_head);
    AQ_TRY(read_int_size(file, out, "rope.dimension_count", AQ_MAX_DIM, out->d_head, &n_rot));
    out->n_rot = out->family->learned_positions ? 0 : n_rot;
    if (out->n_layer == out->family->gguf_wide_layers)
        out->attn_scale = aq_scale_of(out->d_model / out->n_head);
    return AQ_OK;
}

/* Windows of heads of another width would be other layers. */
static aq_status refuse_other_heads(const aq_gguf *file, const aq_model_config *out) {
    static const char *const stems[] = {"attention.key_length_swa", "attention.value_length_swa",
                                        "rope.dimension_count_swa"};
    char key[KEY_BYTES];
    int64_t value;
    for (int i = 0; i < 3; i++) {
        const int expected = i < 2 ? out->d_head : out->n_rot;
        if (aq_gguf_int(file, key_of(out, stems[i], key), &value) && value != expected)
            return aq_fail(AQ_ERR_UNSUPPORTED,
                           "%s: key %s is %lld, expected %d: layers of different shapes are not "
                           "supported",
                           aq_gguf_path(file), key, (long long)value, expected);
    }
    return AQ_OK;
}

/* Which layers are windowed: all; or all but every 6th, or another number, or one integer a
 * layer, as the key says. */
static aq_status read_window_layers(const aq_gguf *file, aq_model_config *out) {
    static const char stem[] = "attention.sliding_window_pattern";
    char key[KEY_BYTES];
    int64_t period = 6;
    key_of(out, stem, key);
    if (out->family->window == AQ_WINDOW_ALL) {
        out->windowed = aq_layer_set_all(out->n_layer);
        return AQ_OK;
    }
    if (aq_gguf_int_count(file, key) == out->n_layer) {
        for (int i = 0; i < out->n_layer; i++)
            if (aq_gguf_int_at(file, key, i) != 0) aq_layer_set_add(&out->windowed, i);
        return AQ_OK;
    }
    if (aq_gguf_has(file, key) && !aq_gguf_int(file, key, &period))
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s is neither an integer nor one value a layer",
                       aq_gguf_path(file), key);
    AQ_TRY(check_range(file, key, period, AQ_MAX_LAYER));
    for (int i = 0; i < out->n_layer; i++)
        if ((i + 1) % period != 0) aq_layer_set_add(&out->windowed, i);
    return AQ_OK;
}

static aq_status read_window(const aq_gguf *file, aq_model_config *out) {
    char key[KEY_BYTES];
    if (!aq_gguf_has(file, key_of(out, "attention.sliding_window", key))) return AQ_OK;
    if (!aq_gguf_int(file, key, &out->window))
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s is not an integer", aq_gguf_path(file), key);
    if (out->window == 0) return AQ_OK;
    AQ_TRY(check_range(file, key, out->window, AQ_MAX_CTX));
    if (out->family->window != AQ_WINDOW_ALL && out->family->window != AQ_WINDOW_PATTERN)
        return aq_fail(
            AQ_ERR_UNSUPPORTED,
            "%s: key %s is %lld, expected 0: sliding windows are not supported in models "
            "of architecture %s",
            aq_gguf_path(file), key, (long long)out->window, out->arch);
    AQ_TRY(refuse_other_heads(file, out));
    return read_window_layers(file, out);
}

static aq_status read_experts(const aq_gguf *file, aq_model_config *out) {
    char key[KEY_BYTES];
    int64_t n = 0;
    bool renormalise;
    if (aq_gguf_has(file, key_of(out, "expert_count", key)) && !aq_gguf_int(file, key, &n))
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s is not an integer", aq_gguf_path(file), key);
    if (n != 0 && !out->family->experts)
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s: key %s is %lld, expected 0: mixtures of experts are not supported in "
                       "models of architecture %s",
                       aq_gguf_path(file), key, (long long)n, out->arch);
    if (n == 0) return AQ_OK;
    AQ_TRY(check_range(file, key, n, AQ_MAX_EXPERT));
    out->n_expert = (int)n;
    AQ_TRY(read_int_size(file, out, "expert_used_count", out->n_expert, 0, &out->n_expert_used));
    AQ_TRY(read_int_size(file, out, "expert_feed_forward_length", AQ_MAX_WIDTH, out->d_ff,
                         &out->d_expert));
    out->expert_layers = aq_layer_set_all(out->n_layer);
    out->expert_renormalise = out->family->gguf_renormalise;
    if (!aq_gguf_bool(file, key_of(out, "expert_weights_norm", key), &renormalise) ||
        renormalise == out->expert_renormalise)
        return AQ_OK;
    return aq_fail(AQ_ERR_UNSUPPORTED, "%s: key %s is %s, expected %s in models of architecture %s",
                   aq_gguf_path(file), key, renormalise ? "true" : "false",
                   renormalise ? "false" : "true", out->arch);
}

/* The kind of scaling. Files without the key scale linearly by their factor, which then is 1 if
 * absent. Phi-3 says longrope by its tensors only. */
static aq_status read_scaling_type(const aq_model_file *model, aq_model_config *out) {
    static const struct {
        const char *name;
        aq_rope_scaling scaling;
    } kinds[] = {{"none", AQ_ROPE_NONE},
                 {"linear", AQ_ROPE_LINEAR},
                 {"yarn", AQ_ROPE_YARN},
                 {"longrope", AQ_ROPE_LONGROPE}};
    const aq_gguf *file = aq_model_file_gguf(model);
    char key[KEY_BYTES], shown[AQ_GGUF_SHOWN_BYTES];
    aq_gguf_string text;
    out->rope.scaling = AQ_ROPE_LINEAR;
    if (out->family->gguf_names->roles[AQ_ROLE_ROPE_LONG] &&
        aq_model_file_tensor_find(model, "rope_factors_long.weight"))
        out->rope.scaling = AQ_ROPE_LONGROPE;
    if (!aq_gguf_has(file, key_of(out, "rope.scaling.type", key))) return AQ_OK;
    if (!aq_gguf_text(file, key, &text))
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s is not a string", aq_gguf_path(file), key);
    aq_gguf_show(text, shown);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(shown, kinds[i].name) == 0) {
            if (out->rope.scaling == AQ_ROPE_LONGROPE) return AQ_OK;
            out->rope.scaling = kinds[i].scaling;
            if (out->rope.scaling != AQ_ROPE_LONGROPE) return AQ_OK;
        }
    return aq_fail(AQ_ERR_UNSUPPORTED, "%s: key %s is %s, expected none, linear or yarn",
                   aq_gguf_path(file), key, shown);
}

/* Longrope files give the whole attention factor. */
static void finish_longrope(aq_model_config *out) {
    aq_rope_config *rope = &out->rope;
    float inv_freq[AQ_MAX_DIM / 2], whole;
    const double given = rope->attn_factor;
    rope->factor = (double)out->n_ctx / (double)rope->n_ctx_orig;
    rope->attn_factor = 1.0;
    aq_model_rope(rope, out->n_rot, NULL, inv_freq, &whole);
    if (given != 0.0 && fabs(given / (double)whole - 1.0) > 1e-6)
        rope->attn_factor = given / (double)whole;
}

static aq_status finish_scaling(const aq_gguf *file, aq_model_config *out) {
    aq_rope_config *rope = &out->rope;
    if (rope->scaling == AQ_ROPE_LONGROPE) {
        finish_longrope(out);
        return AQ_OK;
    }
    if (rope->factor == 0.0) rope->factor = 1.0; /* written by old converters for "none" */
    if (rope->factor < 1.0)
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s.rope.scaling.factor is %g, expected at least 1",
                       aq_gguf_path(file), out->family->gguf, rope->factor);
    if (rope->factor == 1.0) rope->scaling = AQ_ROPE_NONE;
    if (rope->scaling == AQ_ROPE_NONE) rope->factor = 1.0;
    if (rope->scaling != AQ_ROPE_YARN || rope->attn_factor == 0.0) rope->attn_factor = 1.0;
    return AQ_OK;
}

static aq_status read_rope(const aq_model_file *model, aq_model_config *out) {
    const aq_gguf *file = aq_model_file_gguf(model);
    const double local = out->family->hf_defaults.rope_local_base;
    aq_rope_config *rope = &out->rope;
    double old_factor;
    AQ_TRY(read_number(file, out, "rope.freq_base", 1.001, 1e15, 10000.0, &rope->base));
    AQ_TRY(read_scaling_type(model, out));
    AQ_TRY(read_number(file, out, "rope.scale_linear", 0.0, 1e6, 0.0, &old_factor));
    AQ_TRY(read_number(file, out, "rope.scaling.factor", 0.0, 1e6, old_factor, &rope->factor));
    AQ_TRY(read_number(file, out, "rope.scaling.attn_factor", 1e-3, 1e3, 0.0, &rope->attn_factor));
    AQ_TRY(read_number(file, out, "rope.scaling.yarn_beta_fast", 0.0, 1e6, 32.0, &rope->beta_fast));
    AQ_TRY(read_number(file, out, "rope.scaling.yarn_beta_slow", 0.0, 1e6, 1.0, &rope->beta_slow));
    AQ_TRY(read_size(file, out, "rope.scaling.original_context_length", AQ_MAX_CTX, out->n_ctx,
                     &rope->n_ctx_orig));
    AQ_TRY(finish_scaling(file, out));
    out->two_ropes = local > 0.0;
    out->rope_local = *rope;
    if (!out->two_ropes) return AQ_OK;
    out->rope_local.scaling = AQ_ROPE_NONE;
    out->rope_local.factor = out->rope_local.attn_factor = 1.0;
    return read_number(file, out, "rope.freq_base_swa", 1.001, 1e15, local, &out->rope_local.base);
}

/* Keyed biases are said by the tensors alone in this format. */
static aq_part part_of(aq_key_rule rule) {
    if (rule.key) return AQ_PART_OPTIONAL;
    return rule.value ? AQ_PART_REQUIRED : AQ_PART_ABSENT;
}

static aq_status read_residual(const aq_gguf *file, aq_model_config *out) {
    char key[KEY_BYTES];
    out->parallel_residual = out->family->parallel_residual.value;
    out->qkv_bias = part_of(out->family->qkv_bias);
    out->out_bias = part_of(out->family->out_bias);
    out->ffn_bias = part_of(out->family->ffn_bias);
    if (!out->family->parallel_residual.key) return AQ_OK;
    if (aq_gguf_bool(file, key_of(out, "use_parallel_residual", key), &out->parallel_residual))
        return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT, "%s: key %s is missing or not a truth value", aq_gguf_path(file),
                   key);
}

aq_status aq_gguf_config_read(const aq_model_file *model, aq_model_config *out) {
    const aq_gguf *file = aq_model_file_gguf(model);
    double eps;
    memset(out, 0, sizeof *out);
    AQ_TRY(read_arch(file, out));
    AQ_TRY(refuse_variants(file, out));
    AQ_TRY(read_int_size(file, out, "block_count", AQ_MAX_LAYER, 0, &out->n_layer));
    AQ_TRY(read_int_size(file, out, "embedding_length", AQ_MAX_WIDTH, 0, &out->d_model));
    AQ_TRY(read_int_size(file, out, "feed_forward_length", AQ_MAX_WIDTH, 0, &out->d_ff));
    AQ_TRY(read_size(file, out, "context_length", AQ_MAX_CTX, 0, &out->n_ctx));
    AQ_TRY(read_heads(file, out));
    AQ_TRY(read_vocab_size(file, out));
    AQ_TRY(read_number(file, out,
                       out->norm == AQ_NORM_RMS ? "attention.layer_norm_rms_epsilon"
                                                : "attention.layer_norm_epsilon",
                       0.0, 0.1, NAN, &eps));
    out->norm_eps = (float)eps;
    AQ_TRY(read_experts(file, out));
    AQ_TRY(read_residual(file, out));
    if (out->n_rot > 0) AQ_TRY(read_rope(model, out));
    AQ_TRY(read_window(file, out));
    return aq_config_finish(aq_gguf_path(file), out);
}
