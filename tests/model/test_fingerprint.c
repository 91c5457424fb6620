/* One model has one fingerprint whatever its quantisation; another model has another. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/fingerprint.h"
#include "tests/support/suite.h"
#include "tests/support/tiny_model.h"

static bool fingerprint_of(const aq_tiny_model *shape, uint8_t out[AQ_FINGERPRINT_BYTES]) {
    aq_gguf_writer w = aq_gguf_writer_make();
    aq_model_file *file = NULL;
    aq_model_config config;
    aq_model_weights weights = {0};
    uint8_t *data = NULL;
    size_t bytes = 0;
    const bool good = aq_test_ok(aq_tiny_model_put(&w, shape)) &&
                      aq_test_ok(aq_gguf_writer_finish(&w, &data, &bytes)) &&
                      aq_test_ok(aq_model_file_open_gguf("model.gguf", data, bytes, &file)) &&
                      aq_test_ok(aq_model_config_read(file, &config)) &&
                      aq_test_ok(aq_model_weights_open(file, &config, &weights));
    if (good) memcpy(out, weights.fingerprint, AQ_FINGERPRINT_BYTES);
    aq_model_weights_close(&weights);
    aq_model_file_close(file);
    free(data);
    aq_gguf_writer_close(&w);
    return good;
}

/* Whether a shape has the fingerprint of the default one. */
static bool same(const aq_tiny_model *shape) {
    const aq_tiny_model plain = aq_tiny_model_default();
    uint8_t a[AQ_FINGERPRINT_BYTES] = {0}, b[AQ_FINGERPRINT_BYTES] = {1};
    return fingerprint_of(&plain, a) && fingerprint_of(shape, b) &&
           memcmp(a, b, AQ_FINGERPRINT_BYTES) == 0;
}

static void test_same_model(void) {
    aq_tiny_model shape = aq_tiny_model_default();
    CU_ASSERT_TRUE(same(&shape));
    shape.embed_dtype = shape.attn_dtype = shape.ffn_dtype = shape.output_dtype = AQ_Q8_0;
    CU_ASSERT_TRUE(same(&shape));
    shape.attn_dtype = AQ_BF16;
    shape.n_ctx *= 2; /* a limit, not a part of the function */
    CU_ASSERT_TRUE(same(&shape));
}

static void test_other_model(void) {
    const aq_tiny_model plain = aq_tiny_model_default();
    aq_tiny_model s = plain;
    s.seed = 2; /* other norms */
    CU_ASSERT_FALSE(same(&s));
    s = plain;
    s.n_vocab = 300;
    CU_ASSERT_FALSE(same(&s));
    s = plain;
    s.n_kv_head = 4;
    CU_ASSERT_FALSE(same(&s));
    s = plain;
    s.n_head = 2;
    CU_ASSERT_FALSE(same(&s));
    s = plain;
    s.d_ff = 160;
    CU_ASSERT_FALSE(same(&s));
    s = plain;
    s.rope_base = 20000.0;
    CU_ASSERT_FALSE(same(&s));
    s = plain;
    s.rope_divisors = true;
    CU_ASSERT_FALSE(same(&s));
    s = plain;
    s.rope_scaling = AQ_ROPE_LINEAR;
    s.rope_factor = 2.0;
    CU_ASSERT_FALSE(same(&s));
}

