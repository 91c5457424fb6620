/* Levels of selector codes against an oracle that looks at every step and every level. */
#include "calib/levels.h"

#include <math.h>

#include "src/base/rng.h"
#include "tests/support/oracle_levels.h"
#include "tests/support/suite.h"

enum { N = 3 * 64 + 23 };

static void random_column(uint64_t seed, float *x) {
    aq_rng rng = {seed};
    for (int s = 0; s < N; s++)
        x[s] = (float)((0.3 + aq_rng_normal(&rng)) * pow(3, s / 64) + (double)seed);
}

/* Largest distance of the levels to the oracle's, in units of the tile's own error. */
static bool matches(int bits, const float *x, aq_levels_bug bug) {
    float got[N];
    double expected[N], most = 0;
    int n_other = 0;
    aq_levels_column(bits, x, N, got);
    aq_oracle_levels(bits, x, N, bug, expected);
    for (int s = 0; s < N; s++) {
        /* A value between two levels may fall to either of them by rounding. */
        const double apart = fabs((double)got[s] - expected[s]);
        const double worse =
            fabs(fabs((double)got[s] - (double)x[s]) - fabs(expected[s] - (double)x[s]));
        const double tolerance = 1e-5 * (1 + fabs((double)x[s]));
        if (apart > tolerance && worse <= 1e-4 * fabs((double)got[s] - (double)x[s]))
            n_other++;
        else
            most = fmax(most, apart / tolerance);
    }
    return most <= 1 && n_other <= 2;
}

static void test_all_bits(void) {
    static const int bits[] = {1, 2, 3, 4, 5, 6, 8};
    float x[N];
    for (uint64_t seed = 0; seed < 6; seed++) {
        random_column(seed, x);
        for (int i = 0; i < 7; i++) {
            CU_ASSERT_TRUE(matches(bits[i], x, AQ_LEVELS_RIGHT));
            CU_ASSERT_FALSE(matches(bits[i], x, AQ_LEVELS_WHOLE_COLUMN)); /* planted, as below */
            CU_ASSERT_FALSE(matches(bits[i], x, AQ_LEVELS_STEP_NOT_ROUNDED));
            if (bits[i] <= 2) CU_ASSERT_FALSE(matches(bits[i], x, AQ_LEVELS_MINMAX_ALWAYS));
        }
    }
}

/* Columns of one value are exact; a short last tile has a range of its own. */
static void test_constant(void) {
    float x[70], out[70];
    for (int s = 0; s < 70; s++)
        x[s] = s < 64 ? 3.25f : -7.5f;
    for (int bits = 1; bits <= 4; bits++) {
        aq_levels_column(bits, x, 70, out);
        for (int s = 0; s < 70; s++)
            CU_ASSERT_EQUAL(out[s], x[s]);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "every number of bits", test_all_bits);
    CU_add_test(suite, "columns of one value", test_constant);
}
