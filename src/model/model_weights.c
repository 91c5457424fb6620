#include "src/model/model_weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/fingerprint.h"
#include "src/model/hf_config.h"
#include "src/model/weights_loader.h"

static aq_status load_norm(aq_loader *ld, aq_role role, aq_norm_weight *out) {
    const int64_t n = ld->config->d_model;
    *out = (aq_norm_weight){NULL, NULL};
    if (!aq_load_named(ld, role)) return AQ_OK;
    AQ_TRY(aq_load_vector(ld, role, ".weight", n, -INFINITY, ld->names->norm_shift, &out->w));
    if (ld->config->norm == AQ_NORM_RMS) return AQ_OK;
    return aq_load_vector(ld, role, ".bias", n, -INFINITY, 0.0f, &out->b);
}

static aq_status load_head_norm(aq_loader *ld, aq_role role, int n_head, const float **out) {
    const int64_t n = (int64_t)(ld->config->qk_norm_per_head ? 1 : n_head) * ld->config->d_head;
    *out = NULL;
    if (!aq_load_named(ld, role)) return AQ_OK;
    return aq_load_vector(ld, role, ".weight", n, -INFINITY, ld->names->norm_shift, out);
}

/* Q, K and V of a layer from one tensor: stacked, or interleaved head by head. */
static aq_status load_fused_qkv(aq_loader *ld, int64_t d_q, int64_t d_kv, aq_layer_weights *out) {
    const aq_model_config *c = ld->config;
    const int64_t d = c->d_head;
    aq_weight all;
    AQ_TRY(aq_load_matrix(ld, AQ_ROLE_QKV, 1, d_q + 2 * d_kv, c->d_model, c->qkv_bias, &all));
    if (!ld->names->qkv_by_head) {
        out->wq = aq_weight_rows(&all, 0, d_q);
        out->wk = aq_weight_rows(&all, d_q, d_kv);
        out->wv = aq_weight_rows(&all, d_q + d_kv, d_kv);
        return AQ_OK;
    }
    if (d_q != d_kv)
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s: %d query heads share %d key and value heads, which is not supported "
                       "in models of architecture %s",
                       aq_model_file_path(ld->file), c->n_head, c->n_kv_head, c->arch);
    out->wq = aq_load_reordered(ld, &all, &(aq_row_order){d, 3 * d, 0, false}, d_q);
    out->wk = aq_load_reordered(ld, &all, &(aq_row_order){d, 3 * d, d, false}, d_kv);
    out->wv = aq_load_reordered(ld, &all, &(aq_row_order){d, 3 * d, 2 * d, false}, d_kv);
    return AQ_OK;
}

static aq_status load_qkv(aq_loader *ld, aq_layer_weights *out) {
    const aq_model_config *c = ld->config;
    const int64_t d = c->d_head, d_q = c->n_head * d, d_kv = c->n_kv_head * d;
    const aq_row_order neighbours = {d, d, 0, true};
    if (!aq_load_named(ld, AQ_ROLE_Q) || aq_load_there(ld, AQ_ROLE_QKV)) {
        AQ_TRY(load_fused_qkv(ld, d_q, d_kv, out));
    } else {
        AQ_TRY(aq_load_matrix(ld, AQ_ROLE_Q, 1, d_q, c->d_model, c->qkv_bias, &out->wq));
        AQ_TRY(aq_load_matrix(ld, AQ_ROLE_K, 1, d_kv, c->d_model, c->qkv_bias, &out->wk));
        AQ_TRY(aq_load_matrix(ld, AQ_ROLE_V, 1, d_kv, c->d_model, c->qkv_bias, &out->wv));
    }
    if (!ld->names->rotary_neighbours) return AQ_OK;
    out->wq = aq_load_reordered(ld, &out->wq, &neighbours, d_q);
    out->wk = aq_load_reordered(ld, &out->wk, &neighbours, d_kv);
    return AQ_OK;
}

static aq_status load_dense(aq_loader *ld, aq_ffn_weights *out) {
    const aq_model_config *c = ld->config;
    aq_weight both;
    if (aq_load_named(ld, AQ_ROLE_GATE_UP)) {
        AQ_TRY(aq_load_matrix(ld, AQ_ROLE_GATE_UP, 1, 2 * (int64_t)c->d_ff, c->d_model, c->ffn_bias,
                              &both));
        out->w_gate = aq_weight_rows(&both, 0, c->d_ff);
        out->w_up = aq_weight_rows(&both, c->d_ff, c->d_ff);
    } else {
        if (c->gated)
            AQ_TRY(aq_load_matrix(ld, AQ_ROLE_GATE, 1, c->d_ff, c->d_model, c->ffn_bias,
                                  &out->w_gate));
        AQ_TRY(aq_load_matrix(ld, AQ_ROLE_UP, 1, c->d_ff, c->d_model, c->ffn_bias, &out->w_up));
    }
    return aq_load_matrix(ld, AQ_ROLE_DOWN, 1, c->d_model, c->d_ff, c->ffn_bias, &out->w_down);
}

