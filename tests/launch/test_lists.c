/* Lists in option values, and what is refused. */
#include "launch/lists.h"

#include "tests/support/suite.h"

static void test_words(void) {
    aq_word_list list;
    aq_test_ok(aq_word_list_parse("--x", "a,bc", ',', &list));
    CU_ASSERT_EQUAL_FATAL(list.n, 2);
    CU_ASSERT_STRING_EQUAL(list.words[0], "a");
    CU_ASSERT_STRING_EQUAL(list.words[1], "bc");
    aq_test_ok(aq_word_list_parse("--x", "16x4,32x2;8x4", ';', &list));
    CU_ASSERT_EQUAL_FATAL(list.n, 2);
    CU_ASSERT_STRING_EQUAL(list.words[0], "16x4,32x2");
    aq_test_ok(aq_word_list_parse("--x", "", ',', &list));
    CU_ASSERT_EQUAL(list.n, 0);
    aq_test_ok(aq_word_list_parse("--x", NULL, ',', &list));
    CU_ASSERT_EQUAL(list.n, 0);
    aq_test_fails(aq_word_list_parse("--x", "a,,b", ',', &list), AQ_ERR_USAGE, "--x");
    aq_test_fails(aq_word_list_parse("--x", "a,", ',', &list), AQ_ERR_USAGE, "empty entry");
    aq_test_fails(aq_word_list_parse("--x",
                                     "a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,"
                                     "a,a,a,a",
                                     ',', &list),
                  AQ_ERR_USAGE, "at most");
    aq_test_fails(aq_word_list_parse("--x",
                                     "0123456789012345678901234567890123456789012345678901234567890"
                                     "123",
                                     ',', &list),
                  AQ_ERR_USAGE, "at most");
}

static void test_numbers(void) {
    aq_number_list list;
    aq_test_ok(aq_number_list_parse("--x", ".9,0.75,1", 0, 1, &list));
    CU_ASSERT_EQUAL_FATAL(list.n, 3);
    CU_ASSERT_EQUAL(list.values[0], 0.9);
    CU_ASSERT_EQUAL(list.values[2], 1.0);
    aq_test_fails(aq_number_list_parse("--x", "1.1", 0, 1, &list), AQ_ERR_USAGE, "1.1");
    aq_test_fails(aq_number_list_parse("--x", "nan", 0, 1, &list), AQ_ERR_USAGE, "nan");
    aq_test_fails(aq_number_list_parse("--x", "0.5x", 0, 1, &list), AQ_ERR_USAGE, "0.5x");
    aq_test_fails(aq_number_list_parse("--x", "0.5, ", 0, 1, &list), AQ_ERR_USAGE, "--x");
}

static void test_depths(void) {
    aq_number_list list;
    aq_test_ok(aq_depth_list_parse("--depths", "5", &list));
    CU_ASSERT_EQUAL_FATAL(list.n, 5);
    for (int i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(list.values[i], 0.25 * i);
    aq_test_ok(aq_depth_list_parse("--depths", "1", &list));
    CU_ASSERT_EQUAL_FATAL(list.n, 1);
    CU_ASSERT_EQUAL(list.values[0], 1.0);
    aq_test_ok(aq_depth_list_parse("--depths", "0.1,0.9", &list));
    CU_ASSERT_EQUAL(list.n, 2);
    aq_test_fails(aq_depth_list_parse("--depths", "2,0.5", &list), AQ_ERR_USAGE, "--depths");
    aq_test_fails(aq_depth_list_parse("--depths", "100", &list), AQ_ERR_USAGE, "at most");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "words", test_words);
    CU_add_test(suite, "numbers", test_numbers);
    CU_add_test(suite, "depths", test_depths);
}
