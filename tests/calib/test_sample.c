/* Samples of a tiny model: what is given, to which rank, and that failures are everyone's. */
#include "calib/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

enum { N_TOK = 90, N_QUERY = 7, N_LAYER = 2 };

/* Sums over what was given. */
typedef struct {
    int n_layer;
    double q, k;
    int64_t n_query, positions;
    bool rising, in_second_half;
    int fail_in; /* layer, -1: none */
} seen;

static aq_status look(void *arg, const aq_sample *sample) {
    seen *s = arg;
    if (sample->layer == s->fail_in) return aq_fail(AQ_ERR_NUMERIC, "planted");
    s->n_layer++;
    for (int64_t i = 0; i < sample->n_tok * sample->n_head * sample->d_head; i++)
        s->q += fabs((double)sample->q[i]);
    for (int64_t i = 0; i < sample->n_tok * sample->n_kv_head * sample->d_head; i++)
        s->k += fabs((double)sample->k[i]);
    for (int64_t i = 0; i < sample->n_query; i++) {
        s->positions += sample->pos[i] * (sample->layer + 1);
        s->rising = s->rising && (i == 0 || sample->pos[i] > sample->pos[i - 1]);
        s->in_second_half = s->in_second_half && sample->pos[i] >= N_TOK / 2;
    }
    s->n_query += sample->n_query;
    return AQ_OK;
}

/* What the tap of an ordinary session sees of the same ids. */
static aq_status tap(void *arg, int layer, const int64_t *pos, int64_t n_tok, const float *q,
                     const float *k) {
    const aq_tiny_model *shape = &aq_case_default()->shape;
    const aq_sample sample = {.layer = layer,
                              .n_head = shape->n_head,
                              .n_kv_head = shape->n_kv_head,
                              .d_head = shape->d_head,
                              .n_tok = n_tok,
                              .q = q,
                              .k = k};
    (void)pos;
    return look(arg, &sample);
}

static seen expected_of(aq_engine *engine, const int32_t *ids) {
    seen s = {.fail_in = -1};
    const aq_hooks hooks = {.arg = &s, .tap = tap};
    const aq_session_options options = aq_case_options(N_TOK, 13);
    aq_session *session = aq_case_session(engine, &options);
    if (session) aq_test_ok(aq_session_prefill(session, ids, N_TOK, &hooks));
    aq_session_close(session);
    return s;
}

static bool near(double a, double b) {
    return fabs(a - b) <= 1e-4 * fabs(b);
}

static void with_engine(void (*check)(aq_engine *engine, const int32_t *ids)) {
    const aq_case *c = aq_case_default();
    int32_t ids[N_TOK];
    aq_comm *self;
    aq_case_ids(5, N_TOK, ids);
    if (!aq_test_ok(aq_comm_open_self(&self))) return;
    aq_engine *engine = aq_case_engine(self, c->model, NULL);
    if (engine) check(engine, ids);
    aq_engine_close(engine);
    aq_comm_close(self);
}

static void check_given(aq_engine *engine, const int32_t *ids) {
    aq_comm *world = aq_test_world();
    const aq_sample_options options = {.n_query = N_QUERY, .bos = -1};
    seen s = {.rising = true, .in_second_half = true, .fail_in = -1};
    aq_test_ok(aq_sample_run(engine, world, ids, N_TOK, &options, look, &s));
    const seen expected = expected_of(engine, ids);
    CU_ASSERT_EQUAL(s.n_layer, N_LAYER);
    CU_ASSERT_TRUE(near(s.q, expected.q) && near(s.k, expected.k));
    CU_ASSERT_TRUE(s.rising && s.in_second_half);
    int64_t sums[2] = {s.n_query, s.positions}, positions = 0;
    aq_test_ok(aq_comm_sum_i64(world, sums, 2));
    for (int64_t i = 0; i < N_QUERY; i++)
        positions += 3 * (N_TOK - 1 - i * (N_TOK - N_TOK / 2) / N_QUERY);
    CU_ASSERT_EQUAL(sums[0], N_LAYER * N_QUERY); /* each query has one rank */
    CU_ASSERT_EQUAL(sums[1], positions);
    CU_ASSERT_NOT_EQUAL(sums[1] + 3, positions); /* planted: one position off */
}

static void test_given(void) {
    with_engine(check_given);
}

/* A BOS takes the place of the last id, and all that follows it moves by one. */
static void check_bos(aq_engine *engine, const int32_t *ids) {
    const aq_sample_options options = {.n_query = N_QUERY, .bos = 9};
    int32_t moved[N_TOK] = {9};
    seen s = {.fail_in = -1};
    memcpy(moved + 1, ids, (N_TOK - 1) * sizeof *ids);
    aq_test_ok(aq_sample_run(engine, aq_test_world(), ids, N_TOK, &options, look, &s));
    const seen expected = expected_of(engine, moved), without = expected_of(engine, ids);
    CU_ASSERT_TRUE(near(s.q, expected.q));
    CU_ASSERT_FALSE(near(s.q, without.q));
}

static void test_bos(void) {
    with_engine(check_bos);
}

static void check_failures(aq_engine *engine, const int32_t *ids) {
    aq_comm *world = aq_test_world();
    const aq_sample_options options = {.n_query = N_QUERY, .bos = -1};
    const bool last = aq_comm_rank(world) == aq_comm_size(world) - 1;
    seen s = {.fail_in = last ? 1 : -1};
    aq_test_fails(aq_sample_run(engine, world, ids, N_TOK, &options, look, &s), AQ_ERR_NUMERIC,
                  "planted");
    s.fail_in = -1;
    aq_test_fails(aq_sample_run(engine, world, ids, 0, &options, look, &s), AQ_ERR_USAGE,
                  "at least one token");
    static const int32_t zeros[5000];
    aq_test_fails(aq_sample_run(engine, world, zeros, 5000, &options, look, &s), AQ_ERR_LIMIT,
                  "the model was made for");
}

static void test_failures(void) {
    with_engine(check_failures);
}

static void test_held_out(void) {
    CU_ASSERT_EQUAL(aq_sample_held_out(100000, 8192), 4096);
    CU_ASSERT_EQUAL(aq_sample_held_out(100000, 2048), 2048);
    CU_ASSERT_EQUAL(aq_sample_held_out(4000, 8192), 1000);
    CU_ASSERT_EQUAL(aq_sample_held_out(1024, 8192), 256);
    CU_ASSERT_EQUAL(aq_sample_held_out(1023, 8192), 0);
    CU_ASSERT_EQUAL(aq_sample_held_out(100000, 128), 0);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "what is held out", test_held_out);
    CU_add_test(suite, "layers and queries", test_given);
    CU_add_test(suite, "a BOS in front", test_bos);
    CU_add_test(suite, "failures", test_failures);
}
