/* Draws have the distribution that a plain oracle computes: penalise, sort, cut, softmax, each in
 * double precision by its formula. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/model/sampler.h"
#include "tests/support/suite.h"

#define VOCAB  24
#define N_DRAW 20000

typedef struct {
    double logit;
    int id;
} ranked;

static int by_logit(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : x->id - y->id;
}

/* p[i] proportional to exp(logit_i / temp) over the first n. */
static void softmax(const ranked *r, int n, double temp, double *p) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += p[i] = exp((r[i].logit - r[0].logit) / temp);
    for (int i = 0; i < n; i++)
        p[i] /= sum;
}

typedef enum { RIGHT, TEMP_FIRST, MIN_P_OF_ALL } variant; /* the last two are planted mistakes */

/* The probability of every id. recent[i]: id i is penalised. */
static void oracle(const aq_sampler_options *o, const float *logits, const bool *recent, variant v,
                   double probability[VOCAB]) {
    ranked r[VOCAB];
    double p[VOCAB];
    int n = VOCAB;
    for (int i = 0; i < VOCAB; i++) {
        r[i] = (ranked){logits[i], i};
        if (recent[i])
            r[i].logit *= logits[i] > 0 ? 1 / (double)o->repeat_penalty : (double)o->repeat_penalty;
        if (v == TEMP_FIRST) r[i].logit /= (double)o->temp;
        probability[i] = 0;
    }
    qsort(r, VOCAB, sizeof r[0], by_logit);
    if (o->top_k > 0 && o->top_k < n) n = o->top_k;
    softmax(r, n, 1, p);
    double sum = 0;
    for (int i = 0; i < n && o->top_p < 1; i++)
        if ((sum += p[i]) >= (double)o->top_p) n = i + 1;
    while (n > 1 && p[n - 1] < (double)o->min_p * (v == MIN_P_OF_ALL ? 1 : p[0]))
        n--;
    softmax(r, n, v == TEMP_FIRST ? 1 : (double)o->temp, p);
    for (int i = 0; i < n; i++)
        probability[r[i].id] = p[i];
}

static void random_logits(uint64_t seed, float logits[VOCAB]) {
    aq_rng rng = {seed};
    for (int i = 0; i < VOCAB; i++)
        logits[i] = (float)(2 * aq_rng_normal(&rng));
}

/* Whether N_DRAW draws agree with the oracle. By Bernstein's inequality a count of mean m differs
 * from it by more than sqrt(2 m L) + L with L = ln(2 / 1e-12) = 28.4 once in 1e12 tries; what has
 * no probability must not be drawn. */
static bool agrees(const aq_sampler_options *o, const float *logits, const int *prompt,
                   int n_prompt, variant v) {
    int count[VOCAB] = {0};
    bool recent[VOCAB] = {false}, good = true;
    double probability[VOCAB];
    const double l = log(2 / 1e-12);
    for (int i = 0; i < n_prompt; i++)
        recent[prompt[i]] = true;
    oracle(o, logits, recent, v, probability);
    for (int draw = 0; draw < N_DRAW; draw++) {
        aq_sampler_options options = *o;
        aq_sampler *sampler = NULL;
        int32_t id = -1;
        options.seed = o->seed + (uint64_t)draw;
        if (!aq_test_ok(aq_sampler_open(&options, VOCAB, &sampler))) return false;
        for (int i = 0; i < n_prompt; i++)
            aq_sampler_accept(sampler, prompt[i]);
        aq_test_ok(aq_sampler_draw(sampler, logits, &id));
        aq_sampler_close(sampler);
        if (id < 0 || id >= VOCAB) return false;
        count[id]++;
    }
    for (int i = 0; i < VOCAB; i++) {
        const double mean = N_DRAW * probability[i];
        good = good && fabs(count[i] - mean) <= (mean > 0 ? sqrt(2 * mean * l) + l : 0);
    }
    return good;
}

static aq_sampler_options plain(void) {
    return (aq_sampler_options){
        .temp = 1, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = 64, .seed = 1000};
}

