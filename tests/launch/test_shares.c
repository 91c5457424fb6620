/* --split as text. */
#include "launch/shares.h"

#include <stdio.h>
#include <string.h>

#include "tests/support/suite.h"

static void lists_are_read(void) {
    int64_t weights[4] = {-1, -1, -1, -1};
    aq_test_ok(aq_shares_parse("3,0,12", 3, weights));
    CU_ASSERT_TRUE(weights[0] == 3 && weights[1] == 0 && weights[2] == 12 && weights[3] == -1);
    aq_test_ok(aq_shares_parse("65536", 1, weights));
    CU_ASSERT_EQUAL(weights[0], 65536);
}

static void others_are_refused(void) {
    static const char *const bad[] = {"",     "3",      "3,1,1", "3,",
                                      ",1",   "3;1",    "3,x",   "3,-1",
                                      "3,1 ", "3,,1",   "a,b",   "99999999999999999999,1",
                                      "0,0",  "65536,1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int64_t weights[2];
        aq_test_fails(aq_shares_parse(bad[i], 2, weights), AQ_ERR_USAGE, "--split");
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "lists are read", lists_are_read);
    CU_add_test(suite, "others are refused", others_are_refused);
}
