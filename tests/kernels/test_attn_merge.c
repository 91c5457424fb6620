/* attn_merge: against the formula in double precision, with neutral parts and wide ranges of m. */
#include "kernels/attn_merge.h"

#include <math.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

typedef enum { NO_BUG, M_IGNORED, L_IGNORED } planted_bug;

static const struct {
    int n_part;
    int64_t n_row;
    int d_head;
    float m_spread;
    double neutral; /* share of neutral parts */
} shapes[] = {{1, 9, 64, 3.0f, 0.0},   {2, 9, 64, 3.0f, 0.3},    {3, 1, 24, 1.0f, 0.0},
              {4, 0, 16, 1.0f, 0.0},   {5, 333, 80, 10.0f, 0.5}, {7, 40, 96, 100.0f, 0.2},
              {16, 5, 256, 1.0f, 0.9}, {2, 60, 16, 1e6f, 0.1}};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

/* Makes row `row` of part `part` as attn_partial would: l > 0, abs(o) of the size of l. */
static void fill(const aq_attn_merge_args *a, float m_spread, double neutral, uint64_t seed,
                 float *parts) {
    aq_rng rng = {seed};
    for (int64_t i = 0; i < a->n_part * a->n_row; i++) {
        float *part = parts + i * (a->d_head + 2);
        const bool empty = aq_rng_uniform(&rng) < neutral;
        const float l = empty ? 0.0f : 1.0f + (float)aq_rng_uniform(&rng) * 100.0f;
        for (int d = 0; d < a->d_head; d++)
            part[d] = l * (float)aq_rng_normal(&rng);
        part[a->d_head] = empty ? -INFINITY : m_spread * (float)aq_rng_normal(&rng);
        part[a->d_head + 1] = l;
    }
}

/* Compares one row; the bug, if any, is in the reference. The factor of a part has the roundings of
 * m_r - M, which its size turns into a relative error of exp, and of exp itself. */
static void check_row(const aq_attn_merge_args *a, int64_t row, planted_bug bug, aq_bound *bound) {
    const int64_t width = a->d_head + 2, stride = a->n_row * width;
    const float *first = a->parts + row * width;
    const float *out = a->out + row * a->d_head;
    const double eps = ldexp(1.0, -24);
    double m = -INFINITY;
    for (int p = 0; p < a->n_part; p++)
        m = fmax(m, (double)first[p * stride + a->d_head]);
    for (int i = 0; i < a->d_head; i++) {
        double o = 0.0, l = 0.0, o_error = 0.0, l_error = 0.0;
        for (int p = 0; p < a->n_part && m > -INFINITY; p++) {
            const double ahead = (double)first[p * stride + a->d_head] - m;
            const double factor = bug == M_IGNORED ? 1.0 : exp(ahead);
            if (ahead == -INFINITY) continue;
            const double o_term = factor * (double)first[p * stride + i];
            const double l_term =
                bug == L_IGNORED ? factor : factor * (double)first[p * stride + a->d_head + 1];
            const double relative = eps * (fabs(ahead) + 3.0 + 4.0 * sqrt(a->n_part));
            o += o_term;
            l += l_term;
            o_error += relative * fabs(o_term);
            l_error += relative * l_term;
        }
        const double ref = l > 0.0 ? o / l : 0.0;
        const double allowed =
            l > 0.0 ? (o_error + fabs(ref) * l_error) / l + 2.0 * eps * fabs(ref) : 0.0;
        aq_bound_element(bound, out[i], ref, 0.0, allowed + ldexp(1.0, -126));
    }
}

/* Compares M and L of one row; the bug, if any, is in the reference. */
static void check_ml(const aq_attn_merge_args *a, int64_t row, planted_bug bug, aq_bound *bound) {
    const int64_t width = a->d_head + 2, stride = a->n_row * width;
    const float *first = a->parts + row * width + a->d_head;
    const double eps = ldexp(1.0, -24);
    double m = -INFINITY, l = 0.0, allowed = 0.0;
    for (int p = 0; p < a->n_part; p++)
        m = fmax(m, (double)first[p * stride]);
    for (int p = 0; p < a->n_part && m > -INFINITY; p++) {
        const double ahead = (double)first[p * stride] - m;
        if (ahead == -INFINITY) continue;
        const double term = (bug == M_IGNORED ? 1.0 : exp(ahead)) *
                            (bug == L_IGNORED ? 1.0 : (double)first[p * stride + 1]);
        l += term;
        allowed += eps * (fabs(ahead) + 3.0 + 4.0 * sqrt(a->n_part)) * term;
    }
    CU_ASSERT_EQUAL((double)a->ml[2 * row], m);
    aq_bound_element(bound, a->ml[2 * row + 1], l, 0.0, allowed + ldexp(1.0, -126));
}

