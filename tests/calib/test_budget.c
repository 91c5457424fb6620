/* Losses of budgets in double precision, and dealing columns step by step. */
#include "calib/budget.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/calib/sample_case.h"
#include "tests/support/suite.h"

enum { N = AQ_SAMPLE_N_TOK, D = AQ_SAMPLE_D, G = AQ_SAMPLE_N_GROUP, N_HEAD = AQ_SAMPLE_N_KV_HEAD };

typedef enum { NO_BUG, BY_MAGNITUDE, KL_REVERSED, LEADING_COLUMNS, ALL_BUGS } bug;

/* Whether column c is among the k that decide for a query. */
static bool decides(const aq_sample_case *c, const double *q, int head, int column, int k,
                    bug planted) {
    const float *sigma = c->projection.sigma + (c->sample.layer * N_HEAD + head) * D;
    int before = 0;
    if (planted == LEADING_COLUMNS) return column < k;
    for (int i = 0; i < D; i++) {
        const double a = fabs(q[i]) * (planted == BY_MAGNITUDE ? 1 : (double)sigma[i]);
        const double b = fabs(q[column]) * (planted == BY_MAGNITUDE ? 1 : (double)sigma[column]);
        before += a > b || (a == b && i < column);
    }
    return before < k;
}

static void softmax(double *z, int64_t n) {
    double sum = 0;
    for (int64_t s = 0; s < n; s++)
        sum += exp(z[s]);
    for (int64_t s = 0; s < n; s++)
        z[s] = exp(z[s]) / sum;
}

/* KL of one query and head at k columns. */
static double oracle_query(const aq_sample_case *c, int head, int h, int64_t pos, int k,
                           bug planted) {
    double q[D], p[N], r[N], kl = 0;
    for (int i = 0; i < D; i++)
        q[i] = aq_sample_case_query(c, pos, head * G + h, i) * (double)c->sample.scale;
    for (int64_t s = 0; s <= pos; s++) {
        p[s] = r[s] = 0;
        for (int i = 0; i < D; i++) {
            const double score = q[i] * aq_sample_case_key(c, s, head, i);
            p[s] += score;
            if (decides(c, q, head, i, k, planted)) r[s] += score;
        }
    }
    softmax(p, pos + 1);
    softmax(r, pos + 1);
    for (int64_t s = 0; s <= pos; s++)
        kl += planted == KL_REVERSED ? r[s] * log(r[s] / p[s]) : p[s] * log(p[s] / r[s]);
    return kl;
}

static double oracle(const aq_sample_case *c, int head, int k, bug planted) {
    double loss = 0;
    for (int i = 0; i < AQ_SAMPLE_N_QUERY; i++)
        for (int h = 0; h < G; h++)
            loss += oracle_query(c, head, h, c->pos[i], k, planted);
    return loss;
}

static bool losses_match(const aq_sample_case *c, const double *loss, const int *grid, int n_grid,
                         bug planted) {
    bool good = true;
    for (int head = 0; head < N_HEAD; head++)
        for (int j = 0; j < n_grid; j++) {
            const double expected = oracle(c, head, grid[j], planted);
            good = good && fabs(loss[head * n_grid + j] - expected) <= 1e-4 * expected + 1e-4;
        }
    return good;
}

static void test_losses(void) {
    aq_sample_case *c = aq_sample_case_open(11);
    int grid[AQ_BUDGET_GRID];
    const int n_grid = aq_budget_grid(D, grid);
    double loss[N_HEAD * AQ_BUDGET_GRID] = {0}, many[N_HEAD * AQ_BUDGET_GRID] = {0};
    CU_ASSERT_EQUAL(n_grid, 8);
    aq_test_ok(aq_budget_loss(&c->sample, &c->projection, grid, n_grid, loss));
    CU_ASSERT_TRUE(losses_match(c, loss, grid, n_grid, NO_BUG));
    for (int b = 1; b < ALL_BUGS; b++)
        CU_ASSERT_FALSE(losses_match(c, loss, grid, n_grid, (bug)b));
    aq_test_ok(aq_threads_open(3, &c->sample.team));
    aq_test_ok(aq_budget_loss(&c->sample, &c->projection, grid, n_grid, many));
    CU_ASSERT_EQUAL(memcmp(loss, many, sizeof loss), 0);
    aq_threads_close(c->sample.team);
    aq_sample_case_close(c);
}

static void test_grid(void) {
    int grid[AQ_BUDGET_GRID];
    static const int wide[] = {8, 16, 24, 32, 40, 48, 56, 64}, narrow[] = {1, 2, 3};
    CU_ASSERT_EQUAL(aq_budget_grid(64, grid), 8);
    CU_ASSERT_EQUAL(memcmp(grid, wide, sizeof wide), 0);
    CU_ASSERT_EQUAL(aq_budget_grid(3, grid), 3);
    CU_ASSERT_EQUAL(memcmp(grid, narrow, sizeof narrow), 0);
}

