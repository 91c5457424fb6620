/* config.json in both dialects: what is read, and that every key that would change the result is
 * honoured or refused by its name. Configurations are those of tests/data/hf with some keys
 * changed. */
#include "src/model/hf_config.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "tests/support/safetensors_writer.h"
#include "tests/support/suite.h"

/* A model file of this config.json and no tensors. */
static aq_status open_text(const char *text, aq_model_file **out) {
    static uint8_t *empty;
    static size_t bytes;
    if (!empty) AQ_TRY(aq_safetensors_raw("{}", 0, &empty, &bytes));
    const aq_status status =
        aq_model_file_open_hf("folder/", text, strlen(text), empty, bytes, out);
    return status;
}

static aq_status read_text(const char *text, aq_model_config *config) {
    aq_model_file *file = NULL;
    aq_status status = open_text(text, &file);
    if (status == AQ_OK) status = aq_model_config_read(file, config);
    aq_model_file_close(file);
    return status;
}

/* The config.json of a fixture with the keys of a JSON object put in; "-" takes a key out. */
static char *changed(const char *fixture, const char *changes) {
    char path[1024], *text = NULL, *made = NULL;
    size_t bytes;
    snprintf(path, sizeof path, "%s/hf/%s/config.json", aq_test_data_dir(), fixture);
    if (!aq_test_ok(aq_file_read(path, &text, &bytes))) return NULL;
    cJSON *config = cJSON_Parse(text), *change = cJSON_Parse(changes);
    CU_ASSERT_TRUE(config && change);
    for (const cJSON *c = change ? change->child : NULL; c; c = c->next) {
        cJSON_DeleteItemFromObjectCaseSensitive(config, c->string);
        if (!cJSON_IsString(c) || strcmp(c->valuestring, "-") != 0)
            cJSON_AddItemToObject(config, c->string, cJSON_Duplicate(c, 1));
    }
    made = cJSON_PrintUnformatted(config);
    cJSON_Delete(config);
    cJSON_Delete(change);
    free(text);
    return made;
}

static aq_status read_changed(const char *fixture, const char *changes, aq_model_config *config) {
    char *text = changed(fixture, changes);
    const aq_status status = text ? read_text(text, config) : AQ_ERR_MEMORY;
    free(text);
    return status;
}

