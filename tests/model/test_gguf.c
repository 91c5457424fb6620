/* Opening: good files are taken, every kind of broken file is refused with the right words, and no
 * bytes whatever lead outside the file (run this under ASan). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "src/model/gguf.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/suite.h"

#define TENSOR_BYTES 256

static const uint8_t zeros[TENSOR_BYTES];

static void put_tensor(aq_gguf_writer *w, const char *name, uint32_t type, int n_dim, int64_t ne0,
                       int64_t ne1, size_t bytes) {
    const int64_t ne[5] = {ne0, ne1, 1, 1, 1};
    aq_gguf_put_tensor(w, name, type, n_dim, ne, zeros, bytes);
}

/* Some keys of each kind, then two tensors; breaking functions add to it or change the header. */
static aq_gguf_writer good_writer(void) {
    static const char *const texts[] = {"a", "bc", ""};
    aq_gguf_writer w = aq_gguf_writer_make();
    aq_gguf_put_text(&w, "general.architecture", "llama");
    aq_gguf_put_int(&w, "number", AQ_GGUF_U32, 7);
    aq_gguf_put_texts(&w, "texts", texts, 3);
    aq_gguf_put_ints(&w, "numbers", AQ_GGUF_I16, (const int64_t[]){1, 2, 3}, 3);
    aq_gguf_put_bool(&w, "truth", true);
    put_tensor(&w, "first", AQ_F32, 2, 4, 2, 32);
    put_tensor(&w, "second", AQ_Q4_0, 1, 32, 1, 18);
    return w;
}

/* Reads all that the file claims to hold; returns a number so that nothing is optimised away. */
static uint64_t walk(const aq_gguf *file) {
    uint64_t sum = 0;
    char text[32];
    for (int64_t i = 0; i < aq_gguf_key_count(file); i++) {
        aq_gguf_string key;
        aq_gguf_key_describe(file, i, &key, text, sizeof text);
        for (uint64_t j = 0; j < key.bytes; j++)
            sum += (uint8_t)key.data[j];
        sum += strlen(text);
    }
    for (int64_t i = 0; i < aq_gguf_string_count(file, "texts"); i++) {
        const aq_gguf_string string = aq_gguf_string_at(file, "texts", i);
        for (uint64_t j = 0; j < string.bytes; j++)
            sum += (uint8_t)string.data[j];
    }
    for (int64_t i = 0; i < aq_gguf_int_count(file, "numbers"); i++)
        sum += (uint64_t)aq_gguf_int_at(file, "numbers", i);
    for (int64_t i = 0; i < aq_gguf_tensor_count(file); i++) {
        const aq_gguf_tensor *t = aq_gguf_tensor_at(file, i);
        for (int64_t j = 0; j < t->bytes; j++)
            sum += ((const uint8_t *)t->data)[j];
    }
    return sum;
}

/* Opens a copy that ends where its memory ends, and reads all of it if it opens. */
static aq_status open_copy(const uint8_t *data, size_t bytes) {
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1);
    aq_gguf *file = NULL;
    if (!copy) return AQ_ERR_MEMORY;
    if (bytes > 0) memcpy(copy, data, bytes);
    const aq_status status = aq_gguf_open_memory("broken.gguf", copy, bytes, &file);
    if (file) {
        static volatile uint64_t sum;
        sum = walk(file);
        (void)sum;
    }
    CU_ASSERT_EQUAL(status == AQ_OK, file != NULL);
    aq_gguf_close(file);
    free(copy);
    return status;
}

static aq_status open_writer(aq_gguf_writer *w) {
    uint8_t *data = NULL;
    size_t bytes = 0;
    aq_status status = aq_gguf_writer_finish(w, &data, &bytes);
    if (status == AQ_OK) status = open_copy(data, bytes);
    free(data);
    aq_gguf_writer_close(w);
    return status;
}

