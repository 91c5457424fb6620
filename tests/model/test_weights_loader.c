/* One model is one model however it is stored: GGUF as converters write it, single or fused or
 * stacked tensors, other names, odd addresses. */
#include "src/model/weights_loader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "tests/support/gguf_of_model.h"
#include "tests/support/safetensors_writer.h"
#include "tests/support/suite.h"

typedef struct {
    aq_model_file *file;
    aq_model_config config;
    aq_model_weights weights;
    uint8_t *data; /* of a file in memory */
    size_t bytes;
} model;

static void close_model(model *m) {
    aq_model_weights_close(&m->weights);
    aq_model_file_close(m->file);
    free(m->data);
    memset(m, 0, sizeof *m);
}

static aq_status load(model *m) {
    AQ_TRY(aq_model_config_read(m->file, &m->config));
    return aq_model_weights_open(m->file, &m->config, &m->weights);
}

static bool open_fixture(const char *name, model *m) {
    char path[1024];
    memset(m, 0, sizeof *m);
    snprintf(path, sizeof path, "%s/hf/%s", aq_test_data_dir(), name);
    return aq_test_ok(aq_model_file_open(path, &m->file)) && aq_test_ok(load(m));
}

static int n_other; /* pieces that differ */

static void same_bytes(const void *a, const void *b, size_t bytes) {
    n_other += (a == NULL) != (b == NULL) || (a && memcmp(a, b, bytes) != 0);
}

static void same_matrix(const aq_weight *a, const aq_weight *b) {
    n_other += a->n_out != b->n_out || a->n_in != b->n_in || (a->data && a->dtype != b->dtype);
    same_bytes(a->data, b->data,
               a->data ? (size_t)(a->n_out * aq_dtype_row_bytes(a->dtype, a->n_in)) : 0);
    same_bytes(a->bias, b->bias, (size_t)a->n_out * sizeof(float));
}

static void same_ffn(const aq_ffn_weights *a, const aq_ffn_weights *b) {
    same_matrix(&a->w_gate, &b->w_gate);
    same_matrix(&a->w_up, &b->w_up);
    same_matrix(&a->w_down, &b->w_down);
}

static void same_norm(const aq_norm_weight *a, const aq_norm_weight *b, int64_t n) {
    same_bytes(a->w, b->w, (size_t)n * sizeof(float));
    same_bytes(a->b, b->b, (size_t)n * sizeof(float));
}

static void same_layer(const aq_model_config *c, const aq_layer_weights *a,
                       const aq_layer_weights *b) {
    const int64_t d = c->d_head;
    same_norm(&a->attn_norm, &b->attn_norm, c->d_model);
    same_norm(&a->attn_post_norm, &b->attn_post_norm, c->d_model);
    same_norm(&a->ffn_norm, &b->ffn_norm, c->d_model);
    same_norm(&a->ffn_post_norm, &b->ffn_post_norm, c->d_model);
    same_matrix(&a->wq, &b->wq);
    same_matrix(&a->wk, &b->wk);
    same_matrix(&a->wv, &b->wv);
    same_matrix(&a->wo, &b->wo);
    same_bytes(a->q_norm, b->q_norm,
               (size_t)(c->qk_norm_per_head ? d : c->n_head * d) * sizeof(float));
    same_bytes(a->k_norm, b->k_norm,
               (size_t)(c->qk_norm_per_head ? d : c->n_kv_head * d) * sizeof(float));
    same_ffn(&a->ffn, &b->ffn);
    same_matrix(&a->router, &b->router);
    n_other += !a->experts != !b->experts;
    for (int e = 0; a->experts && b->experts && e < c->n_expert; e++)
        same_ffn(&a->experts[e], &b->experts[e]);
}

/* The frequencies that a session of n_ctx tokens uses. */
static void same_rope(const model *a, const model *b, int64_t n_ctx) {
    float one[64], other[64], attn[2];
    if (a->config.n_rot == 0) return;
    aq_model_rope(&a->config.rope, a->config.n_rot,
                  aq_model_rope_divisors(&a->config, &a->weights, n_ctx), one, &attn[0]);
    aq_model_rope(&b->config.rope, b->config.n_rot,
                  aq_model_rope_divisors(&b->config, &b->weights, n_ctx), other, &attn[1]);
    n_other += attn[0] != attn[1];
    same_bytes(one, other, (size_t)a->config.n_rot / 2 * sizeof(float));
}

