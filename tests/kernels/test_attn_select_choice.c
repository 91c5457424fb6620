/* Choosing over shards that know each other's softmax: against the rule in double precision, by
 * sorting. Each shard is one open tile, whose scores are exact, so that none of the codes' errors
 * matter; what a choice from codes is, test_attn_select.c asks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/attn_select.h"
#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define FACTOR    1.0054299011128027 /* 2^(1/128) */
#define EXP_ERROR 0x1p-17
#define ROUNDING                                                                                   \
    2e-5 /* of sums of weights, of their whole: errors of exp among them                           \
          */

enum { N_SHARD = 4, N_HELD = AQ_TILE, N_COL = 32, MAX_Q = 30, MAX_HEAD = 9 };

typedef enum {
    NO_BUG,
    OWN_MASS,    /* the shard does not ask what the others have */
    ALL_OF_IT,   /* each shard leaves out what all may together */
    FIRST_HEAD,  /* the softmax of one head stands for the group's */
    OWN_WEIGHTS, /* heads weigh as if each had all of its softmax here */
    N_BUG
} planted_bug;

typedef struct {
    int64_t n_q;
    int n_head, n_kv_head;
    double mass;
    bool group_mean;
    int64_t n_recent;
} choice_shape;

static const choice_shape shapes[] = {
    {1, 9, 3, 0.95, false, 5}, {2, 6, 2, 0.9, true, 0},  {MAX_Q, 9, 3, 0.9, false, 3},
    {7, 4, 4, 0.8, false, 0},  {1, 8, 1, 0.98, true, 9}, {MAX_Q, 8, 1, 0.95, false, 5},
};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

/* A text on N_SHARD shards, and what they found; host memory that the backend may use. */
typedef struct {
    const choice_shape *shape;
    aq_backend *be;
    float *q; /* [n_q, n_head, N_COL] */
    aq_attn_select_args args[N_SHARD];
    float *ml[N_SHARD], *ml_all; /* [n_q, n_head, 2] */
} problem;

static float *normal(aq_backend *be, aq_rng *rng, int64_t n, double spread) {
    float *out = aq_test_alloc(be, (size_t)n * sizeof *out);
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(spread * aq_rng_normal(rng));
    return out;
}

static int64_t *repeated(aq_backend *be, int64_t value, int64_t n) {
    int64_t *out = aq_test_alloc(be, (size_t)n * sizeof *out);
    for (int64_t i = 0; i < n; i++)
        out[i] = value;
    return out;
}

/* One shard: an open tile. Louder ones have longer keys. */
static void open_shard(const aq_test_backend *on, problem *p, int s, aq_rng *rng) {
    const choice_shape *shape = p->shape;
    aq_backend *be = p->be;
    const int64_t n_row = (int64_t)N_HELD * shape->n_kv_head, n_out = shape->n_q * shape->n_head;
    aq_kv_view kv = {.key_type = AQ_KV_F32,
                     .value_type = AQ_KV_F32,
                     .key_order = AQ_KEYS_BY_TOKEN,
                     .n_kv_head = shape->n_kv_head,
                     .n_col = N_COL,
                     .d_head = N_COL};
    aq_test_ok(aq_code_layout_parse("16x4,16x2", &kv.codes));
    kv.open_keys = normal(be, rng, n_row * N_COL, 0.3 + 0.35 * s);
    kv.open_values = normal(be, rng, n_row * N_COL, 1);
    p->args[s] = (aq_attn_select_args){
        .q = p->q,
        .q_pos = repeated(be, N_SHARD * AQ_TILE - 1, shape->n_q), /* the last */
        .n_q = shape->n_q,
        .n_head = shape->n_head,
        .scale = 1.0f / sqrtf(N_COL),
        .kv = kv,
        .tile_pos = repeated(be, s * AQ_TILE, 1),
        .n_tile = 1,
        .mass = shape->mass,
        .group_mean = shape->group_mean,
        .n_recent = shape->n_recent,
        .n_shard = N_SHARD,
        .work_bytes = aq_attn_select_work(&kv, shape->n_head, on->n_thread, 1),
        .part = aq_test_alloc(be, (size_t)n_out * (N_COL + 2) * sizeof(float)),
        .counts = aq_test_alloc(be, (size_t)(shape->n_q * shape->n_kv_head * 3) * sizeof(int32_t))};
    p->args[s].work = aq_test_poison(be, p->args[s].work_bytes);
    p->ml[s] = aq_test_alloc(be, (size_t)n_out * 2 * sizeof(float));
}