/* The language of version 4 says the same. */
static void test_version_4(void) {
    static const struct {
        const char *fixture, *changes;
    } cases[] = {
        {"llama", "{\"rope_parameters\":\"-\",\"rope_theta\":10000.0,\"rope_scaling\":null,"
                  "\"dtype\":\"-\",\"torch_dtype\":\"bfloat16\"}"},
        {"llama3_rope",
         "{\"rope_parameters\":\"-\",\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":"
         "\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
         "\"original_max_position_embeddings\":64}}"},
        {"llama_linear", "{\"rope_parameters\":\"-\",\"rope_theta\":10000.0,\"rope_scaling\":"
                         "{\"type\":\"linear\",\"factor\":2}}"},
        {"llama_yarn",
         "{\"rope_parameters\":\"-\",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,"
         "\"original_max_position_embeddings\":64,\"beta_fast\":32}}"},
        {"gemma3",
         "{\"rope_parameters\":\"-\",\"rope_theta\":1000000,\"rope_local_base_freq\":10000,"
         "\"layer_types\":\"-\",\"_sliding_window_pattern\":\"-\","
         "\"sliding_window_pattern\":6,\"rope_scaling\":null}"},
        {"gpt_neox", "{\"rope_parameters\":\"-\",\"rotary_pct\":0.25,\"rotary_emb_base\":10000}"},
        {"phi3", "{\"rope_parameters\":\"-\",\"rope_theta\":10000.0,\"rope_scaling\":null}"},
        {"qwen3_moe", "{\"num_local_experts\":\"-\",\"num_experts\":6,\"rope_parameters\":\"-\","
                      "\"rope_theta\":10000.0}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        aq_model_config v4, v5;
        if (aq_test_ok(read_changed(cases[i].fixture, cases[i].changes, &v4)) &&
            aq_test_ok(read_changed(cases[i].fixture, "{}", &v5)))
            CU_ASSERT_EQUAL(memcmp(&v4, &v5, sizeof v4), 0);
    }
}

static void test_gemma(void) {
    aq_model_config c;
    if (!aq_test_ok(read_changed("gemma3", "{}", &c))) return;
    CU_ASSERT_STRING_EQUAL(c.arch, "gemma3");
    CU_ASSERT_STRING_EQUAL(c.name, "folder");
    CU_ASSERT_TRUE(c.n_layer == 7 && c.n_head == 4 && c.n_kv_head == 2 && c.d_head == 32);
    CU_ASSERT_TRUE(c.d_model == 64 && c.d_ff == 160 && c.n_vocab == 256 && c.n_ctx == 4096);
    CU_ASSERT_TRUE(c.norm_eps == 1e-6f && c.embed_scale == 8.0f && c.tied && c.gated);
    CU_ASSERT_TRUE(c.activation == AQ_ACT_GELU_TANH && c.norm == AQ_NORM_RMS);
    CU_ASSERT_TRUE(c.window == 32 && c.two_ropes && c.rope.base == 1e6 && c.rope_local.base == 1e4);
    for (int i = 0; i < 7; i++)
        CU_ASSERT_EQUAL(aq_model_windowed(&c, i), i != 5);
    if (!aq_test_ok(read_changed("gemma3", "{\"query_pre_attn_scalar\":168}", &c))) return;
    CU_ASSERT_DOUBLE_EQUAL(c.attn_scale, 1.0 / sqrt(168.0), 1e-8);
    /* the language of a model that sees, with what its configuration leaves out */
    if (!aq_test_ok(read_text("{\"model_type\":\"gemma3\",\"text_config\":{\"model_type\":"
                              "\"gemma3_text\",\"hidden_size\":2560,\"intermediate_size\":10240,"
                              "\"num_hidden_layers\":34,\"sliding_window\":1024,\"rope_scaling\":"
                              "{\"factor\":8.0,\"rope_type\":\"linear\"}},\"vision_config\":{}}",
                              &c)))
        return;
    CU_ASSERT_TRUE(c.n_head == 8 && c.n_kv_head == 4 && c.d_head == 256 && c.n_ctx == 131072);
    CU_ASSERT_TRUE(c.n_vocab == 262208 && c.window == 1024 && c.attn_scale == 0.0625f);
    CU_ASSERT_TRUE(c.rope.scaling == AQ_ROPE_LINEAR && c.rope.factor == 8.0);
    CU_ASSERT_TRUE(c.rope_local.scaling == AQ_ROPE_NONE && c.rope_local.base == 1e4);
}

static void test_others(void) {
    aq_model_config c;
    if (aq_test_ok(read_changed("gpt2", "{\"n_inner\":96,\"scale_attn_weights\":false}", &c)))
        CU_ASSERT_TRUE(c.d_ff == 96 && c.n_rot == 0 && c.attn_scale == 1.0f && c.tied && !c.gated &&
                       c.activation == AQ_ACT_GELU_TANH && c.norm == AQ_NORM_LAYER);
    if (aq_test_ok(read_changed("gpt_neox", "{\"use_parallel_residual\":false}", &c)))
        CU_ASSERT_TRUE(c.n_rot == 4 && !c.parallel_residual && c.activation == AQ_ACT_GELU);
    if (aq_test_ok(read_changed("opt", "{\"enable_bias\":false}", &c)))
        CU_ASSERT_TRUE(c.n_pos_offset == 2 && c.ffn_bias == AQ_PART_ABSENT &&
                       c.activation == AQ_ACT_RELU && c.norm_eps == 1e-5f);
    if (aq_test_ok(read_changed("llama", "{\"attention_bias\":true,\"mlp_bias\":true}", &c)))
        CU_ASSERT_TRUE(c.qkv_bias == AQ_PART_REQUIRED && c.out_bias == AQ_PART_REQUIRED &&
                       c.ffn_bias == AQ_PART_REQUIRED);
    if (aq_test_ok(read_changed("qwen2", "{\"tie_word_embeddings\":\"-\"}", &c)))
        CU_ASSERT_TRUE(c.qkv_bias == AQ_PART_REQUIRED && c.out_bias == AQ_PART_ABSENT && !c.tied);
    if (aq_test_ok(read_changed("llama",
                                "{\"head_dim\":null,\"num_key_value_heads\":null,"
                                "\"hidden_act\":\"gelu_new\"}",
                                &c)))
        CU_ASSERT_TRUE(c.d_head == 16 && c.n_kv_head == 4 && c.activation == AQ_ACT_GELU_TANH);
    if (aq_test_ok(read_changed("qwen3", "{\"head_dim\":\"-\"}", &c)))
        CU_ASSERT_EQUAL(c.d_head, 128);
    if (aq_test_ok(read_changed("mistral_swa", "{\"num_key_value_heads\":null}", &c)))
        CU_ASSERT_EQUAL(c.n_kv_head, 4);
    if (aq_test_ok(read_changed("olmoe", "{\"norm_topk_prob\":true}", &c)))
        CU_ASSERT_TRUE(c.expert_renormalise && c.n_expert == 8 && c.n_expert_used == 3);
    if (aq_test_ok(read_changed("qwen3_moe", "{\"decoder_sparse_step\":2}", &c)))
        CU_ASSERT_TRUE(!aq_model_has_experts(&c, 0) && aq_model_has_experts(&c, 1) &&
                       c.d_expert == 48 && c.d_ff == 160);
    if (aq_test_ok(read_changed("qwen3_moe", "{\"mlp_only_layers\":[1]}", &c)))
        CU_ASSERT_TRUE(aq_model_has_experts(&c, 0) && !aq_model_has_experts(&c, 1));
}

static void test_windows(void) {
    aq_model_config c;
    if (aq_test_ok(read_changed("mistral_swa", "{}", &c)))
        CU_ASSERT_TRUE(c.window == 48 && aq_model_windowed(&c, 0) && aq_model_windowed(&c, 1));
    if (aq_test_ok(read_changed("mistral_swa", "{\"sliding_window\":4096}", &c)))
        CU_ASSERT_TRUE(c.window == 4096 && aq_model_windowed(&c, 1)); /* the context may grow */
    aq_model_config_fit_window(&c);
    CU_ASSERT_TRUE(c.window == 0 && !aq_model_windowed(&c, 0));
    /* the same with a rotary table of their own: these layers stay what they are */
    if (aq_test_ok(read_changed("gemma3", "{\"sliding_window\":8192}", &c)))
        CU_ASSERT_TRUE(c.window == 8192 && c.two_ropes && aq_model_windowed(&c, 0) &&
                       !aq_model_windowed(&c, 5) && c.rope_local.base == 1e4);
    aq_model_config_fit_window(&c);
    CU_ASSERT_TRUE(c.window == 4096 && c.two_ropes && aq_model_windowed(&c, 0));
    if (aq_test_ok(read_changed("gemma3",
                                "{\"layer_types\":[\"full_attention\",\"full_attention\","
                                "\"full_attention\",\"full_attention\",\"full_attention\","
                                "\"full_attention\",\"full_attention\"]}",
                                &c)))
        CU_ASSERT_TRUE(c.window == 0 && !c.two_ropes && c.rope_local.base == 1e6);
    if (aq_test_ok(read_changed("qwen2", "{\"sliding_window\":64}", &c)))
        CU_ASSERT_EQUAL(c.window, 0);
    if (aq_test_ok(read_changed("qwen2",
                                "{\"sliding_window\":64,\"use_sliding_window\":true,"
                                "\"max_window_layers\":1,\"layer_types\":null}",
                                &c)))
        CU_ASSERT_TRUE(c.window == 64 && !aq_model_windowed(&c, 0) && aq_model_windowed(&c, 1));
    if (aq_test_ok(
            read_changed("qwen3_moe", "{\"sliding_window\":64,\"use_sliding_window\":true}", &c)))
        CU_ASSERT_TRUE(c.window == 64 && aq_model_windowed(&c, 0));
    if (aq_test_ok(read_changed("phi3", "{\"sliding_window\":2047}", &c)))
        CU_ASSERT_TRUE(c.window == 2047 && aq_model_windowed(&c, 1));
}

/* An absent window is the one of the family in transformers, null is none. Kinds of layers count
 * where transformers heeds them. */
static void test_default_windows(void) {
    static const struct {
        const char *fixture, *changes;
        int64_t window;
        bool windowed[3];
    } cases[] = {
        {"mistral_swa", "{\"sliding_window\":\"-\"}", 4096, {true, true}},
        {"mistral_swa", "{\"sliding_window\":null}", 0, {false, false}},
        {"mistral_swa",
         "{\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
         48,
         {false, true}},
        {"qwen2",
         "{\"sliding_window\":\"-\",\"use_sliding_window\":true,\"max_window_layers\":1,"
         "\"layer_types\":null}",
         4096,
         {false, true}},
        {"qwen2", "{\"sliding_window\":\"-\"}", 0, {false, false}},
        {"qwen2", "{\"sliding_window\":null,\"use_sliding_window\":true}", 0, {false, false}},
        {"qwen3",
         "{\"sliding_window\":\"-\",\"use_sliding_window\":true,\"max_window_layers\":1,"
         "\"layer_types\":null}",
         4096,
         {false, true}},
        {"qwen3_moe", "{\"sliding_window\":\"-\",\"use_sliding_window\":true}", 4096, {true, true}},
        {"mixtral", "{\"sliding_window\":\"-\"}", 0, {false, false}},
        {"mixtral",
         "{\"sliding_window\":20,\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
         20,
         {true, true}},
        {"phi3", "{\"sliding_window\":\"-\"}", 0, {false, false}},
        {"gemma3", "{\"sliding_window\":\"-\"}", 4096, {true, true, true}},
        {"gemma3", "{\"layer_types\":\"-\",\"_sliding_window_pattern\":2}", 32, {true, true, true}},
        {"gemma3",
         "{\"layer_types\":\"-\",\"_sliding_window_pattern\":6,\"sliding_window_pattern\":2}",
         32,
         {true, false, true}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        aq_model_config c;
        if (!aq_test_ok(read_changed(cases[i].fixture, cases[i].changes, &c))) continue;
        CU_ASSERT_EQUAL(c.window, cases[i].window);
        for (int layer = 0; layer < 3 && layer < c.n_layer; layer++)
            CU_ASSERT_EQUAL(aq_model_windowed(&c, layer), cases[i].windowed[layer]);
    }
}

/* Where several keys say one thing, the one counts that counts in transformers. */
static void test_rope_keys(void) {
    static const struct {
        const char *fixture, *changes;
        aq_rope_scaling scaling;
        double base, local_base, factor;
        int64_t n_ctx_orig;
    } cases[] = {
        {"llama",
         "{\"rope_theta\":5000,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},"
         "\"rope_parameters\":{\"rope_theta\":777}}",
         AQ_ROPE_LINEAR, 5000, 5000, 2, 4096},
        {"llama", "{\"rope_scaling\":{},\"rope_parameters\":{\"rope_theta\":777}}", AQ_ROPE_NONE,
         777, 777, 1, 4096},
        {"llama", "{\"rope_parameters\":\"-\",\"rotary_emb_base\":777}", AQ_ROPE_NONE, 10000, 10000,
         1, 4096},
        {"gpt_neox", "{\"rope_parameters\":\"-\",\"rope_theta\":5000}", AQ_ROPE_NONE, 10000, 10000,
         1, 2048},
        {"gpt_neox", "{\"rope_parameters\":\"-\",\"rotary_emb_base\":5000}", AQ_ROPE_NONE, 5000,
         5000, 1, 2048},
        {"llama",
         "{\"original_max_position_embeddings\":128,\"rope_parameters\":{\"rope_type\":\"yarn\","
         "\"factor\":4,\"original_max_position_embeddings\":64}}",
         AQ_ROPE_YARN, 10000, 10000, 4, 128},
        {"phi3",
         "{\"max_position_embeddings\":8192,\"original_max_position_embeddings\":\"-\","
         "\"rope_parameters\":{\"rope_type\":\"longrope\"}}",
         AQ_ROPE_LONGROPE, 10000, 10000, 2, 4096},
        {"phi3",
         "{\"max_position_embeddings\":8192,\"original_max_position_embeddings\":\"-\","
         "\"rope_parameters\":{\"rope_type\":\"su\",\"original_max_position_embeddings\":64}}",
         AQ_ROPE_LONGROPE, 10000, 10000, 2, 4096},
        {"phi3",
         "{\"max_position_embeddings\":8192,\"original_max_position_embeddings\":2048,"
         "\"rope_parameters\":{\"rope_type\":\"yarn\",\"original_max_position_embeddings\":64}}",
         AQ_ROPE_LONGROPE, 10000, 10000, 4, 2048},
        {"gemma3", "{\"rope_parameters\":{\"sliding_attention\":{\"rope_theta\":3000}}}",
         AQ_ROPE_NONE, 1e6, 3000, 1, 4096},
        {"gemma3",
         "{\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":8}}}",
         AQ_ROPE_LINEAR, 1e6, 1e4, 8, 4096},
        {"gemma3", "{\"rope_parameters\":{}}", AQ_ROPE_NONE, 1e6, 1e4, 1, 4096},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        aq_model_config c;
        if (!aq_test_ok(read_changed(cases[i].fixture, cases[i].changes, &c))) continue;
        CU_ASSERT_EQUAL(c.rope.scaling, cases[i].scaling);
        CU_ASSERT_EQUAL(c.rope.base, cases[i].base);
        CU_ASSERT_EQUAL(c.rope_local.base, cases[i].local_base);
        CU_ASSERT_EQUAL(c.rope.factor, cases[i].factor);
        CU_ASSERT_EQUAL(c.rope.n_ctx_orig, cases[i].n_ctx_orig);
    }
}

