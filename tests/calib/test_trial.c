/* Losses and recalls of selectors against the whole rule in double precision, by sorting. */
#include "calib/trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/calib/sample_case.h"
#include "tests/support/suite.h"

enum { N = AQ_SAMPLE_N_TOK, D = AQ_SAMPLE_D, G = AQ_SAMPLE_N_GROUP, N_SELECTOR = 5 };

static const aq_mass_rule rule = {.mass = 0.9, .n_sink = 4, .n_recent = 20};

static const aq_selector selectors[N_SELECTOR] = {
    {.codes = {.n_segment = 3, .segments = {{4, 4}, {8, 2}, {4, 1}}}},
    {.codes = {.n_segment = 1, .segments = {{6, 3}}}},
    {.codes = {.n_segment = 1, .segments = {{16, 2}}}, .n_dynamic = 5},
    {.codes = {.n_segment = 1, .segments = {{16, 1}}}},
    {.codes = {.n_segment = 1, .segments = {{16, 8}}}},
};

typedef enum {
    NO_BUG,
    ONE_HEAD,       /* the first head's weights decide for the group */
    NO_SINKS,       /* sinks are not always in */
    RECENT_OFF,     /* the window is one token short */
    NEAR_BY_CODES,  /* near tokens have the scores of their codes */
    OWN_COUNT,      /* the selector's own scores decide how many */
    STATIC_COLUMNS, /* dynamic selectors read the leading columns */
    ALL_BUGS
} bug;

/* One query and KV head. */
typedef struct {
    const aq_sample_case *c;
    int head;
    int64_t pos;
    bug planted;
    double exact[G][N], coded[G][N];
    double keys[D][N]; /* as coded */
} look;

static void code_keys(look *l, const aq_selector *selector) {
    float column[N];
    for (int c = 0; c < D; c++) {
        const int bits = aq_code_layout_bits_at(&selector->codes, c);
        for (int s = 0; s < N; s++) {
            column[s] = (float)aq_sample_case_key(l->c, s, l->head, c);
            l->keys[c][s] = 0;
        }
        if (bits > 0) aq_sample_case_levels(bits, column, 0, l->keys[c]);
    }
}

/* Whether a query of this group reads column c. */
static bool reads(const look *l, const aq_selector *selector, int c) {
    const float *sigma =
        l->c->projection.sigma + (l->c->sample.layer * AQ_SAMPLE_N_KV_HEAD + l->head) * D;
    int before = 0;
    double weight[D];
    if (selector->n_dynamic == 0) return true;
    if (l->planted == STATIC_COLUMNS) return c < selector->n_dynamic;
    for (int i = 0; i < D; i++) {
        weight[i] = 0;
        for (int h = 0; h < G; h++)
            weight[i] += fabs(aq_sample_case_query(l->c, l->pos, l->head * G + h, i));
        weight[i] *= (double)sigma[i];
    }
    for (int i = 0; i < D; i++)
        before += weight[i] > weight[c];
    return before < selector->n_dynamic;
}

static bool is_near(const look *l, int64_t s) {
    const int64_t n_recent = l->planted == RECENT_OFF ? rule.n_recent - 1 : rule.n_recent;
    return (s < rule.n_sink && l->planted != NO_SINKS) || s > l->pos - n_recent;
}

static void score(look *l, const aq_selector *selector) {
    code_keys(l, selector);
    for (int h = 0; h < G; h++)
        for (int64_t s = 0; s <= l->pos; s++) {
            l->exact[h][s] = l->coded[h][s] = 0;
            for (int c = 0; c < D; c++) {
                const double q = aq_sample_case_query(l->c, l->pos, l->head * G + h, c) *
                                 (double)l->c->sample.scale;
                l->exact[h][s] += q * aq_sample_case_key(l->c, s, l->head, c);
                if (reads(l, selector, c)) l->coded[h][s] += q * l->keys[c][s];
            }
            if (is_near(l, s) && l->planted != NEAR_BY_CODES) l->coded[h][s] = l->exact[h][s];
        }
}