/* Expects two models to be the same in all that a forward pass uses. */
static void expect_same(const model *a, const model *b, const char *what) {
    const aq_model_config *c = &a->config, *d = &b->config;
    const aq_model_weights *v = &a->weights, *w = &b->weights;
    const size_t rope_bytes = (size_t)c->n_rot / 2 * sizeof(float);
    n_other = 0;
    n_other += strcmp(c->arch, d->arch) != 0 || c->n_layer != d->n_layer || c->n_ctx != d->n_ctx;
    n_other += c->norm_eps != d->norm_eps || c->norm != d->norm || c->activation != d->activation;
    n_other += c->gated != d->gated || c->parallel_residual != d->parallel_residual;
    n_other += c->embed_scale != d->embed_scale || c->attn_scale != d->attn_scale;
    n_other += c->n_rot != d->n_rot || c->n_pos_offset != d->n_pos_offset;
    n_other += c->two_ropes != d->two_ropes || c->rope.base != d->rope.base;
    n_other += c->rope_local.base != d->rope_local.base || c->window != d->window;
    n_other += c->n_expert_used != d->n_expert_used || c->d_expert != d->d_expert;
    n_other += c->expert_renormalise != d->expert_renormalise;
    n_other += memcmp(&c->windowed, &d->windowed, sizeof c->windowed) != 0;
    n_other += memcmp(&c->expert_layers, &d->expert_layers, sizeof c->windowed) != 0;
    same_matrix(&v->embed, &w->embed);
    same_matrix(&v->pos_embed, &w->pos_embed);
    same_matrix(&v->output, &w->output);
    same_norm(&v->output_norm, &w->output_norm, c->d_model);
    same_bytes(v->rope_divisors, w->rope_divisors, rope_bytes);
    same_bytes(v->rope_short, w->rope_short, rope_bytes);
    same_bytes(v->rope_long, w->rope_long, rope_bytes);
    same_rope(a, b, 1);
    same_rope(a, b, c->n_ctx);
    for (int i = 0; i < c->n_layer; i++)
        same_layer(c, &v->layers[i], &w->layers[i]);
    n_other += memcmp(v->fingerprint, w->fingerprint, AQ_FINGERPRINT_BYTES) != 0;
    CU_ASSERT_EQUAL(n_other, 0);
    if (n_other > 0) printf("\n    %s: %d pieces differ", what, n_other);
}

static aq_status as_gguf(const model *from, bool apart, model *to) {
    aq_gguf_writer w = aq_gguf_writer_make();
    memset(to, 0, sizeof *to);
    aq_gguf_put_model(&w, &from->config, &from->weights, apart);
    aq_status status = aq_gguf_writer_finish(&w, &to->data, &to->bytes);
    aq_gguf_writer_close(&w);
    if (status == AQ_OK)
        status = aq_model_file_open_gguf("made.gguf", to->data, to->bytes, &to->file);
    return status == AQ_OK ? load(to) : status;
}