static void test_distribution(void) {
    static const int prompt[] = {3, 3, 17, 5};
    float logits[VOCAB];
    random_logits(1, logits);
    aq_sampler_options o = plain();
    CU_ASSERT_TRUE(agrees(&o, logits, NULL, 0, RIGHT));
    o.temp = 0.5f;
    CU_ASSERT_TRUE(agrees(&o, logits, NULL, 0, RIGHT));
    o.top_k = 5;
    CU_ASSERT_TRUE(agrees(&o, logits, NULL, 0, RIGHT));
    o = plain();
    o.top_p = 0.7f;
    CU_ASSERT_TRUE(agrees(&o, logits, NULL, 0, RIGHT));
    o = plain();
    o.min_p = 0.1f;
    CU_ASSERT_TRUE(agrees(&o, logits, NULL, 0, RIGHT));
    o = plain();
    o.repeat_penalty = 1.7f;
    CU_ASSERT_TRUE(agrees(&o, logits, prompt, 4, RIGHT));
    o = (aq_sampler_options){1.6f, 12, 0.9f, 0.05f, 1.3f, 64, 5};
    CU_ASSERT_TRUE(agrees(&o, logits, prompt, 4, RIGHT));
}

/* Mistakes that the comparison must notice. */
static void test_planted(void) {
    float logits[VOCAB];
    random_logits(1, logits);
    aq_sampler_options o = plain();
    o.temp = 2;
    o.top_p = 0.7f; /* the temperature comes after the cut: llama.cpp's order */
    CU_ASSERT_TRUE(agrees(&o, logits, NULL, 0, RIGHT));
    CU_ASSERT_FALSE(agrees(&o, logits, NULL, 0, TEMP_FIRST));
    o = plain();
    o.min_p = 0.1f; /* of the likeliest, not of 1 */
    CU_ASSERT_FALSE(agrees(&o, logits, NULL, 0, MIN_P_OF_ALL));
}

/* One draw from a sampler of these options. */
static int32_t draw(const aq_sampler_options *o, int32_t n_vocab, const float *logits) {
    aq_sampler *sampler = NULL;
    int32_t id = -1;
    if (!aq_test_ok(aq_sampler_open(o, n_vocab, &sampler))) return -1;
    aq_test_ok(aq_sampler_draw(sampler, logits, &id));
    aq_sampler_close(sampler);
    return id;
}

static void test_greedy(void) {
    aq_sampler_options o = plain();
    for (o.temp = 0; o.temp > -2; o.temp--) {
        CU_ASSERT_EQUAL(draw(&o, 5, (float[]){1, 3, 3, -1, 3}), 1); /* the lowest of equal ids */
        CU_ASSERT_EQUAL(draw(&o, 3, (float[]){-5, -4, -6}), 1);
        CU_ASSERT_EQUAL(draw(&o, 1, (float[]){-5}), 0);
    }
    o = plain();
    CU_ASSERT_EQUAL(draw(&o, 1, (float[]){-5}), 0);
    o.top_k = 1;
    CU_ASSERT_EQUAL(draw(&o, 5, (float[]){1, 3, 3, -1, 3}), 1);
    o = plain();
    o.top_p = 0; /* at least one stays */
    CU_ASSERT_EQUAL(draw(&o, 5, (float[]){1, 2, 3, -1, 0}), 2);
    o = plain();
    o.min_p = 1; /* those equal to the likeliest */
    CU_ASSERT_EQUAL(draw(&o, 5, (float[]){1, 2, 3, -1, 0}), 2);
    o = plain();
    o.temp = 1e-30f;
    CU_ASSERT_EQUAL(draw(&o, 5, (float[]){1, 2, 3, -1, 0}), 2);
}

static void test_not_finite(void) {
    static const float none[] = {NAN, -INFINITY, NAN};
    aq_sampler_options o = plain();
    for (o.temp = 0; o.temp < 2; o.temp++) {
        aq_sampler *sampler = NULL;
        int32_t id;
        CU_ASSERT_EQUAL(draw(&o, 4, (float[]){NAN, -INFINITY, -3, NAN}), 2);
        CU_ASSERT_EQUAL(draw(&o, 4, (float[]){1e30f, NAN, INFINITY, 3e38f}), 2);
        if (!aq_test_ok(aq_sampler_open(&o, 3, &sampler))) return;
        aq_test_fails(aq_sampler_draw(sampler, none, &id), AQ_ERR_NUMERIC, "all 3 logits are NaN");
        aq_sampler_close(sampler);
    }
}

/* Positive logits are divided, negative ones multiplied, once however often the token came; it is
 * forgotten after repeat_last_n others. Greedy shows it. */
