/* Gated unit over the whole range of gates, at odd lengths, in place. */
#include "kernels/swiglu.h"

#include <CUnit/CUnit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define MAX_N (129 * 1536)

typedef struct {
    int64_t n;
    float *gate, *up;
    aq_bound bound, bug_gelu, bug_swap;
} swiglu_case;

static double silu(double g) {
    return g < 0 ? g * exp(g) / (1 + exp(g)) : g / (1 + exp(-g));
}

/* The exponential is within 2 units (4 eps) and stands above and below the line, below with at most
 * half its weight; four more roundings: 10 eps. Where exp(-abs(g)) is subnormal its last place,
 * 2^-149, counts instead, times abs(g u). */
static void compare(swiglu_case *c, const float *y) {
    for (int64_t i = 0; i < c->n; i++) {
        const double g = c->gate[i], u = c->up[i], ref = silu(g) * u;
        const double tiny = ldexp(1, -149) * (1 + fabs(u) + 2 * fabs(g * u));
        aq_bound_element(&c->bound, y[i], ref, 10, tiny);
        const double gelu = g / (1 + exp(-1.702 * g)) * u;
        aq_bound_element(&c->bug_gelu, (float)gelu, ref, 10, tiny);
        aq_bound_element(&c->bug_swap, (float)(silu(u) * g), ref, 10, tiny);
    }
}

static void contract(const aq_test_backend *on, void *arg) {
    swiglu_case *c = arg;
    const size_t bytes = (size_t)c->n * sizeof(float);
    float *gate = aq_test_alloc(on->be, bytes), *up = aq_test_alloc(on->be, bytes);
    float *y = aq_test_alloc(on->be, bytes);
    memcpy(gate, c->gate, bytes);
    memcpy(up, c->up, bytes);
    const aq_swiglu_args apart = {gate, up, c->n, y}, onto_gate = {gate, up, c->n, gate};
    on->be->ops->swiglu(on->be, &apart);
    compare(c, y);
    on->be->ops->swiglu(on->be, &onto_gate);
    CU_ASSERT_EQUAL(memcmp(gate, y, bytes), 0);
    memcpy(gate, c->gate, bytes);
    const aq_swiglu_args onto_up = {gate, up, c->n, up};
    on->be->ops->swiglu(on->be, &onto_up);
    CU_ASSERT_EQUAL(memcmp(up, y, bytes), 0);
    on->be->ops->release(on->be, gate);
    on->be->ops->release(on->be, up);
    on->be->ops->release(on->be, y);
}

static void test_swiglu(void) {
    static const int64_t lengths[] = {1, 3, 15, 16, 17, 64, 1000, 5 * 1536, MAX_N};
    swiglu_case c = {.gate = malloc(MAX_N * sizeof(float)), .up = malloc(MAX_N * sizeof(float))};
    if (!c.gate || !c.up) exit(1);
    for (int n = 0; n < 9; n++) {
        c.n = lengths[n];
        aq_fill_normal(61, c.n, 4.0f, c.gate);
        aq_fill_normal(62, c.n, 1.0f, c.up);
        for (int64_t i = 3; i < c.n; i += 11) /* far out: from where exp(g) is nothing, to 200 */
            c.gate[i] = (float)(i % 401) - 200.0f;
        aq_each_backend(contract, &c);
    }
    aq_bound_expect(&c.bound, "swiglu");
    aq_bound_expect_rejects(&c.bug_gelu, "another activation");
    aq_bound_expect_rejects(&c.bug_swap, "gate and up exchanged");
    free(c.gate);
    free(c.up);
}

static void check_nan(const aq_test_backend *on, void *arg) {
    (void)arg;
    float *x = aq_test_alloc(on->be, 33 * sizeof *x), *y = aq_test_alloc(on->be, 33 * sizeof *y);
    x[5] = x[32] = NAN;
    const aq_swiglu_args args = {x, x, 33, y};
    on->be->ops->swiglu(on->be, &args);
    for (int i = 0; i < 33; i++)
        CU_ASSERT_EQUAL(isnan(y[i]) != 0, i == 5 || i == 32);
    on->be->ops->release(on->be, x);
    on->be->ops->release(on->be, y);
}

static void test_nan_stays(void) {
    aq_each_backend(check_nan, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "swiglu", test_swiglu);
    CU_add_test(suite, "nan_stays", test_nan_stays);
}
