/* Configurations are read whole, and every wrong key is refused by its name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/model_config.h"
#include "tests/support/suite.h"
#include "tests/support/tiny_model.h"

/* The configuration of what the writer holds. Ends the writer. */
static aq_status read_writer(aq_gguf_writer *w, aq_model_config *config) {
    uint8_t *data = NULL;
    size_t bytes = 0;
    aq_model_file *file = NULL;
    aq_status status = aq_gguf_writer_finish(w, &data, &bytes);
    if (status == AQ_OK) status = aq_model_file_open_gguf("model.gguf", data, bytes, &file);
    if (status == AQ_OK) status = aq_model_config_read(file, config);
    aq_model_file_close(file);
    free(data);
    aq_gguf_writer_close(w);
    return status;
}

static aq_status read_shape(const aq_tiny_model *shape, aq_model_config *config) {
    aq_gguf_writer w = aq_gguf_writer_make();
    const aq_status status = aq_tiny_model_put(&w, shape);
    return status == AQ_OK ? read_writer(&w, config) : status;
}

static void test_shape(void) {
    aq_tiny_model shape = aq_tiny_model_default();
    aq_model_config c;
    shape.n_layer = 3;
    shape.n_head = 6;
    shape.n_kv_head = 3;
    shape.d_head = 10;
    shape.n_ctx = 4096;
    shape.rope_base = 50000.0;
    if (!aq_test_ok(read_shape(&shape, &c))) return;
    CU_ASSERT_STRING_EQUAL(c.arch, "llama");
    CU_ASSERT_STRING_EQUAL(c.name, "tiny");
    CU_ASSERT_TRUE(c.n_layer == 3 && c.n_head == 6 && c.n_kv_head == 3 && c.d_head == 10);
    CU_ASSERT_TRUE(c.d_model == 64 && c.d_ff == 128 && c.n_vocab == 288 && c.n_rot == 10);
    CU_ASSERT_EQUAL(c.n_ctx, 4096);
    CU_ASSERT_EQUAL(c.norm_eps, 1e-5f);
    CU_ASSERT_EQUAL(c.rope.base, 50000.0);
    CU_ASSERT_EQUAL(c.rope.scaling, AQ_ROPE_NONE);
    CU_ASSERT_EQUAL(c.rope.factor, 1.0);
    CU_ASSERT_EQUAL(c.rope.attn_factor, 1.0);
    CU_ASSERT_EQUAL(c.rope.n_ctx_orig, 4096);
}

static void test_rope_scaling(void) {
    aq_tiny_model shape = aq_tiny_model_default();
    aq_model_config c;
    shape.rope_factor = 4.0;
    shape.rope_scaling = AQ_ROPE_LINEAR;
    if (!aq_test_ok(read_shape(&shape, &c))) return;
    CU_ASSERT_EQUAL(c.rope.scaling, AQ_ROPE_LINEAR);
    CU_ASSERT_EQUAL(c.rope.factor, 4.0);
    shape.rope_scaling = AQ_ROPE_YARN;
    shape.rope_n_ctx_orig = 512;
    if (!aq_test_ok(read_shape(&shape, &c))) return;
    CU_ASSERT_EQUAL(c.rope.scaling, AQ_ROPE_YARN);
    CU_ASSERT_EQUAL(c.rope.factor, 4.0);
    CU_ASSERT_EQUAL(c.rope.n_ctx_orig, 512);
    shape.rope_factor = 1.0; /* scaling by 1 is none */
    if (!aq_test_ok(read_shape(&shape, &c))) return;
    CU_ASSERT_EQUAL(c.rope.scaling, AQ_ROPE_NONE);
}

/* A change to one key of the default tiny model: left out, an integer, a number or a text. */
typedef struct {
    const char *key;
    char what; /* '-', 'i', 'f' or 't' */
    double number;
    const char *text;
} change;

