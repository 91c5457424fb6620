/* Energies of sampled queries in double precision, and the energy that a share of them reaches. */
#include "calib/budget.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/calib/sample_case.h"
#include "tests/support/suite.h"

enum { D = AQ_SAMPLE_D, G = AQ_SAMPLE_N_GROUP, N_HEAD = AQ_SAMPLE_N_HEAD };
enum { N_ENERGY = AQ_SAMPLE_N_QUERY * AQ_SAMPLE_N_HEAD * AQ_SAMPLE_D };

typedef enum { NO_BUG, BY_MAGNITUDE, NOT_SQUARED, SCALED, ANY_QUERY, ALL_BUGS } bug;

static double oracle_energy(const aq_sample_case *c, int query, int h, int column, bug planted) {
    const int64_t pos = planted == ANY_QUERY ? query : c->pos[query];
    const float *sigma = c->projection.sigma + (c->sample.layer * N_HEAD / G + h / G) * D;
    double x = aq_sample_case_query(c, pos, h, column);
    if (planted != BY_MAGNITUDE) x *= (double)sigma[column];
    if (planted == SCALED) x *= (double)c->sample.scale;
    return planted == NOT_SQUARED ? fabs(x) : x * x;
}

static void oracle(const aq_sample_case *c, bug planted, double *energies) {
    for (int i = 0; i < N_ENERGY; i++)
        energies[i] = oracle_energy(c, i / (N_HEAD * D), i / D % N_HEAD, i % D, planted);
}

static int falling(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* The first of n falling energies that more than the share have or exceed, or the last. */
static double energy_behind(const double *energies, int n, double share) {
    const int at = (int)floor(share * n);
    return energies[at < n ? at : n - 1];
}

/* Between that energy and one bin more, but for rounding. */
static bool near(float found, double behind) {
    return (double)found >= behind * 0.9999 && (double)found <= behind * (1 + 1.0 / 64) * 1.0001;
}

static bool energies_match(const aq_sample_case *c, const double *bins, bug planted) {
    double energies[N_ENERGY];
    bool good = true;
    oracle(c, planted, energies);
    qsort(energies, N_ENERGY, sizeof energies[0], falling);
    for (int i = 1; i < 10; i++)
        good = good &&
               near(aq_budget_energy(bins, 0.1 * i), energy_behind(energies, N_ENERGY, 0.1 * i));
    return good;
}

static void test_count(void) {
    aq_sample_case *c = aq_sample_case_open(11);
    double *bins = calloc(AQ_BUDGET_BINS, sizeof *bins), n = 0;
    if (bins && aq_test_ok(aq_budget_count(&c->sample, &c->projection, bins))) {
        for (int i = 0; i < AQ_BUDGET_BINS; i++)
            n += bins[i];
        CU_ASSERT_EQUAL(n, N_ENERGY);
        CU_ASSERT_TRUE(energies_match(c, bins, NO_BUG));
        for (int b = 1; b < ALL_BUGS; b++)
            CU_ASSERT_FALSE(energies_match(c, bins, (bug)b));
        CU_ASSERT_EQUAL(aq_budget_energy(bins, 1), FLT_MIN);
    }
    free(bins);
    aq_sample_case_close(c);
}

/* Where all columns of one layer count ten times less: they get fewer columns than those of
 * another, which the number of columns of the first alone would not tell. */
static void test_layers_share(void) {
    aq_sample_case *c = aq_sample_case_open(12);
    double *bins = calloc(AQ_BUDGET_BINS, sizeof *bins), energies[2 * N_ENERGY];
    oracle(c, NO_BUG, energies);
    if (bins && aq_test_ok(aq_budget_count(&c->sample, &c->projection, bins))) {
        for (int i = 0; i < AQ_SAMPLE_N_TOK * N_HEAD * D; i++)
            c->q[i] *= 0.1f;
        aq_test_ok(aq_budget_count(&c->sample, &c->projection, bins));
        oracle(c, NO_BUG, energies + N_ENERGY);
        const double alone = energy_behind(energies, N_ENERGY, 0.5);
        qsort(energies, 2 * N_ENERGY, sizeof energies[0], falling);
        const float found = aq_budget_energy(bins, 0.5);
        CU_ASSERT_TRUE(near(found, energy_behind(energies, 2 * N_ENERGY, 0.5)));
        CU_ASSERT_FALSE(near(found, alone)); /* planted: each layer for itself */
    }
    free(bins);
    aq_sample_case_close(c);
}

/* No sample at all, one column, and energies out of the range of fp32. */
static void test_edges(void) {
    double *bins = calloc(AQ_BUDGET_BINS, sizeof *bins);
    if (!bins) return;
    CU_ASSERT_EQUAL(aq_budget_energy(bins, 0.5), FLT_MIN);
    bins[AQ_BUDGET_BINS - 1] = 1;
    CU_ASSERT_TRUE(isfinite(aq_budget_energy(bins, 0.5)));
    CU_ASSERT_TRUE(aq_budget_energy(bins, 0.5) > 0.98f * FLT_MAX);
    CU_ASSERT_EQUAL(aq_budget_energy(bins, 1), FLT_MIN);
    free(bins);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "energies of the sampled queries", test_count);
    CU_add_test(suite, "layers share one energy", test_layers_share);
    CU_add_test(suite, "edges", test_edges);
}
