/* The rotary part of config.json. Version 4 has rope_theta and rope_scaling, version 5
 * rope_parameters, which may hold one table for each kind of layer. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/model/hf_config.h"
#include "src/model/hf_config_parts.h"

/* One table's own object, NULL object if there is none, and its base. */
typedef struct {
    aq_json json;
    double base;
} table;

static const cJSON *object_at(const aq_json *json, const char *key) {
    const cJSON *value = aq_json_find(json, key, NULL);
    return cJSON_IsObject(value) ? value : NULL;
}

/* Finds the tables of full and of windowed layers. */
static aq_status find_tables(const aq_json *model, const aq_hf_defaults *defaults, table *full,
                             table *local, bool *has_local) {
    const double fallback = defaults->rope_base > 0 ? defaults->rope_base : 10000.0;
    const aq_json v5 = {model->path, "rope_parameters.", object_at(model, "rope_parameters")};
    const aq_json v4 = {model->path, "rope_scaling.", object_at(model, "rope_scaling")};
    double base;
    AQ_TRY(aq_json_number(model, "rope_theta|rotary_emb_base", 1.001, 1e15, fallback, &base));
    *full = (table){v5.object ? v5 : v4, base};
    *local = (table){{model->path, "rope_parameters.", NULL}, base};
    *has_local = defaults->rope_local_base > 0.0;
    if (*has_local)
        AQ_TRY(aq_json_number(model, "rope_local_base_freq", 1.001, 1e15, defaults->rope_local_base,
                              &local->base));
    if (v5.object && object_at(&v5, "full_attention")) {
        full->json.object = object_at(&v5, "full_attention");
        full->json.within = "rope_parameters.full_attention.";
        local->json.object = object_at(&v5, "sliding_attention");
        local->json.within = "rope_parameters.sliding_attention.";
        *has_local = *has_local || local->json.object;
        if (*has_local && local->json.object)
            AQ_TRY(
                aq_json_number(&local->json, "rope_theta", 1.001, 1e15, local->base, &local->base));
    }
    if (full->json.object)
        AQ_TRY(aq_json_number(&full->json, "rope_theta", 1.001, 1e15, full->base, &full->base));
    return AQ_OK;
}

static aq_status read_kind(const aq_json *json, aq_rope_scaling *out) {
    static const struct {
        const char *name;
        aq_rope_scaling scaling;
    } kinds[] = {{"default", AQ_ROPE_NONE},      {"linear", AQ_ROPE_LINEAR},
                 {"yarn", AQ_ROPE_YARN},         {"llama3", AQ_ROPE_LLAMA3},
                 {"longrope", AQ_ROPE_LONGROPE}, {"su", AQ_ROPE_LONGROPE}};
    const char *name;
    AQ_TRY(aq_json_text(json, "rope_type|type", "default", &name));
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        *out = kinds[i].scaling;
        if (strcmp(kinds[i].name, name) == 0) return AQ_OK;
    }
    return aq_fail(AQ_ERR_UNSUPPORTED,
                   "%s: key %srope_type is %.40s, expected default, linear, yarn, llama3 or "
                   "longrope",
                   json->path, json->within, name);
}

/* 1 + 0.1 m ln factor */
static double mscale(double factor, double m) {
    return factor <= 1.0 ? 1.0 : 0.1 * m * log(factor) + 1.0;
}

/* The attention factor that the scaling has of itself. */
static double own_attention(const aq_rope_config *rope) {
    if (rope->factor <= 1.0) return 1.0;
    if (rope->scaling == AQ_ROPE_YARN) return mscale(rope->factor, 1.0);
    return sqrt(1.0 + log(rope->factor) / log((double)rope->n_ctx_orig));
}