static aq_status read_changed(const change *c, aq_model_config *config) {
    const aq_tiny_model shape = aq_tiny_model_default();
    aq_gguf_writer w = aq_gguf_writer_make();
    if (c->what == 'i') aq_gguf_put_int(&w, c->key, AQ_GGUF_I64, (int64_t)c->number);
    if (c->what == 'f') aq_gguf_put_float(&w, c->key, AQ_GGUF_F64, c->number);
    if (c->what == 't') aq_gguf_put_text(&w, c->key, c->text);
    w.skip = c->key;
    const aq_status status = aq_tiny_model_put(&w, &shape);
    return status == AQ_OK ? read_writer(&w, config) : status;
}

static void test_refused(void) {
    static const struct {
        change change;
        aq_status code;
        const char *part;
    } cases[] = {
        {{"general.architecture", '-', 0, NULL}, AQ_ERR_FORMAT, "general.architecture is missing"},
        {{"general.architecture", 'i', 1, NULL}, AQ_ERR_FORMAT, "missing or not a string"},
        {{"general.architecture", 't', 0, "rwkv7"},
         AQ_ERR_UNSUPPORTED,
         "architecture rwkv7 is not supported, expected one of llama, q"},
        {{"llama.block_count", '-', 0, NULL}, AQ_ERR_FORMAT, "key llama.block_count is missing"},
        {{"llama.block_count", 'i', 0, NULL}, AQ_ERR_FORMAT, "is 0, expected 1 to 1024"},
        {{"llama.block_count", 'i', -3, NULL}, AQ_ERR_FORMAT, "is -3, expected 1 to 1024"},
        {{"llama.block_count", 'i', 1e18, NULL}, AQ_ERR_FORMAT, "is 1000000000000000000, exp"},
        {{"llama.block_count", 'f', 2, NULL}, AQ_ERR_FORMAT, "block_count is not an integer"},
        {{"llama.context_length", '-', 0, NULL}, AQ_ERR_FORMAT, "context_length is missing"},
        {{"llama.embedding_length", '-', 0, NULL}, AQ_ERR_FORMAT, "embedding_length is missing"},
        {{"llama.embedding_length", 'i', 1e10, NULL}, AQ_ERR_FORMAT, "key llama.embedding_length"},
        {{"llama.feed_forward_length", '-', 0, NULL}, AQ_ERR_FORMAT, "feed_forward_length is miss"},
        {{"llama.attention.head_count", '-', 0, NULL}, AQ_ERR_FORMAT, "head_count is missing"},
        {{"llama.attention.head_count", 'i', 3, NULL},
         AQ_ERR_FORMAT,
         "head_count is 3, expected a"},
        {{"llama.attention.head_count_kv", 'i', 3, NULL}, AQ_ERR_FORMAT, "head_count_kv, 3"},
        {{"llama.attention.head_count_kv", 'i', 8, NULL}, AQ_ERR_FORMAT, "head_count_kv, 8"},
        {{"llama.attention.key_length", 'i', 2048, NULL}, AQ_ERR_FORMAT, "key_length is 2048"},
        {{"llama.attention.value_length", 'i', 32, NULL}, AQ_ERR_UNSUPPORTED, "value_length is 32"},
        {{"llama.rope.dimension_count", 'i', 8, NULL},
         AQ_ERR_UNSUPPORTED,
         "8 of the 16 dimensions"},
        {{"llama.attention.layer_norm_rms_epsilon", '-', 0, NULL}, AQ_ERR_FORMAT, "is missing"},
        {{"llama.attention.layer_norm_rms_epsilon", 'f', -1, NULL}, AQ_ERR_FORMAT, "epsilon is -1"},
        {{"llama.attention.layer_norm_rms_epsilon", 't', 0, "x"}, AQ_ERR_FORMAT, "is not a number"},
        {{"llama.vocab_size", 'i', 0, NULL}, AQ_ERR_FORMAT, "vocab_size is 0"},
        {{"llama.vocab_size", 'i', 287, NULL}, AQ_ERR_FORMAT, "has 288 tokens, expected at most"},
        {{"llama.expert_count", 'i', 8, NULL}, AQ_ERR_FORMAT, "expert_used_count is missing"},
        {{"llama.expert_count", 'i', -1, NULL}, AQ_ERR_FORMAT, "expert_count is -1"},
        {{"llama.expert_count", 't', 0, "x"}, AQ_ERR_FORMAT, "expert_count is not an integer"},
        {{"llama.expert_shared_count", 'i', 1, NULL}, AQ_ERR_UNSUPPORTED, "shared experts are not"},
        {{"llama.final_logit_softcapping", 'f', 30, NULL}, AQ_ERR_UNSUPPORTED, "capped logits"},
        {{"llama.attention.sliding_window", 'i', -1, NULL}, AQ_ERR_FORMAT, "window is -1"},
        {{"llama.attention.sliding_window", 't', 0, "x"}, AQ_ERR_FORMAT, "is not an integer"},
        {{"llama.rope.freq_base", 'f', 0, NULL}, AQ_ERR_FORMAT, "freq_base is 0"},
        {{"llama.rope.freq_base", 't', 0, "x"}, AQ_ERR_FORMAT, "freq_base is not a number"},
        {{"llama.rope.scaling.type", 't', 0, "longrope"}, AQ_ERR_UNSUPPORTED, "type is longrope"},
        {{"llama.rope.scaling.type", 'i', 1, NULL}, AQ_ERR_FORMAT, "type is not a string"},
        {{"llama.rope.scaling.factor", 'f', 0.5, NULL}, AQ_ERR_FORMAT, "factor is 0.5"},
        {{"llama.rope.scaling.factor", 'f', -2, NULL}, AQ_ERR_FORMAT, "factor is -2"},
        {{"llama.rope.scaling.yarn_ext_factor", 'f', 0.5, NULL}, AQ_ERR_UNSUPPORTED, "of yarn"},
        {{"llama.rope.scaling.yarn_beta_fast", 't', 0, "x"}, AQ_ERR_FORMAT, "is not a number"},
        {{"llama.rope.scaling.original_context_length", 'i', 0, NULL},
         AQ_ERR_FORMAT,
         "length is 0"},
    };
    aq_model_config config;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        aq_test_fails(read_changed(&cases[i].change, &config), cases[i].code, cases[i].part);
        aq_test_fails(read_changed(&cases[i].change, &config), cases[i].code, "model.gguf: ");
    }
}

