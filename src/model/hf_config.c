#include "src/model/hf_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/hf_config_parts.h"

aq_status aq_hf_json_open(const aq_model_file *file, aq_hf_json *out) {
    size_t bytes;
    const char *text = aq_model_file_config(file, &bytes);
    memset(out, 0, sizeof *out);
    snprintf(out->path, sizeof out->path, "%s/config.json", aq_model_file_path(file));
    AQ_TRY(aq_json_parse(out->path, text, bytes, &out->root));
    out->model = (aq_json){out->path, "", out->root};
    AQ_TRY(aq_json_text(&out->model, "model_type", NULL, &out->model_type));
    if (!out->model_type) return aq_fail(AQ_ERR_FORMAT, "%s: key model_type is missing", out->path);
    /* A model of more than language: the part about language names its own type. */
    const cJSON *part = aq_json_find(&out->model, "text_config", NULL);
    if (!cJSON_IsObject(part)) return AQ_OK;
    out->model = (aq_json){out->path, "text_config.", part};
    return aq_json_text(&out->model, "model_type", out->model_type, &out->model_type);
}

void aq_hf_json_close(aq_hf_json *json) {
    cJSON_Delete(json->root);
    memset(json, 0, sizeof *json);
}

/* A value that is supported; every other one, the key being there, changes the result. */
typedef struct {
    const char *key;
    bool number; /* value: false and 0 are `no`, null is absence */
    double expected;
} fixed;

/* Keys of all families: those that only some have are absent elsewhere. */
static aq_status refuse_variants(const aq_json *model) {
    static const fixed keys[] = {
        {"attn_logit_softcapping", true, 0.0},
        {"final_logit_softcapping", true, 0.0},
        {"use_bidirectional_attention", false, 0.0},
        {"do_layer_norm_before", false, 1.0},
        {"_remove_final_layer_norm", false, 0.0},
        {"layer_norm_elementwise_affine", false, 1.0},
        {"scale_attn_by_inverse_layer_idx", false, 0.0},
        {"add_cross_attention", false, 0.0},
        {"is_encoder_decoder", false, 0.0},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        double value = 0.0;
        bool truth = false;
        if (!aq_json_find(model, keys[i].key, NULL)) continue;
        if (keys[i].number)
            AQ_TRY(aq_json_number(model, keys[i].key, -1e30, 1e30, 0.0, &value));
        else
            AQ_TRY(aq_json_bool(model, keys[i].key, false, &truth));
        if (keys[i].number ? value == keys[i].expected : truth == (keys[i].expected != 0.0))
            continue;
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: key %s%s is not supported with this value",
                       model->path, model->within, keys[i].key);
    }
    static const char *const absent[] = {"clip_qkv", "quantization_config"};
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++)
        if (aq_json_find(model, absent[i], NULL))
            return aq_fail(AQ_ERR_UNSUPPORTED, "%s: key %s%s is not supported", model->path,
                           model->within, absent[i]);
    return AQ_OK;
}

static aq_status read_activation(const aq_json *model, aq_model_config *out) {
    static const struct {
        const char *name;
        aq_activation activation;
    } kinds[] = {{"silu", AQ_ACT_SILU},
                 {"swish", AQ_ACT_SILU},
                 {"gelu", AQ_ACT_GELU},
                 {"gelu_python", AQ_ACT_GELU},
                 {"gelu_new", AQ_ACT_GELU_TANH},
                 {"gelu_fast", AQ_ACT_GELU_TANH},
                 {"gelu_pytorch_tanh", AQ_ACT_GELU_TANH},
                 {"relu", AQ_ACT_RELU}};
    const char *own = out->family->hf_defaults.activation_key;
    const char *key = own ? own : "hidden_act";
    const char *name;
    AQ_TRY(aq_json_text(model, key, NULL, &name));
    if (!name) return AQ_OK;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].name, name) == 0) {
            out->activation = kinds[i].activation;
            return AQ_OK;
        }
    return aq_fail(AQ_ERR_UNSUPPORTED,
                   "%s: key %s%s is %.40s, expected silu, gelu, gelu_new, "
                   "gelu_pytorch_tanh or relu",
                   model->path, model->within, key, name);
}

