/* A context that is filled with a prefilled one's keys and values is that context; and made models
 * run on any ranks, whole and shared out. */
#include "src/engine/fill.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/device.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

#define ONE_LAYER "synth:layers=1,embd=128,heads=4,kv=2,ff=256,vocab=288,type=f32"
#define MODEL     "synth:layers=3,embd=128,heads=4,kv=2,ff=256,vocab=288"

enum { N_VOCAB = 288, D_KV = 64, N_ROW = 3 * AQ_TILE, N_MORE = 5 };

/* Keys and values of all tokens of a session's only layer, on every rank. */
static void read_rows(aq_session *session, float *key, float *value) {
    aq_backend *be = session->engine->be;
    const aq_plan *plan = &session->plan;
    const int64_t n = session->n_tok * D_KV;
    double *all = aq_case_doubles(2 * n);
    float *host = aq_case_floats(AQ_TILE * D_KV);
    void *rows[2];
    for (int i = 0; i < 2; i++)
        aq_test_ok(be->ops->alloc(be, AQ_TILE * D_KV * sizeof(float), &rows[i]));
    for (int64_t j = 0; j < aq_plan_tiles(plan, plan->rank, session->n_tok); j++) {
        const int64_t pos = aq_plan_tile_pos(plan, j), left = session->n_tok - pos;
        const int64_t n_tok = left < AQ_TILE ? left : AQ_TILE;
        be->ops->kv_read(
            be, &(aq_kv_read_args){.kv = aq_kvcache_layer(&session->cache, 0, session->n_tok),
                                   .tile = j,
                                   .n_tok = n_tok,
                                   .key = rows[0],
                                   .value = rows[1]});
        for (int i = 0; i < 2; i++) {
            be->ops->download(be, host, rows[i], (size_t)(n_tok * D_KV) * sizeof *host);
            for (int64_t t = 0; t < n_tok * D_KV; t++)
                all[i * n + pos * D_KV + t] = (double)host[t];
        }
    }
    aq_test_ok(aq_comm_sum_f64(aq_test_world(), all, 2 * n)); /* others have zeros there */
    for (int64_t t = 0; t < n; t++) {
        key[t] = (float)all[t];
        value[t] = (float)all[n + t];
    }
    for (int i = 0; i < 2; i++)
        be->ops->release(be, rows[i]);
    free(all);
    free(host);
}

/* What decoding N_MORE tokens gives: the logits of each. */
static void go_on(aq_engine *engine, aq_session *session, float *logits) {
    int32_t ids[N_MORE];
    aq_case_ids(8, N_MORE, ids);
    aq_case_decode(engine, session, ids, N_MORE, logits);
}

/* A prefilled session goes on to `expected`; one that was filled with its rows to `got`, two of
 * which are exchanged in between if `plant`. */
static void compare(const aq_session_options *options, bool plant, float *expected, float *got) {
    int32_t ids[N_ROW];
    float *key = aq_case_floats(N_ROW * D_KV), *value = aq_case_floats(N_ROW * D_KV);
    aq_engine *engine = aq_case_engine(aq_test_world(), ONE_LAYER, NULL);
    aq_session *from = engine ? aq_case_session(engine, options) : NULL;
    aq_session *session = from ? aq_case_session(engine, options) : NULL;
    aq_case_ids(5, N_ROW, ids);
    if (session && aq_test_ok(aq_session_prefill(from, ids, N_ROW, NULL))) {
        read_rows(from, key, value);
        if (plant) memcpy(key + 70 * D_KV, key + 3 * D_KV, D_KV * sizeof *key);
        aq_test_ok(aq_session_fill(session, &(aq_fill_rows){key, value, N_ROW}, N_ROW));
        CU_ASSERT_EQUAL(aq_session_length(session), N_ROW);
        go_on(engine, from, expected);
        go_on(engine, session, got);
    }
    aq_session_close(from);
    aq_session_close(session);
    aq_engine_close(engine);
    free(key);
    free(value);
}

static void test_same_as_prefilled(void) {
    const aq_session_options options = aq_case_options(N_ROW + N_MORE, 64);
    float expected[N_MORE * N_VOCAB] = {0}, got[N_MORE * N_VOCAB] = {0};
    compare(&options, false, expected, got);
    CU_ASSERT_EQUAL(memcmp(expected, got, sizeof got), 0);
    CU_ASSERT(fabsf(got[0]) > 0);
    compare(&options, true, expected, got);
    CU_ASSERT_NOT_EQUAL(memcmp(expected, got, sizeof got), 0);
}

/* Rows that are used again and again, up to within a tile, are the same as all of them written
 * out, in every type of cache. */