/* p[G][N] = softmax, and the group's weights. */
static void weigh(const look *l, double z[G][N], double p[G][N], double *w) {
    const int n_group = l->planted == ONE_HEAD ? 1 : G;
    double all = 0;
    for (int64_t s = 0; s <= l->pos; s++)
        w[s] = 0;
    for (int h = 0; h < G; h++) {
        double sum = 0;
        for (int64_t s = 0; s <= l->pos; s++)
            sum += exp(z[h][s]);
        for (int64_t s = 0; s <= l->pos; s++) {
            p[h][s] = exp(z[h][s]) / sum;
            if (h < n_group) w[s] = fmax(w[s], p[h][s]);
        }
    }
    for (int64_t s = 0; s <= l->pos; s++)
        all += w[s];
    for (int64_t s = 0; s <= l->pos; s++)
        w[s] /= all;
}

/* Sum of the weights above w[s] or at it. */
static double held_with(const look *l, const double *w, int64_t s) {
    double held = 0;
    for (int64_t t = 0; t <= l->pos; t++)
        held += w[t] > w[s] ? w[t] : 0;
    return held;
}

/* Chosen by the rule: near, or without the larger ones the mass is not held. */
static int64_t choose_by_mass(const look *l, const double *w, bool *chosen) {
    int64_t n_far = 0;
    for (int64_t s = 0; s <= l->pos; s++) {
        const bool heavy = held_with(l, w, s) < rule.mass;
        chosen[s] = is_near(l, s) || heavy;
        n_far += heavy && !is_near(l, s);
    }
    return n_far;
}

/* Tokens of one tile may have the same codes and so the same weight: the first ones go in. */
static void choose_best(const look *l, const double *w, int64_t n_best, bool *chosen) {
    for (int64_t s = 0; s <= l->pos; s++) {
        int64_t before = 0;
        for (int64_t t = 0; t <= l->pos; t++)
            before += !is_near(l, t) && (w[t] > w[s] || (w[t] == w[s] && t < s));
        chosen[s] = is_near(l, s) || before < n_best;
    }
}

typedef struct {
    double loss, mass, attended, n;
} result;

static void look_at(look *l, const aq_selector *selector, result *r) {
    static double truth[G][N], guess[G][N];
    double w_truth[N], w_guess[N];
    bool chosen[N];
    score(l, selector);
    weigh(l, l->exact, truth, w_truth);
    weigh(l, l->coded, guess, w_guess);
    int64_t n_best = choose_by_mass(l, l->planted == OWN_COUNT ? w_guess : w_truth, chosen);
    choose_best(l, w_guess, n_best, chosen);
    for (int h = 0; h < G; h++) {
        double mass = 0;
        for (int64_t s = 0; s <= l->pos; s++)
            mass += chosen[s] ? truth[h][s] : 0;
        r->loss -= log(mass);
    }
    choose_by_mass(l, w_guess, chosen);
    for (int64_t s = 0; s <= l->pos; s++)
        for (int h = 0; chosen[s] && h < G; h++) {
            r->mass += truth[h][s];
            r->attended += 1.0 / (double)(l->pos + 1);
        }
    r->n += G;
}

static result oracle(const aq_sample_case *c, const aq_selector *selector, bug planted) {
    look *l = malloc(sizeof *l);
    result r = {.n = 0};
    for (int head = 0; l && head < AQ_SAMPLE_N_KV_HEAD; head++)
        for (int i = 0; i < AQ_SAMPLE_N_QUERY; i++) {
            l->c = c;
            l->head = head;
            l->pos = c->pos[i];
            l->planted = planted;
            look_at(l, selector, &r);
        }
    free(l);
    return r;
}

static bool near(double a, double b) {
    return fabs(a - b) <= 1e-4 * fabs(b);
}

static void test_losses(void) {
    for (uint64_t seed = 1; seed < 4; seed++) {
        aq_sample_case *c = aq_sample_case_open(seed);
        aq_trial_sum sums[N_SELECTOR] = {{0}};
        int n_caught[ALL_BUGS] = {0};
        aq_test_ok(aq_trial_add(&c->sample, &c->projection, selectors, N_SELECTOR, &rule, sums));
        for (int i = 0; i < N_SELECTOR; i++)
            for (int b = NO_BUG; b < ALL_BUGS; b++) {
                const result r = oracle(c, &selectors[i], (bug)b);
                n_caught[b] += !near(sums[i].loss, r.loss) || sums[i].n != r.n;
            }
        CU_ASSERT_EQUAL(n_caught[NO_BUG], 0);
        for (int b = 1; b < ALL_BUGS; b++)
            CU_ASSERT_TRUE(n_caught[b] > 0);
        CU_ASSERT_TRUE(sums[4].loss < sums[3].loss); /* 8 bits lose less than 1 */
        aq_sample_case_close(c);
    }
}