static aq_status read_int(const aq_json *model, const char *keys, int64_t max, int64_t fallback,
                          int *out) {
    int64_t value;
    AQ_TRY(aq_json_int(model, keys, 1, max, fallback > 0 ? fallback : AQ_JSON_REQUIRED, &value));
    *out = (int)value;
    return AQ_OK;
}

/* Null means as many as query heads; absence the family's own number. */
static aq_status read_kv_heads(const aq_json *model, aq_model_config *out) {
    const int own = out->family->hf_defaults.n_kv_head;
    const bool null =
        cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(model->object, "num_key_value_heads"));
    return read_int(model, "num_key_value_heads", AQ_MAX_HEAD, own > 0 && !null ? own : out->n_head,
                    &out->n_kv_head);
}

static aq_status read_sizes(const aq_json *model, aq_model_config *out) {
    const aq_hf_defaults *own = &out->family->hf_defaults;
    const int64_t n_ctx = own->n_ctx > 0 ? own->n_ctx : AQ_JSON_REQUIRED;
    double eps;
    AQ_TRY(read_int(model, "num_hidden_layers|n_layer", AQ_MAX_LAYER, 0, &out->n_layer));
    AQ_TRY(read_int(model, "hidden_size|n_embd", AQ_MAX_WIDTH, 0, &out->d_model));
    AQ_TRY(read_int(model, "num_attention_heads|n_head", AQ_MAX_HEAD, own->n_head, &out->n_head));
    AQ_TRY(read_kv_heads(model, out));
    const int d_head = own->d_head > 0                   ? own->d_head
                       : out->d_model % out->n_head == 0 ? out->d_model / out->n_head
                                                         : 0;
    AQ_TRY(read_int(model, "head_dim", AQ_MAX_DIM, d_head, &out->d_head));
    AQ_TRY(read_int(model, "intermediate_size|ffn_dim|n_inner", AQ_MAX_WIDTH,
                    out->gated ? 0 : 4 * (int64_t)out->d_model, &out->d_ff));
    AQ_TRY(read_int(model, "vocab_size", AQ_MAX_VOCAB, own->n_vocab, &out->n_vocab));
    AQ_TRY(aq_json_int(model, "max_position_embeddings|n_positions", 1, AQ_MAX_CTX, n_ctx,
                       &out->n_ctx));
    AQ_TRY(aq_json_number(model, "rms_norm_eps|layer_norm_eps|layer_norm_epsilon", 0.0, 0.1,
                          own->norm_eps > 0 ? own->norm_eps : NAN, &eps));
    out->norm_eps = (float)eps;
    int d_word;
    AQ_TRY(read_int(model, "word_embed_proj_dim", AQ_MAX_WIDTH, out->d_model, &d_word));
    if (d_word == out->d_model) return AQ_OK;
    return aq_fail(AQ_ERR_UNSUPPORTED,
                   "%s: key %sword_embed_proj_dim is %d, expected %d as hidden_size: projected "
                   "embeddings are not supported",
                   model->path, model->within, d_word, out->d_model);
}

static aq_status read_part(const aq_json *model, aq_key_rule rule, aq_part *out) {
    bool value = rule.value;
    if (rule.key) AQ_TRY(aq_json_bool(model, rule.key, rule.value, &value));
    *out = value ? AQ_PART_REQUIRED : AQ_PART_ABSENT;
    return AQ_OK;
}

static aq_status read_parts(const aq_json *model, const aq_json *root, aq_model_config *out) {
    const aq_family *family = out->family;
    bool tied;
    AQ_TRY(read_part(model, family->qkv_bias, &out->qkv_bias));
    AQ_TRY(read_part(model, family->out_bias, &out->out_bias));
    AQ_TRY(read_part(model, family->ffn_bias, &out->ffn_bias));
    out->parallel_residual = family->parallel_residual.value;
    if (family->parallel_residual.key)
        AQ_TRY(aq_json_bool(model, family->parallel_residual.key, out->parallel_residual,
                            &out->parallel_residual));
    AQ_TRY(aq_json_bool(root, "tie_word_embeddings", family->tied, &tied));
    return aq_json_bool(model, "tie_word_embeddings", tied, &out->tied);
}

