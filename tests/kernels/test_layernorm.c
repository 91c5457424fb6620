/* Layer norm: shapes, means far from 0, with and without bias, in place, added. */
#include "kernels/layernorm.h"

#include <CUnit/CUnit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define MAX_TOK   129
#define MAX_MODEL 1537
#define EPS       (1.0 / 16777216.0)

typedef enum { NO_BUG, NO_MEAN, NO_EPS, SAMPLE_VARIANCE, NO_BIAS, NOT_ADDED, N_BUG } planted_bug;

static const char *const bug_names[N_BUG] = {[NO_MEAN] = "mean not subtracted",
                                             [NO_EPS] = "eps left out",
                                             [SAMPLE_VARIANCE] = "variance over n - 1",
                                             [NO_BIAS] = "bias left out",
                                             [NOT_ADDED] = "overwritten"};

typedef struct {
    int64_t n_tok, d_model;
    float eps;
    float *x, *w, *b;
    aq_bound bound[N_BUG]; /* [NO_BUG]: of the kernel */
} norm_case;

/* What a token's elements have in common. */
typedef struct {
    double mean, mean_abs, var;
} moments;

static moments moments_of(const float *x, int64_t n) {
    moments m = {0, 0, 0};
    for (int64_t j = 0; j < n; j++) {
        m.mean += (double)x[j] / (double)n;
        m.mean_abs += fabs((double)x[j]) / (double)n;
    }
    for (int64_t j = 0; j < n; j++)
        m.var += ((double)x[j] - m.mean) * ((double)x[j] - m.mean) / (double)n;
    return m;
}

static double reference(const norm_case *c, const moments *m, const aq_layernorm_args *args,
                        int64_t t, int64_t i, planted_bug bug) {
    const double x = c->x[t * c->d_model + i], n = (double)c->d_model;
    const double var = bug == SAMPLE_VARIANCE ? m->var * n / fmax(n - 1, 0.5) : m->var;
    double y = (x - (bug == NO_MEAN ? 0 : m->mean)) * (double)c->w[i];
    y /= sqrt(var + (bug == NO_EPS ? 0 : (double)c->eps));
    if (args->b && bug != NO_BIAS) y += (double)c->b[i];
    if (args->accumulate && bug != NOT_ADDED) y += x;
    return y;
}

/* The mean is off by delta = 4 sqrt(n) eps mean(abs(x)) at most, which enters x - mean as it is and
 * the variance as its square, since the deviations sum to 0. The variance has the error of a
 * reduction besides, which the root halves; 8 eps are for the other roundings, and one each for
 * the sums with bias and y. */
static double allowed(const norm_case *c, const moments *m, const aq_layernorm_args *args,
                      int64_t t, int64_t i) {
    const double x = c->x[t * c->d_model + i], n = (double)c->d_model;
    const double factor = fabs((double)c->w[i]) / sqrt(m->var + (double)c->eps);
    const double delta = 4 * sqrt(n) * EPS * m->mean_abs;
    const double scale = (2 * sqrt(n) + 8) * EPS + delta * delta / (m->var + (double)c->eps);
    const double norm = fabs(x - m->mean) * factor, b = args->b ? fabs((double)c->b[i]) : 0;
    const double before = args->accumulate ? fabs(x) : 0;
    return factor * delta * (1 + scale) + norm * scale + 2 * EPS * (norm + b + before);
}

static void compare(norm_case *c, const aq_layernorm_args *args, const float *y) {
    for (int64_t t = 0; t < c->n_tok; t++) {
        const moments m = moments_of(c->x + t * c->d_model, c->d_model);
        for (int64_t i = 0; i < c->d_model; i += 1 + c->d_model / 16) {
            const double right = reference(c, &m, args, t, i, NO_BUG);
            const double most = allowed(c, &m, args, t, i);
            for (int bug = 0; bug < N_BUG; bug++) {
                const double ref = reference(c, &m, args, t, i, (planted_bug)bug);
                if (bug == NO_BUG || ref != right) /* what is not used cannot be left out */
                    aq_bound_element(&c->bound[bug], y[t * c->d_model + i], ref, 0, most);
            }
        }
    }
}

