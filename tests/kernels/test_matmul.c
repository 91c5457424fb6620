/* Product with stored weights: every type, few and many tokens, odd shapes, onto zero or a sum. */
#include "kernels/matmul.h"

#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define MAX_TOK 129
#define MAX_OUT 131
#define MAX_IN  8704

typedef struct {
    aq_dtype dtype;
    int64_t n_out, n_in, n_tok;
    bool accumulate;
    uint8_t *w;
    float *x, *y0;         /* y0: what y holds before */
    double *ref, *sum_abs; /* [n_tok, n_out] */
    float *first;          /* result with one thread, per instruction set: bits must agree */
    aq_bound bound, bug_last, bug_row, bug_sum;
} matmul_case;

static void *get(size_t bytes) {
    void *memory = malloc(bytes);
    if (!memory) exit(1);
    return memory;
}

static void open_case(matmul_case *c) {
    *c = (matmul_case){.w = get((size_t)MAX_OUT * MAX_IN * 4),
                       .x = get((size_t)MAX_TOK * MAX_IN * 4),
                       .y0 = get(MAX_TOK * MAX_OUT * 4),
                       .ref = get(MAX_TOK * MAX_OUT * 8),
                       .sum_abs = get(MAX_TOK * MAX_OUT * 8),
                       .first = get(MAX_TOK * MAX_OUT * 4)};
}

static void close_case(matmul_case *c) {
    free(c->w);
    free(c->x);
    free(c->y0);
    free(c->ref);
    free(c->sum_abs);
    free(c->first);
}

/* Weights and the reference for all tokens; a case with fewer tokens uses the first of them. */
static void fill_case(matmul_case *c, int64_t max_tok) {
    aq_fill_weight(31 + (uint64_t)c->dtype, c->dtype, c->n_out, c->n_in, c->w);
    aq_fill_normal(32, max_tok * c->n_in, 1.0f, c->x);
    aq_fill_normal(33, max_tok * c->n_out, 1.0f, c->y0);
    double *row = get((size_t)c->n_in * sizeof *row);
    for (int64_t j = 0; j < c->n_out; j++) {
        for (int64_t i = 0; i < c->n_in; i++)
            row[i] = aq_ref_weight(c->dtype, c->w + j * aq_dtype_row_bytes(c->dtype, c->n_in), i);
        for (int64_t t = 0; t < max_tok; t++) {
            double sum = 0, sum_abs = 0;
            for (int64_t i = 0; i < c->n_in; i++) {
                const double term = row[i] * c->x[t * c->n_in + i];
                sum += term;
                sum_abs += fabs(term);
            }
            c->ref[t * c->n_out + j] = sum;
            c->sum_abs[t * c->n_out + j] = sum_abs;
        }
    }
    free(row);
}

static void compare(matmul_case *c, const float *y) {
    const int64_t row_bytes = aq_dtype_row_bytes(c->dtype, c->n_in), last = c->n_in - 1;
    for (int64_t k = 0; k < c->n_tok * c->n_out; k++) {
        const int64_t t = k / c->n_out, j = k % c->n_out;
        const double before = c->accumulate ? c->y0[k] : 0;
        const double ref = c->ref[k] + before, sum_abs = c->sum_abs[k] + fabs(before);
        const int64_t n = c->n_in + 1;
        aq_bound_reduction(&c->bound, y[k], ref, n, sum_abs);
        /* Planted: the last column is left out; the row is the next one; y is not added to. */
        const double lost =
            aq_ref_weight(c->dtype, c->w + j * row_bytes, last) * c->x[t * c->n_in + last];
        aq_bound_reduction(&c->bug_last, (float)(y[k] - lost), ref, n, sum_abs);
        aq_bound_reduction(&c->bug_row, y[t * c->n_out + (j + 1) % c->n_out], ref, n, sum_abs);
        if (c->accumulate) aq_bound_reduction(&c->bug_sum, (float)(y[k] - before), ref, n, sum_abs);
    }
}

