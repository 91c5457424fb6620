/* Random generator: the published sequence, and moments within five standard errors. */
#include "src/base/rng.h"

#include <math.h>

#include "tests/support/suite.h"

#define N_DRAW 200000

typedef double (*draw_fn)(aq_rng *rng);

static double uniform(aq_rng *rng) {
    return aq_rng_uniform(rng);
}

/* The plant: as good as uniform to the eye, but its mean is 0.505. */
static double uniform_biased(aq_rng *rng) {
    const double u = aq_rng_uniform(rng);
    return u + 0.01 * (1.0 - u);
}

/* The plant: the usual slip of leaving the 2 out of Box and Muller; variance 1/2. */
static double normal_narrow(aq_rng *rng) {
    return aq_rng_normal(rng) * sqrt(0.5);
}

/* Whether the sample mean of draw()^power is within five standard errors of the true mean, where
 * `variance` is the true variance of draw()^power. */
static bool moment_fits(draw_fn draw, int power, double mean, double variance) {
    aq_rng rng = {42};
    double sum = 0;
    for (int i = 0; i < N_DRAW; i++)
        sum += pow(draw(&rng), power);
    return fabs(sum / N_DRAW - mean) < 5.0 * sqrt(variance / N_DRAW);
}

/* First outputs for seed 1234567, as printed with several independent implementations. */
static void gives_the_published_sequence(void) {
    static const uint64_t expected[] = {6457827717110365317u, 3203168211198807973u,
                                        9817491932198370423u, 4593380528125082431u,
                                        16408922859458223821u};
    aq_rng rng = {1234567};
    for (int i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(aq_rng_next(&rng), expected[i]);
}

static void uniform_stays_in_range(void) {
    aq_rng rng = {7};
    int n_outside = 0;
    for (int i = 0; i < N_DRAW; i++) {
        const double u = aq_rng_uniform(&rng);
        n_outside += !(u >= 0.0 && u < 1.0);
    }
    CU_ASSERT_EQUAL(n_outside, 0);
}

static void uniform_has_its_moments(void) {
    CU_ASSERT_TRUE(moment_fits(uniform, 1, 1.0 / 2, 1.0 / 12));
    CU_ASSERT_TRUE(moment_fits(uniform, 2, 1.0 / 3, 1.0 / 5 - 1.0 / 9));
    CU_ASSERT_FALSE(moment_fits(uniform_biased, 1, 1.0 / 2, 1.0 / 12));
}

static void normal_has_its_moments(void) {
    CU_ASSERT_TRUE(moment_fits(aq_rng_normal, 1, 0.0, 1.0));
    CU_ASSERT_TRUE(moment_fits(aq_rng_normal, 2, 1.0, 3.0 - 1.0));
    CU_ASSERT_TRUE(moment_fits(aq_rng_normal, 3, 0.0, 15.0));
    CU_ASSERT_TRUE(moment_fits(aq_rng_normal, 4, 3.0, 105.0 - 9.0));
    CU_ASSERT_FALSE(moment_fits(normal_narrow, 2, 1.0, 3.0 - 1.0));
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "gives the published sequence", gives_the_published_sequence);
    CU_add_test(suite, "uniform stays in range", uniform_stays_in_range);
    CU_add_test(suite, "uniform has its moments", uniform_has_its_moments);
    CU_add_test(suite, "normal has its moments", normal_has_its_moments);
}
