/* Characters become their tokens, those of their bytes, or the unknown one. */
#include "src/model/symbols.h"

#include <stdio.h>
#include <string.h>

#include "tests/support/suite.h"

static const char *const texts[] = {"<unk>", "a", "\u00e9", "<0xC3>", "<0xA9>", "<0xC4>", "\u0120"};
enum { N = sizeof texts / sizeof *texts };

static bool open_vocabulary(aq_spelling spelling, aq_vocabulary *v) {
    aq_source_token tokens[N] = {{{NULL, 0}, AQ_TOKEN_NORMAL, 0, false, false, false}};
    for (int i = 0; i < N; i++) {
        tokens[i].text = (aq_text){texts[i], strlen(texts[i])};
        tokens[i].kind = i > 2 && i < 6 ? AQ_TOKEN_BYTE : AQ_TOKEN_NORMAL;
    }
    const aq_tokenizer_source source = {.path = "test",
                                        .tokens_part = "tokens",
                                        .advice = "",
                                        .spelling = spelling,
                                        .merging = AQ_MERGE_SYMBOLS,
                                        .tokens = tokens,
                                        .n = N};
    return aq_test_ok(aq_vocabulary_open(&source, v));
}

static bool gives(const aq_symbols *symbols, const char *text, const char *expected) {
    int32_t ids[64];
    char line[256] = "";
    const size_t bytes = strlen(text);
    const int64_t n = aq_symbols_of(symbols, text, bytes, ids);
    size_t at = 0;
    for (int64_t i = 0; i < n; i++)
        at += (size_t)sprintf(line + at, "%s%d", i > 0 ? " " : "", (int)ids[i]);
    if (strcmp(line, expected) != 0) printf("  got %s, expected %s\n", line, expected);
    return n <= (int64_t)bytes && strcmp(line, expected) == 0;
}

static void test_characters(void) {
    aq_vocabulary v;
    if (!open_vocabulary(AQ_SPELT_SPM, &v)) return;
    const aq_symbols plain = {&v, AQ_SPELT_SPM, false, false, -1};
    const aq_symbols unknown = {&v, AQ_SPELT_SPM, false, false, 0};
    const aq_symbols fused = {&v, AQ_SPELT_SPM, false, true, 0};
    const aq_symbols bytes = {&v, AQ_SPELT_SPM, true, true, 0};
    CU_ASSERT_TRUE(gives(&plain, "a\u00e9xa", "1 2 1"));
    CU_ASSERT_TRUE(gives(&plain, "", ""));
    CU_ASSERT_TRUE(gives(&unknown, "axya", "1 0 0 1"));
    CU_ASSERT_TRUE(gives(&fused, "axyax", "1 0 1 0"));
    CU_ASSERT_TRUE(gives(&bytes, "\u0109a\u0104\u0109", "0 1 0"));
    CU_ASSERT_TRUE(gives(&bytes, "\u0129", "5 4"));
    CU_ASSERT_TRUE(gives(&bytes, "x\u0129ya", "5 4 0 1")); /* what waits goes behind the bytes */
    CU_ASSERT_TRUE(gives(&bytes, "\xc3\xc3\xa9\xa9", "3 2 4")); /* no UTF-8: byte by byte */
    CU_ASSERT_TRUE(gives(&unknown, "\xc3\xa0\xff", "0 0"));
    aq_vocabulary_close(&v);
}

static void test_bytes(void) {
    aq_vocabulary v;
    if (!open_vocabulary(AQ_SPELT_GPT2, &v)) return;
    const aq_symbols plain = {&v, AQ_SPELT_GPT2, false, false, -1};
    const aq_symbols unknown = {&v, AQ_SPELT_GPT2, true, true, 0};
    CU_ASSERT_TRUE(gives(&plain, "a ax", "1 6 1"));
    CU_ASSERT_TRUE(gives(&plain, "\xe9", "2")); /* the byte that this character spells */
    CU_ASSERT_TRUE(gives(&unknown, "a\xc3\xa9", "1 0"));
    aq_vocabulary_close(&v);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "characters", test_characters);
    CU_add_test(suite, "bytes", test_bytes);
}
