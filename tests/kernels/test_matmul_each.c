/* Products with the same tokens: parts of unequal type and height, biases, sums, activations. */
#include "kernels/matmul_each.h"

#include <CUnit/CUnit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/matmul.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define N_IN    768
#define MAX_TOK 33
#define MAX_OUT 70
#define N_PART  3
#define EPS     (1.0 / 16777216.0)
#define EPS2    (1.0 / 2048.0) /* of a half float */

typedef struct {
    aq_dtype dtype[N_PART];
    int64_t n_out[N_PART];
    int n_part;
    bool biased, accumulate, activated;
    int64_t n_tok;
    uint8_t w[N_PART][MAX_OUT * N_IN * 4];
    float x[MAX_TOK * N_IN], b[N_PART][MAX_OUT], y0[N_PART][MAX_TOK * MAX_OUT];
    double ref[N_PART][MAX_TOK * MAX_OUT], error[N_PART][MAX_TOK * MAX_OUT];
    double rounding[N_PART][MAX_TOK * MAX_OUT];
    bool rounded;                           /* by a device, as matmul.h allows */
    float first[N_PART][MAX_TOK * MAX_OUT]; /* with one thread: bits must agree */
    aq_bound bound, bug_part, bug_bias, bug_swap;
} each_case;

/* ref and what it may be off by: 4 sqrt(n) eps of the sum of the absolute values of n terms; and
 * what rounding of the factors adds to that. */
static void fill_case(each_case *c) {
    aq_fill_normal(41, MAX_TOK * N_IN, 1.0f, c->x);
    for (int p = 0; p < N_PART; p++) {
        const int64_t row_bytes = aq_dtype_row_bytes(c->dtype[p], N_IN);
        aq_fill_weight(42 + (uint64_t)p, c->dtype[p], c->n_out[p], N_IN, c->w[p]);
        aq_fill_normal(52 + (uint64_t)p, MAX_OUT, 1.0f, c->b[p]);
        aq_fill_normal(62 + (uint64_t)p, MAX_TOK * MAX_OUT, 1.0f, c->y0[p]);
        for (int64_t j = 0; j < c->n_out[p]; j++)
            for (int64_t t = 0; t < c->n_tok; t++) {
                const int64_t at = t * c->n_out[p] + j;
                const double bias = c->biased ? c->b[p][j] : 0;
                double sum = bias, sum_abs = fabs(bias), squares = 0;
                if (c->accumulate) {
                    sum += c->y0[p][at];
                    sum_abs += fabs(c->y0[p][at]);
                }
                for (int64_t i = 0; i < N_IN; i++) {
                    const double term =
                        aq_ref_weight(c->dtype[p], c->w[p] + j * row_bytes, i) * c->x[t * N_IN + i];
                    sum += term;
                    sum_abs += fabs(term);
                    squares += term * term;
                }
                c->ref[p][at] = sum;
                c->rounding[p][at] = 4 * EPS2 * sqrt(squares);
                c->error[p][at] = 4 * sqrt(N_IN + 2) * EPS * sum_abs;
            }
    }
}

static double error_of(const each_case *c, int p, int64_t k) {
    return c->error[p][k] + (c->rounded && c->dtype[p] != AQ_F32 ? c->rounding[p][k] : 0);
}

static double silu(double x) {
    return x / (1 + exp(-x));
}

static void check(aq_bound *bound, double y, double ref, double error) {
    aq_bound_element(bound, (float)y, ref, 1, error);
}

/* The slope of silu is at most 1.1; its own rounding is 10 eps. */
static void compare_activated(each_case *c, const float *y) {
    const bool gated = c->n_part == 2;
    for (int64_t k = 0; k < c->n_tok * c->n_out[0]; k++) {
        const double g = c->ref[0][k], u = gated ? c->ref[1][k] : 1;
        const double error_u = gated ? error_of(c, 1, k) : 0, ref = silu(g) * u;
        const double error = 1.1 * error_of(c, 0, k) * (fabs(u) + error_u) +
                             fabs(silu(g)) * error_u + 10 * EPS * fabs(ref);
        check(&c->bound, y[k], ref, error);
        if (gated) check(&c->bug_swap, silu(u) * g, ref, error);
    }
}

static void compare_part(each_case *c, int p, const float *y) {
    for (int64_t k = 0; k < c->n_tok * c->n_out[p]; k++) {
        const int64_t j = k % c->n_out[p], other = (p + 1) % c->n_part;
        check(&c->bound, y[k], c->ref[p][k], error_of(c, p, k));
        check(&c->bug_part, c->ref[other][k % (c->n_tok * c->n_out[other])], c->ref[p][k],
              c->error[p][k]);
        if (c->biased) check(&c->bug_bias, y[k] - c->b[p][j], c->ref[p][k], c->error[p][k]);
    }
}

