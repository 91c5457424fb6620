/* A decoded token: no memory is asked for and no lock taken, one exchange a layer, and only the
 * owner of the tile keeps the key; and every family decodes what it would have prefilled. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/engine/session.h"
#include "tests/engine/engine_case.h"
#include "tests/support/known_logits.h"
#include "tests/support/lock_count.h"
#include "tests/support/malloc_count.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

/* Of the range of the logits; both sides are fp32 with their own order of sums. */
#define TOLERANCE 1e-5

enum { N_STEP = 140, N_LAYER = 2 };

enum { N_WAY = 5 };

static aq_session_options ways[N_WAY] = {
    {.n_ctx = 300, .key_type = AQ_KV_F32, .value_type = AQ_KV_F32},
    {.n_ctx = 300, .key_type = AQ_KV_BF16, .value_type = AQ_KV_BF16, .attn = AQ_ATTN_AQUA},
    {.n_ctx = 300,
     .key_type = AQ_KV_F32,
     .value_type = AQ_KV_F32,
     .attn = AQ_ATTN_AQUA,
     .n_h2o = 64},
    {.n_ctx = 300, .key_type = AQ_KV_Q8, .value_type = AQ_KV_Q8, .attn = AQ_ATTN_SELECT},
    {.n_ctx = 300, .key_type = AQ_KV_F32, .value_type = AQ_KV_F32, .wire_bf16 = true},
};

static aq_engine *open_engine(void) {
    const aq_case *c = aq_case_default();
    return aq_case_engine(aq_test_world(), c->model, c->projection);
}

/* Allocations of the process while N_STEP tokens, over two borders of tiles, are decoded. */
static int64_t count_decode(aq_session *session, float *logits, bool planted) {
    const int64_t before = aq_malloc_count();
    aq_status status = AQ_OK;
    for (int i = 0; i < N_STEP && status == AQ_OK; i++) {
        status = aq_session_decode(session, i);
        if (status == AQ_OK) status = aq_session_logits(session, logits);
        void *volatile block = planted && i == 70 ? malloc(100) : NULL;
        free(block);
    }
    const int64_t n = aq_malloc_count() - before;
    aq_test_ok(status);
    return n;
}

/* Of three runs the quietest counts: MPI's own thread may allocate at any time, but what a step
 * allocates, it allocates in all three. */
static void expect_no_allocation(aq_engine *engine, const aq_session_options *options) {
    int64_t least = INT64_MAX, least_planted = INT64_MAX;
    float *logits = aq_case_floats(aq_engine_describe(engine).n_vocab);
    aq_session *session = aq_case_session(engine, options);
    for (int run = 0; session && run < 3; run++) {
        aq_session_reset(session);
        const int64_t n = count_decode(session, logits, false);
        least = n < least ? n : least;
        aq_session_reset(session);
        const int64_t n_planted = count_decode(session, logits, true);
        least_planted = n_planted < least_planted ? n_planted : least_planted;
    }
    CU_ASSERT_EQUAL(least, 0);
    CU_ASSERT_EQUAL(least_planted, 1);
    aq_session_close(session);
    free(logits);
}

/* With one rank: MPI may allocate, and so may the driver of a device. */
static void decode_allocates_nothing(void) {
    static const char *const families[] = {"mistral_swa", "gemma3", "olmoe", "opt", "gpt_neox"};
    aq_engine *engine = open_engine();
    if (engine && engine->device.cuda) {
        aq_engine_close(engine);
        aq_test_skip("decode allocates nothing: a device's driver allocates as it likes");
        return;
    }
    if (aq_comm_size(aq_test_world()) == 1 && engine) {
        for (int w = 0; w < N_WAY; w++)
            expect_no_allocation(engine, &ways[w]);
    }
    aq_engine_close(engine);
    for (int i = 0; i < 5 && aq_comm_size(aq_test_world()) == 1; i++) {
        char path[AQ_CASE_PATH_BYTES];
        snprintf(path, sizeof path, "%s/hf/%s", aq_test_data_dir(), families[i]);
        engine = aq_case_engine(aq_test_world(), path, NULL);
        if (engine) expect_no_allocation(engine, &ways[0]);
        aq_engine_close(engine);
    }
}