static void test_gguf(void) {
    static const char *const names[] = {
        "gemma3",  "gpt2",  "gpt_neox", "llama", "llama3_rope", "llama_mha_hd24", "mistral_swa",
        "mixtral", "olmo2", "olmoe",    "phi3",  "qwen2",       "qwen3",          "qwen3_moe"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        for (int apart = 0; apart < 2; apart++) {
            model hf, gguf = {0};
            if (open_fixture(names[i], &hf) && aq_test_ok(as_gguf(&hf, apart, &gguf)))
                expect_same(&hf, &gguf, names[i]);
            close_model(&gguf);
            close_model(&hf);
        }
}

/* A change to one tensor on its way into another safetensors file. */
typedef struct {
    const char *prefix; /* taken off the front of names */
    const char *add;    /* put in front */
    bool fuse_experts;  /* as version 5 holds them in memory */
    int pad;
    bool biases;              /* of all matrices of Llama */
    const char *config;       /* in place of the fixture's, or NULL */
    const char *skip;         /* a tensor left out, or NULL */
    const char *name, *dtype; /* a tensor more, of zeros, or NULL */
    int n_dim;
    int64_t shape[2];
} change;

/* The rows of gate and up of each expert, or down, in one tensor. */
static void put_fused(aq_safetensors_writer *w, const model *m, int layer, bool down) {
    const aq_model_config *c = &m->config;
    const int64_t n_out = down ? c->d_model : 2 * c->d_expert;
    const int64_t n_in = down ? c->d_expert : c->d_model;
    const size_t half = (size_t)(n_out * n_in) * 2 / (down ? 1 : 2);
    const size_t bytes = (size_t)(c->n_expert * n_out * n_in) * 2;
    uint8_t *data = malloc(bytes), *at = data;
    char name[96];
    if (!data) abort();
    for (int e = 0; e < c->n_expert; e++) {
        const aq_ffn_weights *x = &m->weights.layers[layer].experts[e];
        memcpy(at, down ? x->w_down.data : x->w_gate.data, half);
        at += half;
        if (down) continue;
        memcpy(at, x->w_up.data, half);
        at += half;
    }
    snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%s", layer,
             down ? "down_proj" : "gate_up_proj");
    aq_safetensors_put(w, name, "BF16", 3, (const int64_t[]){c->n_expert, n_out, n_in}, data,
                       bytes);
    free(data);
}

static void put_biases(aq_safetensors_writer *w, const model *m, int layer) {
    const aq_layer_weights *l = &m->weights.layers[layer];
    const struct {
        const char *stem;
        int64_t n;
    } parts[] = {{"self_attn.q_proj", l->wq.n_out},      {"self_attn.k_proj", l->wk.n_out},
                 {"self_attn.v_proj", l->wv.n_out},      {"self_attn.o_proj", l->wo.n_out},
                 {"mlp.gate_proj", l->ffn.w_gate.n_out}, {"mlp.up_proj", l->ffn.w_up.n_out},
                 {"mlp.down_proj", l->ffn.w_down.n_out}};
    float values[256];
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char name[96];
        for (int64_t j = 0; j < parts[i].n; j++)
            values[j] = (float)(layer + 1) * 0.5f + (float)(i * 1000) + (float)j;
        snprintf(name, sizeof name, "model.layers.%d.%s.bias", layer, parts[i].stem);
        aq_safetensors_put(w, name, "F32", 1, &parts[i].n, values, (size_t)parts[i].n * 4);
    }
}

/* config.json with biases asked for: both keys are false in the fixture. */
static void ask_for_biases(char *config) {
    static const char *const keys[] = {"\"attention_bias\": false", "\"mlp_bias\": false"};
    for (int i = 0; i < 2; i++) {
        char *at = strstr(config, keys[i]);
        CU_ASSERT_PTR_NOT_NULL_FATAL(at);
        memcpy(at + strlen(keys[i]) - 5, "true ", 5);
    }
}

