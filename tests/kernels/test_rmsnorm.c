/* Root-mean-square norm: shapes, in place, added, small and large inputs. */
#include "kernels/rmsnorm.h"

#include <CUnit/CUnit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define MAX_TOK   129
#define MAX_MODEL 1537

typedef struct {
    int64_t n_tok, d_model;
    float eps;
    float *x, *w;
    aq_bound bound, added, bug_eps, bug_mean, bug_overwritten;
} norm_case;

/* One element, with a planted bug if `mean_over` is not d_model or `eps` is not the case's. */
static double reference(const norm_case *c, int64_t t, int64_t i, double mean_over, double eps) {
    double squares = 0;
    for (int64_t j = 0; j < c->d_model; j++)
        squares += (double)c->x[t * c->d_model + j] * c->x[t * c->d_model + j];
    return c->x[t * c->d_model + i] / sqrt(squares / mean_over + eps) * c->w[i];
}

/* The sum of squares has the error of a reduction, the root halves it, and the five roundings after
 * it fit in what is left: one term more than d_model is allowed for. */
static void compare(norm_case *c, const float *y) {
    const double n = (double)c->d_model;
    for (int64_t t = 0; t < c->n_tok; t++)
        for (int64_t i = 0; i < c->d_model; i += 1 + c->d_model / 16) {
            const double ref = reference(c, t, i, n, c->eps);
            const double got = y[t * c->d_model + i];
            const int64_t n_term = c->d_model + 1;
            aq_bound_reduction(&c->bound, (float)got, ref, n_term, fabs(ref));
            const double no_eps = reference(c, t, i, n, 0) / ref;
            const double wrong_mean = reference(c, t, i, n + 1, c->eps) / ref;
            aq_bound_reduction(&c->bug_eps, (float)(got * no_eps), ref, n_term, fabs(ref));
            aq_bound_reduction(&c->bug_mean, (float)(got * wrong_mean), ref, n_term, fabs(ref));
        }
}

/* y holds x + norm(x): one more rounding. */
static void compare_added(norm_case *c, const float *y) {
    for (int64_t t = 0; t < c->n_tok; t++)
        for (int64_t i = 0; i < c->d_model; i += 1 + c->d_model / 16) {
            const double norm = reference(c, t, i, (double)c->d_model, c->eps);
            const double x = c->x[t * c->d_model + i];
            const float got = y[t * c->d_model + i];
            const double sum_abs = fabs(norm) + fabs(x);
            aq_bound_reduction(&c->added, got, x + norm, c->d_model + 2, sum_abs);
            aq_bound_reduction(&c->bug_overwritten, got, norm, c->d_model + 2, sum_abs);
        }
}

static void contract(const aq_test_backend *on, void *arg) {
    norm_case *c = arg;
    const size_t x_bytes = (size_t)(c->n_tok * c->d_model) * sizeof(float);
    float *x = aq_test_alloc(on->be, x_bytes), *y = aq_test_alloc(on->be, x_bytes);
    float *w = aq_test_alloc(on->be, (size_t)c->d_model * sizeof *w);
    memcpy(x, c->x, x_bytes);
    memcpy(w, c->w, (size_t)c->d_model * sizeof *w);
    aq_rmsnorm_args args = {x, w, c->eps, c->n_tok, c->d_model, y, false};
    on->be->ops->rmsnorm(on->be, &args);
    compare(c, y);
    args.y = x; /* in place: the same bits */
    on->be->ops->rmsnorm(on->be, &args);
    CU_ASSERT_EQUAL(memcmp(x, y, x_bytes), 0);
    memcpy(x, c->x, x_bytes);
    memcpy(y, c->x, x_bytes);
    args.y = y;
    args.accumulate = true;
    on->be->ops->rmsnorm(on->be, &args);
    compare_added(c, y);
    args.y = x;
    on->be->ops->rmsnorm(on->be, &args);
    CU_ASSERT_EQUAL(memcmp(x, y, x_bytes), 0);
    on->be->ops->release(on->be, x);
    on->be->ops->release(on->be, y);
    on->be->ops->release(on->be, w);
}

static void test_rmsnorm(void) {
    static const int64_t n_toks[] = {1, 2, 3, 5, 16, 17, 64, MAX_TOK};
    static const int64_t widths[] = {1, 7, 64, 576, MAX_MODEL};
    static const float scales[] = {1e-3f, 1.0f, 1e6f};
    norm_case c = {.eps = 1e-5f,
                   .x = malloc(MAX_TOK * MAX_MODEL * sizeof(float)),
                   .w = malloc(MAX_MODEL * sizeof(float))};
    if (!c.x || !c.w) exit(1);
    for (int d = 0; d < 5; d++)
        for (int n = 0; n < 8; n++) {
            c.d_model = widths[d];
            c.n_tok = n_toks[n];
            aq_fill_normal(41, c.n_tok * c.d_model, scales[n % 3], c.x);
            aq_fill_normal(42, c.d_model, 1.0f, c.w);
            aq_each_backend(contract, &c);
        }
    aq_bound_expect(&c.bound, "rmsnorm");
    aq_bound_expect(&c.added, "rmsnorm added");
    aq_bound_expect_rejects(&c.bug_eps, "eps left out");
    aq_bound_expect_rejects(&c.bug_mean, "mean over one too many");
    aq_bound_expect_rejects(&c.bug_overwritten, "not added");
    free(c.x);
    free(c.w);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "rmsnorm", test_rmsnorm);
}