/* NaN passes no comparison by accident. */
static void test_nan(void) {
    aq_model_config config;
    const double nan = strtod("nan", NULL);
    aq_test_fails(read_changed(&(change){"llama.rope.freq_base", 'f', nan, NULL}, &config),
                  AQ_ERR_FORMAT, "freq_base is ");
    aq_test_fails(
        read_changed(&(change){"llama.attention.layer_norm_rms_epsilon", 'f', nan, NULL}, &config),
        AQ_ERR_FORMAT, "epsilon is ");
}

static void test_defaults(void) {
    aq_model_config c;
    if (aq_test_ok(read_changed(&(change){"llama.attention.key_length", '-', 0, NULL}, &c)))
        CU_ASSERT_EQUAL(c.d_head, 16); /* d_model / n_head */
    if (aq_test_ok(read_changed(&(change){"llama.attention.value_length", '-', 0, NULL}, &c)))
        CU_ASSERT_EQUAL(c.d_head, 16);
    if (aq_test_ok(read_changed(&(change){"llama.rope.dimension_count", '-', 0, NULL}, &c)))
        CU_ASSERT_EQUAL(c.n_rot, 16);
    if (aq_test_ok(read_changed(&(change){"llama.attention.head_count_kv", '-', 0, NULL}, &c)))
        CU_ASSERT_EQUAL(c.n_kv_head, 4);
    if (aq_test_ok(read_changed(&(change){"llama.rope.freq_base", '-', 0, NULL}, &c)))
        CU_ASSERT_EQUAL(c.rope.base, 10000.0);
    if (aq_test_ok(read_changed(&(change){"llama.vocab_size", '-', 0, NULL}, &c)))
        CU_ASSERT_EQUAL(c.n_vocab, 288);
    if (aq_test_ok(read_changed(&(change){"tokenizer.ggml.tokens", '-', 0, NULL}, &c)))
        CU_ASSERT_EQUAL(c.n_vocab, 288);
    if (aq_test_ok(read_changed(&(change){"general.name", '-', 0, NULL}, &c)))
        CU_ASSERT_STRING_EQUAL(c.name, "llama");
    if (aq_test_ok(read_changed(&(change){"llama.expert_count", 'i', 0, NULL}, &c)))
        CU_ASSERT_EQUAL(c.n_layer, 2);
    /* old files: linear scaling by a key of its own, or a factor without a type */
    if (aq_test_ok(read_changed(&(change){"llama.rope.scale_linear", 'f', 8, NULL}, &c)))
        CU_ASSERT_TRUE(c.rope.scaling == AQ_ROPE_LINEAR && c.rope.factor == 8.0);
    if (aq_test_ok(read_changed(&(change){"llama.rope.scaling.factor", 'f', 2, NULL}, &c)))
        CU_ASSERT_TRUE(c.rope.scaling == AQ_ROPE_LINEAR && c.rope.factor == 2.0);
}