static aq_status read_attention(const aq_json *json, aq_rope_config *rope) {
    double whole, m, m_all;
    AQ_TRY(aq_json_number(json, "attention_factor", 1e-3, 1e3, 0.0, &whole));
    AQ_TRY(aq_json_number(json, "mscale", 0.0, 1e3, 0.0, &m));
    AQ_TRY(aq_json_number(json, "mscale_all_dim", 0.0, 1e3, 0.0, &m_all));
    if (whole == 0.0 && m > 0.0 && m_all > 0.0 && rope->scaling == AQ_ROPE_YARN)
        whole = mscale(rope->factor, m) / mscale(rope->factor, m_all);
    rope->attn_factor = whole == 0.0 ? 1.0 : whole / own_attention(rope);
    return AQ_OK;
}

/* Values that would need another table. */
static aq_status refuse_variants(const aq_json *json) {
    static const char *const keys[] = {"mrope_section", "mrope_interleaved", "llama_4_scaling_beta",
                                       "short_mscale", "long_mscale"};
    bool truncate;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (aq_json_find(json, keys[i], NULL))
            return aq_fail(AQ_ERR_UNSUPPORTED, "%s: key %s%s is not supported", json->path,
                           json->within, keys[i]);
    AQ_TRY(aq_json_bool(json, "truncate", true, &truncate));
    if (truncate) return AQ_OK;
    return aq_fail(AQ_ERR_UNSUPPORTED, "%s: key %struncate is false, expected true", json->path,
                   json->within);
}

static aq_status read_scaling(const aq_json *model, const aq_json *json, int64_t n_ctx,
                              aq_rope_config *out) {
    int64_t outer;
    AQ_TRY(refuse_variants(json));
    AQ_TRY(read_kind(json, &out->scaling));
    AQ_TRY(aq_json_int(model, "original_max_position_embeddings", 1, AQ_MAX_CTX, n_ctx, &outer));
    AQ_TRY(aq_json_int(json, "original_max_position_embeddings", 1, AQ_MAX_CTX, outer,
                       &out->n_ctx_orig));
    const double ratio = (double)n_ctx / (double)out->n_ctx_orig;
    const bool needs = out->scaling == AQ_ROPE_LINEAR || out->scaling == AQ_ROPE_LLAMA3 ||
                       (out->scaling == AQ_ROPE_YARN && out->n_ctx_orig == n_ctx);
    if (out->scaling == AQ_ROPE_NONE) {
        out->n_ctx_orig = n_ctx;
        return AQ_OK;
    }
    AQ_TRY(aq_json_number(json, "factor", 1.0, 1e6, needs ? NAN : ratio, &out->factor));
    AQ_TRY(aq_json_number(json, "beta_fast", 1e-3, 1e6, 32.0, &out->beta_fast));
    AQ_TRY(aq_json_number(json, "beta_slow", 1e-3, 1e6, 1.0, &out->beta_slow));
    if (out->scaling == AQ_ROPE_YARN || out->scaling == AQ_ROPE_LONGROPE)
        AQ_TRY(read_attention(json, out));
    if (out->scaling == AQ_ROPE_LLAMA3) {
        AQ_TRY(aq_json_number(json, "low_freq_factor", 1e-6, 1e6, NAN, &out->low_freq));
        AQ_TRY(aq_json_number(json, "high_freq_factor", 1e-6, 1e6, NAN, &out->high_freq));
        if (out->high_freq <= out->low_freq)
            return aq_fail(AQ_ERR_FORMAT,
                           "%s: key %shigh_freq_factor is %g, expected more than low_freq_factor, "
                           "%g",
                           json->path, json->within, out->high_freq, out->low_freq);
    } else if (out->factor == 1.0 && out->scaling != AQ_ROPE_LONGROPE) {
        out->scaling = AQ_ROPE_NONE;
    }
    return AQ_OK;
}

