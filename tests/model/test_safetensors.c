/* Good files are read as they are; broken ones are refused with one line that names the tensor. */
#include "src/model/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "tests/support/safetensors_writer.h"
#include "tests/support/suite.h"

static void test_good(void) {
    static const float numbers[6] = {1, 2, 3, 4, 5, 6};
    static const int64_t shape[] = {2, 3, 1, 1};
    aq_safetensors_writer w = aq_safetensors_writer_make();
    aq_safetensors *file = NULL;
    uint8_t *data;
    size_t bytes;
    aq_safetensors_put(&w, "b", "F32", 2, shape, numbers, sizeof numbers);
    aq_safetensors_put(&w, "scalar", "F16", 0, shape, numbers, 2);
    aq_safetensors_put(&w, "empty", "BF16", 1, (const int64_t[]){0}, numbers, 0);
    aq_safetensors_put(&w, "a.mask", "BOOL", 3, shape, numbers, 6);
    aq_safetensors_put(&w, "four", "F4", 1, shape, numbers, 1);
    if (aq_test_ok(aq_safetensors_writer_finish(&w, &data, &bytes)) &&
        aq_test_ok(aq_safetensors_open_memory("good", data, bytes, &file))) {
        const aq_tensor *t = aq_safetensors_at(file, 0);
        CU_ASSERT_EQUAL(aq_safetensors_count(file), 5);
        CU_ASSERT_TRUE(t->name_bytes == 1 && t->name[0] == 'b' && t->n_dim == 2);
        CU_ASSERT_TRUE(t->shape[0] == 2 && t->shape[1] == 3 && t->shape[2] == 1);
        CU_ASSERT_TRUE(t->readable && t->dtype == AQ_F32 && t->bytes == 24);
        CU_ASSERT_EQUAL(memcmp(t->data, numbers, 24), 0);
        CU_ASSERT_STRING_EQUAL(t->path, "good");
        t = aq_safetensors_at(file, 1);
        CU_ASSERT_TRUE(t->n_dim == 0 && t->bytes == 2 && t->dtype == AQ_F16);
        t = aq_safetensors_at(file, 3);
        CU_ASSERT_FALSE(t->readable);
        CU_ASSERT_STRING_EQUAL(t->type, "BOOL");
        aq_safetensors_close(file);
    }
    free(data);
    aq_safetensors_writer_close(&w);
}