static void contract(const aq_test_backend *on, void *arg) {
    matmul_case *c = arg;
    const size_t w_bytes = (size_t)(c->n_out * aq_dtype_row_bytes(c->dtype, c->n_in));
    const size_t x_bytes = (size_t)(c->n_tok * c->n_in) * sizeof(float);
    const size_t y_bytes = (size_t)(c->n_tok * c->n_out) * sizeof(float);
    uint8_t *w = aq_test_alloc(on->be, w_bytes);
    float *x = aq_test_alloc(on->be, x_bytes), *y = aq_test_alloc(on->be, y_bytes);
    memcpy(w, c->w, w_bytes);
    memcpy(x, c->x, x_bytes);
    if (c->accumulate)
        memcpy(y, c->y0, y_bytes);
    else
        memset(y, 0xff, y_bytes); /* what y held must not matter, not even NaN */
    const aq_matmul_args args = {w, c->dtype, c->n_out, c->n_in, c->n_tok, x, y, c->accumulate};
    on->be->ops->matmul(on->be, &args);
    compare(c, y);
    if (on->n_thread == 1) memcpy(c->first, y, y_bytes);
    CU_ASSERT_EQUAL(memcmp(c->first, y, y_bytes), 0);
    on->be->ops->release(on->be, w);
    on->be->ops->release(on->be, x);
    on->be->ops->release(on->be, y);
}

static void expect(const matmul_case *c) {
    char what[64];
    snprintf(what, sizeof what, "%s", aq_dtype_find((uint32_t)c->dtype)->name);
    aq_bound_expect(&c->bound, what);
    aq_bound_expect_rejects(&c->bug_last, "last column left out");
    aq_bound_expect_rejects(&c->bug_row, "row of the neighbour");
    aq_bound_expect_rejects(&c->bug_sum, "not accumulated");
}

static void run_type(aq_dtype dtype) {
    static const int64_t n_toks[] = {1, 2, 3, 5, 16, 17, 64, MAX_TOK};
    const int64_t elems = aq_dtype_find((uint32_t)dtype)->block_elems;
    const int64_t shapes[][2] = {{5, elems == 1 ? 33 : elems},
                                 {MAX_OUT, elems == 256  ? 768
                                           : elems == 32 ? 576
                                                         : 577},
                                 {37, 1536}};
    matmul_case c;
    open_case(&c);
    c.dtype = dtype;
    for (int s = 0; s < 3; s++) {
        c.n_out = shapes[s][0];
        c.n_in = shapes[s][1];
        fill_case(&c, MAX_TOK);
        for (int n = 0; n < 8; n++)
            for (int sum = 0; sum < 2; sum++) {
                c.n_tok = n_toks[n];
                c.accumulate = sum;
                aq_each_backend(contract, &c);
            }
    }
    expect(&c);
    close_case(&c);
}

static void test_types(void) {
    for (int d = 0; d < AQ_TEST_DTYPES; d++)
        run_type(aq_test_dtypes[d]);
}

/* Rows longer than a dequantised panel is wide. */
static void test_long_rows(void) {
    static const aq_dtype dtypes[] = {AQ_F32, AQ_Q8_0, AQ_Q6_K};
    for (int d = 0; d < 3; d++) {
        matmul_case c;
        open_case(&c);
        c.dtype = dtypes[d];
        c.n_out = 7;
        c.n_in = dtypes[d] == AQ_F32 ? MAX_IN - 1 : MAX_IN;
        fill_case(&c, 65);
        for (int n = 0; n < 2; n++)
            for (int sum = 0; sum < 2; sum++) {
                c.n_tok = n == 0 ? 1 : 65;
                c.accumulate = sum;
                aq_each_backend(contract, &c);
            }
        expect(&c);
        close_case(&c);
    }
}

/* More tokens than one piece of the panel path holds. */
static void test_many_tokens(void) {
    matmul_case c;
    open_case(&c);
    c.dtype = AQ_Q4_1;
    c.n_out = 3;
    c.n_in = 64;
    c.n_tok = 700; /* 700 * 3 results fit where MAX_TOK * MAX_OUT do */
    c.accumulate = true;
    fill_case(&c, c.n_tok);
    aq_each_backend(contract, &c);
    expect(&c);
    close_case(&c);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "types", test_types);
    CU_add_test(suite, "long_rows", test_long_rows);
    CU_add_test(suite, "many_tokens", test_many_tokens);
}