static void other_magic(aq_gguf_writer *w) {
    w->magic = 0x67676d6c;
}
static void version_1(aq_gguf_writer *w) {
    w->version = 1;
}
static void version_4(aq_gguf_writer *w) {
    w->version = 4;
}
static void big_endian(aq_gguf_writer *w) {
    w->version = 0x03000000;
}
static void many_keys(aq_gguf_writer *w) {
    w->n_key = UINT64_MAX;
}
static void one_key_more(aq_gguf_writer *w) {
    w->n_key++;
}
static void one_key_less(aq_gguf_writer *w) {
    w->n_key--;
}
static void many_tensors(aq_gguf_writer *w) {
    w->n_tensor = (uint64_t)1 << 62;
}
static void key_twice(aq_gguf_writer *w) {
    aq_gguf_put_bool(w, "number", true);
}
static void tensor_twice(aq_gguf_writer *w) {
    put_tensor(w, "first", AQ_F32, 1, 1, 1, 4);
}
static void empty_key(aq_gguf_writer *w) {
    aq_gguf_put_bool(w, "", true);
}
static void empty_tensor_name(aq_gguf_writer *w) {
    put_tensor(w, "", AQ_F32, 1, 1, 1, 4);
}
static void kind_13(aq_gguf_writer *w) {
    aq_gguf_put_raw(w, "odd", 13, zeros, 8);
}
static void bool_2(aq_gguf_writer *w) {
    aq_gguf_put_raw(w, "odd", AQ_GGUF_BOOL, "\2", 1);
}
static void no_dims(aq_gguf_writer *w) {
    put_tensor(w, "odd", AQ_F32, 0, 1, 1, 4);
}
static void five_dims(aq_gguf_writer *w) {
    put_tensor(w, "odd", AQ_F32, 5, 1, 1, 4);
}
static void zero_dim(aq_gguf_writer *w) {
    put_tensor(w, "odd", AQ_F32, 2, 1, 0, 0);
}
static void negative_dim(aq_gguf_writer *w) {
    put_tensor(w, "odd", AQ_F32, 1, -4, 1, 4);
}
static void part_block(aq_gguf_writer *w) {
    put_tensor(w, "odd", AQ_Q4_0, 1, 48, 1, 36);
}
static void type_17(aq_gguf_writer *w) {
    put_tensor(w, "odd", 17, 1, 256, 1, 74);
}
static void type_999(aq_gguf_writer *w) {
    put_tensor(w, "odd", 999, 1, 1, 1, 4);
}
static void short_data(aq_gguf_writer *w) {
    put_tensor(w, "odd", AQ_F32, 1, 64, 1, 128);
}

static void long_tensor_name(aq_gguf_writer *w) {
    char name[66];
    memset(name, 'n', 65);
    name[65] = '\0';
    put_tensor(w, name, AQ_F32, 1, 1, 1, 4);
}

static void nested_array(aq_gguf_writer *w) {
    aq_gguf_put_ints(w, "odd", AQ_GGUF_ARRAY, (const int64_t[]){0}, 1);
}

static void kind_13_array(aq_gguf_writer *w) {
    aq_gguf_put_ints(w, "odd", (aq_gguf_kind)13, (const int64_t[]){0}, 1);
}

static void bool_array_9(aq_gguf_writer *w) {
    aq_gguf_put_ints(w, "odd", AQ_GGUF_BOOL, (const int64_t[]){1, 9}, 2);
}

static void long_text(aq_gguf_writer *w) {
    aq_gguf_put_raw(w, "odd", AQ_GGUF_STRING, "\377\377\377\377\377\377\377\377text", 12);
}

/* 2^61 elements of 8 bytes: the product is 0 in 64 bits. */
static void long_array(aq_gguf_writer *w) {
    aq_gguf_put_raw(w, "odd", AQ_GGUF_ARRAY, "\12\0\0\0\0\0\0\0\0\0\0\40", 12);
}

static void long_text_array(aq_gguf_writer *w) {
    aq_gguf_put_raw(w, "odd", AQ_GGUF_ARRAY, "\10\0\0\0\0\0\0\0\0\0\0\40", 12);
}