/* The same with and without bias, and added: to x, so that in place must give the same bits. */
static void contract(const aq_test_backend *on, void *arg) {
    norm_case *c = arg;
    const size_t x_bytes = (size_t)(c->n_tok * c->d_model) * sizeof(float);
    const size_t w_bytes = (size_t)c->d_model * sizeof(float);
    float *x = aq_test_alloc(on->be, x_bytes), *y = aq_test_alloc(on->be, x_bytes);
    float *w = aq_test_put(on, c->w, w_bytes), *b = aq_test_put(on, c->b, w_bytes);
    for (int way = 0; way < 4; way++) {
        on->be->ops->upload(on->be, x, c->x, x_bytes);
        on->be->ops->upload(on->be, y, c->x, x_bytes);
        aq_layernorm_args args = {x, w,       way % 2 == 0 ? b : NULL, c->eps, c->n_tok, c->d_model,
                                  y, way >= 2};
        on->be->ops->layernorm(on->be, &args);
        args.y = x;
        on->be->ops->layernorm(on->be, &args);
        float *got = aq_test_got(on, y, x_bytes), *in_place = aq_test_got(on, x, x_bytes);
        compare(c, &args, got);
        CU_ASSERT_EQUAL(memcmp(in_place, got, x_bytes), 0);
        free(got);
        free(in_place);
    }
    aq_test_free(on, x);
    aq_test_free(on, y);
    aq_test_free(on, w);
    aq_test_free(on, b);
}

static void test_layernorm(void) {
    static const int64_t n_toks[] = {1, 2, 5, 17, MAX_TOK};
    static const int64_t widths[] = {1, 7, 64, 576, MAX_MODEL};
    static const float scales[] = {1e-3f, 1.0f, 1e6f}, means[] = {0.0f, 3.0f, -100.0f};
    norm_case c = {.eps = 1e-5f,
                   .x = malloc(MAX_TOK * MAX_MODEL * sizeof(float)),
                   .w = malloc(MAX_MODEL * sizeof(float)),
                   .b = malloc(MAX_MODEL * sizeof(float))};
    if (!c.x || !c.w || !c.b) exit(1);
    for (int d = 0; d < 5; d++)
        for (int n = 0; n < 5; n++) {
            c.d_model = widths[d];
            c.n_tok = n_toks[n];
            aq_fill_normal(51, c.n_tok * c.d_model, scales[n % 3], c.x);
            for (int64_t i = 0; i < c.n_tok * c.d_model; i++)
                c.x[i] += means[(n + d) % 3] * scales[n % 3];
            aq_fill_normal(52, c.d_model, 1.0f, c.w);
            aq_fill_normal(53, c.d_model, 1.0f, c.b);
            aq_each_backend(contract, &c);
        }
    aq_bound_expect(&c.bound[NO_BUG], "layernorm");
    for (int bug = 1; bug < N_BUG; bug++)
        aq_bound_expect_rejects(&c.bound[bug], bug_names[bug]);
    free(c.x);
    free(c.w);
    free(c.b);
}

/* All elements equal: the variance is 0, or what rounding of the mean leaves, and eps keeps the
 * result finite. */
static void check_constant(const aq_test_backend *on, void *arg) {
    (void)arg;
    float ones[70], got[70];
    for (int i = 0; i < 70; i++)
        ones[i] = 1.0f;
    float *x = aq_test_put(on, ones, sizeof ones), *w = aq_test_put(on, ones, sizeof ones);
    const aq_layernorm_args args = {x, w, w, 1e-5f, 1, 70, x, false};
    on->be->ops->layernorm(on->be, &args);
    aq_test_get(on, got, x, sizeof got);
    CU_ASSERT_EQUAL(memcmp(got, ones, sizeof got), 0);
    aq_test_free(on, x);
    aq_test_free(on, w);
}

static void test_constant(void) {
    aq_each_backend(check_constant, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "layernorm", test_layernorm);
    CU_add_test(suite, "constant", test_constant);
}
