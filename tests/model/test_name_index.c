/* Names are found, duplicates are noticed, and large tables stay fast. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/name_index.h"
#include "tests/support/suite.h"

static void test_small(void) {
    aq_name_index index;
    if (!aq_test_ok(aq_name_index_open(3, &index))) return;
    CU_ASSERT_TRUE(aq_name_index_add(&index, "a", 1, 7));
    CU_ASSERT_TRUE(aq_name_index_add(&index, "ab", 2, 8));
    CU_ASSERT_TRUE(aq_name_index_add(&index, "a\0b", 3, 9));
    CU_ASSERT_FALSE(aq_name_index_add(&index, "abc", 2, 10));
    CU_ASSERT_EQUAL(aq_name_index_find(&index, "a", 1), 7);
    CU_ASSERT_EQUAL(aq_name_index_find(&index, "ab", 2), 8);
    CU_ASSERT_EQUAL(aq_name_index_find(&index, "a\0b", 3), 9);
    CU_ASSERT_EQUAL(aq_name_index_find(&index, "b", 1), -1);
    CU_ASSERT_EQUAL(aq_name_index_find(&index, "", 0), -1);
    aq_name_index_close(&index);
    CU_ASSERT_EQUAL(aq_name_index_find(&index, "a", 1), -1);
}

static void test_empty(void) {
    aq_name_index index;
    if (!aq_test_ok(aq_name_index_open(0, &index))) return;
    CU_ASSERT_EQUAL(aq_name_index_find(&index, "a", 1), -1);
    aq_name_index_close(&index);
}

static void test_too_many(void) {
    aq_name_index index;
    aq_test_fails(aq_name_index_open(UINT64_MAX / 2, &index), AQ_ERR_MEMORY, "no memory");
    aq_name_index_close(&index);
}

/* A table that compared every pair of names would need minutes here. */
static void test_large(void) {
    enum { N = 200000 };
    char(*names)[24] = malloc(N * sizeof *names);
    aq_name_index index;
    int64_t n_wrong = 0;
    if (!names || !aq_test_ok(aq_name_index_open(N, &index))) {
        free(names);
        return;
    }
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "token%d", i);
        n_wrong += !aq_name_index_add(&index, names[i], strlen(names[i]), i);
    }
    for (int i = 0; i < N; i++)
        n_wrong += aq_name_index_find(&index, names[i], strlen(names[i])) != i;
    CU_ASSERT_EQUAL(n_wrong, 0);
    aq_name_index_close(&index);
    free(names);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "small", test_small);
    CU_add_test(suite, "empty", test_empty);
    CU_add_test(suite, "too many", test_too_many);
    CU_add_test(suite, "large", test_large);
}
