/* Where the time of a step goes. */
#include "bench/phases.h"

#include "tests/support/suite.h"

static const aq_session_stats before = {.matmul_ns = 10,
                                        .attend_ns = 20,
                                        .merge_ns = 30,
                                        .exchange_ns = 40,
                                        .project_ns = 50,
                                        .other_ns = 1000000,
                                        .scan_ns = 7,
                                        .choose_ns = 3};

static void test_sum(void) {
    aq_session_stats after = before;
    int64_t ns[AQ_PHASES], sum = 0;
    after.matmul_ns += 100;
    after.attend_ns += 200;
    after.merge_ns += 1;
    after.exchange_ns += 2;
    after.project_ns += 3;
    after.scan_ns += 50;
    after.choose_ns += 25;
    aq_phases_between(&before, &after, 1000, 400, ns);
    for (int i = 0; i < AQ_PHASES; i++)
        sum += ns[i];
    CU_ASSERT_EQUAL(sum, 1000);
    CU_ASSERT_EQUAL(ns[AQ_PHASE_SCAN], 50);
    CU_ASSERT_EQUAL(ns[AQ_PHASE_CHOOSE], 25);
    CU_ASSERT_EQUAL(ns[AQ_PHASE_ATTEND], 125);
    CU_ASSERT_EQUAL(ns[AQ_PHASE_MATVEC], 100);
    CU_ASSERT_EQUAL(ns[AQ_PHASE_LOGITS], 400);
    CU_ASSERT_EQUAL(ns[AQ_PHASE_OTHER], 1000 - 100 - 200 - 6 - 400);
}

/* Clocks read at different moments may say a little more than there was. */
static void test_no_rest(void) {
    aq_session_stats after = before;
    int64_t ns[AQ_PHASES];
    after.matmul_ns += 100;
    aq_phases_between(&before, &after, 99, 0, ns);
    CU_ASSERT_EQUAL(ns[AQ_PHASE_OTHER], 0);
}

static void test_names(void) {
    for (int i = 0; i < AQ_PHASES; i++)
        for (int j = 0; j < i; j++)
            CU_ASSERT_STRING_NOT_EQUAL(aq_phase_name(i), aq_phase_name(j));
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "phases sum to the whole", test_sum);
    CU_add_test(suite, "nothing left", test_no_rest);
    CU_add_test(suite, "names", test_names);
}
