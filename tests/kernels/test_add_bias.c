/* Bias: exact, at odd widths and numbers of tokens. */
#include "kernels/add_bias.h"

#include <CUnit/CUnit.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define MAX_TOK   129
#define MAX_WIDTH 1537

typedef struct {
    int64_t n_tok, width;
    float *y, *b;
} bias_case;

/* Elements that are not the sum, rounded once; `shift` 1 plants a bias taken one element late. A
 * sum of two floats in double, rounded to float, is the sum rounded at once. */
static int64_t n_wrong(const bias_case *c, const float *y, int64_t shift) {
    int64_t wrong = 0;
    for (int64_t i = 0; i < c->n_tok * c->width; i++)
        wrong += y[i] != (float)((double)c->y[i] + (double)c->b[(i + shift) % c->width]);
    return wrong;
}

static void contract(const aq_test_backend *on, void *arg) {
    const bias_case *c = arg;
    const size_t y_bytes = (size_t)(c->n_tok * c->width) * sizeof(float);
    const size_t b_bytes = (size_t)c->width * sizeof(float);
    float *y = aq_test_put(on, c->y, y_bytes), *b = aq_test_put(on, c->b, b_bytes);
    const aq_add_bias_args args = {b, c->n_tok, c->width, y};
    on->be->ops->add_bias(on->be, &args);
    float *got = aq_test_got(on, y, y_bytes), *b_after = aq_test_got(on, b, b_bytes);
    CU_ASSERT_EQUAL(n_wrong(c, got, 0), 0);
    if (c->width > 1) CU_ASSERT(n_wrong(c, got, 1) > 0);
    CU_ASSERT_EQUAL(memcmp(b_after, c->b, b_bytes), 0);
    free(got);
    free(b_after);
    aq_test_free(on, y);
    aq_test_free(on, b);
}

static void test_add_bias(void) {
    static const int64_t n_toks[] = {1, 2, 5, 17, MAX_TOK};
    static const int64_t widths[] = {1, 7, 64, 576, MAX_WIDTH};
    bias_case c = {.y = malloc(MAX_TOK * MAX_WIDTH * sizeof(float)),
                   .b = malloc(MAX_WIDTH * sizeof(float))};
    if (!c.y || !c.b) exit(1);
    for (int d = 0; d < 5; d++)
        for (int n = 0; n < 5; n++) {
            c.width = widths[d];
            c.n_tok = n_toks[n];
            aq_fill_normal(71, c.n_tok * c.width, 1.0f, c.y);
            aq_fill_normal(72, c.width, 0.1f, c.b);
            aq_each_backend(contract, &c);
        }
    free(c.y);
    free(c.b);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "add_bias", test_add_bias);
}