static aq_status as_changed(const model *from, const change *how, model *to) {
    aq_safetensors_writer w = aq_safetensors_writer_make();
    size_t config_bytes;
    const char *own_config = aq_model_file_config(from->file, &config_bytes);
    static const float zeros[64 * 256];
    char config[2048];
    memset(to, 0, sizeof *to);
    w.pad = how->pad;
    w.skip = how->skip;
    if (how->config) own_config = how->config;
    if (how->config) config_bytes = strlen(how->config);
    memcpy(config, own_config, config_bytes + 1);
    if (how->biases) ask_for_biases(config);
    for (int64_t i = 0; i < aq_model_file_tensor_count(from->file); i++) {
        const aq_tensor *t = aq_model_file_tensor_at(from->file, i);
        char name[128], full[160];
        snprintf(name, sizeof name, "%.*s", (int)t->name_bytes, t->name);
        if (how->fuse_experts && strstr(name, ".experts.")) continue;
        const size_t n = strlen(how->prefix);
        const bool has = n > 0 && strncmp(name, how->prefix, n) == 0;
        snprintf(full, sizeof full, "%s%s", has ? how->add : "", has ? name + n : name);
        aq_safetensors_put(&w, full, t->type, t->n_dim, t->shape, t->data, (size_t)t->bytes);
    }
    for (int layer = 0; how->fuse_experts && layer < from->config.n_layer; layer++) {
        put_fused(&w, from, layer, false);
        put_fused(&w, from, layer, true);
    }
    for (int layer = 0; how->biases && layer < from->config.n_layer; layer++)
        put_biases(&w, from, layer);
    w.skip = NULL;
    if (how->name) {
        const size_t size = strcmp(how->dtype, "I64") == 0 ? 8 : how->dtype[0] == 'F' ? 4 : 2;
        size_t bytes = size;
        for (int i = 0; i < how->n_dim; i++)
            bytes *= (size_t)how->shape[i];
        aq_safetensors_put(&w, how->name, how->dtype, how->n_dim, how->shape, zeros, bytes);
    }
    aq_status status = aq_safetensors_writer_finish(&w, &to->data, &to->bytes);
    aq_safetensors_writer_close(&w);
    if (status == AQ_OK)
        status = aq_model_file_open_hf(aq_model_file_path(from->file), config, config_bytes,
                                       to->data, to->bytes, &to->file);
    return status == AQ_OK ? load(to) : status;
}