static void check(const aq_attn_merge_args *a, planted_bug bug, aq_bound *bound) {
    for (int64_t row = 0; row < a->n_row; row++) {
        check_row(a, row, bug, bound);
        if (a->ml) check_ml(a, row, bug, bound);
    }
}

static void contract(const aq_test_backend *on, void *arg) {
    (void)arg;
    aq_bound bound = {0}, no_l = {0}, no_m = {0};
    for (int s = 0; s < N_SHAPE; s++) {
        const int64_t n_row = shapes[s].n_row;
        const int64_t n_part = shapes[s].n_part * n_row * (shapes[s].d_head + 2);
        float *parts = aq_test_alloc(on->be, (size_t)n_part * sizeof *parts);
        float *out = aq_test_alloc(on->be, (size_t)(n_row * shapes[s].d_head) * sizeof *out);
        float *ml = aq_test_alloc(on->be, (size_t)(n_row * 2) * sizeof *ml);
        const aq_attn_merge_args args = {.parts = parts,
                                         .n_part = shapes[s].n_part,
                                         .n_row = n_row,
                                         .d_head = shapes[s].d_head,
                                         .out = out,
                                         .ml = s % 3 == 0 ? NULL : ml};
        fill(&args, shapes[s].m_spread, shapes[s].neutral, 1 + (uint64_t)s, parts);
        on->be->ops->attn_merge(on->be, &args);
        check(&args, NO_BUG, &bound);
        check(&args, L_IGNORED, &no_l);
        check(&args, M_IGNORED, &no_m);
        on->be->ops->release(on->be, parts);
        on->be->ops->release(on->be, out);
        on->be->ops->release(on->be, ml);
    }
    aq_bound_expect(&bound, "attn_merge");
    aq_bound_expect_rejects(&no_l, "a merge that ignores l");
    aq_bound_expect_rejects(&no_m, "a merge that ignores m");
}

static void merges_match_the_formula(void) {
    aq_each_backend(contract, NULL);
}

static void all_neutral(const aq_test_backend *on, void *arg) {
    (void)arg;
    const int n_part = 3, n_row = 4, d_head = 24;
    const int64_t n = (int64_t)n_part * n_row * (d_head + 2);
    float *parts = aq_test_alloc(on->be, (size_t)n * sizeof *parts);
    float *out = aq_test_alloc(on->be, (size_t)(n_row * d_head) * sizeof *out);
    float *ml = aq_test_alloc(on->be, (size_t)(n_row * 2) * sizeof *ml);
    for (int64_t i = d_head; i < n; i += d_head + 2)
        parts[i] = -INFINITY;
    for (int i = 0; i < n_row * d_head; i++)
        out[i] = 7.0f;
    on->be->ops->attn_merge(on->be, &(aq_attn_merge_args){.parts = parts,
                                                          .n_part = n_part,
                                                          .n_row = n_row,
                                                          .d_head = d_head,
                                                          .out = out,
                                                          .ml = ml});
    for (int i = 0; i < n_row * d_head; i++)
        CU_ASSERT_EQUAL(out[i], 0.0f);
    for (int row = 0; row < n_row; row++)
        CU_ASSERT_TRUE(ml[2 * row] == -INFINITY && ml[2 * row + 1] == 0.0f);
    on->be->ops->release(on->be, parts);
    on->be->ops->release(on->be, out);
    on->be->ops->release(on->be, ml);
}

static void neutral_parts_give_zeros(void) {
    aq_each_backend(all_neutral, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "merges match the formula", merges_match_the_formula);
    CU_add_test(suite, "neutral parts give zeros", neutral_parts_give_zeros);
}