static aq_status read_scale(const aq_json *model, aq_model_config *out) {
    const char *key = out->family->scale_key;
    const int own = out->family->hf_defaults.d_head;
    double scalar;
    bool scaled;
    if (key) {
        AQ_TRY(aq_json_number(model, key, 1e-6, 1e9, own, &scalar));
        out->attn_scale = aq_scale_of(scalar);
    }
    AQ_TRY(aq_json_bool(model, "scale_attn_weights", true, &scaled));
    if (!scaled) out->attn_scale = 1.0f;
    return AQ_OK;
}

/* Layer by layer, where layer_types is given. */
static aq_status read_layer_types(const aq_json *model, const cJSON *list, aq_model_config *out) {
    const cJSON *type = list->child;
    memset(&out->windowed, 0, sizeof out->windowed);
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != out->n_layer)
        return aq_fail(AQ_ERR_FORMAT, "%s: key %slayer_types is not a list of %d texts",
                       model->path, model->within, out->n_layer);
    for (int i = 0; i < out->n_layer; i++, type = type->next) {
        const char *name = cJSON_IsString(type) ? type->valuestring : "";
        if (strcmp(name, "sliding_attention") == 0)
            aq_layer_set_add(&out->windowed, i);
        else if (strcmp(name, "full_attention") != 0)
            return aq_fail(AQ_ERR_UNSUPPORTED,
                           "%s: key %slayer_types: layer %d is %.40s, expected full_attention or "
                           "sliding_attention",
                           model->path, model->within, i, name[0] ? name : "no text");
    }
    return AQ_OK;
}

/* Which layers are windowed by the family's rule. */
static aq_status read_window_layers(const aq_json *model, aq_model_config *out) {
    int64_t first, period;
    switch (out->family->window) {
    case AQ_WINDOW_UPPER:
        AQ_TRY(aq_json_int(model, "max_window_layers", 0, INT64_MAX, 28, &first));
        for (int i = 0; i < out->n_layer; i++)
            if (i >= first) aq_layer_set_add(&out->windowed, i);
        return AQ_OK;
    case AQ_WINDOW_PATTERN:
        AQ_TRY(aq_json_int(model, "sliding_window_pattern", 1, AQ_MAX_LAYER, 6, &period));
        for (int i = 0; i < out->n_layer; i++)
            if ((i + 1) % period != 0) aq_layer_set_add(&out->windowed, i);
        return AQ_OK;
    default:
        out->windowed = aq_layer_set_all(out->n_layer);
        return AQ_OK;
    }
}

static aq_status read_window(const aq_json *model, aq_model_config *out) {
    static const aq_layer_set none;
    const aq_window_rule rule = out->family->window;
    const aq_hf_defaults *own = &out->family->hf_defaults;
    const cJSON *types = own->layer_types ? aq_json_find(model, "layer_types", NULL) : NULL;
    int64_t window;
    bool used = true;
    /* Absence is the family's own; null is none. */
    const bool absent = !cJSON_GetObjectItemCaseSensitive(model->object, "sliding_window");
    AQ_TRY(aq_json_int(model, "sliding_window", 0, AQ_MAX_CTX, absent ? own->window : 0, &window));
    if (rule == AQ_WINDOW_USED || rule == AQ_WINDOW_UPPER)
        AQ_TRY(aq_json_bool(model, "use_sliding_window", false, &used));
    if (window == 0) used = false;
    if (rule == AQ_WINDOW_NONE && used)
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s: key %ssliding_window is %lld, expected null: sliding windows are not "
                       "supported in models of architecture %s",
                       model->path, model->within, (long long)window, out->arch);
    if (used || rule == AQ_WINDOW_PATTERN) AQ_TRY(read_window_layers(model, out));
    if (types) AQ_TRY(read_layer_types(model, types, out));
    if (!used && memcmp(&out->windowed, &none, sizeof none) != 0)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s: by key %slayer_types or without it, layers are windowed, but there is "
                       "no sliding_window",
                       model->path, model->within);
    if (memcmp(&out->windowed, &none, sizeof none) != 0) out->window = window;
    return AQ_OK;
}