/* The activation has one key in each family. */
static void test_activations(void) {
    aq_model_config c;
    if (aq_test_ok(
            read_changed("gemma3", "{\"hidden_activation\":\"-\",\"hidden_act\":\"gelu\"}", &c)))
        CU_ASSERT_EQUAL(c.activation, AQ_ACT_GELU_TANH);
    if (aq_test_ok(read_changed("gemma3", "{\"hidden_activation\":\"gelu\"}", &c)))
        CU_ASSERT_EQUAL(c.activation, AQ_ACT_GELU);
    if (aq_test_ok(read_changed("opt", "{\"activation_function\":\"gelu\"}", &c)))
        CU_ASSERT_EQUAL(c.activation, AQ_ACT_GELU);
    if (aq_test_ok(read_changed("gpt2", "{\"hidden_act\":\"relu\"}", &c)))
        CU_ASSERT_EQUAL(c.activation, AQ_ACT_GELU_TANH);
}

/* Yarn by 1 is none, unless it has an attention factor. Equal tables stay two. */
static void test_equal_ropes(void) {
    aq_model_config c;
    float table[8], attn;
    if (aq_test_ok(read_changed("llama",
                                "{\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":1,"
                                "\"attention_factor\":1.3}}",
                                &c))) {
        aq_model_rope(&c.rope, 16, NULL, table, &attn);
        CU_ASSERT_TRUE(c.rope.scaling == AQ_ROPE_YARN && attn == 1.3f && table[0] == 1.0f);
    }
    if (aq_test_ok(read_changed("llama",
                                "{\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":1}}", &c)))
        CU_ASSERT_EQUAL(c.rope.scaling, AQ_ROPE_NONE);
    if (aq_test_ok(read_changed(
            "gemma3", "{\"rope_parameters\":{\"full_attention\":{\"rope_theta\":10000}}}", &c)))
        CU_ASSERT_TRUE(c.two_ropes && c.rope.base == 1e4 && c.rope_local.base == 1e4);
}

static void test_ropes(void) {
    static const char longrope[] =
        "{\"max_position_embeddings\":8192,\"original_max_position_embeddings\":2048,"
        "\"rope_parameters\":\"-\",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":"
        "[1,1,1,1.5,2,2,2,2],\"long_factor\":[1,2,3,4,5,6,7,8.5]}}";
    aq_model_config c;
    aq_model_file *file = NULL;
    float factors[8], table[8], attn;
    char *text = changed("phi3", longrope);
    if (text && aq_test_ok(open_text(text, &file)) && aq_test_ok(aq_model_config_read(file, &c))) {
        CU_ASSERT_TRUE(c.rope.scaling == AQ_ROPE_LONGROPE && c.rope.n_ctx_orig == 2048);
        CU_ASSERT_EQUAL(c.rope.factor, 4.0);
        if (aq_test_ok(aq_hf_config_longrope(file, &c, true, factors)))
            CU_ASSERT_TRUE(factors[0] == 1.0f && factors[7] == 8.5f);
        if (aq_test_ok(aq_hf_config_longrope(file, &c, false, factors)))
            CU_ASSERT_TRUE(factors[3] == 1.5f && factors[7] == 2.0f);
        aq_model_rope(&c.rope, 16, factors, table, &attn);
        CU_ASSERT_DOUBLE_EQUAL(attn, sqrt(1.0 + 2.0 / 11.0), 1e-6); /* 2^2 and 2^11 */
    }
    aq_model_file_close(file);
    free(text);
    /* the whole attention factor, and yarn's two scales of it */
    if (aq_test_ok(read_changed("llama_yarn",
                                "{\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4,"
                                "\"rope_theta\":10000,\"original_max_position_embeddings\":64,"
                                "\"attention_factor\":1.25,\"beta_fast\":16}}",
                                &c))) {
        aq_model_rope(&c.rope, 16, NULL, table, &attn);
        CU_ASSERT_DOUBLE_EQUAL(attn, 1.25, 1e-6);
        CU_ASSERT_TRUE(c.rope.beta_fast == 16.0 && c.rope.beta_slow == 1.0);
    }
    if (aq_test_ok(read_changed("llama_yarn",
                                "{\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4,"
                                "\"original_max_position_embeddings\":64,\"mscale\":2,"
                                "\"mscale_all_dim\":0.5}}",
                                &c))) {
        aq_model_rope(&c.rope, 16, NULL, table, &attn);
        CU_ASSERT_DOUBLE_EQUAL(attn, (0.2 * log(4) + 1) / (0.05 * log(4) + 1), 1e-6);
    }
    if (aq_test_ok(
            read_changed("phi3", "{\"partial_rotary_factor\":0.75,\"rope_parameters\":\"-\"}", &c)))
        CU_ASSERT_EQUAL(c.n_rot, 12);
}

typedef struct {
    const char *fixture, *changes;
    aq_status code;
    const char *part;
} refusal;

static void expect_refused(const refusal *cases, size_t n) {
    for (size_t i = 0; i < n; i++) {
        aq_model_config c;
        aq_test_fails(read_changed(cases[i].fixture, cases[i].changes, &c), cases[i].code,
                      cases[i].part);
        aq_test_fails(read_changed(cases[i].fixture, cases[i].changes, &c), cases[i].code,
                      "folder/config.json: ");
    }
}

static void test_refused(void) {
    static const refusal cases[] = {
        {"llama", "{\"model_type\":\"-\"}", AQ_ERR_FORMAT, "key model_type is missing"},
        {"llama", "{\"model_type\":\"rwkv\"}", AQ_ERR_UNSUPPORTED, "model_type rwkv is not supp"},
        {"llama", "{\"hidden_size\":\"-\"}", AQ_ERR_FORMAT, "key hidden_size is missing"},
        {"llama", "{\"hidden_size\":\"64\"}", AQ_ERR_FORMAT, "key hidden_size is not a number"},
        {"llama", "{\"hidden_size\":0}", AQ_ERR_FORMAT, "hidden_size is 0, expected a whole"},
        {"llama", "{\"hidden_size\":6.5}", AQ_ERR_FORMAT, "hidden_size is 6.5, expected a whole"},
        {"llama", "{\"hidden_size\":1e300}", AQ_ERR_FORMAT, "key hidden_size is 1"},
        {"llama", "{\"num_hidden_layers\":1025}", AQ_ERR_FORMAT, "is 1025, expected a whole"},
        {"llama", "{\"num_attention_heads\":-4}", AQ_ERR_FORMAT, "num_attention_heads is -4"},
        {"llama", "{\"num_key_value_heads\":3}", AQ_ERR_FORMAT, "expected a multiple"},
        {"llama", "{\"head_dim\":15}", AQ_ERR_FORMAT, "15 dimensions of each head rotate"},
        {"llama", "{\"intermediate_size\":\"-\"}", AQ_ERR_FORMAT, "intermediate_size is missing"},
        {"llama", "{\"rms_norm_eps\":\"-\"}", AQ_ERR_FORMAT, "key rms_norm_eps is missing"},
        {"llama", "{\"rms_norm_eps\":-1}", AQ_ERR_FORMAT, "rms_norm_eps is -1"},
        {"llama", "{\"vocab_size\":\"-\"}", AQ_ERR_FORMAT, "key vocab_size is missing"},
        {"llama", "{\"max_position_embeddings\":\"-\"}", AQ_ERR_FORMAT, "embeddings is missing"},
        {"llama", "{\"hidden_act\":\"relu2\"}", AQ_ERR_UNSUPPORTED, "hidden_act is relu2"},
        {"llama", "{\"hidden_act\":1}", AQ_ERR_FORMAT, "hidden_act is not a text"},
        {"llama", "{\"attention_bias\":\"yes\"}", AQ_ERR_FORMAT, "neither true nor false"},
        {"llama", "{\"sliding_window\":64}", AQ_ERR_UNSUPPORTED, "sliding_window is 64"},
        {"llama", "{\"partial_rotary_factor\":0.5}", AQ_ERR_UNSUPPORTED, "8 of the 16"},
        {"llama", "{\"rope_interleaved\":true}", AQ_ERR_UNSUPPORTED, "rope_interleaved is true"},
        {"llama", "{\"quantization_config\":{}}", AQ_ERR_UNSUPPORTED, "key quantization_config"},
        {"llama", "{\"rope_parameters\":{\"rope_type\":\"dynamic\",\"factor\":2}}",
         AQ_ERR_UNSUPPORTED, "key rope_parameters.rope_type is dynamic"},
        {"llama", "{\"rope_parameters\":{\"rope_type\":\"linear\"}}", AQ_ERR_FORMAT,
         "rope_parameters.factor is missing"},
        {"llama", "{\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":0.5}}", AQ_ERR_FORMAT,
         "rope_parameters.factor is 0.5"},
        {"llama", "{\"rope_parameters\":{\"rope_theta\":0}}", AQ_ERR_FORMAT, "rope_theta is 0"},
        {"llama", "{\"rope_parameters\":{\"mrope_section\":[1]}}", AQ_ERR_UNSUPPORTED, "mrope"},
        {"llama", "{\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":2,\"truncate\":false}}",
         AQ_ERR_UNSUPPORTED, "truncate is false"},
        {"llama3_rope",
         "{\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
         "\"high_freq_factor\":4}}",
         AQ_ERR_FORMAT, "high_freq_factor is 4, expected more"},
        {"opt", "{\"do_layer_norm_before\":false}", AQ_ERR_UNSUPPORTED, "do_layer_norm_before"},
        {"opt", "{\"_remove_final_layer_norm\":true}", AQ_ERR_UNSUPPORTED, "_remove_final_layer"},
        {"opt", "{\"layer_norm_elementwise_affine\":false}", AQ_ERR_UNSUPPORTED, "elementwise"},
        {"opt", "{\"word_embed_proj_dim\":32}", AQ_ERR_UNSUPPORTED, "word_embed_proj_dim is 32"},
        {"gpt2", "{\"scale_attn_by_inverse_layer_idx\":true}", AQ_ERR_UNSUPPORTED, "inverse_layer"},
        {"gpt2", "{\"add_cross_attention\":true}", AQ_ERR_UNSUPPORTED, "add_cross_attention"},
        {"olmoe", "{\"clip_qkv\":8}", AQ_ERR_UNSUPPORTED, "key clip_qkv is not supported"},
        {"olmoe", "{\"num_experts\":\"-\"}", AQ_ERR_FORMAT, "num_local_experts is missing"},
        {"olmoe", "{\"num_experts_per_tok\":9}", AQ_ERR_FORMAT, "num_experts_per_tok is 9"},
        {"qwen3_moe", "{\"mlp_only_layers\":[2]}", AQ_ERR_FORMAT, "expected numbers of layers"},
        {"qwen3_moe", "{\"decoder_sparse_step\":0}", AQ_ERR_FORMAT, "sparse_step is 0"},
        {"gemma3", "{\"final_logit_softcapping\":30.0}", AQ_ERR_UNSUPPORTED, "final_logit_softc"},
        {"gemma3", "{\"attn_logit_softcapping\":50.0}", AQ_ERR_UNSUPPORTED, "attn_logit_softcap"},
        {"gemma3", "{\"use_bidirectional_attention\":true}", AQ_ERR_UNSUPPORTED, "bidirectional"},
        {"gemma3", "{\"layer_types\":[\"full_attention\"]}", AQ_ERR_FORMAT, "list of 7 texts"},
        {"qwen2", "{\"layer_types\":[\"full_attention\",\"chunked_attention\"]}",
         AQ_ERR_UNSUPPORTED, "layer 1 is chunked_attention"},
        {"qwen2", "{\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", AQ_ERR_FORMAT,
         "there is no sliding_window"},
        {"mistral_swa", "{\"sliding_window\":-1}", AQ_ERR_FORMAT, "sliding_window is -1"},
        {"gemma3", "{\"sliding_window\":null,\"layer_types\":\"-\"}", AQ_ERR_FORMAT,
         "no sliding_window"},
    };
    expect_refused(cases, sizeof cases / sizeof cases[0]);
}

