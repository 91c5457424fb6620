#include "src/model/model_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/model/config_parts.h"
#include "src/model/hf_config.h"

void aq_config_begin(const aq_family *family, aq_model_config *out) {
    memset(out, 0, sizeof *out);
    out->family = family;
    snprintf(out->arch, sizeof out->arch, "%s", family->arch);
    out->norm = family->norm;
    out->activation = family->activation;
    out->gated = family->gated;
    out->qk_norm_per_head = family->qk_norm_per_head;
    out->n_pos_offset = family->n_pos_offset;
    out->embed_scale = 1.0f;
}

aq_layer_set aq_layer_set_all(int n_layer) {
    aq_layer_set all = {{0}};
    for (int i = 0; i < n_layer; i++)
        aq_layer_set_add(&all, i);
    return all;
}

static aq_status check_heads(const char *path, const aq_model_config *c) {
    if (c->n_head % c->n_kv_head != 0)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s: %d query heads, expected a multiple of the number of key and value "
                       "heads, %d",
                       path, c->n_head, c->n_kv_head);
    if (c->n_rot > c->d_head || c->n_rot % 2 != 0)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s: %d dimensions of each head rotate, expected an even number, at most %d "
                       "(the head's width)",
                       path, c->n_rot, c->d_head);
    if (c->n_rot == 0 && !c->family->learned_positions)
        return aq_fail(AQ_ERR_FORMAT, "%s: no dimension of the heads rotates", path);
    if (c->n_rot == c->d_head || c->n_rot == 0 || c->family->partial_rotary) return AQ_OK;
    return aq_fail(AQ_ERR_UNSUPPORTED,
                   "%s: %d of the %d dimensions of each head rotate: a part of them is not "
                   "supported in models of architecture %s",
                   path, c->n_rot, c->d_head, c->arch);
}

static aq_status check_experts(const char *path, const aq_model_config *c) {
    if (c->n_expert == 0 || (c->n_expert_used >= 1 && c->n_expert_used <= c->n_expert))
        return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT, "%s: %d experts are used, expected 1 to %d (experts there)", path,
                   c->n_expert_used, c->n_expert);
}

/* No windowed layers and no window are the same. */
static void complete_windows(aq_model_config *c) {
    static const aq_layer_set none;
    if (c->window == 0) c->windowed = none;
    if (memcmp(&c->windowed, &none, sizeof none) == 0) {
        c->window = 0;
        c->two_ropes = false;
    }
    if (!c->two_ropes) c->rope_local = c->rope;
}

void aq_model_config_fit_window(aq_model_config *c) {
    if (c->window >= c->n_ctx) c->window = c->two_ropes ? c->n_ctx : 0;
    complete_windows(c);
}

float aq_scale_of(double scalar) {
    return (float)(1.0 / sqrt(scalar));
}

aq_status aq_config_finish(const char *path, aq_model_config *c) {
    AQ_TRY(check_heads(path, c));
    AQ_TRY(check_experts(path, c));
    if (c->attn_scale == 0.0f) c->attn_scale = aq_scale_of(c->d_head);
    if (c->family->embed_scaled) c->embed_scale = sqrtf((float)c->d_model);
    complete_windows(c);
    if (c->n_expert == 0) memset(&c->expert_layers, 0, sizeof c->expert_layers);
    return AQ_OK;
}

aq_status aq_model_config_read(const aq_model_file *file, aq_model_config *out) {
    if (aq_model_file_format(file) == AQ_MODEL_GGUF) return aq_gguf_config_read(file, out);
    return aq_hf_config_read(file, out);
}
