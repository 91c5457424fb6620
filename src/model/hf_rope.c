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

/* The object of a key that may be absent or null; anything else is no table. */
static aq_status find_object(const aq_json *json, const char *key, const cJSON **out) {
    *out = aq_json_find(json, key, NULL);
    if (!*out || cJSON_IsObject(*out)) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT, "%s: key %s%s is not an object", json->path, json->within, key);
}

/* Version 5 with a table for each kind of layer: where one is absent it is the default. Keys beside
 * the tables would count for neither. */
static aq_status find_both(const aq_json *v5, table *full, table *local) {
    AQ_TRY(find_object(v5, "full_attention", &full->json.object));
    AQ_TRY(find_object(v5, "sliding_attention", &local->json.object));
    full->json.within = "rope_parameters.full_attention.";
    local->json.within = "rope_parameters.sliding_attention.";
    for (const cJSON *at = v5->object->child; at; at = at->next) {
        if (cJSON_IsNull(at) || strcmp(at->string, "full_attention") == 0 ||
            strcmp(at->string, "sliding_attention") == 0)
            continue;
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s: key %s%.40s is not supported, expected full_attention and "
                       "sliding_attention",
                       v5->path, v5->within, at->string);
    }
    return AQ_OK;
}

/* The one table of a family; tables by kinds of layers would be other layers. */
static aq_status check_flat(const aq_json *json) {
    static const char *const kinds[] = {"full_attention", "sliding_attention"};
    for (size_t i = 0; json->object && i < sizeof kinds / sizeof kinds[0]; i++)
        if (aq_json_find(json, kinds[i], NULL))
            return aq_fail(AQ_ERR_UNSUPPORTED,
                           "%s: key %s%s is not supported: layers of this model_type share a table",
                           json->path, json->within, kinds[i]);
    return AQ_OK;
}

/* Which object says what: of two, version 4's is the one that counts, as in transformers, which
 * with two kinds of layers mixes them. */
static aq_status choose_tables(const aq_json *model, bool has_local, table *full, table *local) {
    aq_json v4 = {model->path, "rope_scaling.", NULL}, v5 = {model->path, "rope_parameters.", NULL};
    AQ_TRY(find_object(model, "rope_scaling", &v4.object));
    AQ_TRY(find_object(model, "rope_parameters", &v5.object));
    const bool old = v4.object && v4.object->child;
    full->json = old || !v5.object ? v4 : v5;
    local->json = (aq_json){model->path, "rope_parameters.", NULL};
    if (!has_local) return check_flat(&full->json);
    if (old && v5.object)
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s: keys %srope_scaling and %srope_parameters are both there, expected one",
                       model->path, model->within, model->within);
    return v5.object ? find_both(&v5, full, local) : check_flat(&v4);
}

static aq_status read_base(const aq_json *json, const char *key, double fallback, double *out) {
    *out = fallback;
    return json->object ? aq_json_number(json, key, 1.001, 1e15, fallback, out) : AQ_OK;
}

/* Finds the tables of full and of windowed layers. */
static aq_status find_tables(const aq_json *model, const aq_hf_defaults *defaults, table *full,
                             table *local, bool *has_local) {
    const double base = defaults->rope_base > 0 ? defaults->rope_base : 10000.0;
    const char *key = defaults->rope_base_key ? defaults->rope_base_key : "rope_theta";
    *has_local = defaults->rope_local_base > 0.0;
    AQ_TRY(choose_tables(model, *has_local, full, local));
    AQ_TRY(read_base(model, key, base, &full->base));
    AQ_TRY(read_base(&full->json, "rope_theta", full->base, &full->base));
    if (!*has_local) return AQ_OK;
    AQ_TRY(read_base(model, "rope_local_base_freq", defaults->rope_local_base, &local->base));
    return read_base(&local->json, "rope_theta", local->base, &local->base);
}

static aq_status read_kind(const aq_json *json, const aq_hf_defaults *defaults,
                           aq_rope_scaling *out) {
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
        if (strcmp(kinds[i].name, name) != 0) continue;
        if (*out == AQ_ROPE_YARN && defaults->yarn_is_longrope) *out = AQ_ROPE_LONGROPE;
        return AQ_OK;
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

/* The context before scaling. The key beside the table outranks the one in it, as in transformers,
 * but where tables are of kinds of layers. */
static aq_status read_original(const aq_json *model, const aq_json *json,
                               const aq_hf_defaults *defaults, int64_t n_ctx, int64_t *out) {
    static const char key[] = "original_max_position_embeddings";
    const int64_t own = defaults->n_ctx_orig;
    AQ_TRY(aq_json_int(json, key, 1, AQ_MAX_CTX, n_ctx, out));
    if (defaults->rope_local_base > 0.0) return AQ_OK;
    return aq_json_int(model, key, 1, AQ_MAX_CTX, own > 0 ? own : *out, out);
}

static aq_status read_scaling(const aq_json *model, const aq_json *json,
                              const aq_hf_defaults *defaults, int64_t n_ctx, aq_rope_config *out) {
    AQ_TRY(refuse_variants(json));
    AQ_TRY(read_kind(json, defaults, &out->scaling));
    AQ_TRY(read_original(model, json, defaults, n_ctx, &out->n_ctx_orig));
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
    } else if (out->factor == 1.0 && out->attn_factor == 1.0 && out->scaling != AQ_ROPE_LONGROPE) {
        out->scaling = AQ_ROPE_NONE;
    }
    return AQ_OK;
}

static aq_status read_table(const aq_json *model, const table *from, const aq_model_config *config,
                            aq_rope_config *out) {
    const int64_t n_ctx = config->n_ctx;
    *out = (aq_rope_config){.base = from->base,
                            .scaling = AQ_ROPE_NONE,
                            .factor = 1.0,
                            .attn_factor = 1.0,
                            .n_ctx_orig = n_ctx,
                            .beta_fast = 32.0,
                            .beta_slow = 1.0};
    if (!from->json.object) return AQ_OK;
    return read_scaling(model, &from->json, &config->family->hf_defaults, n_ctx, out);
}

static bool same(const aq_rope_config *a, const aq_rope_config *b) {
    return a->base == b->base && a->scaling == b->scaling && a->factor == b->factor &&
           a->attn_factor == b->attn_factor && a->n_ctx_orig == b->n_ctx_orig &&
           a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow &&
           a->low_freq == b->low_freq && a->high_freq == b->high_freq;
}

/* The dimensions that rotate: version 5 says it in the table, version 4 beside it. */
static aq_status read_width(const aq_json *model, const table *full, aq_model_config *out) {
    const aq_hf_defaults *own = &out->family->hf_defaults;
    const char *key = own->rotary_factor_key ? own->rotary_factor_key : "partial_rotary_factor";
    double factor;
    AQ_TRY(aq_json_number(model, key, 0.0, 1.0, own->rotary_factor > 0 ? own->rotary_factor : 1.0,
                          &factor));
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
    AQ_TRY(read_table(model, &full, out, &out->rope));
    out->rope_local = out->rope;
    if (!out->two_ropes) return AQ_OK;
    AQ_TRY(read_table(model, &local, out, &out->rope_local));
    /* Equal tables stay two, as one of them may be replaced, but for divisors: those are one's. */
    const aq_rope_scaling kind = out->rope_local.scaling;
    if (kind != AQ_ROPE_LLAMA3 && kind != AQ_ROPE_LONGROPE) return AQ_OK;
    out->two_ropes = !same(&out->rope, &out->rope_local);
    if (!out->two_ropes) return AQ_OK;
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