/* Experts that are stored in common tensors: gate and up in one each, or in one for both. */
static aq_status load_stacked_experts(aq_loader *ld, aq_ffn_weights *experts) {
    const aq_model_config *c = ld->config;
    const int64_t n = c->n_expert, d = c->d_expert;
    const bool both = aq_load_there(ld, AQ_ROLE_EXPERTS_GATE_UP);
    const int64_t step = both ? 2 * d : d;
    aq_weight gate, up, down;
    if (both) {
        AQ_TRY(aq_load_matrix(ld, AQ_ROLE_EXPERTS_GATE_UP, n, 2 * d, c->d_model, AQ_PART_ABSENT,
                              &gate));
        up = aq_weight_rows(&gate, d, gate.n_out - d);
    } else {
        AQ_TRY(aq_load_matrix(ld, AQ_ROLE_EXPERTS_GATE, n, d, c->d_model, AQ_PART_ABSENT, &gate));
        AQ_TRY(aq_load_matrix(ld, AQ_ROLE_EXPERTS_UP, n, d, c->d_model, AQ_PART_ABSENT, &up));
    }
    AQ_TRY(aq_load_matrix(ld, AQ_ROLE_EXPERTS_DOWN, n, c->d_model, d, AQ_PART_ABSENT, &down));
    for (int64_t e = 0; experts && e < n; e++)
        experts[e] =
            (aq_ffn_weights){aq_weight_rows(&gate, e * step, d), aq_weight_rows(&up, e * step, d),
                             aq_weight_rows(&down, e * c->d_model, c->d_model)};
    return AQ_OK;
}

static aq_status load_experts(aq_loader *ld, aq_layer_weights *out) {
    const aq_model_config *c = ld->config;
    aq_ffn_weights *experts = aq_arena_carve(&ld->arena, (size_t)c->n_expert, sizeof *experts);
    out->experts = experts;
    AQ_TRY(aq_load_matrix(ld, AQ_ROLE_ROUTER, 1, c->n_expert, c->d_model, AQ_PART_ABSENT,
                          &out->router));
    ld->expert = 0;
    const bool apart =
        aq_load_there(ld, AQ_ROLE_EXPERT_UP) ||
        (!aq_load_named(ld, AQ_ROLE_EXPERTS_UP) && !aq_load_there(ld, AQ_ROLE_EXPERTS_GATE_UP));
    if (!apart) return load_stacked_experts(ld, experts);
    for (int e = 0; e < c->n_expert; e++) {
        aq_ffn_weights expert;
        ld->expert = e;
        AQ_TRY(aq_load_matrix(ld, AQ_ROLE_EXPERT_GATE, 1, c->d_expert, c->d_model, AQ_PART_ABSENT,
                              &expert.w_gate));
        AQ_TRY(aq_load_matrix(ld, AQ_ROLE_EXPERT_UP, 1, c->d_expert, c->d_model, AQ_PART_ABSENT,
                              &expert.w_up));
        AQ_TRY(aq_load_matrix(ld, AQ_ROLE_EXPERT_DOWN, 1, c->d_model, c->d_expert, AQ_PART_ABSENT,
                              &expert.w_down));
        if (experts) experts[e] = expert;
    }
    return AQ_OK;
}

static aq_status load_layer(aq_loader *ld, int layer, aq_layer_weights *out) {
    const aq_model_config *c = ld->config;
    memset(out, 0, sizeof *out);
    ld->layer = layer;
    AQ_TRY(load_norm(ld, AQ_ROLE_ATTN_NORM, &out->attn_norm));
    AQ_TRY(load_qkv(ld, out));
    AQ_TRY(load_head_norm(ld, AQ_ROLE_Q_NORM, c->n_head, &out->q_norm));
    AQ_TRY(load_head_norm(ld, AQ_ROLE_K_NORM, c->n_kv_head, &out->k_norm));
    AQ_TRY(aq_load_matrix(ld, AQ_ROLE_O, 1, c->d_model, (int64_t)c->n_head * c->d_head, c->out_bias,
                          &out->wo));
    AQ_TRY(load_norm(ld, AQ_ROLE_ATTN_POST_NORM, &out->attn_post_norm));
    AQ_TRY(load_norm(ld, AQ_ROLE_FFN_NORM, &out->ffn_norm));
    AQ_TRY(aq_model_has_experts(c, layer) ? load_experts(ld, out) : load_dense(ld, &out->ffn));
    return load_norm(ld, AQ_ROLE_FFN_POST_NORM, &out->ffn_post_norm);
}