/* Which layers have experts: each decoder_sparse_step-th, without those of mlp_only_layers. */
static aq_status read_expert_layers(const aq_json *model, aq_model_config *out) {
    const cJSON *dense = aq_json_find(model, "mlp_only_layers", NULL);
    int64_t step;
    AQ_TRY(aq_json_int(model, "decoder_sparse_step", 1, AQ_MAX_LAYER, 1, &step));
    for (int i = 0; i < out->n_layer; i++)
        if ((i + 1) % step == 0) aq_layer_set_add(&out->expert_layers, i);
    if (dense && !cJSON_IsArray(dense))
        return aq_fail(AQ_ERR_FORMAT, "%s: key %smlp_only_layers is not a list", model->path,
                       model->within);
    for (const cJSON *at = dense ? dense->child : NULL; at; at = at->next) {
        int64_t i;
        if (!aq_json_whole(at, 0, out->n_layer - 1, &i))
            return aq_fail(AQ_ERR_FORMAT,
                           "%s: key %smlp_only_layers: expected numbers of layers, 0 to %d",
                           model->path, model->within, out->n_layer - 1);
        out->expert_layers.bits[i / 64] &= ~((uint64_t)1 << (i % 64));
    }
    return AQ_OK;
}

static aq_status read_experts(const aq_json *model, aq_model_config *out) {
    const aq_key_rule rule = out->family->renormalise;
    if (!out->family->experts) return AQ_OK;
    AQ_TRY(read_int(model, "num_local_experts|num_experts", AQ_MAX_EXPERT, 0, &out->n_expert));
    AQ_TRY(read_int(model, "num_experts_per_tok", out->n_expert, 0, &out->n_expert_used));
    AQ_TRY(read_int(model, "moe_intermediate_size", AQ_MAX_WIDTH, out->d_ff, &out->d_expert));
    out->expert_renormalise = rule.value;
    if (rule.key) AQ_TRY(aq_json_bool(model, rule.key, rule.value, &out->expert_renormalise));
    return read_expert_layers(model, out);
}

/* The last part of a path, for display. */
static void name_of(const char *path, char name[128]) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t begin = n;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    aq_gguf_show((aq_gguf_string){path + begin, n - begin}, name);
}

static aq_status read_model(const aq_model_file *file, const aq_hf_json *json,
                            aq_model_config *out) {
    const aq_json *model = &json->model, root = {json->path, "", json->root};
    char known[256];
    const aq_family *family = aq_family_of_hf(json->model_type);
    if (!family)
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s: model_type %.40s is not supported, expected one of %s", json->path,
                       json->model_type, aq_family_list(AQ_MODEL_HF, known));
    aq_config_begin(family, out);
    name_of(aq_model_file_path(file), out->name);
    AQ_TRY(refuse_variants(model));
    if (model->object != root.object) AQ_TRY(refuse_variants(&root));
    AQ_TRY(read_sizes(model, out));
    AQ_TRY(read_activation(model, out));
    AQ_TRY(read_parts(model, &root, out));
    AQ_TRY(read_scale(model, out));
    AQ_TRY(read_experts(model, out));
    if (!family->learned_positions) AQ_TRY(aq_hf_rope_read(model, out));
    AQ_TRY(read_window(model, out));
    return aq_config_finish(json->path, out);
}

aq_status aq_hf_config_read(const aq_model_file *file, aq_model_config *out) {
    aq_hf_json json;
    memset(out, 0, sizeof *out);
    aq_status status = aq_hf_json_open(file, &json);
    if (status == AQ_OK) status = read_model(file, &json, out);
    aq_hf_json_close(&json);
    return status;
}