static void product_overflow(aq_gguf_writer *w) {
    put_tensor(w, "odd", AQ_F32, 2, (int64_t)1 << 32, (int64_t)1 << 32, 32);
}

/* 2^61 elements fit 63 bits, their 2^63 bytes do not. */
static void byte_overflow(aq_gguf_writer *w) {
    put_tensor(w, "odd", AQ_F32, 2, (int64_t)1 << 31, (int64_t)1 << 30, 32);
}

static void vast_tensor(aq_gguf_writer *w) {
    put_tensor(w, "odd", AQ_F32, 2, (int64_t)1 << 30, (int64_t)1 << 30, 32);
}

static void gap(aq_gguf_writer *w) {
    w->offset_shift = 32;
    put_tensor(w, "odd", AQ_F32, 1, 1, 1, 4);
}

static void overlap(aq_gguf_writer *w) {
    w->offset_shift = -32;
    put_tensor(w, "odd", AQ_F32, 1, 1, 1, 4);
}

static void alignment_0(aq_gguf_writer *w) {
    aq_gguf_put_int(w, "general.alignment", AQ_GGUF_U32, 0);
}

static void alignment_48(aq_gguf_writer *w) {
    aq_gguf_put_int(w, "general.alignment", AQ_GGUF_U32, 48);
}

static void alignment_2(aq_gguf_writer *w) {
    aq_gguf_put_int(w, "general.alignment", AQ_GGUF_U32, 2);
}

static void alignment_2_to_31(aq_gguf_writer *w) {
    aq_gguf_put_int(w, "general.alignment", AQ_GGUF_U32, (int64_t)1 << 31);
}

static void alignment_text(aq_gguf_writer *w) {
    aq_gguf_put_text(w, "general.alignment", "32");
}

/* The file is laid out for 32. */
static void alignment_64(aq_gguf_writer *w) {
    aq_gguf_put_int(w, "general.alignment", AQ_GGUF_U32, 64);
}

static void split(aq_gguf_writer *w) {
    aq_gguf_put_int(w, "split.count", AQ_GGUF_U16, 3);
}

static void terminal_codes(aq_gguf_writer *w) {
    put_tensor(w, "\033[2Jodd", 999, 1, 1, 1, 4);
}