enum { N_PROBLEM = 7, N_STEP = 4 };

static const int uneven[N_STEP] = {2, 3, 8, 16};

/* Losses that fall ever more slowly a column, so that dealing by gain is the best there is. */
static void convex_losses(uint64_t seed, double *loss) {
    aq_rng rng = {seed};
    for (int i = 0; i < N_PROBLEM; i++) {
        double slope = 5 + 20 * aq_rng_uniform(&rng);
        loss[i * N_STEP] = 1000;
        for (int j = 1; j < N_STEP; j++) {
            loss[i * N_STEP + j] = loss[i * N_STEP + j - 1] - slope * (uneven[j] - uneven[j - 1]);
            slope *= 0.1 + 0.8 * aq_rng_uniform(&rng);
        }
    }
}

static double loss_of(const double *loss, const uint16_t *k) {
    double sum = 0;
    for (int i = 0; i < N_PROBLEM; i++)
        for (int j = 0; j < N_STEP; j++)
            if (uneven[j] == k[i]) sum += loss[i * N_STEP + j];
    return sum;
}

static int columns_of(const uint16_t *k) {
    int n = 0;
    for (int i = 0; i < N_PROBLEM; i++)
        n += k[i];
    return n;
}

/* The least loss of all deals of at most n_col columns, by trying them. */
static double least_loss(const double *loss, int n_col) {
    double least = INFINITY;
    for (int number = 0; number < 1 << (2 * N_PROBLEM); number++) {
        uint16_t k[N_PROBLEM];
        for (int i = 0; i < N_PROBLEM; i++)
            k[i] = (uint16_t)uneven[number >> (2 * i) & 3];
        if (columns_of(k) <= n_col) least = fmin(least, loss_of(loss, k));
    }
    return least;
}

/* Dealing by gain a step, not a column: what the planted bug does. */
static void deal_without_width(const double *loss, int n_col, uint16_t *k) {
    int at[N_PROBLEM] = {0};
    for (int left = n_col - N_PROBLEM * uneven[0];;) {
        int best = -1;
        double most = 0;
        for (int i = 0; i < N_PROBLEM; i++) {
            if (at[i] + 1 == N_STEP || uneven[at[i] + 1] - uneven[at[i]] > left) continue;
            const double gain = loss[i * N_STEP + at[i]] - loss[i * N_STEP + at[i] + 1];
            if (best < 0 || gain > most) {
                best = i;
                most = gain;
            }
        }
        if (best < 0) break;
        left -= uneven[at[best] + 1] - uneven[at[best]];
        at[best]++;
    }
    for (int i = 0; i < N_PROBLEM; i++)
        k[i] = (uint16_t)uneven[at[i]];
}

/* At the numbers of columns that dealing itself stops at, a convex problem has no better deal. */
static void test_deal(void) {
    int n_other = 0;
    for (uint64_t seed = 1; seed < 9; seed++) {
        double loss[N_PROBLEM * N_STEP];
        uint16_t k[N_PROBLEM], wrong[N_PROBLEM];
        convex_losses(seed, loss);
        aq_test_ok(aq_budget_deal(loss, N_PROBLEM, uneven, N_STEP, 52, k));
        CU_ASSERT_TRUE(columns_of(k) <= 52);
        deal_without_width(loss, 52, wrong);
        n_other += memcmp(k, wrong, sizeof k) != 0;
        /* What is left over is less than any step that was not taken. */
        const double least = least_loss(loss, columns_of(k));
        CU_ASSERT_TRUE(loss_of(loss, k) <= least * 1.05);
    }
    CU_ASSERT_TRUE(n_other > 0); /* planted: the gain of a step without its width */
}

/* Two problems, by hand: steps of 1, 5 and 8 columns. */
static void test_deal_by_hand(void) {
    const double loss[2 * N_STEP] = {100, 90, 60, 50, 100, 95, 50, 49};
    static const uint16_t expected[][3] = {{4, 2, 2},  {5, 3, 2},   {6, 3, 3},   {11, 3, 8},
                                           {16, 8, 8}, {24, 16, 8}, {32, 16, 16}};
    for (int i = 0; i < 7; i++) {
        uint16_t k[2];
        aq_test_ok(aq_budget_deal(loss, 2, uneven, N_STEP, expected[i][0], k));
        CU_ASSERT_EQUAL(k[0], expected[i][1]);
        CU_ASSERT_EQUAL(k[1], expected[i][2]);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "losses", test_losses);
    CU_add_test(suite, "numbers of columns", test_grid);
    CU_add_test(suite, "columns go where they help most", test_deal);
    CU_add_test(suite, "by hand", test_deal_by_hand);
}
