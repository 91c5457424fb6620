#include "tests/support/gguf_of_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    aq_gguf_writer *w;
    const aq_model_config *c;
    bool apart;
    int layer;
} sink;

static bool is(const sink *to, const char *arch) {
    return strcmp(to->c->arch, arch) == 0;
}

static void put_int(const sink *to, const char *stem, int64_t value) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", to->c->arch, stem);
    aq_gguf_put_int(to->w, key, AQ_GGUF_U32, value);
}

static void put_float(const sink *to, const char *stem, double value) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", to->c->arch, stem);
    aq_gguf_put_float(to->w, key, AQ_GGUF_F32, value);
}

static void put_keys(const sink *to) {
    const aq_model_config *c = to->c;
    aq_gguf_put_text(to->w, "general.architecture", c->arch);
    put_int(to, "block_count", c->n_layer);
    put_int(to, "context_length", c->n_ctx);
    put_int(to, "embedding_length", c->d_model);
    put_int(to, "feed_forward_length", c->d_ff);
    put_int(to, "attention.head_count", c->n_head);
    put_int(to, "attention.head_count_kv", c->n_kv_head);
    put_int(to, "attention.key_length", c->d_head);
    put_int(to, "attention.value_length", c->d_head);
    put_int(to, "vocab_size", c->n_vocab);
    put_float(to,
              c->norm == AQ_NORM_RMS ? "attention.layer_norm_rms_epsilon"
                                     : "attention.layer_norm_epsilon",
              (double)c->norm_eps);
    if (c->n_rot > 0) {
        put_int(to, "rope.dimension_count", c->n_rot);
        put_float(to, "rope.freq_base", c->rope.base);
    }
    if (c->rope.scaling == AQ_ROPE_LONGROPE)
        put_int(to, "rope.scaling.original_context_length", c->rope.n_ctx_orig);
    if (c->window > 0) put_int(to, "attention.sliding_window", c->window);
    if (c->n_expert > 0) {
        put_int(to, "expert_count", c->n_expert);
        put_int(to, "expert_used_count", c->n_expert_used);
        put_int(to, "expert_feed_forward_length", c->d_expert);
    }
    if (is(to, "gptneox"))
        aq_gguf_put_bool(to->w, "gptneox.use_parallel_residual", c->parallel_residual);
}

/* "blk.3.STEM.weight", or "STEM.weight" in front of the layers. */
static const char *name_of(const sink *to, const char *stem, const char *suffix, char name[96]) {
    if (to->layer < 0)
        snprintf(name, 96, "%s.%s", stem, suffix);
    else
        snprintf(name, 96, "blk.%d.%s.%s", to->layer, stem, suffix);
    return name;
}

static void put_vector(const sink *to, const char *stem, const char *suffix, const float *x,
                       int64_t n) {
    char name[96];
    if (x)
        aq_gguf_put_tensor(to->w, name_of(to, stem, suffix, name), AQ_F32, 1, &n, x,
                           (size_t)n * sizeof *x);
}

static void put_norm(const sink *to, const char *stem, const aq_norm_weight *norm) {
    put_vector(to, stem, "weight", norm->w, to->c->d_model);
    put_vector(to, stem, "bias", norm->b, to->c->d_model);
}

/* Row `row` of what converters write for architecture llama. */
static int64_t neighbour(int64_t row, int64_t d_head) {
    const int64_t in_head = row % d_head;
    return row - in_head + in_head % 2 * (d_head / 2) + in_head / 2;
}

/* Matrices of one width under one another; `turns`: rows of pairs of neighbours; n_stack > 1: of
 * three dimensions. */
static void put_rows(const sink *to, const char *stem, const aq_weight *const *parts, int n_part,
                     bool turns, int64_t n_stack) {
    const aq_weight *first = parts[0];
    const size_t row_bytes = (size_t)aq_dtype_row_bytes(first->dtype, first->n_in);
    int64_t n_row = 0, at = 0;
    char name[96];
    for (int p = 0; p < n_part; p++)
        n_row += parts[p]->n_out;
    uint8_t *data = malloc((size_t)n_row * row_bytes);
    float *bias = malloc((size_t)n_row * sizeof *bias);
    if (!data || !bias) abort(); /* no test can go on */
    for (int p = 0; p < n_part; p++)
        for (int64_t row = 0; row < parts[p]->n_out; row++, at++) {
            const int64_t from = turns ? neighbour(row, to->c->d_head) : row;
            memcpy(data + (size_t)at * row_bytes,
                   (const uint8_t *)parts[p]->data + (size_t)from * row_bytes, row_bytes);
            bias[at] = parts[p]->bias ? parts[p]->bias[from] : 0.0f;
        }
    const int64_t ne[] = {first->n_in, n_row / n_stack, n_stack};
    aq_gguf_put_tensor(to->w, name_of(to, stem, "weight", name), first->dtype, n_stack > 1 ? 3 : 2,
                       ne, data, (size_t)n_row * row_bytes);
    if (first->bias) put_vector(to, stem, "bias", bias, n_row);
    free(data);
    free(bias);
}

