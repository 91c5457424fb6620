/* Texts take the forms that Unicode's tables and the steps of a normaliser give them. */
#include "src/model/normalizer.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/suite.h"

static bool becomes(const aq_normalizer_step *steps, int n, const char *text, size_t bytes,
                    const char *expected) {
    aq_normalizer *normalizer;
    aq_normalizer_buffer out = {0};
    bool good = false;
    if (!aq_test_ok(aq_normalizer_open(steps, n, &normalizer))) return false;
    for (int twice = 0; twice < 2; twice++) /* the buffer is used again */
        if (aq_test_ok(aq_normalizer_apply(normalizer, text, bytes, &out)))
            good = out.bytes == strlen(expected) &&
                   (out.bytes == 0 || memcmp(out.data, expected, out.bytes) == 0);
    free(out.data);
    aq_normalizer_close(normalizer);
    return good;
}

static bool form_is(aq_normalizer_kind kind, const char *text, const char *expected) {
    const aq_normalizer_step step = {kind, NULL, NULL};
    return becomes(&step, 1, text, strlen(text), expected);
}

/* From UAX 15, table and figures 3 to 6. */
static void test_forms(void) {
    CU_ASSERT_TRUE(form_is(AQ_NORMALIZE_NFC, "e\u0301", "\u00e9"));
    CU_ASSERT_FALSE(form_is(AQ_NORMALIZE_NFC, "e\u0301", "e\u0301"));
    CU_ASSERT_TRUE(form_is(AQ_NORMALIZE_NFD, "\u00e9", "e\u0301"));
    CU_ASSERT_TRUE(form_is(AQ_NORMALIZE_NFC, "\u212b", "\u00c5"));
    CU_ASSERT_TRUE(form_is(AQ_NORMALIZE_NFC, "\ufb01", "\ufb01"));
    CU_ASSERT_TRUE(form_is(AQ_NORMALIZE_NFKC, "\ufb01", "fi"));
    CU_ASSERT_TRUE(form_is(AQ_NORMALIZE_NFKD, "\u1e9b\u0323", "s\u0323\u0307"));
    CU_ASSERT_TRUE(form_is(AQ_NORMALIZE_NFKC, "\u1e9b\u0323", "\u1e69"));
    CU_ASSERT_TRUE(form_is(AQ_NORMALIZE_NFD, "\uac01", "\u1100\u1161\u11a8"));
    CU_ASSERT_TRUE(form_is(AQ_NORMALIZE_NFKC, "plain", "plain"));
    CU_ASSERT_TRUE(form_is(AQ_NORMALIZE_NFKC, "", ""));
}

/* Ill-formed bytes stay and part what stands beside them; newer characters stay too. */
static void test_what_stays(void) {
    CU_ASSERT_TRUE(
        form_is(AQ_NORMALIZE_NFC, "e\xff\u0301e\u0301\xe2\x96", "e\xff\u0301\u00e9\xe2\x96"));
    CU_ASSERT_TRUE(form_is(AQ_NORMALIZE_NFKC, "\U0001e030\u32ff\u33ff", "\U0001e030\u32ffgal"));
    CU_ASSERT_TRUE(form_is(AQ_NORMALIZE_NFD, "\U00011938\u00e9", "\U00011938e\u0301"));
}

static void test_steps(void) {
    const aq_normalizer_step steps[] = {{AQ_NORMALIZE_PREPEND, NULL, "_"},
                                        {AQ_NORMALIZE_REPLACE, "aa", "b"},
                                        {AQ_NORMALIZE_REPLACE, " ", ""},
                                        {AQ_NORMALIZE_NFC, NULL, NULL}};
    CU_ASSERT_TRUE(becomes(steps, 1, "x", 1, "_x"));
    CU_ASSERT_TRUE(becomes(steps, 1, "", 0, ""));
    CU_ASSERT_TRUE(becomes(steps + 1, 1, "aaa aaaa a", 10, "ba bb a"));
    CU_ASSERT_TRUE(becomes(steps, 4, "a aae\u0301 ", 7, "_ab\u00e9"));
    CU_ASSERT_TRUE(becomes(steps, 0, "a aa", 4, "a aa"));
}

/* A text that would grow without end is refused. */
static void test_growth(void) {
    aq_normalizer_step steps[12];
    aq_normalizer *normalizer;
    aq_normalizer_buffer out = {0};
    for (int i = 0; i < 12; i++)
        steps[i] = (aq_normalizer_step){AQ_NORMALIZE_REPLACE, "a", "aaaaaaaa"};
    if (!aq_test_ok(aq_normalizer_open(steps, 12, &normalizer))) return;
    aq_test_fails(aq_normalizer_apply(normalizer, "a", 1, &out), AQ_ERR_LIMIT, "too long");
    free(out.data);
    aq_normalizer_close(normalizer);
    aq_normalizer_close(NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "forms", test_forms);
    CU_add_test(suite, "what stays", test_what_stays);
    CU_add_test(suite, "steps", test_steps);
    CU_add_test(suite, "growth", test_growth);
}