static void test_recall(void) {
    aq_sample_case *c = aq_sample_case_open(5);
    for (int i = 0; i < N_SELECTOR; i++) {
        aq_trial_recall_sum sum = {0};
        aq_test_ok(aq_trial_recall(&c->sample, &c->projection, &selectors[i], &rule, &sum));
        const result r = oracle(c, &selectors[i], NO_BUG);
        CU_ASSERT_TRUE(near(sum.mass, r.mass) && near(sum.attended, r.attended));
        CU_ASSERT_EQUAL(sum.n, r.n);
        const result wrong = oracle(c, &selectors[i], RECENT_OFF);
        CU_ASSERT_FALSE(near(sum.mass, wrong.mass) && near(sum.attended, wrong.attended));
    }
    aq_sample_case_close(c);
}

/* Mass 1 takes everything and loses nothing. */
static void test_all_mass(void) {
    const aq_mass_rule all = {.mass = 1, .n_sink = 4, .n_recent = 20};
    aq_sample_case *c = aq_sample_case_open(6);
    aq_trial_sum sum = {0};
    aq_trial_recall_sum recall = {0};
    aq_test_ok(aq_trial_add(&c->sample, &c->projection, selectors, 1, &all, &sum));
    aq_test_ok(aq_trial_recall(&c->sample, &c->projection, selectors, &all, &recall));
    CU_ASSERT_TRUE(fabs(sum.loss) < 1e-5 * sum.n);
    CU_ASSERT_TRUE(near(recall.mass, recall.n) && near(recall.attended, recall.n));
    aq_sample_case_close(c);
}

/* Without codes the scores are exact: as good as 8 bits of everything, or a little better. */
static void test_exact(void) {
    static const aq_selector exact = {.codes = {.n_segment = 0}};
    aq_sample_case *c = aq_sample_case_open(9);
    aq_trial_sum sums[2] = {{0}};
    const aq_selector list[2] = {exact, selectors[4]};
    aq_test_ok(aq_trial_add(&c->sample, &c->projection, list, 2, &rule, sums));
    CU_ASSERT_TRUE(fabs(sums[0].loss / sums[1].loss - 1) < 0.01);
    const result r = oracle(c, &selectors[4], NO_BUG);
    CU_ASSERT_TRUE(fabs(sums[0].loss / r.loss - 1) < 0.01);
    aq_sample_case_close(c);
}

static void test_threads_give_the_same_bits(void) {
    aq_sample_case *c = aq_sample_case_open(7);
    aq_trial_sum one[N_SELECTOR] = {{0}};
    aq_test_ok(aq_trial_add(&c->sample, &c->projection, selectors, N_SELECTOR, &rule, one));
    for (int n_thread = 1; n_thread < 5; n_thread++) {
        aq_trial_sum many[N_SELECTOR] = {{0}};
        aq_test_ok(aq_threads_open(n_thread, &c->sample.team));
        aq_test_ok(aq_trial_add(&c->sample, &c->projection, selectors, N_SELECTOR, &rule, many));
        CU_ASSERT_EQUAL(memcmp(one, many, sizeof one), 0);
        aq_threads_close(c->sample.team);
    }
    c->sample.team = NULL;
    c->sample.n_query = 0; /* a rank without queries adds nothing */
    aq_trial_sum none[N_SELECTOR] = {{0}};
    aq_test_ok(aq_trial_add(&c->sample, &c->projection, selectors, N_SELECTOR, &rule, none));
    CU_ASSERT_EQUAL(none[0].n, 0);
    aq_sample_case_close(c);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "losses", test_losses);
    CU_add_test(suite, "recall", test_recall);
    CU_add_test(suite, "all of the mass", test_all_mass);
    CU_add_test(suite, "exact scores", test_exact);
    CU_add_test(suite, "threads", test_threads_give_the_same_bits);
}
