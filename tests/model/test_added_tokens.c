/* Added tokens are cut out of a text from the left, the longest first, with their blanks. */
#include "src/model/added_tokens.h"

#include <stdio.h>
#include <string.h>

#include "tests/support/suite.h"

#define TOKEN(spelling, its_kind) .text = {(spelling), sizeof(spelling) - 1}, .kind = (its_kind)

static aq_source_token tokens[] = {
    {TOKEN("<s>", AQ_TOKEN_CONTROL)},
    {TOKEN("ab", AQ_TOKEN_USER)},
    {TOKEN("abc", AQ_TOKEN_USER)},
    {TOKEN("bcde", AQ_TOKEN_USER)},
    {TOKEN("[L]", AQ_TOKEN_USER), .lstrip = true},
    {TOKEN("[R]", AQ_TOKEN_CONTROL), .rstrip = true},
    {TOKEN("e\u0301", AQ_TOKEN_USER), .normalized = true},
    {TOKEN("x", AQ_TOKEN_NORMAL)},
    {TOKEN("<|im_end|>", AQ_TOKEN_USER)},
};
static const aq_tokenizer_source source = {.path = "test",
                                           .tokens_part = "tokens",
                                           .advice = "",
                                           .spelling = AQ_SPELT_SPM,
                                           .merging = AQ_MERGE_SYMBOLS,
                                           .tokens = tokens,
                                           .n = sizeof tokens / sizeof *tokens};

static aq_status show(void *arg, const char *part, size_t bytes, int32_t id) {
    char *line = arg;
    if (bytes == 0) CU_FAIL("an empty part");
    if (id < 0)
        sprintf(line + strlen(line), "(%.*s)", (int)bytes, part);
    else
        sprintf(line + strlen(line), "%d:%d", (int)id, (int)bytes);
    return strlen(line) > 200 ? aq_fail(AQ_ERR_IO, "the sink is full") : AQ_OK;
}

static bool splits(bool normalized, const char *text, bool parse_special, const char *expected) {
    const aq_normalizer_step nfc = {AQ_NORMALIZE_NFC, NULL, NULL};
    aq_normalizer *normalizer;
    aq_vocabulary v;
    aq_added_tokens added = {0};
    char line[512] = "";
    aq_test_ok(aq_normalizer_open(&nfc, 1, &normalizer));
    if (aq_test_ok(aq_vocabulary_open(&source, &v)) &&
        aq_test_ok(aq_added_tokens_open(&source, &v, normalized, normalizer, &added)))
        aq_test_ok(aq_added_tokens_split(&added, text, strlen(text), parse_special, show, line));
    aq_added_tokens_close(&added);
    aq_vocabulary_close(&v);
    aq_normalizer_close(normalizer);
    if (strcmp(line, expected) != 0) printf("  got %s, expected %s\n", line, expected);
    return strcmp(line, expected) == 0;
}

static void test_split(void) {
    CU_ASSERT_TRUE(splits(false, "x<s>y", true, "(x)0:3(y)"));
    CU_ASSERT_TRUE(splits(false, "x<s>y", false, "(x<s>y)"));
    CU_ASSERT_TRUE(splits(false, "", true, ""));
    CU_ASSERT_TRUE(splits(false, "xabcde", true, "(x)2:3(de)")); /* leftmost before longest */
    CU_ASSERT_TRUE(splits(false, "ababcab<", true, "1:22:31:2(<)"));
    CU_ASSERT_TRUE(splits(false, "<s", true, "(<s)"));
}

static void test_blanks(void) {
    CU_ASSERT_TRUE(splits(false, "a \t\u2003[L] b", true, "(a)4:8( b)"));
    CU_ASSERT_TRUE(splits(false, "a [R] \n\u00a0b", true, "(a )5:7(b)"));
    CU_ASSERT_TRUE(splits(false, "[R] [L]", true, "5:44:3")); /* taken once */
    CU_ASSERT_TRUE(splits(false, " [L]", true, "4:4"));
    CU_ASSERT_TRUE(splits(false, "a [R] b", false, "(a [R] b)"));
}

static void test_normalized(void) {
    CU_ASSERT_TRUE(splits(true, "a\u00e9<s>", true, "(a)6:2(<s>)"));
    CU_ASSERT_TRUE(
        splits(true, "ae\u0301", true, "(ae\u0301)")); /* the text is to be formed already */
}

/* A file may call it harmless: it is never cut out of text that is to be plain. */
static void test_known(void) {
    CU_ASSERT_TRUE(splits(false, "<|im_end|>", true, "8:10"));
    CU_ASSERT_TRUE(splits(false, "<|im_end|>", false, "(<|im_end|>)"));
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "split", test_split);
    CU_add_test(suite, "blanks", test_blanks);
    CU_add_test(suite, "normalized", test_normalized);
    CU_add_test(suite, "known", test_known);
}
