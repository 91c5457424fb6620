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

/* y = norm(x), or x + norm(x) if `accumulate`; in place it has the same bits. */
static float *normed(const aq_test_backend *on, const norm_case *c, const float *w,
                     bool accumulate) {
    const size_t x_bytes = (size_t)(c->n_tok * c->d_model) * sizeof(float);
    float *x = aq_test_put(on, c->x, x_bytes), *y = aq_test_put(on, c->x, x_bytes);
    aq_rmsnorm_args args = {x, w, c->eps, c->n_tok, c->d_model, y, accumulate};
    on->be->ops->rmsnorm(on->be, &args);
    args.y = x;
    on->be->ops->rmsnorm(on->be, &args);
    float *got = aq_test_got(on, y, x_bytes), *in_place = aq_test_got(on, x, x_bytes);
    CU_ASSERT_EQUAL(memcmp(in_place, got, x_bytes), 0);
    free(in_place);
    aq_test_free(on, x);
    aq_test_free(on, y);
    return got;
}

static void contract(const aq_test_backend *on, void *arg) {
    norm_case *c = arg;
    float *w = aq_test_put(on, c->w, (size_t)c->d_model * sizeof *w);
    float *norm = normed(on, c, w, false), *added = normed(on, c, w, true);
    compare(c, norm);
    compare_added(c, added);
    free(norm);
    free(added);
    aq_test_free(on, w);
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
