/* Gram sums against plain loops in long double; threads, parts, and planted errors. */
#include "calib/gram.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/suite.h"

enum { N_LAYER = 2, N_HEAD = 6, N_KV_HEAD = 2, D = 45, MAX_TOK = 131 };

typedef struct {
    float q[MAX_TOK * N_HEAD * D];
    float k[MAX_TOK * N_KV_HEAD * D];
} tokens;

static tokens *random_tokens(uint64_t seed) {
    tokens *t = malloc(sizeof *t);
    aq_rng rng = {seed};
    for (int i = 0; i < MAX_TOK * N_HEAD * D; i++)
        t->q[i] = (float)aq_rng_normal(&rng);
    for (int i = 0; i < MAX_TOK * N_KV_HEAD * D; i++)
        t->k[i] = 1.0f + (float)aq_rng_normal(&rng);
    return t;
}

/* What a planted error does to the oracle. */
typedef enum { NO_BUG, LAST_TOKEN_LOST, HEADS_INTERLEAVED, KEYS_FOR_QUERIES } bug;

static int group_of(int head, bug planted) {
    return planted == HEADS_INTERLEAVED ? head % N_KV_HEAD : head / (N_HEAD / N_KV_HEAD);
}

static bool near(double got, long double sum, long double sum_abs, int64_t n_term) {
    return fabsl(got - sum) <= 4.0L * sqrtl((long double)n_term) * DBL_EPSILON * sum_abs;
}

/* Whether entry (i, j) of one problem equals sums over the tokens, within rounding. */
static bool entry_matches(aq_gram_sums s, const tokens *t, int n_tok, int g, int i, int j,
                          bug planted) {
    long double k = 0, k_abs = 0, q = 0, q_abs = 0;
    const int n = planted == LAST_TOKEN_LOST ? n_tok - 1 : n_tok;
    for (int p = 0; p < n; p++) {
        const float *kv = t->k + (p * N_KV_HEAD + g) * D;
        k += (long double)kv[i] * kv[j];
        k_abs += fabsl((long double)kv[i] * kv[j]);
        for (int h = 0; h < N_HEAD; h++) {
            if (group_of(h, planted) != g) continue;
            const float *qv = planted == KEYS_FOR_QUERIES ? kv : t->q + (p * N_HEAD + h) * D;
            q += (long double)qv[i] * qv[j];
            q_abs += fabsl((long double)qv[i] * qv[j]);
        }
    }
    return near(s.gk[i * D + j], k, k_abs, n_tok) && near(s.gq[i * D + j], q, q_abs, 3 * n_tok);
}

static bool problem_matches(aq_gram_sums s, const tokens *t, int n_tok, int g, bug planted) {
    bool good = s.n_tok == n_tok;
    for (int i = 0; i < D; i++) {
        long double k = 0, k_abs = 0;
        for (int p = 0; p < n_tok; p++) {
            k += t->k[(p * N_KV_HEAD + g) * D + i];
            k_abs += fabsf(t->k[(p * N_KV_HEAD + g) * D + i]);
        }
        good = good && near(s.sk[i], k, k_abs, n_tok);
        for (int j = i; j < D; j++)
            good = good && entry_matches(s, t, n_tok, g, i, j, planted);
    }
    return good;
}

static void test_oracle(void) {
    tokens *t = random_tokens(1);
    const int n_toks[] = {0, 1, 3, 4, 31, 32, 33, MAX_TOK};
    for (size_t c = 0; c < sizeof n_toks / sizeof *n_toks; c++) {
        aq_gram gram;
        if (!aq_test_ok(aq_gram_open(N_LAYER, N_HEAD, N_KV_HEAD, D, NULL, &gram))) break;
        aq_gram_add(&gram, 1, t->q, t->k, n_toks[c]);
        for (int g = 0; g < N_KV_HEAD; g++) {
            const aq_gram_sums s = aq_gram_get(&gram, N_KV_HEAD + g);
            CU_ASSERT_TRUE(problem_matches(s, t, n_toks[c], g, NO_BUG));
            CU_ASSERT_EQUAL(aq_gram_get(&gram, g).n_tok, 0); /* layer 0 was not touched */
            CU_ASSERT_EQUAL(aq_gram_get(&gram, g).gk[0], 0.0);
        }
        aq_gram_close(&gram);
    }
    free(t);
}

