/* Every kind of value is found as what it is, and as nothing else. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/gguf.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/suite.h"

static const struct {
    const char *key;
    aq_gguf_kind kind;
    int64_t value;
} integers[] = {
    {"u8", AQ_GGUF_U8, 200},          {"i8", AQ_GGUF_I8, -100},
    {"u16", AQ_GGUF_U16, 60000},      {"i16", AQ_GGUF_I16, -30000},
    {"u32", AQ_GGUF_U32, 4000000000}, {"i32", AQ_GGUF_I32, -2000000000},
    {"u64", AQ_GGUF_U64, INT64_MAX},  {"i64", AQ_GGUF_I64, INT64_MIN},
};

enum { N_INTEGER = sizeof integers / sizeof integers[0] };

static const char *const texts[] = {"", "one", "two words", "\xc4\xa0"};

static void put_everything(aq_gguf_writer *w) {
    char key[16];
    for (int i = 0; i < N_INTEGER; i++) {
        const int64_t pair[] = {1, integers[i].value};
        aq_gguf_put_int(w, integers[i].key, integers[i].kind, integers[i].value);
        snprintf(key, sizeof key, "%s[]", integers[i].key);
        aq_gguf_put_ints(w, key, integers[i].kind, pair, 2);
    }
    aq_gguf_put_int(w, "huge", AQ_GGUF_U64, -1);
    aq_gguf_put_float(w, "f32", AQ_GGUF_F32, 0.1);
    aq_gguf_put_float(w, "f64", AQ_GGUF_F64, 0.1);
    aq_gguf_put_floats(w, "f32[]", AQ_GGUF_F32, (const double[]){0.5, -1e30}, 2);
    aq_gguf_put_floats(w, "f64[]", AQ_GGUF_F64, (const double[]){0.5, -1e300}, 2);
    aq_gguf_put_bool(w, "yes", true);
    aq_gguf_put_bool(w, "no", false);
    aq_gguf_put_ints(w, "bool[]", AQ_GGUF_BOOL, (const int64_t[]){1, 0, 1}, 3);
    aq_gguf_put_text(w, "text", "several\nwords");
    aq_gguf_put_texts(w, "text[]", texts, 4);
    aq_gguf_put_texts(w, "none[]", NULL, 0);
    aq_gguf_put_tensor(w, "vector", AQ_F32, 1, (const int64_t[]){3}, (const float[]){1, 2, 3}, 12);
    aq_gguf_put_tensor(w, "matrix", AQ_Q8_0, 2, (const int64_t[]){64, 2}, NULL, 4 * 34);
    aq_gguf_put_tensor(w, "last", AQ_F16, 4, (const int64_t[]){2, 3, 4, 5}, NULL, 240);
}

/* The bytes live in *data until freed. NULL on failure, which is reported. */
static aq_gguf *open_everything(uint32_t version, uint8_t **data) {
    aq_gguf_writer w = aq_gguf_writer_make();
    aq_gguf *file = NULL;
    size_t bytes;
    w.version = version;
    put_everything(&w);
    if (aq_test_ok(aq_gguf_writer_finish(&w, data, &bytes)))
        aq_test_ok(aq_gguf_open_memory("everything.gguf", *data, bytes, &file));
    aq_gguf_writer_close(&w);
    return file;
}

static void check_integers(const aq_gguf *file) {
    char key[16];
    int64_t value;
    double number;
    for (int i = 0; i < N_INTEGER; i++) {
        CU_ASSERT_TRUE(aq_gguf_int(file, integers[i].key, &value));
        CU_ASSERT_EQUAL(value, integers[i].value);
        CU_ASSERT_TRUE(aq_gguf_float(file, integers[i].key, &number));
        CU_ASSERT_EQUAL(number, (double)integers[i].value);
        snprintf(key, sizeof key, "%s[]", integers[i].key);
        CU_ASSERT_EQUAL(aq_gguf_int_count(file, key), 2);
        CU_ASSERT_EQUAL(aq_gguf_float_count(file, key), 2);
        CU_ASSERT_EQUAL(aq_gguf_int_at(file, key, 0), 1);
        CU_ASSERT_EQUAL(aq_gguf_int_at(file, key, 1), integers[i].value);
        CU_ASSERT_EQUAL(aq_gguf_float_at(file, key, 1), (double)integers[i].value);
    }
    CU_ASSERT_TRUE(aq_gguf_int(file, "huge", &value));
    CU_ASSERT_EQUAL(value, INT64_MAX);
}