/* Metadata, any order of entries, blanks behind the header, no tensors at all. */
static void test_other_good(void) {
    static const struct {
        const char *header;
        size_t n_data;
        int64_t n;
    } cases[] = {
        {"{}", 0, 0},
        {"{\"__metadata__\":{\"format\":\"pt\"}}   ", 0, 0},
        {"{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]},"
         "\"a\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
         4, 2},
        {"{\"a\":{\"data_offsets\":[0,0],\"shape\":[3,0],\"dtype\":\"F64\"},"
         "\"b\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]}}\n",
         8, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        aq_safetensors *file = NULL;
        uint8_t *data;
        size_t bytes;
        if (aq_test_ok(aq_safetensors_raw(cases[i].header, cases[i].n_data, &data, &bytes)) &&
            aq_test_ok(aq_safetensors_open_memory("good", data, bytes, &file)))
            CU_ASSERT_EQUAL(aq_safetensors_count(file), cases[i].n);
        aq_safetensors_close(file);
        free(data);
    }
}

#define ENTRY(name, dtype, shape, place)                                                           \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" place "}"

static void test_refused(void) {
    static const struct {
        const char *header;
        size_t n_data;
        aq_status code;
        const char *part;
    } cases[] = {
        {"[]", 0, AQ_ERR_FORMAT, "begins with {"},
        {" {}", 0, AQ_ERR_FORMAT, "begins with {"},
        {"{", 0, AQ_ERR_FORMAT, "is truncated or no safetensors file"},
        {"{\"a\":", 0, AQ_ERR_FORMAT, "bad is no JSON from byte"},
        {"{} x", 0, AQ_ERR_FORMAT, "is no JSON from byte 2 on"},
        {"{\"a\":1}", 0, AQ_ERR_FORMAT, "tensor a: is no object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, AQ_ERR_FORMAT, "bad: __metadata__ is no object of te"},
        {"{\"__metadata__\":\"a\"}", 0, AQ_ERR_FORMAT, "bad: __metadata__ is no object of texts"},
        {"{\"a\":{}}", 0, AQ_ERR_FORMAT, "tensor a: has no dtype"},
        {"{" ENTRY("", "U8", "[1]", "[0,1]") "}", 1, AQ_ERR_FORMAT, "has an empty name"},
        {"{" ENTRY("a", "Q4", "[1]", "[0,1]") "}", 1, AQ_ERR_UNSUPPORTED,
         "tensor a: type Q4 is not known, expected BF16, F16 or F32"},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, AQ_ERR_FORMAT, "a: has no shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, AQ_ERR_FORMAT, "are not [begin, end]"},
        {"{" ENTRY("a", "U8", "[1,1,1,1,1]", "[0,1]") "}", 1, AQ_ERR_UNSUPPORTED, "5 dimensions"},
        {"{" ENTRY("a", "U8", "[-1]", "[0,1]") "}", 1, AQ_ERR_FORMAT, "no whole number"},
        {"{" ENTRY("a", "U8", "[1.5]", "[0,1]") "}", 1, AQ_ERR_FORMAT, "no whole number"},
        {"{" ENTRY("a", "U8", "[1e300]", "[0,1]") "}", 1, AQ_ERR_FORMAT, "no whole number"},
        {"{" ENTRY("a", "U8", "[\"1\"]", "[0,1]") "}", 1, AQ_ERR_FORMAT, "no whole number"},
        {"{" ENTRY("a", "F32", "[4294967296,4294967296]", "[0,1]") "}", 1, AQ_ERR_FORMAT,
         "a: its size overflows 63 bits"},
        {"{" ENTRY("a", "F32", "[2]", "[0,4]") "}", 4, AQ_ERR_FORMAT,
         "data_offsets give it 4 bytes, its shape and type 64 bits"},
        {"{" ENTRY("a", "F4", "[3]", "[0,1]") "}", 1, AQ_ERR_FORMAT, "12 bits"},
        {"{" ENTRY("a", "U8", "[1]", "[1,0]") "}", 1, AQ_ERR_FORMAT, "are not [begin, end]"},
        {"{" ENTRY("a", "U8", "[1]", "[-1,0]") "}", 1, AQ_ERR_FORMAT, "are not [begin, end]"},
        {"{" ENTRY("a", "U8", "[1]", "[0]") "}", 1, AQ_ERR_FORMAT, "are not [begin, end]"},
        {"{" ENTRY("a", "U8", "[1]", "[0,1,2]") "}", 1, AQ_ERR_FORMAT, "are not [begin, end]"},
        {"{" ENTRY("a", "U8", "[2]", "[0,2]") "}", 1, AQ_ERR_FORMAT,
         "bad is truncated or garbled: tensor a ends at byte 2 of the data, there are 1"},
        {"{" ENTRY("a", "U8", "[1]", "[0,1]") "," ENTRY("b", "U8", "[1]", "[2,3]") "}", 3,
         AQ_ERR_FORMAT, "tensor b: a hole before it"},
        {"{" ENTRY("a", "U8", "[2]", "[0,2]") "," ENTRY("b", "U8", "[2]", "[1,3]") "}", 3,
         AQ_ERR_FORMAT, "tensor b: an overlap with the one before it"},
        {"{" ENTRY("a", "U8", "[2]", "[0,2]") "," ENTRY("b", "U8", "[2]", "[0,2]") "}", 2,
         AQ_ERR_FORMAT, "an overlap"},
        {"{" ENTRY("a", "U8", "[1]", "[0,1]") "}", 2, AQ_ERR_FORMAT, "1 bytes behind the last"},
        {"{" ENTRY("a", "U8", "[1]", "[1,2]") "}", 2, AQ_ERR_FORMAT, "tensor a: a hole before it"},
        {"{" ENTRY("a", "U8", "[1]", "[0,1]") "," ENTRY("a", "U8", "[1]", "[1,2]") "}", 2,
         AQ_ERR_FORMAT, "key a is there twice"},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
         AQ_ERR_FORMAT, "key dtype is there twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        aq_safetensors *file = NULL;
        uint8_t *data;
        size_t bytes;
        if (!aq_test_ok(aq_safetensors_raw(cases[i].header, cases[i].n_data, &data, &bytes)))
            continue;
        aq_test_fails(aq_safetensors_open_memory("bad", data, bytes, &file), cases[i].code,
                      cases[i].part);
        CU_ASSERT_PTR_NULL(file);
        free(data);
    }
}

/* A length of the header that lies, and a file cut at every byte. */
static void test_truncated(void) {
    static const uint64_t lengths[] = {3,          1000,          100000001, (uint64_t)1 << 63,
                                       UINT64_MAX, UINT64_MAX - 7};
    static const char header[] = "{" ENTRY("a", "U8", "[2]", "[0,2]") "}";
    aq_safetensors *file = NULL;
    uint8_t *data;
    size_t bytes;
    if (!aq_test_ok(aq_safetensors_raw(header, 2, &data, &bytes))) return;
    for (size_t n = 0; n < bytes; n++) {
        uint8_t *part = malloc(n + 1); /* so that a byte too many is seen */
        if (n > 0) memcpy(part, data, n);
        aq_test_fails(aq_safetensors_open_memory("cut", part, n, &file), AQ_ERR_FORMAT,
                      "cut is truncated");
        free(part);
    }
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        for (int b = 0; b < 8; b++)
            data[b] = (uint8_t)(lengths[i] >> (8 * b));
        aq_test_fails(aq_safetensors_open_memory("lies", data, bytes, &file), AQ_ERR_FORMAT,
                      "lies ");
    }
    free(data);
}

/* Names go to terminals only without control characters. */
static void test_shown(void) {
    aq_safetensors *file = NULL;
    uint8_t *data;
    size_t bytes;
    if (!aq_test_ok(aq_safetensors_raw("{" ENTRY("\\u001b[31m", "F9", "[1]", "[0,1]") "}", 1, &data,
                                       &bytes)))
        return;
    aq_test_fails(aq_safetensors_open_memory("bad", data, bytes, &file), AQ_ERR_UNSUPPORTED,
                  "tensor ?[31m: ");
    free(data);
}

static void test_file(void) {
    char path[1024];
    aq_safetensors *file = NULL;
    snprintf(path, sizeof path, "%s/hf/llama/model.safetensors", aq_test_data_dir());
    if (aq_test_ok(aq_safetensors_open(path, &file)))
        CU_ASSERT_EQUAL(aq_safetensors_count(file), 21);
    aq_safetensors_close(file);
    snprintf(path, sizeof path, "%s/none", aq_test_temp_dir());
    aq_test_fails(aq_safetensors_open(path, &file), AQ_ERR_IO, "cannot open");
    if (aq_test_ok(aq_file_write(path, "", 0)))
        aq_test_fails(aq_safetensors_open(path, &file), AQ_ERR_FORMAT, "is truncated: 0 bytes");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "good", test_good);
    CU_add_test(suite, "other good ones", test_other_good);
    CU_add_test(suite, "refused", test_refused);
    CU_add_test(suite, "truncated", test_truncated);
    CU_add_test(suite, "shown", test_shown);
    CU_add_test(suite, "file", test_file);
}
