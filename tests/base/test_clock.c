/* Clock: never back, and in nanoseconds. */
#define _POSIX_C_SOURCE 200809L
#include "src/base/clock.h"

#include <time.h>

#include "tests/support/suite.h"

static void never_goes_back(void) {
    int n_back = 0;
    int64_t last_ns = aq_clock_ns();
    for (int i = 0; i < 100000; i++) {
        const int64_t now_ns = aq_clock_ns();
        n_back += now_ns < last_ns;
        last_ns = now_ns;
    }
    CU_ASSERT_EQUAL(n_back, 0);
}

/* Over a full second, so that both parts of the system's time count. */
static void counts_nanoseconds(void) {
    const int64_t pause_ns = INT64_C(1050000000);
    const struct timespec pause = {.tv_sec = 1, .tv_nsec = pause_ns - INT64_C(1000000000)};
    const int64_t start_ns = aq_clock_ns();
    CU_ASSERT_EQUAL(nanosleep(&pause, NULL), 0);
    const int64_t passed_ns = aq_clock_ns() - start_ns;
    CU_ASSERT_TRUE(passed_ns >= pause_ns);
    CU_ASSERT_TRUE(passed_ns < 60 * pause_ns); /* a busy machine is late */
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "never goes back", never_goes_back);
    CU_add_test(suite, "counts nanoseconds", counts_nanoseconds);
}