static void test_other_storage(void) {
    static const struct {
        const char *fixture;
        change how;
    } cases[] = {
        {"gpt2", {.prefix = "transformer.", .add = "", .fuse_experts = false, .pad = -1}},
        {"opt", {.prefix = "model.decoder.", .add = "decoder.", .fuse_experts = false, .pad = -1}},
        {"llama", {.prefix = "model.", .add = "", .fuse_experts = false, .pad = -1}},
        {"gemma3",
         {.prefix = "model.", .add = "model.language_model.", .fuse_experts = false, .pad = -1}},
        {"gemma3",
         {.prefix = "model.", .add = "language_model.model.", .fuse_experts = false, .pad = -1}},
        {"gpt_neox", {.prefix = "embed_out.", .add = "lm_head.", .fuse_experts = false, .pad = -1}},
        {"mixtral", {.prefix = "", .add = "", .fuse_experts = true, .pad = -1}},
        {"olmoe", {.prefix = "", .add = "", .fuse_experts = true, .pad = -1}},
        {"qwen3_moe", {.prefix = "", .add = "", .fuse_experts = true, .pad = -1}},
        {"mixtral",
         {.prefix = "model.layers.0.block_sparse_moe.gate.",
          .add = "model.layers.0.mlp.gate.",
          .fuse_experts = true,
          .pad = -1}},
        {"llama", {.prefix = "", .add = "", .fuse_experts = false, .pad = 1}}, /* odd addresses */
        {"gpt_neox", {.prefix = "", .add = "", .fuse_experts = false, .pad = 1}},
        {"gpt2", {.prefix = "", .add = "", .fuse_experts = false, .pad = 1}},
        {"qwen3_moe", {.prefix = "", .add = "", .fuse_experts = true, .pad = 3}},
        {"olmoe", {.prefix = "", .add = "", .fuse_experts = false, .pad = 2}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        model plain, other = {0};
        if (open_fixture(cases[i].fixture, &plain) &&
            aq_test_ok(as_changed(&plain, &cases[i].how, &other)))
            expect_same(&plain, &other, cases[i].fixture);
        close_model(&other);
        close_model(&plain);
    }
}

/* Biases, in both formats: those of Q and K move with their rows. */
static void test_biases(void) {
    const change with = {.prefix = "", .add = "", .pad = -1, .biases = true};
    model plain, hf = {0}, gguf = {0};
    if (open_fixture("llama", &plain) && aq_test_ok(as_changed(&plain, &with, &hf)) &&
        aq_test_ok(as_gguf(&hf, false, &gguf))) {
        const aq_layer_weights *l = &gguf.weights.layers[1];
        CU_ASSERT_EQUAL(l->wq.bias[9], 10.0f);
        CU_ASSERT_EQUAL(l->wk.bias[31], 1032.0f);
        CU_ASSERT_EQUAL(l->ffn.w_down.bias[0], 6001.0f);
        expect_same(&hf, &gguf, "llama with biases");
    }
    close_model(&gguf);
    close_model(&hf);
    close_model(&plain);
}

/* Longrope: lists in config.json, tensors in GGUF. */
static void test_longrope(void) {
    const change with = {
        .prefix = "",
        .add = "",
        .pad = -1,
        .config = "{\"model_type\":\"phi3\",\"hidden_size\":64,\"intermediate_size\":160,"
                  "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
                  "\"vocab_size\":256,\"rms_norm_eps\":1e-5,\"max_position_embeddings\":131072,"
                  "\"original_max_position_embeddings\":4096,\"partial_rotary_factor\":0.75,"
                  "\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1,2,3,4,5,64],"
                  "\"short_factor\":[1,1,1.1,1.2,1.25,1.5]},\"sliding_window\":262144}"};
    model plain, hf = {0}, gguf = {0};
    if (open_fixture("phi3", &plain) && aq_test_ok(as_changed(&plain, &with, &hf)) &&
        aq_test_ok(as_gguf(&hf, false, &gguf))) {
        const aq_model_weights *w = &gguf.weights;
        CU_ASSERT_TRUE(gguf.config.rope.scaling == AQ_ROPE_LONGROPE && gguf.config.n_rot == 12);
        CU_ASSERT_TRUE(w->rope_long[5] == 64.0f && w->rope_short[5] == 1.5f);
        CU_ASSERT_PTR_EQUAL(aq_model_rope_divisors(&gguf.config, w, 4096), w->rope_short);
        CU_ASSERT_PTR_EQUAL(aq_model_rope_divisors(&gguf.config, w, 4097), w->rope_long);
        expect_same(&hf, &gguf, "phi3 with longrope");
    }
    close_model(&gguf);
    close_model(&hf);
    close_model(&plain);
}

/* Two models are not the same: the comparison sees it. */
static void test_planted(void) {
    model a, b;
    if (open_fixture("llama", &a) && open_fixture("mistral_swa", &b)) {
        n_other = 0;
        same_layer(&a.config, &a.weights.layers[0], &b.weights.layers[0]);
        CU_ASSERT_TRUE(n_other >= 7);
    }
    close_model(&a);
    close_model(&b);
}

#define NAMED(...)                                                                                 \
    { .prefix = "", .add = "", .pad = -1, __VA_ARGS__ }
#define LAYER "model.layers.1."

static void test_refused(void) {
    static const struct {
        const char *fixture;
        change how;
        aq_status code;
        const char *part;
    } cases[] = {
        {"llama", NAMED(.skip = "lm_head.weight"), AQ_ERR_FORMAT,
         "tensor lm_head.weight is missing, expected with shape [256, 64]"},
        {"llama", NAMED(.skip = LAYER "mlp.up_proj.weight"), AQ_ERR_FORMAT,
         "hf/llama: tensor model.layers.1.mlp.up_proj.weight is missing"},
        {"qwen2", NAMED(.skip = LAYER "self_attn.k_proj.bias"), AQ_ERR_FORMAT,
         "self_attn.k_proj.bias is missing, expected with shape [32]"},
        {"phi3", NAMED(.skip = LAYER "mlp.gate_up_proj.weight"), AQ_ERR_FORMAT,
         "gate_up_proj.weight is missing, expected with shape [320, 64]"},
        {"gpt2", NAMED(.skip = "transformer.wpe.weight"), AQ_ERR_FORMAT,
         "tensor transformer.wpe.weight is missing, expected with shape [1024, 64]"},
        {"gpt2", NAMED(.skip = "transformer.h.1.ln_1.bias"), AQ_ERR_FORMAT, "h.1.ln_1.bias is mi"},
        {"olmoe", NAMED(.skip = LAYER "mlp.gate.weight"), AQ_ERR_FORMAT, "mlp.gate.weight is miss"},
        {"olmoe", NAMED(.skip = LAYER "mlp.experts.7.up_proj.weight"), AQ_ERR_FORMAT,
         "mlp.experts.7.up_proj.weight is missing"},
        {"gemma3", NAMED(.skip = LAYER "self_attn.q_norm.weight"), AQ_ERR_FORMAT, "q_norm.weight"},
        {"llama",
         NAMED(.skip = "model.norm.weight", .name = "model.norm.weight", .dtype = "I64", .n_dim = 1,
               .shape = {64}),
         AQ_ERR_UNSUPPORTED, "model.norm.weight is I64, expected BF16, F16 or F32"},
        {"llama",
         NAMED(.skip = "lm_head.weight", .name = "lm_head.weight", .dtype = "BF16", .n_dim = 2,
               .shape = {64, 256}),
         AQ_ERR_FORMAT, "tensor lm_head.weight has shape [64, 256], expected [256, 64]"},
        {"gpt2",
         NAMED(.skip = "transformer.h.0.mlp.c_fc.weight", .name = "transformer.h.0.mlp.c_fc.weight",
               .dtype = "BF16", .n_dim = 2, .shape = {256, 64}),
         AQ_ERR_FORMAT, "has shape [256, 64], expected [64, 256]"},
        {"llama",
         NAMED(.name = LAYER "self_attn.q_proj.bias", .dtype = "F32", .n_dim = 1, .shape = {64}),
         AQ_ERR_UNSUPPORTED, "q_proj.bias: this bias is not supported in models of"},
        {"llama", NAMED(.name = "score.weight", .dtype = "F32", .n_dim = 1, .shape = {64}),
         AQ_ERR_UNSUPPORTED, "tensor score.weight: not known as a part of models"},
        {"llama",
         NAMED(.name = "model.layers.2.input_layernorm.weight", .dtype = "F32", .n_dim = 1,
               .shape = {64}),
         AQ_ERR_UNSUPPORTED, "tensor model.layers.2.input_layernorm.weight: not known"},
        {"qwen2", NAMED(.name = "lm_head.weight", .dtype = "BF16", .n_dim = 2, .shape = {256, 64}),
         AQ_ERR_FORMAT, "tie_word_embeddings is true, but there is an output matrix that differs"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        model plain, other = {0};
        if (open_fixture(cases[i].fixture, &plain))
            aq_test_fails(as_changed(&plain, &cases[i].how, &other), cases[i].code, cases[i].part);
        close_model(&other);
        close_model(&plain);
    }
}

/* Buffers that old checkpoints carry along. */
static void test_ignored(void) {
    static const struct {
        const char *fixture;
        change how;
    } cases[] = {
        {"llama", NAMED(.name = LAYER "self_attn.rotary_emb.inv_freq", .dtype = "F32", .n_dim = 1,
                        .shape = {8})},
        {"gpt2",
         NAMED(.name = "transformer.h.0.attn.bias", .dtype = "F32", .n_dim = 2, .shape = {8, 8})},
        {"gpt2", NAMED(.name = "transformer.h.0.attn.masked_bias", .dtype = "F32")},
        {"gpt_neox", NAMED(.name = "gpt_neox.layers.0.attention.bias", .dtype = "I64", .n_dim = 2,
                           .shape = {8, 8})},
        {"gemma3",
         NAMED(.name = "vision_tower.a.weight", .dtype = "F32", .n_dim = 1, .shape = {8})},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        model plain, other = {0};
        if (open_fixture(cases[i].fixture, &plain) &&
            aq_test_ok(as_changed(&plain, &cases[i].how, &other))) {
            expect_same(&plain, &other, cases[i].how.name);
            CU_ASSERT_EQUAL(plain.weights.bytes, other.weights.bytes);
        }
        close_model(&other);
        close_model(&plain);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "gguf", test_gguf);
    CU_add_test(suite, "other storage", test_other_storage);
    CU_add_test(suite, "biases", test_biases);
    CU_add_test(suite, "longrope", test_longrope);
    CU_add_test(suite, "planted", test_planted);
    CU_add_test(suite, "refused", test_refused);
    CU_add_test(suite, "ignored", test_ignored);
}