static void close_problem(problem *p) {
    for (int s = 0; s < N_SHARD; s++) {
        const aq_attn_select_args *a = &p->args[s];
        void *memory[] = {
            (void *)a->q_pos, (void *)a->tile_pos, a->kv.open_keys, a->kv.open_values, a->work,
            a->part,          a->counts,           p->ml[s]};
        for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
            p->be->ops->release(p->be, memory[i]);
    }
    p->be->ops->release(p->be, p->q);
    p->be->ops->release(p->be, p->ml_all);
}

/* Totals of each shard, merged, and the choices made with them. */
static problem solve(const aq_test_backend *on, const choice_shape *shape) {
    aq_rng rng = {(uint64_t)(shape->n_q * 100 + shape->n_head)};
    problem p = {.shape = shape, .be = on->be};
    const int64_t n_out = shape->n_q * shape->n_head;
    p.q = normal(on->be, &rng, n_out * N_COL, 2);
    p.ml_all = aq_test_alloc(on->be, (size_t)n_out * 2 * sizeof(float));
    for (int s = 0; s < N_SHARD; s++) {
        open_shard(on, &p, s, &rng);
        on->be->ops->select_totals(on->be, &(aq_select_totals_args){p.args[s], p.ml[s]});
    }
    for (int64_t row = 0; row < n_out; row++) {
        double m = -INFINITY, l = 0;
        for (int s = 0; s < N_SHARD; s++)
            m = fmax(m, (double)p.ml[s][2 * row]);
        for (int s = 0; s < N_SHARD; s++)
            l += (double)p.ml[s][2 * row + 1] * exp((double)p.ml[s][2 * row] - m);
        p.ml_all[2 * row] = (float)m;
        p.ml_all[2 * row + 1] = (float)l;
    }
    for (int s = 0; s < N_SHARD; s++) {
        p.args[s].ml_all = p.ml_all;
        on->be->ops->attn_select(on->be, &p.args[s]);
    }
    return p;
}

/* Scores of query t and KV head g by head, shard and token. */
typedef struct {
    int group;
    double a[MAX_HEAD][N_SHARD][N_HELD];
    double lse[MAX_HEAD][N_SHARD], lse_all[MAX_HEAD], off[MAX_HEAD][N_SHARD];
} sight;

static double log_sum(const double *x, int n) {
    double m = -INFINITY, l = 0;
    for (int i = 0; i < n; i++)
        m = fmax(m, x[i]);
    for (int i = 0; i < n; i++)
        l += exp(x[i] - m);
    return m + log(l);
}

static void look(const problem *p, int64_t t, int g, sight *out) {
    const choice_shape *shape = p->shape;
    out->group = shape->n_head / shape->n_kv_head;
    for (int h = 0; h < out->group; h++) {
        const float *q = p->q + (t * shape->n_head + g * out->group + h) * N_COL;
        for (int s = 0; s < N_SHARD; s++) {
            out->off[h][s] = 0;
            for (int i = 0; i < N_HELD; i++) {
                const float *key = p->args[s].kv.open_keys + (g * N_HELD + i) * N_COL;
                double sum = 0, sum_abs = 0;
                for (int c = 0; c < N_COL; c++) {
                    sum += (double)q[c] * (double)key[c];
                    sum_abs += fabs((double)q[c] * (double)key[c]);
                }
                out->a[h][s][i] = sum / sqrt(N_COL);
                out->off[h][s] = fmax(out->off[h][s], sum_abs * 4 * 0x1p-24);
            }
            out->lse[h][s] = log_sum(out->a[h][s], N_HELD);
        }
        out->lse_all[h] = log_sum(out->lse[h], N_SHARD);
    }
}

