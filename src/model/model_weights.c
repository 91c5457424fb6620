#include "src/model/model_weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/arena.h"
#include "src/model/fingerprint.h"

/* One walk over the tensors. It is done twice: first with an arena that only measures, when
 * nothing is written, then for good. */
typedef struct {
    const aq_gguf *file;
    const aq_model_config *config;
    aq_arena arena;
    bool *known; /* [tensors of the file] found so far */
} loader;

static const aq_gguf_tensor *find(loader *ld, const char *name) {
    const aq_gguf_tensor *t = aq_gguf_tensor_find(ld->file, name);
    if (t) ld->known[t - aq_gguf_tensor_at(ld->file, 0)] = true;
    return t;
}

/* Shapes are told as files hold them: the contiguous dimension first. */
static aq_status check_shape(const loader *ld, const char *name, const aq_gguf_tensor *t,
                             int64_t n_in, int64_t n_out) {
    if (!t) return aq_fail(AQ_ERR_FORMAT, "%s: tensor %s is missing", aq_gguf_path(ld->file), name);
    if (t->ne[0] == n_in && t->ne[1] == n_out && t->ne[2] == 1 && t->ne[3] == 1) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT,
                   "%s: tensor %s has shape [%lld, %lld, %lld, %lld], expected [%lld, %lld, 1, 1]",
                   aq_gguf_path(ld->file), name, (long long)t->ne[0], (long long)t->ne[1],
                   (long long)t->ne[2], (long long)t->ne[3], (long long)n_in, (long long)n_out);
}

static aq_status load_matrix(loader *ld, const char *name, int64_t n_out, int64_t n_in,
                             aq_weight *out) {
    const aq_gguf_tensor *t = find(ld, name);
    AQ_TRY(check_shape(ld, name, t, n_in, n_out));
    *out = (aq_weight){t->data, t->dtype, n_out, n_in};
    return AQ_OK;
}

/* Moves the rows of each head from interleaved to NEOX order: row 2i + t of the file is row
 * t * d_head / 2 + i, t = 0 or 1. */
static void move_rows(const aq_weight *from, int d_head, uint8_t *to) {
    const size_t bytes = (size_t)aq_dtype_row_bytes(from->dtype, from->n_in);
    const uint8_t *rows = from->data;
    for (int64_t row = 0; row < from->n_out; row++) {
        const int64_t head = row / d_head, r = row % d_head;
        const int64_t moved = head * d_head + r % 2 * (d_head / 2) + r / 2;
        memcpy(to + (size_t)moved * bytes, rows + (size_t)row * bytes, bytes);
    }
}

/* A matrix of n_head heads whose rows rotate. */
static aq_status load_rotary(loader *ld, const char *name, int n_head, aq_weight *out) {
    const int d_head = ld->config->d_head;
    AQ_TRY(load_matrix(ld, name, (int64_t)n_head * d_head, ld->config->d_model, out));
    void *rows = aq_arena_carve(&ld->arena, (size_t)out->n_out,
                                (size_t)aq_dtype_row_bytes(out->dtype, out->n_in));
    if (rows) {
        move_rows(out, d_head, rows);
        out->data = rows;
    }
    return AQ_OK;
}

static float element(const aq_gguf_tensor *t, int64_t i) {
    if (t->dtype == AQ_F32) return ((const float *)t->data)[i];
    const uint16_t half = ((const uint16_t *)t->data)[i];
    return t->dtype == AQ_F16 ? aq_f16_to_f32(half) : aq_bf16_to_f32(half);
}

/* A vector of n finite numbers above `low`, as fp32: in the map, or converted into the arena. */
static aq_status load_vector(loader *ld, const char *name, int64_t n, float low,
                             const float **out) {
    const aq_gguf_tensor *t = find(ld, name);
    AQ_TRY(check_shape(ld, name, t, n, 1));
    if (t->dtype != AQ_F32 && t->dtype != AQ_F16 && t->dtype != AQ_BF16)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: tensor %s is %s, expected F32, F16 or BF16",
                       aq_gguf_path(ld->file), name, aq_dtype_any_name((uint32_t)t->dtype));
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(element(t, i)) || element(t, i) <= low)
            return aq_fail(AQ_ERR_FORMAT,
                           "%s: tensor %s: element %lld is %g, expected a finite number%s",
                           aq_gguf_path(ld->file), name, (long long)i, (double)element(t, i),
                           low == 0.0f ? " above 0" : "");
    *out = t->data;
    if (t->dtype == AQ_F32) return AQ_OK;
    float *values = aq_arena_carve(&ld->arena, (size_t)n, sizeof *values);
    for (int64_t i = 0; values && i < n; i++)
        values[i] = element(t, i);
    *out = values;
    return AQ_OK;
}

/* "blk.3.attn_q.weight" */
static const char *layer_name(int layer, const char *stem, char name[64]) {
    snprintf(name, 64, "blk.%d.%s.weight", layer, stem);
    return name;
}

