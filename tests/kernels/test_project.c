/* project: against the formula in double precision, on odd shapes. */
#include "kernels/project.h"

#include <math.h>
#include <stdlib.h>

#include "tests/support/oracle.h"
#include "tests/support/suite.h"

typedef enum { NO_BUG, TRANSPOSED, NEXT_MATRIX } planted_bug;

static const struct {
    int64_t n_tok;
    int n_head, n_kv_head, d_head, n_col;
} shapes[] = {{1, 9, 3, 64, 64},   {1, 1, 1, 16, 16},  {0, 4, 2, 32, 32},   {3, 6, 2, 24, 24},
              {11, 4, 4, 24, 19},  {13, 9, 3, 80, 60}, {50, 14, 2, 64, 48}, {97, 3, 1, 96, 96},
              {130, 2, 2, 40, 33}, {7, 8, 1, 256, 192}};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

/* Checks y, on the host; the bug, if any, is in the reference. */
static void check(const aq_project_args *a, planted_bug bug, aq_bound *bound) {
    const int group = a->n_head / a->n_kv_head;
    for (int64_t row = 0; row < a->n_tok * a->n_head; row++) {
        int64_t g = row % a->n_head / group;
        if (bug == NEXT_MATRIX) g = (g + 1) % a->n_kv_head;
        const float *x = a->x + row * a->d_head;
        const float *p = a->p + g * a->d_head * a->d_head;
        for (int j = 0; j < a->n_col; j++) {
            double sum = 0.0, sum_abs = 0.0;
            for (int i = 0; i < a->d_head; i++) {
                const double term =
                    (double)x[i] *
                    (double)(bug == TRANSPOSED ? p[j * a->d_head + i] : p[i * a->d_head + j]);
                sum += term;
                sum_abs += fabs(term);
            }
            aq_bound_reduction(bound, a->y[row * a->n_col + j], sum, a->d_head, sum_abs);
        }
    }
}

static float *normal(uint64_t seed, int64_t n, float scale) {
    float *out = malloc((size_t)(n > 0 ? n : 1) * sizeof *out);
    if (!out) exit(1);
    aq_fill_normal(seed, n, scale, out);
    return out;
}

static void contract(const aq_test_backend *on, void *arg) {
    (void)arg;
    aq_bound bound = {0}, transposed = {0}, next = {0};
    for (int s = 0; s < N_SHAPE; s++) {
        const int64_t n_row = shapes[s].n_tok * shapes[s].n_head;
        const int64_t n_p = (int64_t)shapes[s].n_kv_head * shapes[s].d_head * shapes[s].d_head;
        const int64_t n_x = n_row * shapes[s].d_head;
        const size_t y_bytes = (size_t)(n_row * shapes[s].n_col) * sizeof(float);
        float *host_x = normal(1 + (uint64_t)s, n_x, 3.0f);
        float *host_p = normal(100 + (uint64_t)s, n_p, 0.2f);
        float *x = aq_test_put(on, host_x, (size_t)n_x * sizeof *x);
        float *p = aq_test_put(on, host_p, (size_t)n_p * sizeof *p);
        float *y = aq_test_alloc(on->be, y_bytes);
        aq_project_args args = {.x = x,
                                .p = p,
                                .n_tok = shapes[s].n_tok,
                                .n_head = shapes[s].n_head,
                                .n_kv_head = shapes[s].n_kv_head,
                                .d_head = shapes[s].d_head,
                                .n_col = shapes[s].n_col,
                                .y = y};
        on->be->ops->project(on->be, &args);
        float *host_y = aq_test_got(on, y, y_bytes);
        args.x = host_x;
        args.p = host_p;
        args.y = host_y;
        check(&args, NO_BUG, &bound);
        check(&args, TRANSPOSED, &transposed);
        if (args.n_kv_head > 1) check(&args, NEXT_MATRIX, &next);
        aq_test_free(on, x);
        aq_test_free(on, p);
        aq_test_free(on, y);
        free(host_x);
        free(host_p);
        free(host_y);
    }
    aq_bound_expect(&bound, "project");
    aq_bound_expect_rejects(&transposed, "a transposed matrix");
    aq_bound_expect_rejects(&next, "the matrix of another KV head");
}

static void projections_match_the_formula(void) {
    aq_each_backend(contract, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "projections match the formula", projections_match_the_formula);
}