/* Tables that mean nothing certain. */
static void test_refused_tables(void) {
    static const refusal cases[] = {
        {"llama", "{\"rope_scaling\":\"linear\"}", AQ_ERR_FORMAT, "rope_scaling is not an object"},
        {"llama", "{\"rope_parameters\":[1]}", AQ_ERR_FORMAT, "rope_parameters is not an object"},
        {"gemma3", "{\"rope_parameters\":{\"full_attention\":1}}", AQ_ERR_FORMAT,
         "rope_parameters.full_attention is not an object"},
        {"gemma3", "{\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8}}", AQ_ERR_UNSUPPORTED,
         "keys rope_scaling and rope_parameters are both there"},
        {"gemma3", "{\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":8}}",
         AQ_ERR_UNSUPPORTED, "rope_parameters.rope_type is not supported"},
        {"qwen2", "{\"rope_parameters\":{\"full_attention\":{\"rope_theta\":5}}}",
         AQ_ERR_UNSUPPORTED, "rope_parameters.full_attention is not supported"},
    };
    expect_refused(cases, sizeof cases / sizeof cases[0]);
}

static void test_no_json(void) {
    static const char *const texts[] = {"",
                                        "x",
                                        "[]",
                                        "{",
                                        "{\"model_type\":\"llama\"} {}",
                                        "{\"a\":1,\"a\":2}",
                                        "{\"a\":{\"b\":[{\"c\":1,\"c\":1}]}}"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        aq_model_config c;
        aq_test_fails(read_text(texts[i], &c), AQ_ERR_FORMAT, "config.json");
    }
}