/* Sizes given layer by layer are taken if all are equal. */
static void test_per_layer(void) {
    const aq_tiny_model shape = aq_tiny_model_default();
    const char *const key = "llama.attention.head_count_kv";
    for (int64_t last = 1; last <= 2; last++) {
        aq_model_config c;
        aq_gguf_writer w = aq_gguf_writer_make();
        aq_gguf_put_ints(&w, key, AQ_GGUF_I32, (const int64_t[]){2, last}, 2);
        w.skip = key;
        if (!aq_test_ok(aq_tiny_model_put(&w, &shape))) return;
        if (last == 2) {
            aq_test_ok(read_writer(&w, &c));
            CU_ASSERT_EQUAL(c.n_kv_head, 2);
        } else {
            aq_test_fails(read_writer(&w, &c), AQ_ERR_UNSUPPORTED,
                          "head_count_kv differs between layers (2, then 1 in layer 1)");
        }
    }
}

/* Keys of one family, in a file with just the keys of its configuration. */
static aq_status read_family(const char *arch, const change *c, aq_model_config *config) {
    static const struct {
        const char *stem;
        int64_t value;
    } sizes[] = {{"block_count", 7},          {"context_length", 4096},
                 {"embedding_length", 64},    {"feed_forward_length", 128},
                 {"attention.head_count", 4}, {"attention.key_length", 32},
                 {"vocab_size", 256},         {"attention.value_length", 32}};
    char key[96];
    aq_gguf_writer w = aq_gguf_writer_make();
    if (c && c->what == 'i') aq_gguf_put_int(&w, c->key, AQ_GGUF_I64, (int64_t)c->number);
    if (c && c->what == 'f') aq_gguf_put_float(&w, c->key, AQ_GGUF_F64, c->number);
    if (c && c->what == 'b') aq_gguf_put_bool(&w, c->key, c->number != 0);
    if (c) w.skip = c->key;
    aq_gguf_put_text(&w, "general.architecture", arch);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, sizes[i].stem);
        aq_gguf_put_int(&w, key, AQ_GGUF_U32, sizes[i].value);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    aq_gguf_put_float(&w, key, AQ_GGUF_F32, 1e-6);
    snprintf(key, sizeof key, "%s.attention.layer_norm_epsilon", arch);
    aq_gguf_put_float(&w, key, AQ_GGUF_F32, 1e-5);
    snprintf(key, sizeof key, "%s.rope.freq_base", arch);
    aq_gguf_put_float(&w, key, AQ_GGUF_F32, 1e6);
    return read_writer(&w, config);
}

