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
#define FEW_TOK 16 /* so many take the same way as one */

#define EPS  (1.0 / 16777216.0)
#define EPS2 (1.0 / 2048.0) /* of a half float */

/* The sum of the products of one row and one token, and what bounds its error. */
typedef struct {
    double sum, sum_abs, sum_squares;
    double halves, bfloats; /* the sum if both factors are rounded to these first */
} product;

typedef struct {
    aq_dtype dtype;
    int64_t n_out, n_in, n_tok;
    bool accumulate;
    uint8_t *w;
    float *x, *y0; /* y0: what y holds before */
    product *ref;  /* [n_tok, n_out] */
    float *first;  /* result with one thread, per instruction set: bits must agree */
    float alone[AQ_ISAS][2][MAX_OUT]; /* the first token alone, or added to y0 */
    aq_bound bound, rounded, halves, bug_last, bug_row, bug_tok, bug_sum, bug_bfloats;
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
                       .ref = get(MAX_TOK * MAX_OUT * sizeof(product)),
                       .first = get(MAX_TOK * MAX_OUT * 4)};
}

static void close_case(matmul_case *c) {
    free(c->w);
    free(c->x);
    free(c->y0);
    free(c->ref);
    free(c->first);
}

static double as_half(double v) {
    return (double)aq_f16_to_f32(aq_f32_to_f16((float)v));
}

static double as_bfloat(double v) {
    return (double)aq_bf16_to_f32(aq_f32_to_bf16((float)v));
}

static product multiply(const double *row, const float *x, int64_t n) {
    product p = {0};
    for (int64_t i = 0; i < n; i++) {
        const double term = row[i] * (double)x[i];
        p.sum += term;
        p.sum_abs += fabs(term);
        p.sum_squares += term * term;
        p.halves += as_half(row[i]) * as_half((double)x[i]);
        p.bfloats += as_bfloat(row[i]) * as_bfloat((double)x[i]);
    }
    return p;
}

/* What rounding to halves may be off by, and that the bound tells it from rounding to less. */
static void check_rounding(matmul_case *c, const product *p) {
    const double allowed = 4 * EPS2 * sqrt(p->sum_squares);
    aq_bound_element(&c->halves, (float)p->halves, p->sum, 1, allowed);
    aq_bound_element(&c->bug_bfloats, (float)p->bfloats, p->sum, 1, allowed);
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
        for (int64_t t = 0; t < max_tok; t++)
            c->ref[t * c->n_out + j] = multiply(row, c->x + t * c->n_in, c->n_in);
    }
    free(row);
    for (int64_t k = 0; k < max_tok * c->n_out; k++)
        check_rounding(c, &c->ref[k]);
}

/* What y[k] may be off by; `rounded`: on a device that rounds the factors. */
static double allowed(const matmul_case *c, int64_t k, bool rounded) {
    const double before = c->accumulate ? fabs((double)c->y0[k]) : 0;
    const double sums = 4 * sqrt((double)c->n_in + 1) * EPS * (c->ref[k].sum_abs + before);
    return sums + (rounded ? 4 * EPS2 * sqrt(c->ref[k].sum_squares) : 0);
}

static void compare(matmul_case *c, const float *y, bool rounded) {
    const int64_t row_bytes = aq_dtype_row_bytes(c->dtype, c->n_in), last = c->n_in - 1;
    for (int64_t k = 0; k < c->n_tok * c->n_out; k++) {
        const int64_t t = k / c->n_out, j = k % c->n_out;
        const double before = c->accumulate ? c->y0[k] : 0, most = allowed(c, k, rounded);
        const double ref = c->ref[k].sum + before;
        aq_bound_element(rounded ? &c->rounded : &c->bound, y[k], ref, 0, most);
        /* Planted: the last column is left out; the row or the token is the next
         * one; y is not added to. */
        const double lost =
            aq_ref_weight(c->dtype, c->w + j * row_bytes, last) * c->x[t * c->n_in + last];
        aq_bound_element(&c->bug_last, (float)(y[k] - lost), ref, 0, most);
        aq_bound_element(&c->bug_row, y[t * c->n_out + (j + 1) % c->n_out], ref, 0, most);
        if (c->n_tok > 1)
            aq_bound_element(&c->bug_tok, y[(t + 1) % c->n_tok * c->n_out + j], ref, 0, most);
        if (c->accumulate) aq_bound_element(&c->bug_sum, (float)(y[k] - before), ref, 0, most);
    }
}

