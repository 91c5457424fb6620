/* Main of the serial tests: one CUnit suite, exit 0 passed, 1 failed, 77 everything skipped. */
#include <CUnit/Basic.h>
#include <stdio.h>

#include "tests/support/suite.h"

int main(void) {
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite(AQ_TEST_NAME, NULL, NULL);
    if (!suite) return 1;
    aq_test_register(suite);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    const unsigned n_run = CU_get_number_of_tests_run();
    const unsigned n_fail = CU_get_number_of_failures() + (n_run == 0);
    CU_cleanup_registry();
    if (n_fail > 0) return 1;
    return (unsigned)aq_test_skips() >= n_run ? 77 : 0;
}
