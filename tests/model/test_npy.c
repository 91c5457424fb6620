/* Reading ids: what NumPy writes is read, everything else is refused with one line that names it.
 * Writing: a header that NumPy reads, byte for byte. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "src/model/npy.h"
#include "tests/support/suite.h"

#define I4   "{'descr': '<i4', 'fortran_order': False, 'shape': "
#define I8   "{'descr': '<i8', 'fortran_order': False, 'shape': "
#define TEXT 4096

typedef struct {
    uint8_t bytes[TEXT];
    size_t n;
} npy_file;

/* A file as the specification lays it out: magic, version, length of the header, the header padded
 * with spaces to a multiple of 64 bytes in all and ended by a newline, data. */
static npy_file make_file(int version, const char *header, const void *data, size_t bytes) {
    npy_file f = {.n = 0};
    const size_t start = version >= 2 ? 12 : 10, text = strlen(header);
    const size_t whole = (start + text + 1 + 63) / 64 * 64;
    memset(f.bytes, ' ', whole);
    memcpy(f.bytes, "\x93NUMPY", 6);
    f.bytes[6] = (uint8_t)version;
    for (size_t i = 7; i < start; i++)
        f.bytes[i] = 0;
    f.bytes[8] = (uint8_t)((whole - start) & 255);
    f.bytes[9] = (uint8_t)((whole - start) >> 8);
    memcpy(f.bytes + start, header, text);
    f.bytes[whole - 1] = '\n';
    if (bytes > 0) memcpy(f.bytes + whole, data, bytes);
    f.n = whole + bytes;
    return f;
}

static const char *path_of(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s.npy", aq_test_temp_dir(), name);
    return path;
}

static aq_status read_file(const npy_file *f, int32_t **ids, int64_t *n) {
    const char *path = path_of("ids");
    *ids = (int32_t *)1;
    *n = -7;
    aq_test_ok(aq_file_write(path, f->bytes, f->n));
    return aq_npy_read_ids(path, ids, n);
}

/* Expects these ids. */
static void check_ids(const npy_file *f, const int32_t *expected, int64_t n_expected) {
    int32_t *ids;
    int64_t n;
    if (!aq_test_ok(read_file(f, &ids, &n))) return;
    CU_ASSERT_EQUAL_FATAL(n, n_expected);
    for (int64_t i = 0; i < n; i++)
        CU_ASSERT_EQUAL(ids[i], expected[i]);
    free(ids);
}

/* Expects a refusal that leaves nothing behind, in one line. */
static void check_refused(const npy_file *f, aq_status expected, const char *part) {
    int32_t *ids;
    int64_t n;
    aq_test_fails(read_file(f, &ids, &n), expected, part);
    CU_ASSERT_PTR_NULL(ids);
    CU_ASSERT_EQUAL(n, 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(aq_error_text(), "ids.npy"));
    CU_ASSERT_PTR_NULL(strchr(aq_error_text(), '\n'));
}

static void test_read(void) {
    static const int32_t ids[] = {5, 0, 2147483647, 49151};
    static const int64_t wide[] = {5, 0, 2147483647, 49151};
    for (int version = 1; version <= 3; version++) {
        npy_file f = make_file(version, I4 "(4,), }", ids, sizeof ids);
        check_ids(&f, ids, 4);
        f = make_file(version, I4 "(1, 4), }", ids, sizeof ids);
        check_ids(&f, ids, 4);
        f = make_file(version, I8 "(4,), }", wide, sizeof wide);
        check_ids(&f, ids, 4);
        f = make_file(version, I8 "(1, 4), }", wide, sizeof wide);
        check_ids(&f, ids, 4);
    }
    npy_file f = make_file(1, I4 "(0,), }", NULL, 0);
    check_ids(&f, ids, 0);
    f = make_file(1, "{'shape': (4,), 'fortran_order': False, 'descr': '<i4'}", ids, sizeof ids);
    check_ids(&f, ids, 4);
}

/* The first bytes of numpy.save of numpy.array([[7, 8]], dtype="<i8"), from NumPy 1.24. */
static void test_read_numpy(void) {
    static const char numpy[128] = "\x93NUMPY\x01\x00\x76\x00"
                                   "{'descr': '<i8', 'fortran_order': False, 'shape': (1, 2), }"
                                   "                                                          \n";
    static const int64_t wide[] = {7, 8};
    npy_file f = {.n = sizeof numpy + sizeof wide};
    memcpy(f.bytes, numpy, sizeof numpy);
    memcpy(f.bytes + sizeof numpy, wide, sizeof wide);
    check_ids(&f, (const int32_t[]){7, 8}, 2);
}