/* On CPUs a token's result has the same bits among few tokens as alone. */
static void compare_alone(matmul_case *c, aq_cpu_isa isa, const float *y) {
    float *alone = c->alone[isa][c->accumulate];
    const size_t row_bytes = (size_t)c->n_out * sizeof *y;
    if (c->n_tok == 1) memcpy(alone, y, row_bytes);
    if (c->n_tok <= FEW_TOK) CU_ASSERT_EQUAL(memcmp(alone, y, row_bytes), 0);
}

static void contract(const aq_test_backend *on, void *arg) {
    matmul_case *c = arg;
    const size_t w_bytes = (size_t)(c->n_out * aq_dtype_row_bytes(c->dtype, c->n_in));
    const size_t x_bytes = (size_t)(c->n_tok * c->n_in) * sizeof(float);
    const size_t y_bytes = (size_t)(c->n_tok * c->n_out) * sizeof(float);
    float *got = get(y_bytes);
    memset(got, 0xff, y_bytes); /* what y held must not matter, not even NaN */
    uint8_t *w = aq_test_put(on, c->w, w_bytes);
    float *x = aq_test_put(on, c->x, x_bytes);
    float *y = aq_test_put(on, c->accumulate ? c->y0 : got, y_bytes);
    const aq_matmul_args args = {w, c->dtype, c->n_out, c->n_in, c->n_tok, x, y, c->accumulate};
    on->be->ops->matmul(on->be, &args);
    aq_test_get(on, got, y, y_bytes);
    compare(c, got, aq_test_device(on) && c->n_tok > AQ_MATMUL_EXACT_TOKS && c->dtype != AQ_F32);
    if (on->n_thread == 1) memcpy(c->first, got, y_bytes);
    CU_ASSERT_EQUAL(memcmp(c->first, got, y_bytes), 0);
    if (!aq_test_device(on)) compare_alone(c, on->isa, got);
    free(got);
    aq_test_free(on, w);
    aq_test_free(on, x);
    aq_test_free(on, y);
}

static void expect(const matmul_case *c) {
    char what[64];
    snprintf(what, sizeof what, "%s", aq_dtype_find((uint32_t)c->dtype)->name);
    if (c->bound.n_check > 0) aq_bound_expect(&c->bound, what);
    CU_ASSERT(c->bound.n_check + c->rounded.n_check > 0);
    aq_bound_expect(&c->halves, "rounded to halves");
    if (c->rounded.n_check > 0) aq_bound_expect(&c->rounded, "on a device");
    aq_bound_expect_rejects(&c->bug_bfloats, "rounded to bfloats");
    aq_bound_expect_rejects(&c->bug_last, "last column left out");
    aq_bound_expect_rejects(&c->bug_row, "row of the neighbour");
    aq_bound_expect_rejects(&c->bug_tok, "token of the neighbour");
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

/* Rows longer than a dequantised panel is wide, or than scales are made for at once. */
static void test_long_rows(void) {
    static const aq_dtype dtypes[] = {AQ_F32, AQ_Q4_1, AQ_Q8_0, AQ_Q4_K, AQ_Q6_K};
    static const int64_t n_toks[] = {1, 7, 65};
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
        matmul_case c;
        open_case(&c);
        c.dtype = dtypes[d];
        c.n_out = 7;
        c.n_in = dtypes[d] == AQ_F32 ? MAX_IN - 1 : MAX_IN;
        fill_case(&c, 65);
        for (int n = 0; n < 3; n++)
            for (int sum = 0; sum < 2; sum++) {
                c.n_tok = n_toks[n];
                c.accumulate = sum;
                aq_each_backend(contract, &c);
            }
        expect(&c);
        close_case(&c);
    }
}

/* Tokens so long that a member has no room for all of them in codes. */
static void test_long_tokens(void) {
    static const aq_dtype dtypes[] = {AQ_Q4_1, AQ_Q5_K};
    for (int d = 0; d < 2; d++) {
        matmul_case c;
        open_case(&c);
        c.dtype = dtypes[d];
        c.n_out = 5;
        c.n_in = 65536; /* 16 of these fit where MAX_TOK of MAX_IN do */
        fill_case(&c, FEW_TOK);
        for (int n = 0; n < 2; n++) {
            c.n_tok = n == 0 ? 1 : FEW_TOK;
            c.accumulate = true;
            aq_each_backend(contract, &c);
        }
        aq_bound_expect(&c.bound, "long tokens"); /* too long to see one column or y0 */
        aq_bound_expect_rejects(&c.bug_row, "row of the neighbour");
        aq_bound_expect_rejects(&c.bug_tok, "token of the neighbour");
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
    CU_add_test(suite, "long_tokens", test_long_tokens);
    CU_add_test(suite, "many_tokens", test_many_tokens);
}