/* wavelength 2 pi / f over the context before scaling: short ones stay, long ones are divided by
 * `factor`, between them 1 / divisor is mixed. In fp32, as converters to GGUF compute it. */
static void llama3_divisors(const aq_model_config *c, float *out) {
    const aq_rope_config *rope = &c->rope;
    const double n_ctx = (double)rope->n_ctx_orig;
    for (int i = 0; i < c->n_rot / 2; i++) {
        const float f = 1.0f / powf((float)rope->base, (float)(2 * i) / (float)c->n_rot);
        const double wavelength = 2.0 * 3.14159265358979323846 / (double)f;
        const double share =
            (n_ctx / wavelength - rope->low_freq) / (rope->high_freq - rope->low_freq);
        out[i] = wavelength < n_ctx / rope->high_freq ? 1.0f
                 : wavelength > n_ctx / rope->low_freq
                     ? (float)rope->factor
                     : (float)(1.0 / ((1.0 - share) / rope->factor + share));
    }
}

/* Lists of divisors that config.json holds, into the arena. */
static aq_status load_hf_divisors(aq_loader *ld, aq_model_weights *out) {
    const aq_model_config *c = ld->config;
    const size_t n = (size_t)c->n_rot / 2;
    if (c->rope.scaling == AQ_ROPE_LLAMA3) {
        float *divisors = aq_arena_carve(&ld->arena, n, sizeof *divisors);
        if (divisors) llama3_divisors(c, divisors);
        out->rope_divisors = divisors;
    }
    if (c->rope.scaling != AQ_ROPE_LONGROPE) return AQ_OK;
    float *of_short = aq_arena_carve(&ld->arena, n, sizeof *of_short);
    float *of_long = aq_arena_carve(&ld->arena, n, sizeof *of_long);
    out->rope_short = of_short;
    out->rope_long = of_long;
    if (!of_short || !of_long) return AQ_OK;
    AQ_TRY(aq_hf_config_longrope(ld->file, c, false, of_short));
    return aq_hf_config_longrope(ld->file, c, true, of_long);
}

static aq_status load_divisors(aq_loader *ld, aq_model_weights *out) {
    const aq_model_config *c = ld->config;
    const int64_t n = c->n_rot / 2;
    if (aq_model_file_format(ld->file) == AQ_MODEL_HF) return load_hf_divisors(ld, out);
    if (aq_load_there(ld, AQ_ROLE_ROPE_DIVISORS))
        AQ_TRY(aq_load_vector(ld, AQ_ROLE_ROPE_DIVISORS, ".weight", n, 0.0f, 0.0f,
                              &out->rope_divisors));
    if (c->rope.scaling != AQ_ROPE_LONGROPE) return AQ_OK;
    AQ_TRY(aq_load_vector(ld, AQ_ROLE_ROPE_SHORT, ".weight", n, 0.0f, 0.0f, &out->rope_short));
    return aq_load_vector(ld, AQ_ROLE_ROPE_LONG, ".weight", n, 0.0f, 0.0f, &out->rope_long);
}

/* The output matrix: a tensor of its own, or the embedding. A tied model may hold both if they are
 * the same. */
static aq_status load_output(aq_loader *ld, aq_model_weights *out) {
    const aq_model_config *c = ld->config;
    const bool gguf = aq_model_file_format(ld->file) == AQ_MODEL_GGUF;
    const bool there = aq_load_there(ld, AQ_ROLE_OUTPUT);
    aq_weight own;
    out->output = out->embed;
    if (!there && (gguf || c->tied)) return AQ_OK;
    AQ_TRY(aq_load_matrix(ld, AQ_ROLE_OUTPUT, 1, c->n_vocab, c->d_model, AQ_PART_ABSENT, &own));
    const size_t bytes = (size_t)(own.n_out * aq_dtype_row_bytes(own.dtype, own.n_in));
    if (!c->tied)
        out->output = own;
    else if (own.dtype != out->embed.dtype || memcmp(own.data, out->embed.data, bytes) != 0)
        return aq_fail(
            AQ_ERR_FORMAT,
            "%s: tie_word_embeddings is true, but there is an output matrix that differs "
            "from the embedding",
            aq_model_file_path(ld->file));
    return AQ_OK;
}

static aq_status load_all(aq_loader *ld, aq_model_weights *out) {
    const aq_model_config *c = ld->config;
    out->layers = aq_arena_carve(&ld->arena, (size_t)c->n_layer, sizeof *out->layers);
    AQ_TRY(
        aq_load_matrix(ld, AQ_ROLE_EMBED, 1, c->n_vocab, c->d_model, AQ_PART_ABSENT, &out->embed));
    if (c->n_rot == 0)
        AQ_TRY(aq_load_matrix(ld, AQ_ROLE_POS_EMBED, 1, c->n_ctx + c->n_pos_offset, c->d_model,
                              AQ_PART_ABSENT, &out->pos_embed));
    AQ_TRY(load_norm(ld, AQ_ROLE_OUTPUT_NORM, &out->output_norm));
    AQ_TRY(load_output(ld, out));
    AQ_TRY(load_divisors(ld, out));
    for (int i = 0; i < c->n_layer; i++) {
        aq_layer_weights layer;
        AQ_TRY(load_layer(ld, i, &layer));
        if (out->layers) out->layers[i] = layer;
    }
    return AQ_OK;
}