static aq_status read_table(const aq_json *model, const table *from, int64_t n_ctx,
                            aq_rope_config *out) {
    *out = (aq_rope_config){.base = from->base,
                            .scaling = AQ_ROPE_NONE,
                            .factor = 1.0,
                            .attn_factor = 1.0,
                            .n_ctx_orig = n_ctx,
                            .beta_fast = 32.0,
                            .beta_slow = 1.0};
    return from->json.object ? read_scaling(model, &from->json, n_ctx, out) : AQ_OK;
}

static bool same(const aq_rope_config *a, const aq_rope_config *b) {
    return a->base == b->base && a->scaling == b->scaling && a->factor == b->factor &&
           a->attn_factor == b->attn_factor && a->n_ctx_orig == b->n_ctx_orig &&
           a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow &&
           a->low_freq == b->low_freq && a->high_freq == b->high_freq;
}

/* The dimensions that rotate: version 5 says it in the table, version 4 beside it. */
static aq_status read_width(const aq_json *model, const table *full, aq_model_config *out) {
    const double fallback =
        out->family->hf_defaults.rotary_factor > 0 ? out->family->hf_defaults.rotary_factor : 1.0;
    double factor;
    AQ_TRY(aq_json_number(model, "partial_rotary_factor|rotary_pct", 0.0, 1.0, fallback, &factor));
    if (full->json.object)
        AQ_TRY(aq_json_number(&full->json, "partial_rotary_factor", 0.0, 1.0, factor, &factor));
    out->n_rot = (int)((double)out->d_head * factor);
    return AQ_OK;
}

aq_status aq_hf_rope_read(const aq_json *model, aq_model_config *out) {
    table full, local;
    bool interleaved;
    AQ_TRY(aq_json_bool(model, "rope_interleaved", false, &interleaved));
    if (interleaved)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: key rope_interleaved is true, expected false",
                       model->path);
    AQ_TRY(find_tables(model, &out->family->hf_defaults, &full, &local, &out->two_ropes));
    AQ_TRY(read_width(model, &full, out));
    AQ_TRY(read_table(model, &full, out->n_ctx, &out->rope));
    out->rope_local = out->rope;
    if (!out->two_ropes) return AQ_OK;
    AQ_TRY(read_table(model, &local, out->n_ctx, &out->rope_local));
    out->two_ropes = !same(&out->rope, &out->rope_local);
    const aq_rope_scaling kind = out->rope_local.scaling;
    if (!out->two_ropes || (kind != AQ_ROPE_LLAMA3 && kind != AQ_ROPE_LONGROPE)) return AQ_OK;
    return aq_fail(AQ_ERR_UNSUPPORTED,
                   "%s: key %srope_type asks for divisors, which windowed layers cannot have",
                   model->path, local.json.within);
}

aq_status aq_hf_config_longrope(const aq_model_file *file, const aq_model_config *config,
                                bool is_long, float *out) {
    const char *key = is_long ? "long_factor" : "short_factor";
    const int n = config->n_rot / 2;
    aq_hf_json json;
    table full, local;
    bool has_local;
    aq_status status = aq_hf_json_open(file, &json);
    if (status == AQ_OK)
        status = find_tables(&json.model, &config->family->hf_defaults, &full, &local, &has_local);
    const cJSON *list = status == AQ_OK ? aq_json_find(&full.json, key, NULL) : NULL;
    if (status == AQ_OK && (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != n))
        status = aq_fail(AQ_ERR_FORMAT, "%s: key %s%s is not a list of %d numbers", json.path,
                         full.json.within, key, n);
    const cJSON *value = status == AQ_OK ? list->child : NULL;
    for (int i = 0; i < n && status == AQ_OK; i++, value = value->next) {
        out[i] = cJSON_IsNumber(value) ? (float)value->valuedouble : 0.0f;
        if (!(out[i] > 0.0f && isfinite(out[i])))
            status = aq_fail(AQ_ERR_FORMAT, "%s: key %s%s: element %d is no number above 0",
                             json.path, full.json.within, key, i);
    }
    aq_hf_json_close(&json);
    return status;
}
