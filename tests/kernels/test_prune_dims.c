/* prune_dims: against a stable sort and sums in double precision. */
#include "kernels/prune_dims.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define MAX_COL 256
#define EPS     (1.0 / 16777216.0)

typedef enum {
    NO_BUG,
    NOT_SQUARED,
    NEIGHBOUR_WEIGHT,
    SUM_BEFORE,
    MORE_THAN_LEAST,
    ALL_BUGS
} planted_bug;

typedef struct {
    float value; /* NaN ranks last */
    int column;
} entry;

static int by_value(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (isnan(x->value) != isnan(y->value)) return isnan(x->value) ? 1 : -1;
    if (!isnan(x->value) && x->value != y->value) return x->value > y->value ? -1 : 1;
    return x->column - y->column;
}

/* The columns of one query, those that decide most first. */
static void sort_columns(const aq_prune_dims_args *a, const float *q, int64_t row, planted_bug bug,
                         entry *entries) {
    const int64_t h = row % a->n_head, group = a->n_head / a->n_kv_head;
    const int64_t g = bug == NEIGHBOUR_WEIGHT ? (h / group + 1) % a->n_kv_head : h / group;
    for (int i = 0; i < a->n_col; i++)
        entries[i] = (entry){
            fabsf(q[row * a->n_col + i]) * (a->weight ? a->weight[g * a->n_col + i] : 1.0f), i};
    qsort(entries, (size_t)a->n_col, sizeof entries[0], by_value);
}

static double energy_of(float value, planted_bug bug) {
    if (isnan(value)) return 0.0;
    return bug == NOT_SQUARED ? (double)value : (double)value * (double)value;
}

/* Whether a column has the least energy. Its square is rounded as the contract says. */
static bool reaches(float value, float least, planted_bug bug) {
    const float energy = (float)energy_of(value, bug);
    return bug == MORE_THAN_LEAST ? energy > least : energy >= least;
}

/* The least and the most columns that may be kept: unless sums are exact, those in fp32 differ. */
static void count_bounds(const aq_prune_dims_args *a, const entry *entries, bool exact,
                         planted_bug bug, int *least, int *most) {
    double total = 0.0, sum = 0.0;
    if (a->tau == 0) {
        int n = 0;
        while (n < a->n_col && reaches(entries[n].value, a->least, bug))
            n++;
        *least = *most = n > 0 ? n : 1;
        return;
    }
    for (int i = 0; i < a->n_col; i++)
        total += energy_of(entries[i].value, bug);
    const double slack = exact ? 0.0 : (a->n_col + 8) * EPS;
    *least = *most = a->n_col + 1;
    for (int i = 0; i < a->n_col; i++) {
        if (bug != SUM_BEFORE) sum += energy_of(entries[i].value, bug);
        if (*least > a->n_col && sum >= a->tau * total * (1.0 - slack)) *least = i + 1;
        if (*most > a->n_col && sum >= a->tau * total * (1.0 + slack)) *most = i + 1;
        if (bug == SUM_BEFORE) sum += energy_of(entries[i].value, bug);
    }
    if (*least > a->n_col) *least = a->n_col;
    if (*most > a->n_col) *most = a->n_col;
}

static bool same_bits(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0;
}

/* Number of queries that were pruned otherwise than the sort says; the pointers of `a` are of the
 * host. `before`: the queries as they
 * were; *n_kept grows by the columns found kept. */
static int64_t count_wrong(const aq_prune_dims_args *a, const float *before, bool exact,
                           planted_bug bug, int64_t *n_kept) {
    int64_t n_wrong = 0;
    for (int64_t row = 0; row < a->n_tok * a->n_head; row++) {
        entry entries[MAX_COL];
        int least, most, n = 0;
        sort_columns(a, before, row, bug, entries);
        count_bounds(a, entries, exact, bug, &least, &most);
        const float *was = before + row * a->n_col, *is = a->q + row * a->n_col;
        while (n < a->n_col && same_bits(is[entries[n].column], was[entries[n].column]))
            n++;
        /* A kept column may be zero itself: only those behind tell where keeping ended. */
        bool wrong = n < least;
        for (int i = n; i < a->n_col; i++)
            wrong = wrong || !same_bits(is[entries[i].column], 0.0f);
        while (n > most && same_bits(is[entries[n - 1].column], 0.0f))
            n--;
        wrong = wrong || n > most;
        n_wrong += wrong;
        *n_kept += n;
    }
    return n_wrong;
}

/* INTEGERS: many ties, and all sums exact in fp32. */
typedef enum { NORMAL, FALLING, INTEGERS, SOME_NAN, ALL_ZERO, N_KIND } data_kind;

