/* The rule of selecting attention against plain loops and sorting in double precision. */
#include "calib/mass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/suite.h"

enum { N_GROUP = 3, N = 301, STRIDE = 320 };

static void random_scores(uint64_t seed, float *z) {
    aq_rng rng = {seed};
    for (int i = 0; i < N_GROUP * STRIDE; i++)
        z[i] = (float)(3 * aq_rng_normal(&rng));
}

typedef enum { NO_BUG, ONE_HEAD_ONLY, NOT_NORMED, MEAN_FOR_MOST } bug;

/* w[N] of the scores. */
static void oracle_weights(const float *z, bool group_mean, bug planted, double *w) {
    const int n_group = planted == ONE_HEAD_ONLY ? 1 : N_GROUP;
    double all = 0;
    if (planted == MEAN_FOR_MOST) group_mean = !group_mean;
    for (int s = 0; s < N; s++)
        w[s] = 0;
    for (int h = 0; h < n_group; h++) {
        double sum = 0;
        for (int s = 0; s < N; s++)
            sum += exp((double)z[h * STRIDE + s]);
        for (int s = 0; s < N; s++) {
            const double p = exp((double)z[h * STRIDE + s]) / sum;
            w[s] = group_mean ? w[s] + p : fmax(w[s], p);
        }
    }
    for (int s = 0; s < N; s++)
        all += w[s];
    for (int s = 0; planted != NOT_NORMED && s < N; s++)
        w[s] /= all;
}

static bool weights_match(const float *scores, bool group_mean, bug planted) {
    float z[N_GROUP * STRIDE], w[N];
    double expected[N];
    bool good = true;
    memcpy(z, scores, sizeof z);
    aq_mass_weights(z, N_GROUP, STRIDE, N, group_mean, w);
    oracle_weights(scores, group_mean, planted, expected);
    for (int s = 0; s < N; s++)
        good = good && fabs((double)w[s] - expected[s]) <= 1e-5 * expected[s] + 1e-12;
    return good;
}

static void test_weights(void) {
    float z[N_GROUP * STRIDE];
    for (uint64_t seed = 1; seed < 5; seed++) {
        random_scores(seed, z);
        for (int mean = 0; mean < 2; mean++) {
            CU_ASSERT_TRUE(weights_match(z, mean, NO_BUG));
            CU_ASSERT_FALSE(weights_match(z, mean, ONE_HEAD_ONLY));
            CU_ASSERT_FALSE(weights_match(z, mean, NOT_NORMED));
            CU_ASSERT_FALSE(weights_match(z, mean, MEAN_FOR_MOST));
        }
    }
}

/* Scores far apart: no overflow, and the first holds it all. */
static void test_extreme_scores(void) {
    float z[3] = {5000, -5000, 0}, w[3];
    aq_mass_weights(z, 1, 3, 3, false, w);
    CU_ASSERT_EQUAL(w[0], 1);
    CU_ASSERT_EQUAL(w[1], 0);
    CU_ASSERT_EQUAL(w[2], 0);
}

/* Sum of the weights from x on. */
static double held_from(const float *w, float x) {
    double held = 0;
    for (int s = 0; s < N; s++)
        held += w[s] >= x ? (double)w[s] : 0;
    return held;
}

/* The least weight above x; the set from there on is the next smaller one. */
static float next_above(const float *w, float x) {
    float next = INFINITY;
    for (int s = 0; s < N; s++)
        if (w[s] > x && w[s] < next) next = w[s];
    return next;
}

static bool is_threshold(const float *w, float x, double mass) {
    const double all = held_from(w, 0);
    return held_from(w, x) >= mass * all * (1 - 1e-12) &&
           held_from(w, next_above(w, x)) < mass * all;
}

static void test_threshold(void) {
    static const double masses[] = {1e-6, 0.5, 0.9, 0.95, 0.99};
    float z[N_GROUP * STRIDE], w[N], work[N];
    for (uint64_t seed = 1; seed < 5; seed++) {
        random_scores(seed, z);
        aq_mass_weights(z, N_GROUP, STRIDE, N, false, w);
        for (int s = 0; s < 20; s++)
            w[3 * s] = w[0]; /* ties go in together */
        for (int i = 0; i < 5; i++) {
            const float x = aq_mass_threshold(w, N, masses[i], work);
            CU_ASSERT_TRUE(is_threshold(w, x, masses[i]));
            CU_ASSERT_FALSE(is_threshold(w, next_above(w, x), masses[i])); /* planted: too few */
            CU_ASSERT_FALSE(is_threshold(w, x / 4, masses[i]));            /* planted: too many */
        }
        CU_ASSERT_EQUAL(aq_mass_threshold(w, N, 1, work), 0);
    }
}

/* Whether exactly the n_best largest are chosen, of equals the first. */
static bool best_chosen(const float *w, int64_t n_best, const bool *chosen) {
    bool good = true;
    for (int s = 0; s < N; s++) {
        int64_t before = 0;
        for (int t = 0; t < N; t++)
            before += w[t] > w[s] || (w[t] == w[s] && t < s);
        good = good && chosen[s] == (before < n_best);
    }
    return good;
}

static void test_best(void) {
    static const int64_t counts[] = {0, 1, 2, 17, 150, N - 1, N, N + 5};
    float w[N], work[N];
    bool chosen[N];
    for (uint64_t seed = 1; seed < 9; seed++) {
        aq_rng rng = {seed};
        for (int s = 0; s < N; s++) /* even seeds: with many ties */
            w[s] = seed % 2 == 0 ? (float)(aq_rng_next(&rng) % 7) : (float)aq_rng_normal(&rng);
        for (int i = 0; i < 8; i++) {
            aq_mass_best(w, N, counts[i], work, chosen);
            CU_ASSERT_TRUE(best_chosen(w, counts[i], chosen));
            CU_ASSERT_FALSE(best_chosen(w, counts[i] < N ? counts[i] + 1 : N - 1, chosen));
        }
    }
}

static void test_far(void) {
    const aq_mass_rule rule = {.mass = 0.95, .n_sink = 4, .n_recent = 64};
    static const int64_t cases[][3] = {
        {1, 1, 1}, {4, 4, 4}, {68, 4, 4}, {69, 4, 5}, {1000, 4, 936}};
    for (int i = 0; i < 5; i++) {
        int64_t begin, end;
        aq_mass_far(&rule, cases[i][0], &begin, &end);
        CU_ASSERT_EQUAL(begin, cases[i][1]);
        CU_ASSERT_EQUAL(end, cases[i][2]);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "weights of a group", test_weights);
    CU_add_test(suite, "extreme scores", test_extreme_scores);
    CU_add_test(suite, "the threshold holds the mass with no token too many", test_threshold);
    CU_add_test(suite, "the largest are chosen", test_best);
    CU_add_test(suite, "far tokens", test_far);
}