static void test_repeat(void) {
    static const float logits[] = {2.0f, 1.5f, 0.9f}, negative[] = {-1.0f, -1.5f, -2.5f};
    aq_sampler_options o = plain();
    aq_sampler *sampler = NULL;
    int32_t id;
    o.temp = 0;
    o.repeat_penalty = 2;
    o.repeat_last_n = 2;
    static const int32_t expected[] = {0, 1, 0, 0};
    /* recent {}: 2; {0}: 1, 1.5; {0,1}: 1, .75, .9 -> 0; {1,0}: the same -> 0; {0,0}: 1, 1.5 */
    if (!aq_test_ok(aq_sampler_open(&o, 3, &sampler))) return;
    for (int i = 0; i < 4; i++) {
        aq_test_ok(aq_sampler_draw(sampler, logits, &id));
        CU_ASSERT_EQUAL(id, expected[i]);
    }
    aq_test_ok(aq_sampler_draw(sampler, logits, &id));
    CU_ASSERT_EQUAL(id, 1);
    aq_sampler_accept(sampler, -1); /* outside the vocabulary: not remembered */
    aq_sampler_accept(sampler, 3);
    aq_sampler_accept(sampler, 2);
    aq_sampler_accept(sampler, 0); /* {2,0}: -2, -1.5, -5 */
    aq_test_ok(aq_sampler_draw(sampler, negative, &id));
    CU_ASSERT_EQUAL(id, 1);
    aq_sampler_close(sampler);
    o.repeat_last_n = 0;
    if (!aq_test_ok(aq_sampler_open(&o, 3, &sampler))) return;
    for (int i = 0; i < 3; i++) {
        aq_test_ok(aq_sampler_draw(sampler, logits, &id));
        CU_ASSERT_EQUAL(id, 0);
    }
    aq_sampler_close(sampler);
}

/* The same seed gives the same ids on every machine: of 4 equal logits, floor(4 u) with the numbers
 * of splitmix64 of seed 1234567, 6457827717110365317, 3203168211198807973, 9817491932198370423,
 * 4593380528125082431, 16408922859458223821 (Vigna's splitmix64.c), divided by 2^64. */
static void test_seed(void) {
    static const float logits[] = {0, 0, 0, 0};
    static const int32_t expected[] = {1, 0, 2, 0, 3};
    aq_sampler_options o = plain();
    aq_sampler *sampler = NULL;
    o.seed = 1234567;
    if (!aq_test_ok(aq_sampler_open(&o, 4, &sampler))) return;
    for (int i = 0; i < 5; i++) {
        int32_t id = -1;
        aq_test_ok(aq_sampler_draw(sampler, logits, &id));
        CU_ASSERT_EQUAL(id, expected[i]);
    }
    aq_sampler_close(sampler);
}

static void check_refused(aq_sampler_options o, int32_t n_vocab, const char *part) {
    aq_sampler *sampler = (aq_sampler *)1;
    aq_test_fails(aq_sampler_open(&o, n_vocab, &sampler), AQ_ERR_USAGE, part);
    CU_ASSERT_PTR_NULL(sampler);
}

#define REFUSED(field, value)                                                                      \
    do {                                                                                           \
        aq_sampler_options o = plain();                                                            \
        o.field = value;                                                                           \
        check_refused(o, 3, #field " is ");                                                        \
    } while (0)

static void test_options(void) {
    REFUSED(temp, NAN);
    REFUSED(temp, INFINITY);
    REFUSED(top_k, -1);
    REFUSED(top_p, 1.01f);
    REFUSED(top_p, -0.01f);
    REFUSED(top_p, NAN);
    REFUSED(min_p, 1.01f);
    REFUSED(min_p, NAN);
    REFUSED(repeat_penalty, 0);
    REFUSED(repeat_penalty, INFINITY);
    REFUSED(repeat_last_n, -1);
    check_refused(plain(), 0, "at least one token");
    const aq_sampler_options d = aq_sampler_defaults();
    CU_ASSERT_TRUE(d.temp == 0.8f && d.top_k == 40 && d.top_p == 0.95f && d.min_p == 0.05f);
    CU_ASSERT_TRUE(d.repeat_penalty == 1 && d.repeat_last_n == 64);
    aq_sampler_close(NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "distribution", test_distribution);
    CU_add_test(suite, "planted", test_planted);
    CU_add_test(suite, "greedy", test_greedy);
    CU_add_test(suite, "not finite", test_not_finite);
    CU_add_test(suite, "repeat", test_repeat);
    CU_add_test(suite, "seed", test_seed);
    CU_add_test(suite, "options", test_options);
}
