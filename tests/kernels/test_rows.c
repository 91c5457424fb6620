/* Rows by index: gathered exactly, added in order, whatever the threads; repeats and no rows. */
#include "kernels/rows.h"

#include <CUnit/CUnit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define N_OTHER   23 /* rows of the tensor that is indexed */
#define MAX_ROW   129
#define MAX_WIDTH 1537

typedef struct {
    int64_t n_row, width;
    int32_t index[MAX_ROW];
    float *scale, *rows, *other; /* other: [N_OTHER, width] */
    aq_bound bound, bug_scale, bug_overwritten, bug_repeat;
} rows_case;

/* Rows that are not those of the index; `shift` 1 plants the row after it. */
static int64_t gather_wrong(const rows_case *c, const float *out, int shift) {
    int64_t wrong = 0;
    for (int64_t i = 0; i < c->n_row; i++) {
        const int64_t from = (c->index[i] + shift) % N_OTHER;
        wrong += memcmp(out + i * c->width, c->other + from * c->width,
                        (size_t)c->width * sizeof *out) != 0;
    }
    return wrong;
}

/* An element of a row of y is a sum of what was there and of two-factor terms. */
static void check_scatter(rows_case *c, const float *y) {
    for (int64_t r = 0; r < N_OTHER; r++)
        for (int64_t k = 0; k < c->width; k += 1 + c->width / 16) {
            const double before = (double)c->other[r * c->width + k];
            double sum = before, sum_abs = fabs(before), unscaled = before, last = 0;
            int64_t n = 1;
            for (int64_t i = 0; i < c->n_row; i++) {
                if (c->index[i] != r) continue;
                const double x = (double)c->rows[i * c->width + k];
                last = (double)c->scale[i] * x;
                sum += last;
                sum_abs += fabs(last);
                unscaled += x;
                n += 2;
            }
            const float got = y[r * c->width + k];
            aq_bound_reduction(&c->bound, got, sum, n, sum_abs);
            aq_bound_reduction(&c->bug_scale, got, unscaled, n, sum_abs);
            aq_bound_reduction(&c->bug_overwritten, got, sum - before, n, sum_abs);
            aq_bound_reduction(&c->bug_repeat, got, before + last, n, sum_abs);
        }
}

/* The same in fp32, row after row: the bits that every member must give. */
static int64_t order_wrong(const rows_case *c, const float *y) {
    int64_t wrong = 0;
    for (int64_t r = 0; r < N_OTHER; r++)
        for (int64_t k = 0; k < c->width; k++) {
            float sum = c->other[r * c->width + k];
            for (int64_t i = 0; i < c->n_row; i++)
                if (c->index[i] == r) sum += c->scale[i] * c->rows[i * c->width + k];
            wrong += y[r * c->width + k] != sum;
        }
    return wrong;
}

static void contract(const aq_test_backend *on, void *arg) {
    rows_case *c = arg;
    const size_t row_bytes = (size_t)(c->n_row * c->width) * sizeof(float);
    const size_t other_bytes = (size_t)(N_OTHER * c->width) * sizeof(float);
    int32_t *index = aq_test_put(on, c->index, (size_t)c->n_row * sizeof *index);
    float *scale = aq_test_put(on, c->scale, (size_t)c->n_row * sizeof *scale);
    float *rows = aq_test_alloc(on->be, row_bytes), *other = aq_test_put(on, c->other, other_bytes);
    on->be->ops->gather_rows(on->be,
                             &(aq_gather_rows_args){other, index, c->n_row, c->width, rows});
    float *gathered = aq_test_got(on, rows, row_bytes);
    CU_ASSERT_EQUAL(gather_wrong(c, gathered, 0), 0);
    CU_ASSERT(c->n_row == 0 || gather_wrong(c, gathered, 1) > 0);
    on->be->ops->upload(on->be, rows, c->rows, row_bytes);
    on->be->ops->scatter_add_rows(
        on->be, &(aq_scatter_add_rows_args){rows, index, scale, c->n_row, c->width, other});
    float *added = aq_test_got(on, other, other_bytes);
    check_scatter(c, added);
    CU_ASSERT_EQUAL(order_wrong(c, added), 0);
    free(gathered);
    free(added);
    aq_test_free(on, index);
    aq_test_free(on, scale);
    aq_test_free(on, rows);
    aq_test_free(on, other);
}

static void test_rows(void) {
    static const int64_t n_rows[] = {0, 1, 2, 17, MAX_ROW};
    static const int64_t widths[] = {1, 7, 64, 576, MAX_WIDTH};
    rows_case c = {.scale = malloc(MAX_ROW * sizeof(float)),
                   .rows = malloc(MAX_ROW * MAX_WIDTH * sizeof(float)),
                   .other = malloc(N_OTHER * MAX_WIDTH * sizeof(float))};
    if (!c.scale || !c.rows || !c.other) exit(1);
    for (int d = 0; d < 5; d++)
        for (int n = 0; n < 5; n++) {
            c.width = widths[d];
            c.n_row = n_rows[n];
            for (int i = 0; i < MAX_ROW; i++) /* both ends, repeats, no order, some left out */
                c.index[i] = i % 5 == 0 ? N_OTHER - 1 : i * 7 % (N_OTHER - 4);
            aq_fill_normal(91, MAX_ROW, 0.3f, c.scale);
            aq_fill_normal(92, c.n_row * c.width, 1.0f, c.rows);
            aq_fill_normal(93, N_OTHER * c.width, 1.0f, c.other);
            aq_each_backend(contract, &c);
        }
    aq_bound_expect(&c.bound, "scatter_add_rows");
    aq_bound_expect_rejects(&c.bug_scale, "scale left out");
    aq_bound_expect_rejects(&c.bug_overwritten, "overwritten");
    aq_bound_expect_rejects(&c.bug_repeat, "the last of equal indices alone");
    free(c.scale);
    free(c.rows);
    free(c.other);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "rows", test_rows);
}