static void put_matrix(const sink *to, const char *stem, const aq_weight *w) {
    if (w->data) put_rows(to, stem, &w, 1, false, 1);
}

static void put_attention(const sink *to, const aq_layer_weights *w) {
    const aq_weight *const qkv[] = {&w->wq, &w->wk, &w->wv};
    const bool turns = is(to, "llama");
    const int64_t d = to->c->d_head;
    if (is(to, "phi3") || is(to, "gptneox") || is(to, "gpt2")) {
        put_rows(to, "attn_qkv", qkv, 3, false, 1);
    } else {
        put_rows(to, "attn_q", &qkv[0], 1, turns, 1);
        put_rows(to, "attn_k", &qkv[1], 1, turns, 1);
        put_rows(to, "attn_v", &qkv[2], 1, false, 1);
    }
    const bool per_head = to->c->qk_norm_per_head;
    put_vector(to, "attn_q_norm", "weight", w->q_norm, per_head ? d : to->c->n_head * d);
    put_vector(to, "attn_k_norm", "weight", w->k_norm, per_head ? d : to->c->n_kv_head * d);
    put_matrix(to, "attn_output", &w->wo);
}

static void put_experts(const sink *to, const aq_layer_weights *w) {
    static const char *const stems[] = {"ffn_gate", "ffn_up", "ffn_down"};
    const int n = to->c->n_expert;
    const aq_weight **parts = malloc((size_t)n * sizeof *parts);
    if (!parts) abort();
    put_matrix(to, "ffn_gate_inp", &w->router);
    for (int kind = 0; kind < 3; kind++) {
        char stem[48];
        for (int e = 0; e < n; e++) {
            const aq_ffn_weights *x = &w->experts[e];
            parts[e] = kind == 0 ? &x->w_gate : kind == 1 ? &x->w_up : &x->w_down;
            snprintf(stem, sizeof stem, "%s.%d", stems[kind], e);
            if (to->apart) put_matrix(to, stem, parts[e]);
        }
        snprintf(stem, sizeof stem, "%s_exps", stems[kind]);
        if (!to->apart) put_rows(to, stem, parts, n, false, n);
    }
    free(parts);
}

static void put_layer(sink *to, const aq_layer_weights *w) {
    const aq_weight *const gate_up[] = {&w->ffn.w_gate, &w->ffn.w_up};
    put_norm(to, "attn_norm", &w->attn_norm);
    put_norm(to, "post_attention_norm", &w->attn_post_norm);
    put_norm(to, "ffn_norm", &w->ffn_norm);
    put_norm(to, "post_ffw_norm", &w->ffn_post_norm);
    put_attention(to, w);
    if (w->router.data) {
        put_experts(to, w);
        return;
    }
    if (is(to, "phi3")) {
        put_rows(to, "ffn_up", gate_up, 2, false, 1);
    } else {
        put_matrix(to, "ffn_gate", &w->ffn.w_gate);
        put_matrix(to, "ffn_up", &w->ffn.w_up);
    }
    put_matrix(to, "ffn_down", &w->ffn.w_down);
}

void aq_gguf_put_model(aq_gguf_writer *w, const aq_model_config *config,
                       const aq_model_weights *weights, bool apart) {
    sink to = {w, config, apart, -1};
    put_keys(&to);
    put_matrix(&to, "token_embd", &weights->embed);
    put_matrix(&to, "position_embd", &weights->pos_embed);
    put_norm(&to, "output_norm", &weights->output_norm);
    if (!config->tied) put_matrix(&to, "output", &weights->output);
    put_vector(&to, "rope_freqs", "weight", weights->rope_divisors, config->n_rot / 2);
    put_vector(&to, "rope_factors_short", "weight", weights->rope_short, config->n_rot / 2);
    put_vector(&to, "rope_factors_long", "weight", weights->rope_long, config->n_rot / 2);
    for (to.layer = 0; to.layer < config->n_layer; to.layer++)
        put_layer(&to, &weights->layers[to.layer]);
}
