/* Inner loops that no operation shows alone, on every instruction set: the exponential. */
#include "kernels/simd.h"

#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cpu.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define BATCH 1001 /* odd: the last lanes are partly filled */

static const aq_simd *tables(int isa) {
    return aq_cpu_simd((aq_cpu_isa)isa);
}

/* Error in units of the last place of the result, which is 2^-149 for subnormal ones. */
static double ulps(float y, double ref) {
    if (ref > 3.4028235677973366e38) return isinf(y) ? 0 : INFINITY; /* rounds to infinity */
    int exponent;
    frexp(ref, &exponent);
    const double ulp = ldexp(1, (exponent < -125 ? -125 : exponent) - 24);
    return fabs(y - ref) / ulp;
}

/* Every 997th float from -inf to inf, in order of its bits. */
static double worst_over_range(const aq_simd *simd, float planted_scale) {
    float x[BATCH], y[BATCH];
    double worst = 0;
    uint64_t bits = 0;
    while (bits <= 0xff800000u) {
        int n = 0;
        for (; n < BATCH && bits <= 0xff800000u; n++, bits += 997) {
            const uint32_t b = (uint32_t)bits;
            memcpy(&x[n], &b, 4);
            if (isnan(x[n])) x[n] = 0.5f;
        }
        simd->exp_shifted(x, 0.0f, n, y);
        for (int i = 0; i < n; i++)
            worst = fmax(worst, ulps(y[i] * planted_scale, exp(x[i])));
    }
    return worst;
}

static void test_exp_range(void) {
    for (int isa = 0; isa <= (int)aq_cpu_isa_best(); isa++) {
        const double worst = worst_over_range(tables(isa), 1.0f);
        printf("  exp on %s: worst %.3f ulp\n", tables(isa)->name, worst);
        CU_ASSERT(worst <= 2);
        CU_ASSERT(worst_over_range(tables(isa), 1.0f + 5e-7f) > 2); /* planted bug */
    }
}

static void test_exp_special(void) {
    for (int isa = 0; isa <= (int)aq_cpu_isa_best(); isa++) {
        float x[] = {-INFINITY, -1e30f, -104.5f, 0.0f, -0.0f, 89.5f, INFINITY, NAN, 1.0f};
        const int64_t n = sizeof x / sizeof x[0];
        tables(isa)->exp_shifted(x, 0.0f, n, x);
        CU_ASSERT_EQUAL(x[0], 0.0f);
        CU_ASSERT_EQUAL(x[1], 0.0f);
        CU_ASSERT_EQUAL(x[2], 0.0f);
        CU_ASSERT_EQUAL(x[3], 1.0f);
        CU_ASSERT_EQUAL(x[4], 1.0f);
        CU_ASSERT(isinf(x[5]) && isinf(x[6]));
        CU_ASSERT(isnan(x[7]));
    }
}

static void test_exp_sum(void) {
    static float x[BATCH], y[BATCH];
    aq_fill_normal(7, BATCH, 0.5f, x);
    for (int isa = 0; isa <= (int)aq_cpu_isa_best(); isa++)
        for (int64_t n = 0; n <= 70; n += 1) {
            aq_bound bound = {0, 0}, bug = {0, 0};
            double sum = 0;
            for (int64_t i = 0; i < n; i++)
                sum += exp((double)(x[i] - 0.5f));
            const float got = tables(isa)->exp_shifted(x, 0.5f, n, y);
            aq_bound_reduction(&bound, got, sum, n + 1, sum);
            CU_ASSERT(bound.worst <= 1);
            if (n == 0) continue;
            aq_bound_reduction(&bug, got - y[n - 1], sum, n + 1, sum);
            CU_ASSERT(bug.worst > 1);
        }
}

static void test_names(void) {
    for (int isa = 0; isa <= (int)aq_cpu_isa_best(); isa++)
        CU_ASSERT_STRING_EQUAL(tables(isa)->name, aq_cpu_isa_name((aq_cpu_isa)isa));
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "exp_range", test_exp_range);
    CU_add_test(suite, "exp_special", test_exp_special);
    CU_add_test(suite, "exp_sum", test_exp_sum);
    CU_add_test(suite, "names", test_names);
}
