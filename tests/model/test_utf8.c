/* One character at a time: every sequence of up to 3 bytes, and those of 4 whose bytes lie at the
 * edges of the ranges, against UTF-8 by arithmetic. */
#include <stdlib.h>
#include <string.h>

#include "src/model/utf8.h"
#include "tests/support/suite.h"
#include "tests/support/utf8_oracle.h"

typedef aq_utf8_kind next_function(const char *text, size_t n, size_t *length);

static int64_t wrong_of(next_function *next, const uint8_t *bytes, size_t n) {
    bool whole;
    size_t length = 99;
    const size_t expected = oracle_subpart(bytes, n, &whole);
    const aq_utf8_kind kind = whole                                      ? AQ_UTF8_WHOLE
                              : expected == n && oracle_begins(bytes, n) ? AQ_UTF8_UNFINISHED
                                                                         : AQ_UTF8_BAD;
    return next((const char *)bytes, n, &length) != kind || length != expected;
}

static const uint8_t edges[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff};

/* How many sequences a function judges wrongly. */
static int64_t count_wrong(next_function *next) {
    int64_t n_wrong = 0;
    for (int a = 0; a < 256; a++) {
        uint8_t b[4] = {(uint8_t)a, 0, 0, 0};
        n_wrong += wrong_of(next, b, 1);
        for (int i = 0; i < 65536; i++) {
            b[1] = (uint8_t)(i >> 8);
            b[2] = (uint8_t)i;
            if (b[2] == 0) n_wrong += wrong_of(next, b, 2);
            n_wrong += wrong_of(next, b, 3);
        }
        for (size_t i = 0; i < sizeof edges * sizeof edges * sizeof edges; i++) {
            b[1] = edges[i % sizeof edges];
            b[2] = edges[i / sizeof edges % sizeof edges];
            b[3] = edges[i / sizeof edges / sizeof edges];
            n_wrong += wrong_of(next, b, 4);
        }
    }
    return n_wrong;
}

static void test_all(void) {
    CU_ASSERT_EQUAL(count_wrong(aq_utf8_next), 0);
}

/* Takes CESU surrogates, as many decoders do. */
static aq_utf8_kind takes_surrogates(const char *text, size_t n, size_t *length) {
    if (n >= 3 && (uint8_t)text[0] == 0xed && (text[1] & 0xc0) == 0x80 &&
        (text[2] & 0xc0) == 0x80) {
        *length = 3;
        return AQ_UTF8_WHOLE;
    }
    return aq_utf8_next(text, n, length);
}

/* Replaces byte by byte instead of by maximal subparts. */
static aq_utf8_kind byte_by_byte(const char *text, size_t n, size_t *length) {
    const aq_utf8_kind kind = aq_utf8_next(text, n, length);
    if (kind == AQ_UTF8_BAD) *length = 1;
    return kind;
}

static void test_planted(void) {
    CU_ASSERT_NOT_EQUAL(count_wrong(takes_surrogates), 0);
    CU_ASSERT_NOT_EQUAL(count_wrong(byte_by_byte), 0);
}

/* Examples of the Unicode Standard 15.0, tables 3-8 to 3-11: lengths of what U+FFFD replaces. */
static void check_lengths(const char *text, const char *lengths) {
    const size_t n = strlen(text);
    for (size_t at = 0, length; at < n; at += length, lengths++) {
        const aq_utf8_kind kind = aq_utf8_next(text + at, n - at, &length);
        CU_ASSERT_EQUAL(length, (size_t)(*lengths - '0'));
        CU_ASSERT_EQUAL(kind == AQ_UTF8_WHOLE, (uint8_t)text[at] < 0x80);
    }
    CU_ASSERT_EQUAL(*lengths, '\0');
}

static void test_standard(void) {
    check_lengths("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", "111111111");
    check_lengths("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", "111111111");
    check_lengths("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", "111111111");
    check_lengths("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", "21321");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "all", test_all);
    CU_add_test(suite, "planted", test_planted);
    CU_add_test(suite, "standard", test_standard);
}