static bool contains(const aq_tensor *t, const char *part) {
    const size_t n = strlen(part);
    for (size_t at = 0; at + n <= t->name_bytes; at++)
        if (memcmp(t->name + at, part, n) == 0) return true;
    return false;
}

static bool ends_with(const aq_tensor *t, const char *end) {
    const size_t n = strlen(end);
    return t->name_bytes >= n && memcmp(t->name + t->name_bytes - n, end, n) == 0;
}

static bool is_ignored(const aq_loader *ld, const aq_tensor *t) {
    for (const char *const *part = ld->names->ignored; *part; part++)
        if (contains(t, *part)) return true;
    return false;
}

/* A tensor that was not asked for would change the result if the model's makers use it. */
static aq_status refuse_unknown(const aq_loader *ld, int64_t *bytes) {
    char shown[AQ_GGUF_SHOWN_BYTES];
    *bytes = 0;
    for (int64_t i = 0; i < aq_model_file_tensor_count(ld->file); i++) {
        const aq_tensor *t = aq_model_file_tensor_at(ld->file, i);
        if (!ld->known[i] && is_ignored(ld, t)) continue;
        *bytes += t->bytes;
        if (ld->known[i]) continue;
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: tensor %s: %s of architecture %s", t->path,
                       aq_gguf_show((aq_gguf_string){t->name, t->name_bytes}, shown),
                       ends_with(t, ".bias") ? "this bias is not supported in models"
                                             : "not known as a part of models",
                       ld->config->arch);
    }
    return AQ_OK;
}

/* Memory for what the first walk measured, then the second walk. */
static aq_status load_for_good(aq_loader *ld, aq_model_weights *out) {
    const size_t bytes = (ld->arena.used / AQ_ARENA_ALIGN + 1) * AQ_ARENA_ALIGN;
    void *memory = aligned_alloc(AQ_ARENA_ALIGN, bytes);
    if (!memory)
        return aq_fail(AQ_ERR_MEMORY, "%s: no memory for %zu bytes of moved weights",
                       aq_model_file_path(ld->file), bytes);
    ld->arena = aq_arena_over(memory, bytes);
    out->owned = memory;
    out->owned_bytes = (int64_t)bytes;
    AQ_TRY(load_all(ld, out));
    aq_model_fingerprint(ld->config, out, out->fingerprint);
    return AQ_OK;
}

/* The prefix under which the file has its embedding; the first if it has none. */
static const char *find_prefix(aq_loader *ld) {
    for (const char *const *prefix = ld->names->prefixes; *prefix; prefix++) {
        ld->prefix = *prefix;
        if (aq_load_there(ld, AQ_ROLE_EMBED)) return *prefix;
    }
    return ld->names->prefixes[0];
}

aq_status aq_model_weights_open(const aq_model_file *file, const aq_model_config *config,
                                aq_model_weights *out) {
    const aq_family *family = config->family;
    aq_loader ld = {.file = file, .config = config, .arena = aq_arena_measure()};
    aq_status status = AQ_OK;
    memset(out, 0, sizeof *out);
    ld.names = aq_model_file_format(file) == AQ_MODEL_GGUF ? family->gguf_names : family->hf_names;
    ld.prefix = find_prefix(&ld);
    ld.known = calloc((size_t)aq_model_file_tensor_count(file) + 1, sizeof *ld.known);
    if (!ld.known)
        status = aq_fail(AQ_ERR_MEMORY, "%s: no memory for its tensors", aq_model_file_path(file));
    if (status == AQ_OK) status = load_all(&ld, out);
    if (status == AQ_OK) status = refuse_unknown(&ld, &out->bytes);
    if (status == AQ_OK) status = load_for_good(&ld, out);
    if (status != AQ_OK) aq_model_weights_close(out);
    free(ld.known);
    return status;
}

void aq_model_weights_close(aq_model_weights *weights) {
    free(weights->owned);
    memset(weights, 0, sizeof *weights);
}

const float *aq_model_rope_divisors(const aq_model_config *config, const aq_model_weights *weights,
                                    int64_t n_ctx) {
    if (config->rope.scaling != AQ_ROPE_LONGROPE) return weights->rope_divisors;
    return n_ctx > config->rope.n_ctx_orig ? weights->rope_long : weights->rope_short;
}
