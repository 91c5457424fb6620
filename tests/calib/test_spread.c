/* Sums of tokens that are moved on in the context, against a rotation in double precision. */
#include "calib/spread.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/engine/engine.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

/* Tokens calibrated on, of a step, and positions left out. */
enum { N = 96, N_STEP = 20, FIRST = 7, N_SKIP = 10, LAYER = 1 };

/* What a planted error does. */
typedef enum { RIGHT, NOT_MOVED, NEIGHBOURS_ALIKE, SKIPPED_TOO } planted_bug;

/* x[d] of the token at `pos`, moved on. */
static void move_on(const aq_engine *engine, int64_t pos, int64_t n_shift, planted_bug bug,
                    const float *x, double *out) {
    const int d = engine->config.d_head, half = d / 2;
    const int64_t turn = bug == NEIGHBOURS_ALIKE ? pos / n_shift % n_shift : pos % n_shift;
    for (int i = 0; i < half; i++) {
        const double angle =
            bug == NOT_MOVED ? 0 : (double)(turn * N) * pow(engine->config.rope.base, -2.0 * i / d);
        out[i] = (double)x[i] * cos(angle) - (double)x[half + i] * sin(angle);
        out[half + i] = (double)x[half + i] * cos(angle) + (double)x[i] * sin(angle);
    }
}

/* g[d, d] += sum over tokens and heads h0 .. h1 of x x^T. */
static void add_outer(const aq_engine *engine, int64_t n_shift, planted_bug bug, const float *x,
                      int n_head, int h0, int h1, double *g) {
    const int d = engine->config.d_head;
    double *moved = aq_case_doubles(d);
    for (int64_t t = bug == SKIPPED_TOO ? 0 : N_SKIP - FIRST; t < N_STEP; t++)
        for (int h = h0; h < h1; h++) {
            move_on(engine, FIRST + t, n_shift, bug, x + (t * n_head + h) * d, moved);
            for (int i = 0; i < d; i++)
                for (int j = 0; j < d; j++)
                    g[i * d + j] += moved[i] * moved[j];
        }
    free(moved);
}

/* Largest difference of the upper half of a sum, relative to its largest entry. */
static double unlike(const double *got, const double *expected, int d) {
    double most = 0, largest = 0;
    for (int i = 0; i < d; i++)
        for (int j = i; j < d; j++) {
            most = fmax(most, fabs(got[i * d + j] - expected[i * d + j]));
            largest = fmax(largest, fabs(expected[i * d + j]));
        }
    return most / largest;
}

static double distance(const aq_engine *engine, const aq_gram *gram, const float *q, const float *k,
                       int64_t n_shift, planted_bug bug) {
    const int d = gram->d_head, n_group = gram->n_head / gram->n_kv_head;
    double most = 0;
    for (int g = 0; g < gram->n_kv_head; g++) {
        const aq_gram_sums sums = aq_gram_get(gram, LAYER * gram->n_kv_head + g);
        double *gq = aq_case_doubles(d * d), *gk = aq_case_doubles(d * d);
        memset(gq, 0, (size_t)(d * d) * sizeof *gq);
        memset(gk, 0, (size_t)(d * d) * sizeof *gk);
        add_outer(engine, n_shift, bug, q, gram->n_head, g * n_group, (g + 1) * n_group, gq);
        add_outer(engine, n_shift, bug, k, gram->n_kv_head, g, g + 1, gk);
        most = fmax(most, fmax(unlike(sums.gq, gq, d), unlike(sums.gk, gk, d)));
        free(gq);
        free(gk);
    }
    return most;
}

static void check_context(aq_engine *engine, const aq_session *session, int64_t n_ctx,
                          int64_t n_shift) {
    const aq_model_config *config = &engine->config;
    const int64_t n_q = (int64_t)N_STEP * config->n_head * config->d_head;
    const int64_t n_k = (int64_t)N_STEP * config->n_kv_head * config->d_head;
    float *q = aq_case_floats(n_q), *k = aq_case_floats(n_k);
    int64_t pos[N_STEP];
    aq_rng rng = {(uint64_t)n_ctx};
    aq_gram gram;
    aq_spread spread;
    for (int64_t i = 0; i < n_q; i++)
        q[i] = (float)(0.5 + aq_rng_normal(&rng));
    for (int64_t i = 0; i < n_k; i++)
        k[i] = (float)(0.5 + aq_rng_normal(&rng));
    for (int t = 0; t < N_STEP; t++)
        pos[t] = FIRST + t;
    aq_test_ok(aq_gram_open(config->n_layer, config->n_head, config->n_kv_head, config->d_head,
                            NULL, &gram));
    if (aq_test_ok(aq_spread_open(engine, session, n_ctx, N_SKIP, &gram, &spread))) {
        CU_ASSERT_EQUAL(spread.n_shift, n_shift);
        aq_spread_add(&spread, LAYER, pos, N_STEP, q, k);
        CU_ASSERT_EQUAL(aq_gram_get(&gram, LAYER * config->n_kv_head).n_tok,
                        FIRST + N_STEP - N_SKIP);
        CU_ASSERT_TRUE(distance(engine, &gram, q, k, n_shift, RIGHT) < 1e-5);
        CU_ASSERT_TRUE(distance(engine, &gram, q, k, n_shift, SKIPPED_TOO) > 1e-2);
        for (int bug = NOT_MOVED; bug <= NEIGHBOURS_ALIKE && n_shift > 1; bug++)
            CU_ASSERT_TRUE(distance(engine, &gram, q, k, n_shift, (planted_bug)bug) > 1e-2);
    }
    aq_spread_close(&spread);
    aq_gram_close(&gram);
    free(q);
    free(k);
}

static void tokens_stand_all_over_the_context(void) {
    aq_engine *engine = aq_case_engine(aq_test_world(), aq_case_default()->model, NULL);
    const aq_session_options options = aq_case_options(N, N);
    aq_session *session = engine ? aq_case_session(engine, &options) : NULL;
    if (session) {
        check_context(engine, session, N, 1);
        check_context(engine, session, N + 1, 2);
        check_context(engine, session, 5 * N, 5);
    }
    aq_session_close(session);
    aq_engine_close(engine);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "tokens stand all over the context", tokens_stand_all_over_the_context);
}