static void contract(const aq_test_backend *on, void *arg) {
    each_case *c = arg;
    aq_matmul_part parts[N_PART];
    float *x = aq_test_put(on, c->x, (size_t)(c->n_tok * N_IN) * sizeof *x);
    c->rounded = aq_test_device(on) && c->n_tok > AQ_MATMUL_EXACT_TOKS;
    for (int p = 0; p < c->n_part; p++) {
        const size_t w_bytes = (size_t)(c->n_out[p] * aq_dtype_row_bytes(c->dtype[p], N_IN));
        const size_t y_bytes = (size_t)(c->n_tok * c->n_out[p]) * sizeof(float);
        static float before[MAX_TOK * MAX_OUT];
        memset(before, 0xff, sizeof before);
        uint8_t *w = aq_test_put(on, c->w[p], w_bytes);
        float *y = aq_test_put(on, c->accumulate ? c->y0[p] : before, y_bytes);
        float *b = c->biased ? aq_test_put(on, c->b[p], sizeof c->b[p]) : NULL;
        parts[p] = (aq_matmul_part){w, c->dtype[p], c->n_out[p], b, y, c->accumulate};
    }
    on->be->ops->matmul_each(on->be, &(aq_matmul_each_args){.parts = parts,
                                                            .n_part = c->n_part,
                                                            .n_in = N_IN,
                                                            .n_tok = c->n_tok,
                                                            .x = x,
                                                            .activated = c->activated,
                                                            .activation = AQ_ACTIVATE_SILU});
    for (int p = 0; p < (c->activated ? 1 : c->n_part); p++) {
        const size_t y_bytes = (size_t)(c->n_tok * c->n_out[p]) * sizeof(float);
        static float y[MAX_TOK * MAX_OUT];
        aq_test_get(on, y, parts[p].y, y_bytes);
        if (c->activated)
            compare_activated(c, y);
        else
            compare_part(c, p, y);
        if (on->n_thread == 1) memcpy(c->first[p], y, y_bytes);
        CU_ASSERT_EQUAL(memcmp(c->first[p], y, y_bytes), 0);
    }
    aq_test_free(on, x);
    for (int p = 0; p < c->n_part; p++) {
        aq_test_free(on, (void *)parts[p].w);
        aq_test_free(on, (void *)parts[p].b);
        aq_test_free(on, parts[p].y);
    }
}

static each_case *open_case(void) {
    each_case *c = calloc(1, sizeof *c);
    if (!c) exit(1);
    return c;
}

static const int64_t n_toks[] = {1, 2, 16, MAX_TOK};

static void test_parts(void) {
    static const aq_dtype dtypes[][N_PART] = {{AQ_Q4_1, AQ_Q4_1, AQ_Q4_1},
                                              {AQ_Q4_0, AQ_Q8_0, AQ_Q6_K},
                                              {AQ_Q5_0, AQ_Q4_K, AQ_F32},
                                              {AQ_Q5_1, AQ_Q5_K, AQ_BF16}};
    each_case *c = open_case();
    for (int d = 0; d < 4; d++)
        for (int n = 0; n < 4; n++)
            for (int way = 0; way < 4; way++) {
                memcpy(c->dtype, dtypes[d], sizeof c->dtype);
                memcpy(c->n_out, (int64_t[]){MAX_OUT, 3, 33}, sizeof c->n_out);
                c->n_part = N_PART;
                c->n_tok = n_toks[n];
                c->biased = way & 1;
                c->accumulate = way & 2;
                fill_case(c);
                aq_each_backend(contract, c);
            }
    aq_bound_expect(&c->bound, "parts");
    aq_bound_expect_rejects(&c->bug_part, "the part beside it");
    aq_bound_expect_rejects(&c->bug_bias, "no bias");
    free(c);
}

static void test_activated(void) {
    each_case *c = open_case();
    for (int n_part = 1; n_part <= 2; n_part++)
        for (int n = 0; n < 4; n++)
            for (int biased = 0; biased < 2; biased++) {
                memcpy(c->dtype, (aq_dtype[]){AQ_Q4_1, AQ_Q8_0, AQ_F32}, sizeof c->dtype);
                memcpy(c->n_out, (int64_t[]){MAX_OUT, MAX_OUT, 1}, sizeof c->n_out);
                c->n_part = n_part;
                c->n_tok = n_toks[n];
                c->activated = true;
                c->biased = biased;
                fill_case(c);
                aq_each_backend(contract, c);
            }
    aq_bound_expect(&c->bound, "activated");
    aq_bound_expect_rejects(&c->bug_swap, "gate and up exchanged");
    free(c);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "parts", test_parts);
    CU_add_test(suite, "activated", test_activated);
}