/* Locks taken while tokens are decoded that nobody's sleep explains: who sleeps locks once, and the
 * others lock to wake it, twice at most (once too early). */
static int64_t count_locks(aq_session *session, bool planted) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    const int64_t n_sleep = aq_sleep_count(), n_lock = aq_lock_count();
    for (int i = 0; i < N_STEP; i++) {
        aq_test_ok(aq_session_decode(session, i));
        if (!planted) continue;
        pthread_mutex_lock(&mutex);
        pthread_mutex_unlock(&mutex);
    }
    return aq_lock_count() - n_lock - 3 * (aq_sleep_count() - n_sleep);
}

/* One thread has nobody to wait for: each lock shows. Two may sleep on a busy machine, but a lock
 * in each of the dozen tasks of a step would show as well. */
static void decode_takes_no_lock(void) {
    if (aq_comm_size(aq_test_world()) > 1) return;
    aq_tiny_model shape = aq_tiny_model_default();
    shape.d_model = 256; /* products that are worth the team */
    shape.d_ff = 512;
    aq_case wide;
    aq_case_make(&shape, "wide", &wide);
    for (int n_thread = 1; n_thread <= 2; n_thread++) {
        const aq_engine_options options = {
            .model_path = wide.model, .projection_path = wide.projection, .n_thread = n_thread};
        aq_engine *engine = NULL;
        if (!aq_test_ok(aq_engine_open(&options, aq_test_world(), &engine))) return;
        for (int w = 0; w < N_WAY; w++) {
            aq_session *session = aq_case_session(engine, &ways[w]);
            if (!session) continue;
            CU_ASSERT_TRUE(count_locks(session, false) <= 2 * (n_thread - 1));
            aq_session_reset(session);
            CU_ASSERT_TRUE(n_thread > 1 || count_locks(session, true) == N_STEP);
            aq_session_close(session);
        }
        aq_engine_close(engine);
    }
}

/* Bytes by hand: in each layer H (d + 2) floats to each other rank, or with o in bf16. */
static void a_token_costs_one_exchange_a_layer(void) {
    const int64_t n_rank = aq_comm_size(aq_test_world());
    aq_engine *engine = open_engine();
    for (int w = 0; w < N_WAY && engine; w++) {
        aq_session *session = aq_case_session(engine, &ways[w]);
        if (!session) break;
        const int32_t ids[] = {1, 2, 3};
        aq_test_ok(aq_session_prefill(session, ids, 3, NULL));
        const aq_session_stats before = aq_session_describe(session);
        for (int i = 0; i < 10; i++)
            aq_test_ok(aq_session_decode(session, i));
        const aq_session_stats after = aq_session_describe(session);
        CU_ASSERT_EQUAL(after.n_exchange - before.n_exchange, n_rank > 1 ? 10 * N_LAYER : 0);
        CU_ASSERT_EQUAL(after.sent_bytes - before.sent_bytes,
                        10 * N_LAYER * (n_rank - 1) * 4 * (ways[w].wire_bf16 ? 10 : 18) * 4);
        aq_session_close(session);
    }
    aq_engine_close(engine);
}

/* Token after token, the rank whose turn it is holds one more, the others as many as before. */
static void the_owner_keeps_the_token(void) {
    const int n_rank = aq_comm_size(aq_test_world()), rank = aq_comm_rank(aq_test_world());
    aq_engine *engine = open_engine();
    aq_session *session = engine ? aq_case_session(engine, &ways[0]) : NULL;
    int64_t expected = 0;
    for (int64_t pos = 0; session && pos < 200; pos++) {
        aq_test_ok(aq_session_decode(session, 5));
        expected += pos / 64 % n_rank == rank;
        CU_ASSERT_EQUAL(aq_session_describe(session).n_tok_owned, expected);
        CU_ASSERT_EQUAL(aq_session_length(session), pos + 1);
    }
    aq_session_close(session);
    aq_engine_close(engine);
}