static void test_cycles(void) {
    enum { N_TOK = 8 * N_ROW + 70, N_OUT = 9 * N_ROW };
    static const aq_kv_type types[] = {AQ_KV_F32, AQ_KV_Q8};
    float *rows = aq_case_floats(2 * N_OUT * D_KV);
    float *value = rows + (int64_t)N_OUT * D_KV;
    for (int64_t i = 0; i < (int64_t)N_OUT * D_KV; i++) {
        rows[i] = sinf(0.37f * (float)(i % (N_ROW * D_KV)));
        value[i] = cosf(0.61f * (float)(i % (N_ROW * D_KV)));
    }
    aq_engine *engine = aq_case_engine(aq_test_world(), MODEL, NULL);
    for (int i = 0; engine && i < 2; i++) {
        aq_session_options options = aq_case_options(N_TOK + N_MORE, 64);
        float whole[N_MORE * N_VOCAB], again[N_MORE * N_VOCAB];
        options.key_type = options.value_type = types[i];
        aq_session *session = aq_case_session(engine, &options);
        aq_test_ok(aq_session_fill(session, &(aq_fill_rows){rows, value, N_OUT}, N_TOK));
        go_on(engine, session, whole);
        aq_session_reset(session);
        aq_test_ok(aq_session_fill(session, &(aq_fill_rows){rows, value, N_ROW}, N_TOK));
        go_on(engine, session, again);
        CU_ASSERT_EQUAL(memcmp(whole, again, sizeof again), 0);
        aq_session_reset(session); /* a cycle of other rows is seen */
        aq_test_ok(aq_session_fill(session, &(aq_fill_rows){rows, value, 2 * AQ_TILE}, N_TOK));
        go_on(engine, session, again);
        CU_ASSERT_NOT_EQUAL(memcmp(whole, again, sizeof again), 0);
        aq_session_close(session);
    }
    aq_engine_close(engine);
    free(rows);
}

static void test_refusals(void) {
    const aq_session_options options = aq_case_options(100, 64);
    float rows[AQ_TILE * D_KV] = {0};
    int32_t ids[1] = {3};
    aq_engine *engine = aq_case_engine(aq_test_world(), MODEL, NULL);
    aq_session *session = engine ? aq_case_session(engine, &options) : NULL;
    if (session) {
        const aq_fill_rows tile = {rows, rows, AQ_TILE}, part = {rows, rows, 10};
        aq_test_fails(aq_session_fill(session, &tile, 101), AQ_ERR_LIMIT, "101 tokens");
        aq_test_fails(aq_session_fill(session, &part, 50), AQ_ERR_USAGE, "whole tiles");
        aq_test_ok(aq_session_prefill(session, ids, 1, NULL));
        aq_test_fails(aq_session_fill(session, &tile, 50), AQ_ERR_USAGE, "empty");
    }
    aq_session_close(session);
    aq_engine_close(engine);
}

/* Logits of a made model behind a short text, its weights shared by n_tp ranks. */
static void run_made(int n_tp, float *logits) {
    const aq_session_options options = aq_case_options(100, 64);
    aq_engine_options how = {.model_path = MODEL, .n_thread = 1, .n_tp = n_tp};
    int32_t ids[70];
    aq_engine *engine = NULL;
    aq_case_ids(5, 70, ids);
    aq_test_ok(aq_device_choose(getenv("AQUA_TEST_DEVICE"), aq_test_world(), &how.device));
    if (!aq_test_ok(aq_engine_open(&how, aq_test_world(), &engine))) return;
    aq_session *session = aq_case_session(engine, &options);
    if (session && aq_test_ok(aq_session_prefill(session, ids, 70, NULL)))
        go_on(engine, session, logits);
    aq_session_close(session);
    aq_engine_close(engine);
}

/* The same bits on every rank, in every run, and with shared weights; of numbers, not of zeros. */
static void test_made_model(void) {
    aq_comm *world = aq_test_world();
    float first[N_MORE * N_VOCAB] = {0}, again[N_MORE * N_VOCAB] = {0}, of_rank0[N_MORE * N_VOCAB];
    double squares = 0;
    run_made(1, first);
    run_made(1, again);
    CU_ASSERT_EQUAL(memcmp(first, again, sizeof again), 0);
    memcpy(of_rank0, first, sizeof first);
    aq_test_ok(aq_comm_bcast(world, of_rank0, sizeof of_rank0, 0));
    CU_ASSERT_EQUAL(memcmp(first, of_rank0, sizeof first), 0);
    run_made(aq_comm_size(world), again);
    CU_ASSERT_EQUAL(memcmp(first, again, sizeof again), 0);
    for (int i = 0; i < N_MORE * N_VOCAB; i++)
        squares += (double)first[i] * (double)first[i];
    /* A row of norm 1 times independent weights of variance 1 / n_in. */
    CU_ASSERT(fabs(squares / (N_MORE * N_VOCAB) - 1) < 0.2);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "same as prefilled", test_same_as_prefilled);
    CU_add_test(suite, "cycles", test_cycles);
    CU_add_test(suite, "refusals", test_refusals);
    CU_add_test(suite, "made model", test_made_model);
}