static const struct {
    const char *name;
    void (*break_it)(aq_gguf_writer *);
    aq_status code;
    const char *part;
} broken[] = {
    {"other magic", other_magic, AQ_ERR_FORMAT, "broken.gguf is not a GGUF file"},
    {"version 1", version_1, AQ_ERR_UNSUPPORTED, "GGUF version 1, expected 2 or 3"},
    {"version 4", version_4, AQ_ERR_UNSUPPORTED, "GGUF version 4, expected 2 or 3"},
    {"big-endian", big_endian, AQ_ERR_UNSUPPORTED, "big-endian"},
    {"many keys", many_keys, AQ_ERR_FORMAT, "18446744073709551615 keys do not fit"},
    {"one key more", one_key_more, AQ_ERR_FORMAT, "garbled in tensor number 0"},
    {"one key less", one_key_less, AQ_ERR_FORMAT, "tensor truth"},
    {"many tensors", many_tensors, AQ_ERR_FORMAT, "tensors do not fit"},
    {"key twice", key_twice, AQ_ERR_FORMAT, "key number is there twice"},
    {"tensor twice", tensor_twice, AQ_ERR_FORMAT, "tensor first is there twice"},
    {"empty key", empty_key, AQ_ERR_FORMAT, "key number 5: its name has 0 bytes"},
    {"empty tensor name", empty_tensor_name, AQ_ERR_FORMAT, "tensor number 2: its name has 0"},
    {"long tensor name", long_tensor_name, AQ_ERR_FORMAT, "65 bytes, expected 1 to 64"},
    {"kind 13", kind_13, AQ_ERR_FORMAT, "key odd: unknown kind of value 13"},
    {"array of kind 13", kind_13_array, AQ_ERR_FORMAT, "key odd: unknown kind of value 13"},
    {"array of arrays", nested_array, AQ_ERR_UNSUPPORTED, "key odd: arrays of arrays"},
    {"bool 2", bool_2, AQ_ERR_FORMAT, "key odd: a truth value is 2"},
    {"bool array", bool_array_9, AQ_ERR_FORMAT, "key odd: a truth value is 9"},
    {"long text", long_text, AQ_ERR_FORMAT, "key odd: 18446744073709551615 bytes expected"},
    {"long array", long_array, AQ_ERR_FORMAT, "key odd: 2305843009213693952 values of 8 bytes"},
    {"long text array", long_text_array, AQ_ERR_FORMAT, "key odd: 2305843009213693952 strings"},
    {"no dimensions", no_dims, AQ_ERR_FORMAT, "tensor odd: 0 dimensions, expected 1 to 4"},
    {"five dimensions", five_dims, AQ_ERR_FORMAT, "tensor odd: 5 dimensions, expected 1 to 4"},
    {"zero dimension", zero_dim, AQ_ERR_FORMAT, "tensor odd: dimension 1 is 0"},
    {"negative dimension", negative_dim, AQ_ERR_FORMAT, "tensor odd: dimension 0 is -4"},
    {"part of a block", part_block, AQ_ERR_FORMAT,
     "rows of 48 elements, expected a multiple of 32"},
    {"product overflow", product_overflow, AQ_ERR_FORMAT, "tensor odd: its size overflows"},
    {"byte overflow", byte_overflow, AQ_ERR_FORMAT, "tensor odd: its size overflows"},
    {"vast tensor", vast_tensor, AQ_ERR_FORMAT, "is truncated: tensor odd ends at"},
    {"short data", short_data, AQ_ERR_FORMAT, "is truncated: tensor odd ends at"},
    {"type IQ2_XS", type_17, AQ_ERR_UNSUPPORTED,
     "tensor odd: IQ2_XS is not supported; requantise the model to Q4_K_M"},
    {"type 999", type_999, AQ_ERR_UNSUPPORTED, "tensor odd: type 999 is not supported"},
    {"gap", gap, AQ_ERR_FORMAT, "tensor odd: its offset is 96, expected 64"},
    {"overlap", overlap, AQ_ERR_FORMAT, "tensor odd: its offset is 32, expected 64"},
    {"alignment 0", alignment_0, AQ_ERR_FORMAT, "general.alignment is 0"},
    {"alignment 2", alignment_2, AQ_ERR_FORMAT, "general.alignment is 2"},
    {"alignment 48", alignment_48, AQ_ERR_FORMAT, "general.alignment is 48"},
    {"alignment 2^31", alignment_2_to_31, AQ_ERR_FORMAT, "general.alignment is 2147483648"},
    {"alignment text", alignment_text, AQ_ERR_FORMAT, "general.alignment is no integer"},
    {"other alignment", alignment_64, AQ_ERR_FORMAT, "its offset is 32, expected 64"},
    {"split file", split, AQ_ERR_UNSUPPORTED, "one of 3 parts of a split model"},
    {"terminal codes", terminal_codes, AQ_ERR_UNSUPPORTED, "tensor ?[2Jodd"},
};

static void test_broken(void) {
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        const unsigned n_before = CU_get_number_of_failures();
        aq_gguf_writer w = good_writer();
        broken[i].break_it(&w);
        aq_test_fails(open_writer(&w), broken[i].code, broken[i].part);
        if (CU_get_number_of_failures() > n_before) printf("  in case: %s\n", broken[i].name);
    }
}