/* Logits [n, n_vocab] of the first n ids of a known model, token by token from the first on. */
static float *decode_known(aq_session *session, aq_engine *engine, const aq_known *known,
                           int64_t n) {
    float *logits = aq_case_floats(n * known->n_vocab);
    aq_case_decode(engine, session, known->ids, n, logits);
    return logits;
}

/* Each family decodes what it would have prefilled; rings go round. */
static void decode_agrees_with_prefill(void) {
    for (int m = 0; m < AQ_KNOWN_MODELS; m++) {
        aq_known k;
        if (!aq_test_ok(aq_known_read(aq_known_models[m], &k))) continue;
        aq_engine *engine = aq_case_engine(aq_test_world(), k.folder, NULL);
        const int64_t n = engine && engine->config.window > 0 ? 260 : 80;
        const aq_session_options one = aq_case_options(n, 1), all = aq_case_options(n, n);
        aq_session *decoding = engine ? aq_case_session(engine, &one) : NULL;
        aq_session *prefilling = engine ? aq_case_session(engine, &all) : NULL;
        if (decoding && prefilling) {
            float *a = decode_known(decoding, engine, &k, n);
            float *b = aq_case_floats(n * k.n_vocab);
            aq_case_prefill(engine, aq_test_world(), prefilling, k.ids, n, b);
            const double apart = aq_case_distance_f32(a, b, n * k.n_vocab);
            const double off = aq_known_distance(&k, a, n);
            CU_ASSERT_TRUE(apart <= TOLERANCE && off <= TOLERANCE);
            printf("  %s: %.1e from prefill, %.1e from transformers\n", k.name, apart, off);
            free(a);
            free(b);
        }
        aq_session_close(decoding);
        aq_session_close(prefilling);
        aq_engine_close(engine);
        aq_known_free(&k);
    }
}

/* Planted: every tile of a windowed layer at the same place. The second chunk's last tile then
 * takes the place of one that its first queries see; with four ranks no rank has two such. */
static void a_ring_too_small_is_rejected(void) {
    enum { N_FIRST = 130, N_SECOND = 150, N_ALL = N_FIRST + N_SECOND };
    aq_known k;
    if (!aq_test_ok(aq_known_read("mistral_swa", &k))) return;
    aq_engine *engine = aq_case_engine(aq_test_world(), k.folder, NULL);
    const aq_session_options options = aq_case_options(N_ALL, N_SECOND);
    aq_session *session = engine ? aq_case_session(engine, &options) : NULL;
    float *logits = aq_case_floats(N_ALL * k.n_vocab);
    for (int planted = 0; session && planted < 2; planted++) {
        for (int64_t j = 0; j < session->cache.n_tile && planted; j++)
            session->cache.tile_at[j] = 0;
        aq_session_reset(session);
        aq_case_prefill(engine, aq_test_world(), session, k.ids, N_FIRST, logits);
        aq_case_prefill(engine, aq_test_world(), session, k.ids + N_FIRST, N_SECOND,
                        logits + N_FIRST * k.n_vocab);
        const double off = aq_known_distance(&k, logits, N_ALL);
        if (!planted) CU_ASSERT_TRUE(off <= TOLERANCE);
        if (planted && session->plan.n_rank < 4) CU_ASSERT_TRUE(off > 10 * TOLERANCE);
    }
    free(logits);
    aq_session_close(session);
    aq_engine_close(engine);
    aq_known_free(&k);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "decode allocates nothing", decode_allocates_nothing);
    CU_add_test(suite, "decode takes no lock", decode_takes_no_lock);
    CU_add_test(suite, "a token costs one exchange a layer", a_token_costs_one_exchange_a_layer);
    CU_add_test(suite, "decode agrees with prefill", decode_agrees_with_prefill);
    CU_add_test(suite, "a ring too small is rejected", a_ring_too_small_is_rejected);
    CU_add_test(suite, "the owner keeps the token", the_owner_keeps_the_token);
}