static void fill(data_kind kind, uint64_t seed, int64_t n, int n_col, float *out) {
    aq_rng rng = {seed};
    for (int64_t i = 0; i < n; i++) {
        const double u = aq_rng_uniform(&rng);
        out[i] = (float)aq_rng_normal(&rng);
        if (kind == FALLING) out[i] *= expf(-8.0f * (float)(i % n_col) / (float)n_col);
        if (kind == INTEGERS) out[i] = (float)((int)(u * 9) - 4);
        if (kind == INTEGERS && out[i] == 0.0f) out[i] = 1.0f;
        if (kind == SOME_NAN && u < 0.3) out[i] = u < 0.15 ? NAN : -NAN;
        if (kind == ALL_ZERO) out[i] = 0.0f;
    }
}

static const struct {
    int64_t n_tok;
    int n_head, n_kv_head, n_col;
} shapes[] = {{1, 1, 1, 1},  {0, 2, 1, 16},  {5, 6, 2, 24}, {11, 9, 3, 64},
              {7, 3, 1, 19}, {9, 4, 2, 80},  {9, 2, 2, 96}, {6, 8, 1, 128},
              {6, 5, 5, 33}, {6, 4, 2, 256}, {14, 3, 3, 16}};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

/* 0: by the least energy. */
static const double taus[] = {0.0, 1e-9, 0.5, 0.75, 0.95, 1.0};

#define N_TAU ((int)(sizeof taus / sizeof taus[0]))

/* Wrong queries when the check is given a bug, summed over all data: none may stay at 0. */
typedef struct {
    int64_t n[ALL_BUGS];
} rejections;

static void *get(int64_t bytes) {
    void *memory = malloc(bytes > 0 ? (size_t)bytes : 1);
    if (!memory) exit(1);
    return memory;
}

/* Prunes `before`; the pointers of `args` are of the host afterwards. */
static void prune(const aq_test_backend *on, const float *before, const float *weight,
                  aq_prune_dims_args *args) {
    const size_t q_bytes = (size_t)(args->n_tok * args->n_head * args->n_col) * sizeof(float);
    const size_t weight_bytes = (size_t)(args->n_kv_head * args->n_col) * sizeof(float);
    int64_t *const n_kept = args->n_kept;
    float *const q = args->q = aq_test_put(on, before, q_bytes);
    float *const w = weight ? aq_test_put(on, weight, weight_bytes) : NULL;
    args->weight = w;
    args->n_kept = aq_test_put(on, n_kept, sizeof *n_kept);
    on->be->ops->prune_dims(on->be, args);
    args->q = aq_test_got(on, q, q_bytes);
    aq_test_get(on, n_kept, args->n_kept, sizeof *n_kept);
    aq_test_free(on, q);
    aq_test_free(on, w);
    aq_test_free(on, args->n_kept);
    args->weight = weight;
    args->n_kept = n_kept;
}

static void check_shape(const aq_test_backend *on, int s, data_kind kind, double tau, bool weighted,
                        rejections *found) {
    const int n_col = shapes[s].n_col, n_kv_head = shapes[s].n_kv_head;
    const int64_t n_q = shapes[s].n_tok * shapes[s].n_head * n_col;
    const int64_t n_weight = (int64_t)n_kv_head * n_col;
    float *before = get(n_q * (int64_t)sizeof *before);
    float *weight = get(n_weight * (int64_t)sizeof *weight);
    fill(kind, 10 * (uint64_t)s + kind, n_q, n_col, before);
    for (int64_t i = 0; i < n_weight; i++)
        weight[i] = (float)((i * 7 + i / n_col) % 5) * 0.5f;
    int64_t n_kept = 1000, n_found = 1000, unused = 0;
    aq_prune_dims_args args = {.tau = tau,
                               .least = 0.5f * (float)(1 + s % 4), /* 1: met by integers */
                               .n_tok = shapes[s].n_tok,
                               .n_head = shapes[s].n_head,
                               .n_kv_head = n_kv_head,
                               .n_col = n_col,
                               .n_kept = &n_kept};
    prune(on, before, weighted ? weight : NULL, &args);
    const bool exact = kind == INTEGERS && (tau == 0.5 || tau == 0.75);
    CU_ASSERT_EQUAL(count_wrong(&args, before, exact, NO_BUG, &n_found), 0);
    if (kind != ALL_ZERO && !weighted) CU_ASSERT_EQUAL(n_kept, n_found);
    for (int bug = NOT_SQUARED; bug < ALL_BUGS; bug++)
        found->n[bug] += count_wrong(&args, before, exact, (planted_bug)bug, &unused);
    free(args.q);
    free(before);
    free(weight);
}

static void contract(const aq_test_backend *on, void *arg) {
    (void)arg;
    rejections found = {{0}};
    for (int s = 0; s < N_SHAPE; s++)
        for (int kind = 0; kind < N_KIND; kind++)
            for (int i = 0; i < N_TAU; i++)
                for (int weighted = 0; weighted < 2; weighted++)
                    check_shape(on, s, (data_kind)kind, taus[i], weighted, &found);
    for (int bug = NOT_SQUARED; bug < ALL_BUGS; bug++)
        CU_ASSERT_TRUE(found.n[bug] > 0);
}

static void kept_columns_are_those_of_a_sort(void) {
    aq_each_backend(contract, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "kept columns are those of a sort", kept_columns_are_those_of_a_sort);
}
