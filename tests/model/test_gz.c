/* Unpacking gives back what zlib packed, and refuses what is broken. */
#include "src/model/gz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "src/base/file.h"
#include "tests/support/suite.h"

#define LARGE 300001 /* several times the room that unpacking begins with */

static char path[512];

static void put(const void *data, size_t bytes) {
    snprintf(path, sizeof path, "%s/packed", aq_test_temp_dir());
    CU_ASSERT_EQUAL_FATAL(aq_file_write(path, data, bytes), AQ_OK);
}

/* One gzip member of the bytes; returns its length. */
static size_t pack(const char *data, size_t bytes, unsigned char *out, size_t room) {
    z_stream z = {.zalloc = Z_NULL};
    CU_ASSERT_EQUAL_FATAL(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY),
                          Z_OK);
    z.next_in = (z_const Bytef *)data;
    z.avail_in = (uInt)bytes;
    z.next_out = out;
    z.avail_out = (uInt)room;
    CU_ASSERT_EQUAL_FATAL(deflate(&z, Z_FINISH), Z_STREAM_END);
    const size_t length = room - z.avail_out;
    deflateEnd(&z);
    return length;
}

static void expect(const char *data, size_t bytes) {
    char *got = NULL;
    size_t n = 0;
    if (!aq_test_ok(aq_gz_read(path, &got, &n))) return;
    CU_ASSERT_EQUAL_FATAL(n, bytes);
    CU_ASSERT_EQUAL(memcmp(got, data, bytes), 0);
    CU_ASSERT_EQUAL(got[bytes], '\0');
    free(got);
}

static char *make_text(size_t bytes) {
    char *text = malloc(bytes);
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    for (size_t i = 0; i < bytes; i++)
        text[i] = (char)(i * i % 251);
    return text;
}

static void test_plain(void) {
    put("text\n", 5);
    expect("text\n", 5);
    put("", 0);
    expect("", 0);
    put("\x1f", 1);
    expect("\x1f", 1);
}

static void test_packed(void) {
    static const size_t sizes[] = {0, 1, 65534, 65535, 65536, LARGE};
    char *text = make_text(LARGE);
    unsigned char *packed = malloc(2 * LARGE);
    CU_ASSERT_PTR_NOT_NULL_FATAL(packed);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        put(packed, pack(text, sizes[i], packed, 2 * LARGE));
        expect(text, sizes[i]);
    }
    free(packed);
    free(text);
}

/* What `cat a.gz b.gz` gives. */
static void test_members(void) {
    unsigned char packed[256];
    const size_t first = pack("one ", 4, packed, sizeof packed);
    const size_t second = pack("two", 3, packed + first, sizeof packed - first);
    put(packed, first + second);
    expect("one two", 7);
}

static void test_broken(void) {
    char *got = NULL;
    size_t n = 0;
    unsigned char packed[256];
    const size_t whole = pack("some text to pack", 17, packed, sizeof packed);
    for (size_t cut = 2; cut < whole; cut++) {
        put(packed, cut);
        aq_test_fails(aq_gz_read(path, &got, &n), AQ_ERR_FORMAT, "cut short");
        CU_ASSERT_PTR_NULL(got);
    }
    packed[whole - 6] ^= 1; /* in the checksum */
    put(packed, whole);
    aq_test_fails(aq_gz_read(path, &got, &n), AQ_ERR_FORMAT, "garbled");
    packed[whole - 6] ^= 1;
    packed[whole] = 'x'; /* behind the last member */
    put(packed, whole + 1);
    aq_test_fails(aq_gz_read(path, &got, &n), AQ_ERR_FORMAT, path);
    aq_test_fails(aq_gz_read("/nowhere/x", &got, &n), AQ_ERR_IO, "/nowhere/x");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "plain", test_plain);
    CU_add_test(suite, "packed", test_packed);
    CU_add_test(suite, "members", test_members);
    CU_add_test(suite, "broken", test_broken);
}