static aq_status load_layer(loader *ld, int layer, aq_layer_weights *out) {
    const aq_model_config *c = ld->config;
    const int64_t d_q = (int64_t)c->n_head * c->d_head, d_kv = (int64_t)c->n_kv_head * c->d_head;
    const struct {
        const char *stem;
        int64_t n_out, n_in;
        aq_weight *to;
    } matrices[] = {
        {"attn_v", d_kv, c->d_model, &out->wv},
        {"attn_output", c->d_model, d_q, &out->wo},
        {"ffn_gate", c->d_ff, c->d_model, &out->w_gate},
        {"ffn_up", c->d_ff, c->d_model, &out->w_up},
        {"ffn_down", c->d_model, c->d_ff, &out->w_down},
    };
    char name[64];
    AQ_TRY(load_vector(ld, layer_name(layer, "attn_norm", name), c->d_model, -INFINITY,
                       &out->attn_norm));
    AQ_TRY(load_rotary(ld, layer_name(layer, "attn_q", name), c->n_head, &out->wq));
    AQ_TRY(load_rotary(ld, layer_name(layer, "attn_k", name), c->n_kv_head, &out->wk));
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++)
        AQ_TRY(load_matrix(ld, layer_name(layer, matrices[i].stem, name), matrices[i].n_out,
                           matrices[i].n_in, matrices[i].to));
    return load_vector(ld, layer_name(layer, "ffn_norm", name), c->d_model, -INFINITY,
                       &out->ffn_norm);
}

static aq_status load_all(loader *ld, aq_model_weights *out) {
    const aq_model_config *c = ld->config;
    out->layers = aq_arena_carve(&ld->arena, (size_t)c->n_layer, sizeof *out->layers);
    AQ_TRY(load_matrix(ld, "token_embd.weight", c->n_vocab, c->d_model, &out->embed));
    AQ_TRY(load_vector(ld, "output_norm.weight", c->d_model, -INFINITY, &out->output_norm));
    out->output = out->embed;
    if (aq_gguf_tensor_find(ld->file, "output.weight"))
        AQ_TRY(load_matrix(ld, "output.weight", c->n_vocab, c->d_model, &out->output));
    if (aq_gguf_tensor_find(ld->file, "rope_freqs.weight"))
        AQ_TRY(load_vector(ld, "rope_freqs.weight", c->n_rot / 2, 0.0f, &out->rope_divisors));
    for (int i = 0; i < c->n_layer; i++) {
        aq_layer_weights layer;
        AQ_TRY(load_layer(ld, i, &layer));
        if (out->layers) out->layers[i] = layer;
    }
    return AQ_OK;
}

static bool ends_with(aq_gguf_string name, const char *end) {
    const size_t n = strlen(end);
    return name.bytes >= n && memcmp(name.data + name.bytes - n, end, n) == 0;
}

/* A tensor that was not asked for would change the result if the model's makers use it. */
static aq_status refuse_unknown(const loader *ld, int64_t *bytes) {
    char shown[AQ_GGUF_SHOWN_BYTES];
    *bytes = 0;
    for (int64_t i = 0; i < aq_gguf_tensor_count(ld->file); i++) {
        const aq_gguf_tensor *t = aq_gguf_tensor_at(ld->file, i);
        *bytes += t->bytes;
        if (ld->known[i]) continue;
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: tensor %s: %s of architecture %s",
                       aq_gguf_path(ld->file), aq_gguf_show(t->name, shown),
                       ends_with(t->name, ".bias") ? "biases are not supported in models"
                                                   : "not known as a part of models",
                       ld->config->arch);
    }
    return AQ_OK;
}

/* Memory for what the first walk measured, then the second walk. */
static aq_status load_for_good(loader *ld, aq_model_weights *out) {
    const size_t bytes = (ld->arena.used / AQ_ARENA_ALIGN + 1) * AQ_ARENA_ALIGN;
    void *memory = aligned_alloc(AQ_ARENA_ALIGN, bytes);
    if (!memory)
        return aq_fail(AQ_ERR_MEMORY, "%s: no memory for %zu bytes of moved weights",
                       aq_gguf_path(ld->file), bytes);
    ld->arena = aq_arena_over(memory, bytes);
    out->owned = memory;
    AQ_TRY(load_all(ld, out));
    aq_model_fingerprint(ld->config, out, out->fingerprint);
    return AQ_OK;
}

aq_status aq_model_weights_open(const aq_gguf *file, const aq_model_config *config,
                                aq_model_weights *out) {
    loader ld = {file, config, aq_arena_measure(), NULL};
    aq_status status = AQ_OK;
    memset(out, 0, sizeof *out);
    ld.known = calloc((size_t)aq_gguf_tensor_count(file) + 1, sizeof *ld.known);
    if (!ld.known)
        status = aq_fail(AQ_ERR_MEMORY, "%s: no memory for its tensors", aq_gguf_path(file));
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
