/* The description of a tokeniser holds what is put in, and no more ends than fit. */
#include "src/model/tokenizer_source.h"

#include "tests/support/suite.h"

static void test_tokens(void) {
    aq_tokenizer_source source = {.path = "test"};
    if (!aq_test_ok(aq_tokenizer_source_tokens(&source, 3))) return;
    aq_test_ok(aq_tokenizer_source_merges(&source, 0));
    CU_ASSERT_TRUE(source.n == 3 && source.n_merge == 0);
    for (int i = 0; i < 3; i++)
        CU_ASSERT_TRUE(source.tokens[i].text.bytes == 0 &&
                       source.tokens[i].kind == AQ_TOKEN_NORMAL);
    aq_tokenizer_source_close(&source);
    CU_ASSERT_PTR_NULL(source.tokens);
    aq_tokenizer_source_close(&source);
}

static void test_ends(void) {
    aq_tokenizer_source source = {.path = "test", .n = 1000};
    aq_test_ok(aq_tokenizer_source_end(&source, -1));
    aq_test_ok(aq_tokenizer_source_end(&source, 1000));
    aq_test_ok(aq_tokenizer_source_end(&source, INT64_MAX));
    CU_ASSERT_EQUAL(source.n_end, 0);
    for (int i = 0; i < AQ_MAX_END; i++) {
        aq_test_ok(aq_tokenizer_source_end(&source, i));
        aq_test_ok(aq_tokenizer_source_end(&source, i)); /* once */
    }
    CU_ASSERT_EQUAL(source.n_end, AQ_MAX_END);
    CU_ASSERT_EQUAL(source.ends[5], 5);
    aq_test_fails(aq_tokenizer_source_end(&source, 999), AQ_ERR_LIMIT, "more than 64 ids");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "tokens", test_tokens);
    CU_add_test(suite, "ends", test_ends);
}
