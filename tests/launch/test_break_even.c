/* Break-even against cases worked out by hand, and against plausible wrong rules. */
#include "bench/break_even.h"

#include <math.h>

#include "tests/support/suite.h"

#define N_MAX 4

typedef int64_t (*rule)(const int64_t *lengths, const double *ratios, int n);

static const int64_t lengths[N_MAX] = {64, 128, 256, 512};

static const struct {
    int n;
    double ratios[N_MAX];
    int64_t from;
} cases[] = {
    {4, {1.2, 1.1, 0.9, 0.8}, 256},        /* it pays from some length on */
    {4, {0.9, 0.8, 0.7, 0.6}, 64},         /* always */
    {4, {1.3, 1.2, 1.1, 1.05}, INT64_MAX}, /* never */
    {4, {1.2, 0.9, 1.1, 1.05}, INT64_MAX}, /* a single dip */
    {4, {1.2, 0.9, 1.1, 0.8}, 512},        /* a dip, then for good */
    {4, {0.9, 0.9, 0.9, 1.1}, INT64_MAX},  /* not at the longest */
    {4, {1.2, 1.0, 0.9, 0.8}, 256},        /* as fast as dense is not faster */
    {4, {1.2, 0.8, NAN, 0.9}, 512},        /* what was not measured does not count */
    {1, {0.9}, 64},
    {1, {1.1}, INT64_MAX},
    {0, {0}, INT64_MAX},
};

/* How many cases a rule gets wrong. */
static int count_wrong(rule find) {
    int n = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        n += find(lengths, cases[i].ratios, cases[i].n) != cases[i].from;
    return n;
}

static void test_cases(void) {
    CU_ASSERT_EQUAL(count_wrong(aq_break_even), 0);
}

/* Planted bugs. */
static int64_t first_dip(const int64_t *at, const double *ratios, int n) {
    for (int i = 0; i < n; i++)
        if (ratios[i] < 1) return at[i];
    return INT64_MAX;
}

static int64_t last_below(const int64_t *at, const double *ratios, int n) {
    for (int i = n - 1; i >= 0; i--)
        if (ratios[i] < 1) return at[i];
    return INT64_MAX;
}

static int64_t after_last_above(const int64_t *at, const double *ratios, int n) {
    int from = 0;
    for (int i = 0; i < n; i++)
        if (ratios[i] > 1) from = i + 1;
    return from < n ? at[from] : INT64_MAX;
}

static void test_wrong_rules_are_seen(void) {
    CU_ASSERT_NOT_EQUAL(count_wrong(first_dip), 0);
    CU_ASSERT_NOT_EQUAL(count_wrong(last_below), 0);
    CU_ASSERT_NOT_EQUAL(count_wrong(after_last_above), 0);
}

static int near(double value, double expected) {
    return fabs(value - expected) <= 1e-12;
}

/* Ratios are those of the same repetition: sorted or averaged times would give 1 here. */
static void test_ratios_are_paired(void) {
    const double seconds[] = {1, 4, 2}, dense_s[] = {2, 1, 4};
    double ratios[3];
    const aq_bench_ratio ratio = aq_bench_ratio_of(seconds, dense_s, 3, ratios);
    CU_ASSERT_TRUE(near(ratio.median, 0.5));
    CU_ASSERT_TRUE(near(ratio.least, 0.5));
    CU_ASSERT_TRUE(near(ratio.most, 4));
    CU_ASSERT_EQUAL(seconds[0], 1);
    CU_ASSERT_EQUAL(dense_s[2], 4);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "cases", test_cases);
    CU_add_test(suite, "wrong rules are seen", test_wrong_rules_are_seen);
    CU_add_test(suite, "ratios are paired", test_ratios_are_paired);
}