static void check_others(const aq_gguf *file) {
    double number;
    bool truth;
    aq_gguf_string text;
    CU_ASSERT_TRUE(aq_gguf_float(file, "f32", &number));
    CU_ASSERT_EQUAL(number, (double)0.1f);
    CU_ASSERT_TRUE(aq_gguf_float(file, "f64", &number));
    CU_ASSERT_EQUAL(number, 0.1);
    CU_ASSERT_EQUAL(aq_gguf_float_count(file, "f64[]"), 2);
    CU_ASSERT_EQUAL(aq_gguf_float_at(file, "f64[]", 1), -1e300);
    CU_ASSERT_EQUAL(aq_gguf_float_at(file, "f32[]", 1), (double)-1e30f);
    CU_ASSERT_TRUE(aq_gguf_bool(file, "yes", &truth) && truth);
    CU_ASSERT_TRUE(aq_gguf_bool(file, "no", &truth) && !truth);
    CU_ASSERT_TRUE(aq_gguf_text(file, "text", &text));
    CU_ASSERT_TRUE(text.bytes == 13 && memcmp(text.data, "several\nwords", 13) == 0);
    CU_ASSERT_EQUAL(aq_gguf_string_count(file, "none[]"), 0);
    CU_ASSERT_EQUAL(aq_gguf_string_count(file, "text[]"), 4);
    for (int i = 0; i < 4; i++) {
        text = aq_gguf_string_at(file, "text[]", i);
        CU_ASSERT_TRUE(text.bytes == strlen(texts[i]) &&
                       memcmp(text.data, texts[i], strlen(texts[i])) == 0);
    }
}

/* Version 2 differs from 3 by its number alone. */
static void test_values(void) {
    for (uint32_t version = 2; version <= 3; version++) {
        uint8_t *data = NULL;
        aq_gguf *file = open_everything(version, &data);
        if (file) {
            check_integers(file);
            check_others(file);
        }
        aq_gguf_close(file);
        free(data);
    }
}

static void test_other_kinds_are_absent(void) {
    uint8_t *data = NULL;
    aq_gguf *file = open_everything(3, &data);
    int64_t value = -5;
    double number = -5;
    bool truth;
    aq_gguf_string text;
    if (!file) return;
    CU_ASSERT_FALSE(aq_gguf_int(file, "nothing", &value));
    CU_ASSERT_FALSE(aq_gguf_int(file, "f32", &value));
    CU_ASSERT_FALSE(aq_gguf_int(file, "yes", &value));
    CU_ASSERT_FALSE(aq_gguf_int(file, "u8[]", &value));
    CU_ASSERT_FALSE(aq_gguf_float(file, "text", &number));
    CU_ASSERT_FALSE(aq_gguf_bool(file, "u8", &truth));
    CU_ASSERT_FALSE(aq_gguf_text(file, "text[]", &text));
    CU_ASSERT_EQUAL(aq_gguf_int_count(file, "u8"), -1);
    CU_ASSERT_EQUAL(aq_gguf_int_count(file, "f32[]"), -1);
    CU_ASSERT_EQUAL(aq_gguf_int_count(file, "bool[]"), -1);
    CU_ASSERT_EQUAL(aq_gguf_float_count(file, "text[]"), -1);
    CU_ASSERT_EQUAL(aq_gguf_string_count(file, "u8[]"), -1);
    CU_ASSERT_EQUAL(value, -5);
    CU_ASSERT_EQUAL(number, -5);
    CU_ASSERT_TRUE(aq_gguf_has(file, "text[]"));
    CU_ASSERT_FALSE(aq_gguf_has(file, "text[]x"));
    aq_gguf_close(file);
    free(data);
}