/* Lists of longrope that do not fit the heads. */
static void test_broken_longrope(void) {
    static const char *const lists[] = {"null",
                                        "3",
                                        "[1,1,1,1,1,1,1]",
                                        "[1,1,1,1,1,1,1,0]",
                                        "[1,1,1,1,1,1,1,\"1\"]",
                                        "[1,1,1,1,1,1,1,1e300]"};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        char changes[256];
        aq_model_file *file = NULL;
        aq_model_config c;
        float factors[8];
        snprintf(changes, sizeof changes,
                 "{\"rope_parameters\":{\"rope_type\":\"longrope\",\"long_factor\":%s}}", lists[i]);
        char *text = changed("phi3", changes);
        if (text && aq_test_ok(open_text(text, &file)) &&
            aq_test_ok(aq_model_config_read(file, &c)))
            aq_test_fails(aq_hf_config_longrope(file, &c, true, factors), AQ_ERR_FORMAT,
                          "key rope_parameters.long_factor");
        aq_model_file_close(file);
        free(text);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "version 4", test_version_4);
    CU_add_test(suite, "gemma", test_gemma);
    CU_add_test(suite, "others", test_others);
    CU_add_test(suite, "windows", test_windows);
    CU_add_test(suite, "default windows", test_default_windows);
    CU_add_test(suite, "rope keys", test_rope_keys);
    CU_add_test(suite, "activations", test_activations);
    CU_add_test(suite, "equal ropes", test_equal_ropes);
    CU_add_test(suite, "ropes", test_ropes);
    CU_add_test(suite, "refused", test_refused);
    CU_add_test(suite, "refused tables", test_refused_tables);
    CU_add_test(suite, "no json", test_no_json);
    CU_add_test(suite, "broken longrope", test_broken_longrope);
}