/* The bytes are written in projection files: they must not change between machines or versions. */
static void test_known_value(void) {
    static const uint8_t expected[AQ_FINGERPRINT_BYTES] = {0x84, 0x95, 0x7f, 0x0a, 0xe0, 0x04,
                                                           0xf9, 0x1a, 0x08, 0xde, 0x54, 0xf7,
                                                           0x81, 0x73, 0x8a, 0xbd};
    static const float norms[] = {1.0f, -0.5f};
    aq_layer_weights layer = {.attn_norm.w = norms, .ffn_norm.w = norms};
    const aq_model_weights weights = {.output_norm.w = norms, .layers = &layer};
    const aq_model_config config = {.arch = "llama",
                                    .n_layer = 1,
                                    .n_head = 1,
                                    .n_kv_head = 1,
                                    .d_head = 2,
                                    .d_model = 2,
                                    .d_ff = 4,
                                    .n_vocab = 8,
                                    .norm_eps = 1e-5f,
                                    .n_rot = 2,
                                    .rope = {.base = 10000.0, .factor = 1.0, .attn_factor = 1.0}};
    uint8_t found[AQ_FINGERPRINT_BYTES];
    aq_model_fingerprint(&config, &weights, found);
    CU_ASSERT_EQUAL(memcmp(found, expected, AQ_FINGERPRINT_BYTES), 0);
}

/* Norms that round to the same bfloat16 are the same; the next bfloat16 is another. */
static void test_rounding(void) {
    float norms[] = {1.0f, -0.5f};
    aq_layer_weights layer = {.attn_norm.w = norms, .ffn_norm.w = norms};
    const aq_model_weights weights = {.output_norm.w = norms, .layers = &layer};
    const aq_model_config config = {.arch = "llama", .n_layer = 1, .d_model = 2};
    uint8_t first[AQ_FINGERPRINT_BYTES], next[AQ_FINGERPRINT_BYTES];
    aq_model_fingerprint(&config, &weights, first);
    norms[0] = 1.0001f;
    aq_model_fingerprint(&config, &weights, next);
    CU_ASSERT_EQUAL(memcmp(first, next, AQ_FINGERPRINT_BYTES), 0);
    norms[0] = 1.0078125f;
    aq_model_fingerprint(&config, &weights, next);
    CU_ASSERT_NOT_EQUAL(memcmp(first, next, AQ_FINGERPRINT_BYTES), 0);
}

/* A window that hides nothing is none: one file of a model may have it and another not. */
static void test_window(void) {
    const float norms[] = {1.0f, -0.5f};
    aq_layer_weights layer = {.attn_norm.w = norms, .ffn_norm.w = norms};
    const aq_model_weights weights = {.output_norm.w = norms, .layers = &layer};
    aq_model_config config = {.arch = "llama", .n_layer = 1, .d_model = 2, .n_ctx = 64};
    uint8_t none[AQ_FINGERPRINT_BYTES], found[AQ_FINGERPRINT_BYTES];
    aq_model_fingerprint(&config, &weights, none);
    aq_layer_set_add(&config.windowed, 0);
    for (config.window = 63; config.window <= 65; config.window++) {
        aq_model_fingerprint(&config, &weights, found);
        CU_ASSERT_EQUAL(memcmp(none, found, AQ_FINGERPRINT_BYTES) == 0, config.window >= 64);
    }
    CU_ASSERT_TRUE(config.window == 66 && aq_model_windowed(&config, 0)); /* left as it was */
}

/* The value of no bytes is the one that XXH3's definition gives. */
static void test_bytes(void) {
    CU_ASSERT_EQUAL(aq_bytes_fingerprint(NULL, 0), 0x2d06800538d394c2u);
    CU_ASSERT_EQUAL(aq_bytes_fingerprint("abc", 3), aq_bytes_fingerprint("abcd", 3));
    CU_ASSERT_NOT_EQUAL(aq_bytes_fingerprint("abc", 3), aq_bytes_fingerprint("abc", 4));
    CU_ASSERT_NOT_EQUAL(aq_bytes_fingerprint("abc", 3), aq_bytes_fingerprint("abd", 3));
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "same model", test_same_model);
    CU_add_test(suite, "other model", test_other_model);
    CU_add_test(suite, "known value", test_known_value);
    CU_add_test(suite, "rounding", test_rounding);
    CU_add_test(suite, "window", test_window);
    CU_add_test(suite, "bytes", test_bytes);
}
