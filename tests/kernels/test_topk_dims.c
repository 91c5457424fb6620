/* topk_dims: against a stable sort, on random and on awkward numbers. */
#include "kernels/topk_dims.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define MAX_COL 256

typedef enum { NO_BUG, TIES_TO_THE_HIGHER, NAN_FIRST } planted_bug;

typedef struct {
    float value; /* NaN ranks last, whatever its sign */
    int column;
} entry;

static int by_value(const void *a, const void *b, bool ties_up) {
    const entry *x = a, *y = b;
    const int tie = ties_up ? y->column - x->column : x->column - y->column;
    if (isnan(x->value) || isnan(y->value)) {
        const int order = (isnan(x->value) ? 1 : 0) - (isnan(y->value) ? 1 : 0);
        return order ? order : tie;
    }
    if (x->value != y->value) return x->value > y->value ? -1 : 1;
    return tie;
}

static int ties_down(const void *a, const void *b) {
    return by_value(a, b, false);
}

static int ties_up(const void *a, const void *b) {
    return by_value(a, b, true);
}

/* chosen[i] says whether column i is among the n_dim. */
static void reference(const float *q, const float *weight, int n_col, int n_dim, planted_bug bug,
                      bool *chosen) {
    entry entries[MAX_COL];
    for (int i = 0; i < n_col; i++) {
        entries[i] = (entry){fabsf(q[i]) * (weight ? weight[i] : 1.0f), i};
        if (bug == NAN_FIRST && isnan(entries[i].value)) entries[i].value = INFINITY;
        chosen[i] = false;
    }
    qsort(entries, (size_t)n_col, sizeof entries[0],
          bug == TIES_TO_THE_HIGHER ? ties_up : ties_down);
    for (int j = 0; j < n_dim; j++)
        chosen[entries[j].column] = true;
}

/* Number of queries whose columns are not exactly those of the reference, rising; the pointers of
 * `a` are of the host. */
static int64_t count_wrong(const aq_topk_dims_args *a, planted_bug bug) {
    int64_t n_wrong = 0;
    for (int64_t row = 0; row < a->n_tok * a->n_head; row++) {
        const int64_t g = row % a->n_head / (a->n_head / a->n_kv_head);
        bool chosen[MAX_COL];
        reference(a->q + row * a->n_col, a->weight ? a->weight + g * a->n_col : NULL, a->n_col,
                  a->n_dim, bug, chosen);
        const int16_t *dims = a->dims + row * a->n_dim;
        int n = 0;
        bool wrong = false;
        for (int i = 0; i < a->n_col; i++)
            if (chosen[i] && dims[n++] != i) wrong = true;
        n_wrong += wrong;
    }
    return n_wrong;
}

typedef enum { RANDOM, MANY_TIES, ALL_EQUAL, SOME_NAN, ALL_NAN, EXTREME, N_KIND } data_kind;

static void fill(data_kind kind, uint64_t seed, int64_t n, float *out) {
    static const float extremes[] = {0.0f,      -0.0f,    1e-45f, -1e-45f, 1e-38f, 3e38f,
                                     -INFINITY, INFINITY, 1.0f,   -1.0f,   1e-30f, -3e38f};
    aq_rng rng = {seed};
    for (int64_t i = 0; i < n; i++) {
        const double u = aq_rng_uniform(&rng);
        out[i] = (float)aq_rng_normal(&rng);
        if (kind == MANY_TIES) out[i] = (float)((int)(u * 7) - 3);
        if (kind == ALL_EQUAL) out[i] = u < 0.5 ? -2.5f : 2.5f;
        if (kind == SOME_NAN && u < 0.3) out[i] = u < 0.15 ? NAN : -NAN;
        if (kind == ALL_NAN) out[i] = NAN;
        if (kind == EXTREME) out[i] = extremes[(int)(u * 12)];
    }
}

static const struct {
    int64_t n_tok;
    int n_head, n_kv_head, n_col, n_dim;
} shapes[] = {{1, 1, 1, 1, 1},     {0, 2, 1, 16, 4},  {5, 6, 2, 24, 1},    {40, 9, 3, 64, 48},
              {3, 4, 4, 64, 64},   {7, 3, 1, 19, 18}, {33, 4, 2, 80, 20},  {9, 2, 2, 96, 95},
              {50, 8, 1, 128, 32}, {20, 5, 5, 33, 7}, {6, 4, 2, 256, 192}, {64, 3, 3, 16, 15}};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

/* Wrong queries when the check is given a bug, summed over all data: none may stay at 0. */
typedef struct {
    int64_t ties_to_the_higher, nan_first;
} rejections;

static void *get(int64_t bytes) {
    void *memory = malloc(bytes > 0 ? (size_t)bytes : 1);
    if (!memory) exit(1);
    return memory;
}

static void check_shape(const aq_test_backend *on, int s, data_kind kind, bool weighted,
                        rejections *found) {
    const int64_t n_q = shapes[s].n_tok * shapes[s].n_head * shapes[s].n_col;
    const int64_t n_weight = (int64_t)shapes[s].n_kv_head * shapes[s].n_col;
    const int64_t n_dims = shapes[s].n_tok * shapes[s].n_head * shapes[s].n_dim;
    float *q = get(n_q * (int64_t)sizeof *q), *weight = get(n_weight * (int64_t)sizeof *weight);
    fill(kind, 10 * (uint64_t)s + kind, n_q, q);
    for (int64_t i = 0; i < n_weight; i++)
        weight[i] = (float)(i % 5) * 0.5f;
    aq_topk_dims_args args = {.q = aq_test_put(on, q, (size_t)n_q * sizeof *q),
                              .n_tok = shapes[s].n_tok,
                              .n_head = shapes[s].n_head,
                              .n_kv_head = shapes[s].n_kv_head,
                              .n_col = shapes[s].n_col,
                              .n_dim = shapes[s].n_dim,
                              .dims = aq_test_alloc(on->be, (size_t)n_dims * sizeof *args.dims)};
    if (weighted) args.weight = aq_test_put(on, weight, (size_t)n_weight * sizeof *weight);
    on->be->ops->topk_dims(on->be, &args);
    int16_t *dims = aq_test_got(on, args.dims, (size_t)n_dims * sizeof *dims);
    aq_test_free(on, (void *)args.q);
    aq_test_free(on, (void *)args.weight);
    aq_test_free(on, args.dims);
    args.q = q;
    if (weighted) args.weight = weight;
    args.dims = dims;
    CU_ASSERT_EQUAL(count_wrong(&args, NO_BUG), 0);
    found->ties_to_the_higher += count_wrong(&args, TIES_TO_THE_HIGHER);
    found->nan_first += count_wrong(&args, NAN_FIRST);
    free(q);
    free(weight);
    free(dims);
}

static void contract(const aq_test_backend *on, void *arg) {
    (void)arg;
    rejections found = {0};
    for (int s = 0; s < N_SHAPE; s++)
        for (int kind = 0; kind < N_KIND; kind++)
            for (int weighted = 0; weighted < 2; weighted++)
                check_shape(on, s, (data_kind)kind, weighted, &found);
    CU_ASSERT_TRUE(found.ties_to_the_higher > 0);
    CU_ASSERT_TRUE(found.nan_first > 0);
}

static void columns_are_those_of_a_stable_sort(void) {
    aq_each_backend(contract, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "columns are those of a stable sort", columns_are_those_of_a_stable_sort);
}