static void test_good(void) {
    aq_gguf_writer w = good_writer();
    aq_test_ok(open_writer(&w));
    w = aq_gguf_writer_make(); /* no keys, no tensors */
    aq_test_ok(open_writer(&w));
    w = good_writer();
    w.alignment = 64;
    alignment_64(&w);
    w.infos.bytes = w.data.bytes = 0; /* the tensors again, laid out for 64 */
    w.n_tensor = 0;
    put_tensor(&w, "first", AQ_F32, 2, 4, 2, 32);
    put_tensor(&w, "second", AQ_Q4_0, 1, 32, 1, 18);
    aq_test_ok(open_writer(&w));
}

/* Cut anywhere, the file must be refused, with its name in the text. Only the padding behind the
 * last tensor may be missing. */
static void test_truncated(void) {
    aq_gguf_writer w = good_writer();
    uint8_t *data = NULL;
    size_t bytes = 0;
    if (!aq_test_ok(aq_gguf_writer_finish(&w, &data, &bytes))) return;
    const size_t end = bytes - 14; /* 18 bytes of the last tensor in 32 */
    for (size_t n = 0; n < end; n++)
        aq_test_fails(open_copy(data, n), AQ_ERR_FORMAT, "broken.gguf");
    aq_test_fails(open_copy(data, 0), AQ_ERR_FORMAT, "is empty");
    aq_test_ok(open_copy(data, end));
    free(data);
    aq_gguf_writer_close(&w);
}

/* Every byte with one, or all, of its bits turned, and every aligned word set to extreme values:
 * refused or read, but never beyond the file. */
static void test_flipped(void) {
    static const uint32_t words[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff};
    aq_gguf_writer w = good_writer();
    uint8_t *data = NULL;
    size_t bytes = 0;
    int n_refused = 0, n_taken = 0;
    if (!aq_test_ok(aq_gguf_writer_finish(&w, &data, &bytes))) return;
    for (size_t at = 0; at < bytes; at++)
        for (int bit = 0; bit <= 8; bit++) {
            const uint8_t mask = bit < 8 ? (uint8_t)(1 << bit) : 0xff;
            data[at] ^= mask;
            *(open_copy(data, bytes) == AQ_OK ? &n_taken : &n_refused) += 1;
            data[at] ^= mask;
        }
    for (size_t at = 0; at + 4 <= bytes; at++)
        for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
            uint8_t kept[4];
            memcpy(kept, data + at, 4);
            memcpy(data + at, &words[i], 4);
            *(open_copy(data, bytes) == AQ_OK ? &n_taken : &n_refused) += 1;
            memcpy(data + at, kept, 4);
        }
    aq_test_ok(open_copy(data, bytes));
    CU_ASSERT_TRUE(n_refused > 100 && n_taken > 100);
    free(data);
    aq_gguf_writer_close(&w);
}

static void test_on_disk(void) {
    char path[512];
    aq_gguf *file = NULL;
    aq_gguf_writer w = good_writer();
    snprintf(path, sizeof path, "%s/good.gguf", aq_test_temp_dir());
    if (aq_test_ok(aq_gguf_writer_save(&w, path)) && aq_test_ok(aq_gguf_open(path, &file))) {
        CU_ASSERT_STRING_EQUAL(aq_gguf_path(file), path);
        CU_ASSERT_EQUAL(aq_gguf_tensor_count(file), 2);
    }
    aq_gguf_close(file);
    aq_gguf_writer_close(&w);
    aq_test_ok(aq_file_write(path, "", 0));
    aq_test_fails(aq_gguf_open(path, &file), AQ_ERR_FORMAT, "is empty");
    aq_test_fails(aq_gguf_open(aq_test_temp_dir(), &file), AQ_ERR_IO, "not a regular file");
    aq_test_fails(aq_gguf_open("no/such.gguf", &file), AQ_ERR_IO, "no/such.gguf");
    CU_ASSERT_PTR_NULL(file);
    aq_gguf_close(NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "good files", test_good);
    CU_add_test(suite, "broken files", test_broken);
    CU_add_test(suite, "truncated", test_truncated);
    CU_add_test(suite, "flipped bytes", test_flipped);
    CU_add_test(suite, "on disk", test_on_disk);
}
