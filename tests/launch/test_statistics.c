/* Statistics of benchmarks against values worked out by hand, and against the usual mistakes. */
#include "bench/statistics.h"

#include <math.h>

#include "tests/support/suite.h"

static int near(double value, double expected) {
    return fabs(value - expected) <= 1e-12 * fmax(1.0, fabs(expected));
}

static void test_odd(void) {
    double values[] = {7, 1, 4, 2, 6};
    const aq_statistics s = aq_statistics_of(values, 5);
    CU_ASSERT_TRUE(near(s.mean, 4));
    CU_ASSERT_TRUE(near(s.median, 4));
    CU_ASSERT_TRUE(near(s.sd, sqrt(26.0 / 4)));
}

static void test_even(void) {
    double values[] = {10, 1, 3, 2};
    const aq_statistics s = aq_statistics_of(values, 4);
    CU_ASSERT_TRUE(near(s.mean, 4));
    CU_ASSERT_TRUE(near(s.median, 2.5));
    CU_ASSERT_TRUE(near(s.sd, sqrt(50.0 / 3)));
}

static void test_one(void) {
    double value = 3;
    const aq_statistics s = aq_statistics_of(&value, 1);
    CU_ASSERT_TRUE(near(s.mean, 3) && near(s.median, 3));
    CU_ASSERT_EQUAL(s.sd, 0);
}

/* The mean of rates is not the rate of the mean time, and the times stay as they were. */
static void test_rates(void) {
    const double seconds[] = {4, 1, 2};
    double rates[3];
    const aq_statistics s = aq_statistics_rates(seconds, 3, 8, rates);
    CU_ASSERT_TRUE(near(s.mean, (2.0 + 8.0 + 4.0) / 3));
    CU_ASSERT_TRUE(near(s.median, 4));
    CU_ASSERT_EQUAL(seconds[0], 4);
}

/* Each of these is a plausible wrong formula on the values above; the checks must tell it apart. */
static void test_mistakes_are_seen(void) {
    double values[] = {10, 1, 3, 2};
    const aq_statistics s = aq_statistics_of(values, 4);
    const double divisor_n = sqrt(50.0 / 4), upper_middle = 3, unsorted_middle = (1.0 + 3.0) / 2;
    const double rate_of_mean_time = 8 / ((4.0 + 1.0 + 2.0) / 3);
    CU_ASSERT_FALSE(near(divisor_n, s.sd));
    CU_ASSERT_FALSE(near(upper_middle, s.median));
    CU_ASSERT_FALSE(near(unsorted_middle, s.median));
    CU_ASSERT_FALSE(near(rate_of_mean_time, (2.0 + 8.0 + 4.0) / 3));
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "odd number", test_odd);
    CU_add_test(suite, "even number", test_even);
    CU_add_test(suite, "one value", test_one);
    CU_add_test(suite, "rates", test_rates);
    CU_add_test(suite, "mistakes are seen", test_mistakes_are_seen);
}
