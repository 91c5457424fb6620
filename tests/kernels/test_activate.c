/* Activations over the whole range of inputs, at odd lengths, gated or not, in place. */
#include "kernels/activate.h"

#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define MAX_N  (129 * 1536)
#define N_KIND 4
#define EPS    (1.0 / 16777216.0)

static const char *const kind_names[N_KIND] = {"silu", "gelu", "gelu_tanh", "relu"};

typedef struct {
    aq_activate_kind kind;
    int64_t n;
    float *x, *up;
    aq_bound gated, plain, bug_kind[N_KIND], bug_swap, bug_up;
} activate_case;

/* act(x) = x share(x); share(x) = 1 - share(-x). */
static double share(aq_activate_kind kind, double x) {
    const double two_u = 2 * sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x);
    switch (kind) {
    case AQ_ACTIVATE_SILU:
        return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x));
    case AQ_ACTIVATE_GELU:
        return erfc(-x / sqrt(2)) / 2;
    case AQ_ACTIVATE_GELU_TANH:
        return two_u < 0 ? exp(two_u) / (1 + exp(two_u)) : 1 / (1 + exp(-two_u));
    case AQ_ACTIVATE_RELU:
        break;
    }
    return x > 0;
}

/* Roundings of the exponent, in eps of the result where that is nearly 0. */
static double exponent_eps(aq_activate_kind kind, double x) {
    if (kind == AQ_ACTIVATE_GELU) return 8 + x * x / 2;
    if (kind == AQ_ACTIVATE_GELU_TANH)
        return 12 * sqrt(2 / acos(-1)) * fabs(x + 0.044715 * x * x * x);
    return 0;
}

/* The exponential is within 2 units (4 eps) and stands above and below the line, below with at most
 * half its weight; six more roundings: 10 eps. The share on the negative side has the error of the
 * exponent besides, on the positive side its complement has. Where the exponential is subnormal its
 * last place, 2^-149, counts instead, times abs(x u). */
static void compare(activate_case *c, const float *y, bool gated, aq_bound *bound) {
    for (int64_t i = 0; i < c->n; i++) {
        const double x = c->x[i], u = gated ? c->up[i] : 1, ref = x * share(c->kind, x) * u;
        const double tail = x == 0 ? 0 : share(c->kind, -fabs(x)) * exponent_eps(c->kind, x);
        const double tiny =
            EPS * fabs(x * u) * tail + ldexp(1, -149) * (1 + fabs(u) + 2 * fabs(x * u));
        aq_bound_element(bound, y[i], ref, 10, tiny);
        if (!gated) continue;
        for (int kind = 0; kind < N_KIND; kind++)
            aq_bound_element(&c->bug_kind[kind], (float)(x * share((aq_activate_kind)kind, x) * u),
                             ref, 10, tiny);
        aq_bound_element(&c->bug_swap, (float)(u * share(c->kind, u) * x), ref, 10, tiny);
        aq_bound_element(&c->bug_up, (float)(x * share(c->kind, x)), ref, 10, tiny);
    }
}

static void contract(const aq_test_backend *on, void *arg) {
    activate_case *c = arg;
    const size_t bytes = (size_t)c->n * sizeof(float);
    float *x = aq_test_put(on, c->x, bytes), *up = aq_test_put(on, c->up, bytes);
    float *y = aq_test_alloc(on->be, bytes);
    aq_activate_args args = {c->kind, x, NULL, c->n, y};
    on->be->ops->activate(on->be, &args);
    float *plain = aq_test_got(on, y, bytes);
    args.up = up;
    on->be->ops->activate(on->be, &args);
    float *gated = aq_test_got(on, y, bytes);
    args.y = x;
    on->be->ops->activate(on->be, &args);
    float *in_x = aq_test_got(on, x, bytes);
    on->be->ops->upload(on->be, x, c->x, bytes);
    args.y = up;
    on->be->ops->activate(on->be, &args);
    float *in_up = aq_test_got(on, up, bytes);
    compare(c, plain, false, &c->plain);
    compare(c, gated, true, &c->gated);
    CU_ASSERT_EQUAL(memcmp(in_x, gated, bytes), 0);
    CU_ASSERT_EQUAL(memcmp(in_up, gated, bytes), 0);
    void *const copies[] = {plain, gated, in_x, in_up};
    for (size_t i = 0; i < sizeof copies / sizeof copies[0]; i++)
        free(copies[i]);
    aq_test_free(on, x);
    aq_test_free(on, up);
    aq_test_free(on, y);
}

static void check_kind(activate_case *c, aq_activate_kind kind) {
    static const int64_t lengths[] = {1, 3, 15, 16, 17, 64, 1000, 5 * 1536, MAX_N};
    c->kind = kind;
    for (int n = 0; n < 9; n++) {
        c->n = lengths[n];
        aq_fill_normal(61, c->n, n % 2 == 0 ? 4.0f : 0.5f, c->x);
        aq_fill_normal(62, c->n, 1.0f, c->up);
        for (int64_t i = 3; i < c->n; i += 11) /* far out: from where exp(x) is nothing, to 200 */
            c->x[i] = (float)(i % 401) - 200.0f;
        aq_each_backend(contract, c);
    }
    printf("  %s\n", kind_names[kind]);
    aq_bound_expect(&c->gated, "gated");
    aq_bound_expect(&c->plain, "not gated");
    for (int other = 0; other < N_KIND; other++)
        if (other != (int)kind) aq_bound_expect_rejects(&c->bug_kind[other], kind_names[other]);
    aq_bound_expect_rejects(&c->bug_swap, "gate and up exchanged");
    aq_bound_expect_rejects(&c->bug_up, "up left out");
}

static void test_kinds(void) {
    float *x = malloc(MAX_N * sizeof *x), *up = malloc(MAX_N * sizeof *up);
    if (!x || !up) exit(1);
    for (int kind = 0; kind < N_KIND; kind++) {
        activate_case c = {.x = x, .up = up};
        check_kind(&c, (aq_activate_kind)kind);
    }
    free(x);
    free(up);
}

/* NaN stays where it is; inputs whose powers overflow give x or 0. */
static void check_special(const aq_test_backend *on, void *arg) {
    (void)arg;
    const float values[33] = {
        [5] = NAN, [7] = 3e38f, [8] = -3e38f, [9] = 1e14f, [10] = -1e14f, [32] = NAN};
    float *x = aq_test_put(on, values, sizeof values), *out = aq_test_alloc(on->be, sizeof values);
    for (int kind = 0; kind < N_KIND; kind++) {
        const aq_activate_args args = {(aq_activate_kind)kind, x, NULL, 33, out};
        float y[33];
        on->be->ops->activate(on->be, &args);
        aq_test_get(on, y, out, sizeof y);
        for (int i = 0; i < 33; i++)
            CU_ASSERT_EQUAL(isnan(y[i]) != 0, i == 5 || i == 32);
        CU_ASSERT_EQUAL(y[7], 3e38f);
        CU_ASSERT_EQUAL(y[8], 0.0f);
        CU_ASSERT_EQUAL(y[9], 1e14f);
        CU_ASSERT_EQUAL(y[10], 0.0f);
    }
    aq_test_free(on, x);
    aq_test_free(on, out);
}

static void test_special(void) {
    aq_each_backend(check_special, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "kinds", test_kinds);
    CU_add_test(suite, "special", test_special);
}
