/* Expressions of tokenizer.json become expressions of PCRE2, or are refused. */
#include "src/model/regex_syntax.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/suite.h"

#define S AQ_REGEX_SPACE

static bool becomes(const char *regex, const char *expected) {
    char *out;
    if (!aq_test_ok(aq_regex_translate(regex, &out))) return false;
    const bool good = strcmp(out, expected) == 0;
    free(out);
    return good;
}

static void test_translated(void) {
    CU_ASSERT_TRUE(becomes("(?i:'s|'t)|\\p{L}+", "(?i:'s|'t)|\\p{L}+"));
    CU_ASSERT_TRUE(becomes("\\s+(?!\\S)", "[" S "]+(?![^" S "])"));
    CU_ASSERT_TRUE(becomes("[^\\s\\p{L}]", "[^" S "\\p{L}]"));
    CU_ASSERT_TRUE(becomes("[^\\r\\n]?\\p{N}{1,3}", "[^\\r\\n]?\\p{N}{1,3}"));
    CU_ASSERT_TRUE(becomes("\\s+$", "[" S "]+(?=\\n|\\z)"));
    CU_ASSERT_TRUE(becomes("[$(.]a\\$", "[$(.]a\\$"));
    CU_ASSERT_TRUE(becomes("[\\u4e00-\\u9fa5]+", "[\\x{4e00}-\\x{9fa5}]+"));
    CU_ASSERT_TRUE(becomes("\\x41\\x{1F600}", "\\x{41}\\x{1F600}"));
    CU_ASSERT_TRUE(becomes("a{2}b++c*?(?<!d)(e)(?>f)", "a{2}b++c*?(?<!d)(e)(?>f)"));
    CU_ASSERT_TRUE(becomes("", ""));
    CU_ASSERT_FALSE(becomes("\\s", "\\s"));
}

/* Each of these means something else to PCRE2, or is better not left to a file. */
static void test_refused(void) {
    static const char *const regexes[] = {
        "\\w",      "\\b",     "\\h",    "\\X",         "\\1",   "\\k<a>", "\\",      "a\\",
        "^a",       "[a[b]]",  "[a&&b]", "[[:alpha:]]", "[]a]",  "[^]a]",  "(?i)a",   "(?#a)",
        "(?P<n>a)", "(?1)",    "(?R)",   "(*FAIL)",     "a{,3}", "a{2}?",  "a{1,2}+", "a{",
        "a{x}",     "\\p",     "\\pL",   "\\p{L",       "[\\S]", "\\u12",  "\\x{1",   "\\xff",
        "(?C1)",    "\\Qa\\E", "\\K",    "\\G",         "\\R",   "[\\b]",  "\\u12g4", "(?(1)a)"};
    char *out;
    for (size_t i = 0; i < sizeof regexes / sizeof *regexes; i++) {
        aq_test_fails(aq_regex_translate(regexes[i], &out), AQ_ERR_UNSUPPORTED, "is not supported");
        CU_ASSERT_PTR_NULL(out);
    }
    aq_test_fails(aq_regex_translate("abc\\w", &out), AQ_ERR_UNSUPPORTED, "\"\\w\" at byte 3");
}

static void test_literal(void) {
    CU_ASSERT_TRUE(aq_regex_is_literal("a b-\u2581/,"));
    CU_ASSERT_FALSE(aq_regex_is_literal("a+"));
    CU_ASSERT_FALSE(aq_regex_is_literal("a.b"));
    CU_ASSERT_FALSE(aq_regex_is_literal("\\s"));
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "translated", test_translated);
    CU_add_test(suite, "refused", test_refused);
    CU_add_test(suite, "literal", test_literal);
}
