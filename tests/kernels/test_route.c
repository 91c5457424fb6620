/* Router: the experts by sorting, the weights in double precision; ties, NaN and infinities. */
#include "kernels/route.h"

#include <CUnit/CUnit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define MAX_TOK    129
#define MAX_EXPERT 513
#define EPS        (1.0 / 16777216.0)

typedef struct {
    int64_t n_tok;
    int n_expert, n_used;
    bool renormalise;
    float *logits;
    int64_t n_wrong, n_wrong_ties, n_wrong_low; /* ids; and with the planted bugs */
    aq_bound bound, bug_renormalise, bug_max;
} route_case;

/* What is sorted: `sign` -1 plants the smallest logits, `tie` -1 the higher expert of equal ones.
 */
static const float *sort_logits;
static int sort_sign, sort_tie;

static int in_order(const void *a, const void *b) {
    const int32_t e = *(const int32_t *)a, f = *(const int32_t *)b;
    const float x = sort_logits[e], y = sort_logits[f];
    if (isnan(x) != isnan(y)) return isnan(x) ? 1 : -1;
    if (x != y && !isnan(x)) return (x > y ? -1 : 1) * sort_sign;
    return (e < f ? -1 : 1) * sort_tie;
}

/* How many of the ids differ from the first of the sorted experts. */
static int64_t ids_wrong(const route_case *c, const float *logits, const int32_t *ids, int sign,
                         int tie) {
    int32_t order[MAX_EXPERT];
    int64_t wrong = 0;
    for (int e = 0; e < c->n_expert; e++)
        order[e] = e;
    sort_logits = logits;
    sort_sign = sign;
    sort_tie = tie;
    qsort(order, (size_t)c->n_expert, sizeof *order, in_order);
    for (int j = 0; j < c->n_used; j++)
        wrong += ids[j] != order[j];
    return wrong;
}

/* A weight has the error of its own exponential, at most 4 eps and that of logit - max, the same of
 * the sum, which besides is a reduction, and the rounding of the division. */
static void check_weights(route_case *c, const float *logits, const int32_t *ids,
                          const float *weight) {
    double all = 0, used = 0, lag = 0;
    for (int e = 0; e < c->n_expert; e++)
        all += exp((double)logits[e] - (double)logits[ids[0]]);
    for (int j = 0; j < c->n_used; j++)
        used += exp((double)logits[ids[j]] - (double)logits[ids[0]]);
    for (int e = 0; e < c->n_expert; e++)
        lag = fmax(lag, fmin(104, (double)logits[ids[0]] - (double)logits[e]));
    const double n_eps = 9 + 2 * lag + 4 * sqrt(c->n_expert);
    for (int j = 0; j < c->n_used; j++) {
        const double e = exp((double)logits[ids[j]] - (double)logits[ids[0]]);
        const double whole = c->renormalise ? used : all, other = c->renormalise ? all : used;
        const double tiny = ldexp(1, -148);
        aq_bound_element(&c->bound, weight[j], e / whole, n_eps, tiny);
        aq_bound_element(&c->bug_max, weight[j], e / (whole + 1), n_eps, tiny);
        if (c->n_used < c->n_expert)
            aq_bound_element(&c->bug_renormalise, weight[j], e / other, n_eps, tiny);
    }
}

static void contract(const aq_test_backend *on, void *arg) {
    route_case *c = arg;
    const size_t n_logit = (size_t)(c->n_tok * c->n_expert);
    const size_t n_out = (size_t)(c->n_tok * c->n_used);
    float *logits = aq_test_put(on, c->logits, n_logit * sizeof *logits);
    int32_t *ids_out = aq_test_alloc(on->be, n_out * sizeof *ids_out);
    float *weight_out = aq_test_alloc(on->be, n_out * sizeof *weight_out);
    on->be->ops->route(on->be, &(aq_route_args){logits, c->n_tok, c->n_expert, c->n_used,
                                                c->renormalise, ids_out, weight_out});
    int32_t *ids = aq_test_got(on, ids_out, n_out * sizeof *ids);
    float *weight = aq_test_got(on, weight_out, n_out * sizeof *weight);
    for (int64_t t = 0; t < c->n_tok; t++) {
        const float *row = c->logits + t * c->n_expert;
        const int32_t *row_ids = ids + t * c->n_used;
        c->n_wrong += ids_wrong(c, row, row_ids, 1, 1);
        c->n_wrong_ties += ids_wrong(c, row, row_ids, 1, -1);
        c->n_wrong_low += ids_wrong(c, row, row_ids, -1, 1);
        check_weights(c, row, row_ids, weight + t * c->n_used);
    }
    free(ids);
    free(weight);
    aq_test_free(on, logits);
    aq_test_free(on, ids_out);
    aq_test_free(on, weight_out);
}

static void test_route(void) {
    static const int sizes[][2] = {{1, 1},   {4, 1},           {8, 2}, {60, 4},
                                   {128, 8}, {MAX_EXPERT, 17}, {7, 7}};
    static const int64_t n_toks[] = {1, 2, 17, MAX_TOK};
    route_case c = {.logits = malloc(MAX_TOK * MAX_EXPERT * sizeof(float))};
    if (!c.logits) exit(1);
    for (int s = 0; s < 7; s++)
        for (int n = 0; n < 8; n++) {
            c.n_expert = sizes[s][0];
            c.n_used = sizes[s][1];
            c.n_tok = n_toks[n / 2];
            c.renormalise = n % 2 == 1;
            aq_fill_normal(81, c.n_tok * c.n_expert, s % 2 == 0 ? 1.0f : 20.0f, c.logits);
            for (int64_t i = 0; i < c.n_tok * c.n_expert && n % 4 < 2; i++)
                c.logits[i] = roundf(2 * c.logits[i]) / 2; /* many are equal */
            aq_each_backend(contract, &c);
        }
    CU_ASSERT_EQUAL(c.n_wrong, 0);
    CU_ASSERT(c.n_wrong_ties > 0); /* planted: the higher of equal experts */
    CU_ASSERT(c.n_wrong_low > 0);  /* planted: the smallest logits */
    aq_bound_expect(&c.bound, "route");
    aq_bound_expect_rejects(&c.bug_renormalise, "the sum over the other set of experts");
    aq_bound_expect_rejects(&c.bug_max, "the largest counted twice");
    free(c.logits);
}

/* Whatever the logits are, the ids are distinct experts. */
static void check_special(const aq_test_backend *on, void *arg) {
    (void)arg;
    static const float rows[3][5] = {{NAN, 1, NAN, 2, -INFINITY},
                                     {NAN, NAN, NAN, NAN, NAN},
                                     {-INFINITY, INFINITY, -INFINITY, INFINITY, 0}};
    static const int32_t expected[3][5] = {{3, 1, 0, 2, 4}, {0, 1, 2, 3, 4}, {1, 3, 4, 0, 2}};
    float *logits = aq_test_put(on, rows, sizeof rows);
    int32_t *ids = aq_test_alloc(on->be, sizeof expected), got[3][5];
    float *weight = aq_test_alloc(on->be, sizeof rows);
    on->be->ops->route(on->be, &(aq_route_args){logits, 3, 5, 5, true, ids, weight});
    aq_test_get(on, got, ids, sizeof got);
    CU_ASSERT_EQUAL(memcmp(got, expected, sizeof expected), 0);
    aq_test_free(on, logits);
    aq_test_free(on, ids);
    aq_test_free(on, weight);
}

static void test_special(void) {
    aq_each_backend(check_special, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "route", test_route);
    CU_add_test(suite, "special", test_special);
}