static void test_planted_bugs(void) {
    tokens *t = random_tokens(2);
    aq_gram gram;
    if (aq_test_ok(aq_gram_open(N_LAYER, N_HEAD, N_KV_HEAD, D, NULL, &gram))) {
        aq_gram_add(&gram, 0, t->q, t->k, 50);
        CU_ASSERT_FALSE(problem_matches(aq_gram_get(&gram, 0), t, 50, 0, LAST_TOKEN_LOST));
        CU_ASSERT_FALSE(problem_matches(aq_gram_get(&gram, 0), t, 50, 0, HEADS_INTERLEAVED));
        CU_ASSERT_FALSE(problem_matches(aq_gram_get(&gram, 0), t, 50, 0, KEYS_FOR_QUERIES));
        CU_ASSERT_FALSE(problem_matches(aq_gram_get(&gram, 1), t, 50, 0, NO_BUG));
    }
    aq_gram_close(&gram);
    free(t);
}

static void test_threads_same_bits(void) {
    tokens *t = random_tokens(3);
    aq_gram one;
    if (!aq_test_ok(aq_gram_open(N_LAYER, N_HEAD, N_KV_HEAD, D, NULL, &one))) return;
    aq_gram_add(&one, 0, t->q, t->k, MAX_TOK);
    for (int n_thread = 1; n_thread <= 5; n_thread++) {
        aq_threads *team;
        aq_gram many;
        if (!aq_test_ok(aq_threads_open(n_thread, &team))) break;
        if (aq_test_ok(aq_gram_open(N_LAYER, N_HEAD, N_KV_HEAD, D, team, &many))) {
            aq_gram_add(&many, 0, t->q, t->k, MAX_TOK);
            CU_ASSERT_EQUAL(one.n, many.n);
            CU_ASSERT_EQUAL(memcmp(one.data, many.data, (size_t)one.n * sizeof *one.data), 0);
        }
        aq_gram_close(&many);
        aq_threads_close(team);
    }
    aq_gram_close(&one);
    free(t);
}

/* The flat arrays of several grams, added, are the gram of all tokens. */
static void test_parts_add_up(void) {
    tokens *t = random_tokens(4);
    aq_gram sum, part;
    if (!aq_test_ok(aq_gram_open(N_LAYER, N_HEAD, N_KV_HEAD, D, NULL, &sum))) return;
    for (int p = 0; p < 3; p++) {
        const int begin = MAX_TOK * p / 3, end = MAX_TOK * (p + 1) / 3;
        if (!aq_test_ok(aq_gram_open(N_LAYER, N_HEAD, N_KV_HEAD, D, NULL, &part))) return;
        for (int layer = 0; layer < N_LAYER; layer++)
            aq_gram_add(&part, layer, t->q + begin * N_HEAD * D, t->k + begin * N_KV_HEAD * D,
                        end - begin);
        for (int64_t i = 0; i < sum.n; i++)
            sum.data[i] += part.data[i];
        aq_gram_close(&part);
    }
    for (int i = 0; i < N_LAYER * N_KV_HEAD; i++)
        CU_ASSERT_TRUE(problem_matches(aq_gram_get(&sum, i), t, MAX_TOK, i % N_KV_HEAD, NO_BUG));
    aq_gram_close(&sum);
    free(t);
}

static void test_refusals(void) {
    aq_gram gram;
    aq_test_fails(aq_gram_open(1, 5, 2, 8, NULL, &gram), AQ_ERR_USAGE, "make no sense");
    aq_test_fails(aq_gram_open(0, 2, 2, 8, NULL, &gram), AQ_ERR_USAGE, "make no sense");
    aq_gram_close(&gram);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "sums equal plain loops", test_oracle);
    CU_add_test(suite, "planted errors are seen", test_planted_bugs);
    CU_add_test(suite, "any number of threads: the same bits", test_threads_same_bits);
    CU_add_test(suite, "parts add up", test_parts_add_up);
    CU_add_test(suite, "senseless sizes are refused", test_refusals);
}