static void test_families(void) {
    aq_model_config c;
    if (aq_test_ok(read_family("gemma3",
                               &(change){"gemma3.attention.sliding_window", 'i', 512, NULL}, &c))) {
        CU_ASSERT_TRUE(c.window == 512 && c.two_ropes && c.embed_scale == 8.0f);
        CU_ASSERT_TRUE(c.rope.base == 1e6 && c.rope_local.base == 1e4 && c.norm_eps == 1e-6f);
        for (int i = 0; i < 7; i++)
            CU_ASSERT_EQUAL(aq_model_windowed(&c, i), i != 5);
    }
    if (aq_test_ok(read_family("gemma3", NULL, &c)))
        CU_ASSERT_TRUE(c.window == 0 && !c.two_ropes && c.rope_local.base == 1e6);
    if (aq_test_ok(read_family("gemma3", &(change){"gemma3.block_count", 'i', 62, NULL}, &c)))
        CU_ASSERT_DOUBLE_EQUAL(c.attn_scale, 0.25, 1e-8); /* the 27B: by d_model / n_head = 16 */
    if (aq_test_ok(read_family("phi3", &(change){"phi3.rope.dimension_count", 'i', 24, NULL}, &c)))
        CU_ASSERT_TRUE(c.n_rot == 24 && c.d_head == 32 && c.window == 0);
    if (aq_test_ok(
            read_family("phi3", &(change){"phi3.attention.sliding_window", 'i', 2047, NULL}, &c)))
        CU_ASSERT_TRUE(c.window == 2047 && aq_model_windowed(&c, 5));
    if (aq_test_ok(
            read_family("gptneox", &(change){"gptneox.use_parallel_residual", 'b', 1, NULL}, &c)))
        CU_ASSERT_TRUE(c.parallel_residual && c.activation == AQ_ACT_GELU &&
                       c.norm == AQ_NORM_LAYER && c.norm_eps == 1e-5f);
    if (aq_test_ok(read_family("gpt2", NULL, &c)))
        CU_ASSERT_TRUE(c.n_rot == 0 && c.n_pos_offset == 0 && c.activation == AQ_ACT_GELU_TANH);
    if (aq_test_ok(read_family("qwen2", NULL, &c)))
        CU_ASSERT_TRUE(c.qkv_bias == AQ_PART_REQUIRED && c.out_bias == AQ_PART_ABSENT);
}

static void test_families_refused(void) {
    static const struct {
        const char *arch;
        change change;
        aq_status code;
        const char *part;
    } cases[] = {
        {"gptneox", {"gptneox.x", '-', 0, NULL}, AQ_ERR_FORMAT, "use_parallel_residual is missing"},
        {"qwen2", {"qwen2.expert_count", 'i', 4, NULL}, AQ_ERR_UNSUPPORTED, "expert_count is 4"},
        {"qwen2",
         {"qwen2.attention.sliding_window", 'i', 64, NULL},
         AQ_ERR_UNSUPPORTED,
         "sliding windows are not supported in models of architecture qwen2"},
        {"olmo2", {"olmo2.attention.sliding_window", 'i', 64, NULL}, AQ_ERR_UNSUPPORTED, "windows"},
        {"olmoe",
         {"olmoe.attention.clamp_kqv", 'f', 8, NULL},
         AQ_ERR_UNSUPPORTED,
         "clamp_kqv is 8"},
        {"gemma3", {"gemma3.final_logit_softcapping", 'f', 30, NULL}, AQ_ERR_UNSUPPORTED, "capped"},
        {"gemma3", {"gemma3.attention.causal", 'b', 0, NULL}, AQ_ERR_UNSUPPORTED, "look ahead"},
        {"gpt2", {"gpt2.attention.layer_norm_epsilon", '-', 0, NULL}, AQ_ERR_FORMAT, "is missing"},
        {"qwen3",
         {"qwen3.rope.dimension_count", 'i', 16, NULL},
         AQ_ERR_UNSUPPORTED,
         "16 of the 32"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        aq_model_config config;
        aq_test_fails(read_family(cases[i].arch, &cases[i].change, &config), cases[i].code,
                      cases[i].part);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "shape", test_shape);
    CU_add_test(suite, "rope scaling", test_rope_scaling);
    CU_add_test(suite, "refused", test_refused);
    CU_add_test(suite, "nan", test_nan);
    CU_add_test(suite, "defaults", test_defaults);
    CU_add_test(suite, "per layer", test_per_layer);
    CU_add_test(suite, "families", test_families);
    CU_add_test(suite, "families refused", test_families_refused);
}