static int by_falling(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Whether n_attended tokens of a shard are those of the rule, of which n_near are near. */
static bool is_right(const choice_shape *shape, const sight *see, int s, int n_attended, int n_near,
                     planted_bug bug) {
    double w[N_HELD], all = 0, near = 0, f = 0;
    for (int h = 0; h < see->group; h++)
        f += exp(see->lse[h][s] - see->lse_all[h]) / see->group;
    if (bug == FIRST_HEAD) f = exp(see->lse[0][s] - see->lse_all[0]);
    for (int i = 0; i < N_HELD; i++) {
        w[i] = 0;
        for (int h = 0; h < see->group; h++) {
            const double of = bug == OWN_WEIGHTS ? see->lse[h][s] : see->lse_all[h];
            const double share = exp(see->a[h][s][i] - of);
            w[i] = shape->group_mean ? w[i] + share / see->group : fmax(w[i], share);
        }
        all += w[i];
        if (i >= N_HELD - n_near) near += w[i];
    }
    double left_out = (1 - shape->mass) * all / (N_SHARD * f);
    if (bug == OWN_MASS) left_out = (1 - shape->mass) * all;
    if (bug == ALL_OF_IT) left_out *= N_SHARD;
    const double target = all - left_out;
    const int n = n_attended - n_near, n_far = N_HELD - n_near;
    if (n < 0 || n > n_far) return false;
    qsort(w, (size_t)n_far, sizeof w[0], by_falling);
    double held = near, without = near;
    for (int i = 0; i < n; i++) {
        held += w[i];
        if (w[i] >= FACTOR * w[n - 1]) without += w[i];
    }
    if (n > 0 && without >= target + ROUNDING * all) return false;
    return held >= target - ROUNDING * all;
}

typedef struct {
    aq_bound totals, totals_of_the_next;
    int64_t n, n_wrong[N_BUG], n_near_alone;
} verdict;

static void check_sight(const problem *p, int64_t t, int g, verdict *to) {
    const choice_shape *shape = p->shape;
    static sight see;
    look(p, t, g, &see);
    for (int s = 0; s < N_SHARD; s++) {
        const int n_near = s == N_SHARD - 1 ? (int)shape->n_recent : 0;
        const int n = p->args[s].counts[(t * shape->n_kv_head + g) * 3 + 1];
        for (int bug = 0; bug < N_BUG; bug++)
            to->n_wrong[bug] += !is_right(shape, &see, s, n, n_near, (planted_bug)bug);
        to->n++;
        to->n_near_alone += n == n_near;
        for (int h = 0; h < see.group; h++) {
            const float *ml = p->ml[s] + 2 * (t * shape->n_head + g * see.group + h);
            const float lse = (float)((double)ml[0] + log((double)ml[1]));
            aq_bound_element(&to->totals, lse, see.lse[h][s], 8, see.off[h][s] + EXP_ERROR);
            aq_bound_element(&to->totals_of_the_next, lse, see.lse[h][(s + 1) % N_SHARD], 8,
                             see.off[h][s] + EXP_ERROR);
        }
    }
}

static void contract(const aq_test_backend *on, void *arg) {
    verdict v = {.n = 0};
    (void)arg;
    if (!on->be->ops->select_totals) return;
    for (int i = 0; i < N_SHAPE; i++) {
        problem p = solve(on, &shapes[i]);
        for (int64_t t = 0; t < shapes[i].n_q; t++)
            for (int g = 0; g < shapes[i].n_kv_head; g++)
                check_sight(&p, t, g, &v);
        close_problem(&p);
    }
    aq_bound_expect(&v.totals, "select_totals");
    aq_bound_expect_rejects(&v.totals_of_the_next, "totals of another shard");
    CU_ASSERT_EQUAL(v.n_wrong[NO_BUG], 0);
    for (int bug = 1; bug < N_BUG; bug++)
        CU_ASSERT_TRUE(v.n_wrong[bug] > v.n / 20);
    CU_ASSERT_TRUE(v.n_near_alone > 0); /* some shards are so quiet that they leave out all */
}

static void run(void) {
    aq_each_backend(contract, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "shards choose by the softmax of all", run);
}