static void test_tensors(void) {
    uint8_t *data = NULL;
    aq_gguf *file = open_everything(3, &data);
    if (!file) return;
    CU_ASSERT_EQUAL(aq_gguf_tensor_count(file), 3);
    const aq_gguf_tensor *vector = aq_gguf_tensor_find(file, "vector");
    const aq_gguf_tensor *matrix = aq_gguf_tensor_find(file, "matrix");
    const aq_gguf_tensor *last = aq_gguf_tensor_find(file, "last");
    CU_ASSERT_PTR_EQUAL(vector, aq_gguf_tensor_at(file, 0));
    CU_ASSERT_PTR_EQUAL(last, aq_gguf_tensor_at(file, 2));
    CU_ASSERT_PTR_NULL(aq_gguf_tensor_find(file, "vecto"));
    CU_ASSERT_EQUAL(((const float *)vector->data)[2], 3.0f);
    CU_ASSERT_TRUE(vector->n_dim == 1 && vector->ne[0] == 3 && vector->ne[1] == 1);
    CU_ASSERT_TRUE(matrix->dtype == AQ_Q8_0 && matrix->bytes == 4 * 34);
    CU_ASSERT_EQUAL((const uint8_t *)matrix->data - (const uint8_t *)vector->data, 32);
    CU_ASSERT_TRUE(last->n_dim == 4 && last->ne[3] == 5 && last->bytes == 240);
    aq_gguf_close(file);
    free(data);
}

/* Looks a key up by its number in the file's order. */
static void check_described(const aq_gguf *file, const char *name, const char *expected) {
    char text[14];
    for (int64_t i = 0; i < aq_gguf_key_count(file); i++) {
        aq_gguf_string key;
        aq_gguf_key_describe(file, i, &key, text, sizeof text);
        if (key.bytes != strlen(name) || memcmp(key.data, name, strlen(name)) != 0) continue;
        CU_ASSERT_STRING_EQUAL(text, expected);
        return;
    }
    CU_FAIL("the key was not listed");
}

static void test_describe(void) {
    uint8_t *data = NULL;
    aq_gguf *file = open_everything(3, &data);
    if (!file) return;
    check_described(file, "i8", "-100");
    check_described(file, "f32", "0.1");
    check_described(file, "yes", "true");
    check_described(file, "text", "several?words");
    check_described(file, "text[]", "[4 strings]");
    check_described(file, "u8[]", "[2 integers]");
    check_described(file, "f64[]", "[2 numbers]");
    check_described(file, "bool[]", "[3 truth valu"); /* cut to fit */
    aq_gguf_close(file);
    free(data);
}

/* An array as long as a large vocabulary: reaching an element does not walk over the others. */
static void test_long_array(void) {
    enum { N = 200000 };
    static const char *pointers[N];
    static char names[N][16];
    aq_gguf_writer w = aq_gguf_writer_make();
    aq_gguf *file = NULL;
    uint8_t *data = NULL;
    size_t bytes;
    int64_t n_wrong = 0;
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "%d", i);
        pointers[i] = names[i];
    }
    aq_gguf_put_texts(&w, "tokens", pointers, N);
    if (aq_test_ok(aq_gguf_writer_finish(&w, &data, &bytes)) &&
        aq_test_ok(aq_gguf_open_memory("long.gguf", data, bytes, &file)))
        for (int i = N - 1; i >= 0; i--) {
            const aq_gguf_string text = aq_gguf_string_at(file, "tokens", i);
            n_wrong += text.bytes != strlen(names[i]) ||
                       memcmp(text.data, names[i], (size_t)text.bytes) != 0;
        }
    CU_ASSERT_EQUAL(n_wrong, 0);
    aq_gguf_close(file);
    aq_gguf_writer_close(&w);
    free(data);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "values", test_values);
    CU_add_test(suite, "other kinds are absent", test_other_kinds_are_absent);
    CU_add_test(suite, "tensors", test_tensors);
    CU_add_test(suite, "describe", test_describe);
    CU_add_test(suite, "long array", test_long_array);
}