static void test_refused_headers(void) {
    static const int32_t ids[] = {1, 2, 3, 4};
    static const struct {
        const char *header;
        aq_status expected;
        const char *part;
    } cases[] = {
        {"{'descr': '>i4', 'fortran_order': False, 'shape': (4,), }", AQ_ERR_UNSUPPORTED,
         "of type '>i4', expected '<i4' or '<i8'"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }", AQ_ERR_UNSUPPORTED, "'<f4'"},
        {"{'descr': '<u4', 'fortran_order': False, 'shape': (4,), }", AQ_ERR_UNSUPPORTED, "'<u4'"},
        {"{'descr': '<i2', 'fortran_order': False, 'shape': (8,), }", AQ_ERR_UNSUPPORTED, "'<i2'"},
        {"{'descr': '<i44', 'fortran_order': False, 'shape': (4,), }", AQ_ERR_UNSUPPORTED,
         "'<i44'"},
        {"{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (4,), }", AQ_ERR_UNSUPPORTED,
         "of type [('a'"},
        {"{'descr': '<i4', 'fortran_order': True, 'shape': (1, 4), }", AQ_ERR_UNSUPPORTED,
         "fortran_order is True, expected False"},
        {"{'descr': '<i4', 'fortran_order': False, }", AQ_ERR_FORMAT, "lacks descr"},
        {"{'descr': '<i4', 'shape': (4,), }", AQ_ERR_FORMAT, "lacks descr"},
        {"{'fortran_order': False, 'shape': (4,), }", AQ_ERR_FORMAT, "lacks descr"},
        {"", AQ_ERR_FORMAT, "lacks descr"},
        {I4 "(4), }", AQ_ERR_UNSUPPORTED, "of shape (4)"},
        {I4 "4, }", AQ_ERR_UNSUPPORTED, "of shape 4"},
        {I4 "(), }", AQ_ERR_UNSUPPORTED, "of shape ()"},
        {I4 "(2, 2), }", AQ_ERR_UNSUPPORTED, "of shape (2, 2), expected (n,) or (1, n)"},
        {I4 "(4, 1), }", AQ_ERR_UNSUPPORTED, "of shape (4, 1)"},
        {I4 "(1, 1, 4), }", AQ_ERR_UNSUPPORTED, "of shape (1, 1, 4)"},
        {I4 "(1, 4, 1), }", AQ_ERR_UNSUPPORTED, "of shape (1, 4, 1)"},
        {I4 "(-4,), }", AQ_ERR_UNSUPPORTED, "of shape (-4,)"},
        {I4 "(1, -4), }", AQ_ERR_UNSUPPORTED, "of shape (1, -4)"},
        {I4 "(4", AQ_ERR_UNSUPPORTED, "of shape (4"},
        {I4 "(4,", AQ_ERR_UNSUPPORTED, "of shape (4,"},
        {I4 "(1, 4", AQ_ERR_UNSUPPORTED, "of shape (1, 4"},
        /* 2^62 and 2^64 elements of 4 and 8 bytes wrap around to 0 bytes; 2^64 + 4 to 4 ids. */
        {I4 "(4611686018427387904,), }", AQ_ERR_UNSUPPORTED, "(4611686018427387904,)"},
        {I4 "(18446744073709551620,), }", AQ_ERR_UNSUPPORTED, "(18446744073709551620,)"},
        {I8 "(2305843009213693954,), }", AQ_ERR_FORMAT, "16 bytes of data for 2305843009213693954"},
        {I4 "(1, 99999999999999999999999999), }", AQ_ERR_UNSUPPORTED, "(1, 9999999"},
        {I4 "(3,), }", AQ_ERR_FORMAT, "16 bytes of data for 3 ids of 4 bytes"},
        {I4 "(5,), }", AQ_ERR_FORMAT, "16 bytes of data for 5 ids of 4 bytes"},
        {I8 "(4,), }", AQ_ERR_FORMAT, "16 bytes of data for 4 ids of 8 bytes"},
        {I4 "(4,), '\x1b[31m'}", AQ_ERR_FORMAT, "not text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const npy_file f = make_file(1, cases[i].header, ids, sizeof ids);
        check_refused(&f, cases[i].expected, cases[i].part);
    }
}

/* No prefix of a good file is taken, and each is refused without reading behind its end. */
static void test_truncated(void) {
    static const int32_t ids[] = {1, 2, 3, 4};
    for (int version = 1; version <= 3; version++) {
        const npy_file good = make_file(version, I4 "(4,), }", ids, sizeof ids);
        npy_file f = good;
        for (f.n = 0; f.n < good.n; f.n++)
            check_refused(&f, AQ_ERR_FORMAT, "");
        f.n = good.n + 1;
        check_refused(&f, AQ_ERR_FORMAT, "17 bytes of data");
    }
}

static void test_refused_starts(void) {
    static const int32_t ids[] = {1, 2, 3, 4};
    const npy_file good = make_file(2, I4 "(4,), }", ids, sizeof ids);
    npy_file f = good;
    f.bytes[0] = 'x';
    check_refused(&f, AQ_ERR_FORMAT, "is not a .npy file");
    f = good;
    f.bytes[6] = 0;
    check_refused(&f, AQ_ERR_UNSUPPORTED, "version 0, expected 1 to 3");
    f.bytes[6] = 4;
    check_refused(&f, AQ_ERR_UNSUPPORTED, "version 4, expected 1 to 3");
    f = good;
    memset(f.bytes + 8, 255, 4); /* a header of 4 GiB */
    check_refused(&f, AQ_ERR_FORMAT, "ends inside its .npy header");
    f.n = TEXT;
    memset(f.bytes + good.n, ' ', TEXT - good.n);
    memcpy(f.bytes + 8, "\x00\x0f\x00\x00", 4); /* there, but longer than any that is needed */
    check_refused(&f, AQ_ERR_FORMAT, "too long");
    int32_t *found;
    int64_t n;
    aq_test_fails(aq_npy_read_ids(path_of("missing"), &found, &n), AQ_ERR_IO, "missing.npy");
}

static void test_no_ids(void) {
    npy_file f = make_file(1, I4 "(2,), }", (const int32_t[]){3, -1}, 8);
    check_refused(&f, AQ_ERR_FORMAT, "element 1 is -1, not a token id");
    f = make_file(1, I8 "(2,), }", (const int64_t[]){3, INT64_C(1) << 31}, 16);
    check_refused(&f, AQ_ERR_FORMAT, "element 1 is 2147483648, not a token id");
    f = make_file(1, I8 "(2,), }", (const int64_t[]){INT64_MIN, 0}, 16);
    check_refused(&f, AQ_ERR_FORMAT, "element 0 is -9223372036854775808");
}

/* One changed byte at a time: whatever happens, no crash and no ids that are not the file's. */
static void test_changed_bytes(void) {
    static const int32_t ids[] = {1, 2, 3, 4};
    const npy_file good = make_file(1, I4 "(4,), }", ids, sizeof ids);
    for (size_t at = 0; at < good.n - sizeof ids; at++)
        for (int flip = 1; flip < 256; flip *= 2) {
            npy_file f = good;
            int32_t *found;
            int64_t n;
            f.bytes[at] ^= (uint8_t)flip;
            if (read_file(&f, &found, &n) != AQ_OK) continue;
            CU_ASSERT_EQUAL(n, 4);
            if (n == 4) CU_ASSERT_EQUAL(memcmp(found, ids, sizeof ids), 0);
            free(found);
        }
}

/* Whether a header is the one that the specification and NumPy 1.24 give for this shape. */
static bool is_header(const char header[AQ_NPY_HEADER_BYTES], const char *shape) {
    char expected[256];
    const int length = snprintf(expected, sizeof expected,
                                "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }", shape);
    memset(expected + length, ' ', sizeof expected - (size_t)length);
    expected[117] = '\n';
    return memcmp(header, "\x93NUMPY\x01\x00\x76\x00", 10) == 0 &&
           memcmp(header + 10, expected, 118) == 0;
}

static void test_header(void) {
    char header[AQ_NPY_HEADER_BYTES];
    aq_npy_header_f32(3, 49152, header);
    CU_ASSERT_TRUE(is_header(header, "(3, 49152)"));
    CU_ASSERT_FALSE(is_header(header, "(49152, 3)"));
    aq_npy_header_f32(0, 1, header);
    CU_ASSERT_TRUE(is_header(header, "(0, 1)"));
    aq_npy_header_f32(INT64_MAX, INT64_MAX, header);
    CU_ASSERT_TRUE(is_header(header, "(9223372036854775807, 9223372036854775807)"));
    header[127] = ' ';
    CU_ASSERT_FALSE(is_header(header, "(9223372036854775807, 9223372036854775807)"));
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "read", test_read);
    CU_add_test(suite, "read numpy", test_read_numpy);
    CU_add_test(suite, "refused headers", test_refused_headers);
    CU_add_test(suite, "truncated", test_truncated);
    CU_add_test(suite, "refused starts", test_refused_starts);
    CU_add_test(suite, "no ids", test_no_ids);
    CU_add_test(suite, "changed bytes", test_changed_bytes);
    CU_add_test(suite, "header", test_header);
}
