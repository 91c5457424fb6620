/* What a plan says of memory and wire, against what sessions of the same ranks have: on 1 to 4
 * ranks, for several families and ways of attention. And that a session of other ranks, or with
 * more room, is not the same. */
#include "src/engine/footprint.h"

#include <stdio.h>
#include <stdlib.h>

#include "src/engine/session.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

#define N_CTX   300
#define N_BATCH 100

static const char *const families[] = {"llama", "mistral_swa", "gemma3", "mixtral", "gpt2", "phi3"};
#define N_FAMILY ((int)(sizeof families / sizeof families[0]))

/* The ways; those that project come last. */
static aq_session_options way(int i) {
    aq_session_options options = aq_case_options(N_CTX, N_BATCH);
    if (i == 1 || i == 4) options.key_type = options.value_type = AQ_KV_Q8;
    if (i == 2) options.n_h2o = 80;
    if (i >= 3) options.attn = i == 3 ? AQ_ATTN_AQUA : AQ_ATTN_SELECT;
    if (i == 3) options.s_ratio = 0.5;
    if (i == 5) options.n_h2o = 80;
    options.wire_bf16 = i == 1 || i == 3;
    if (i == 1 || i == 2) options.merge = AQ_MERGE_ALLTOALL;
    if (i >= 4) options.merge = AQ_MERGE_TREE;
    return options;
}
#define N_WAY 6

static aq_plan open_plan(int n_rank, int rank) {
    aq_plan plan;
    aq_test_ok(aq_plan_open(n_rank, rank, NULL, &plan));
    return plan;
}

static aq_plan plan_here(void) {
    aq_comm *world = aq_test_world();
    return open_plan(aq_comm_size(world), aq_comm_rank(world));
}

/* An allocation beside the buffers is small, but it is there. */
static void memory_is_what_a_session_has(aq_engine *engine, const aq_session_options *options) {
    aq_plan plan = plan_here();
    aq_footprint f;
    aq_session *session = aq_case_session(engine, options);
    if (!session) return;
    const aq_session_stats has = aq_session_describe(session);
    if (aq_test_ok(aq_footprint_of(engine, &plan, 1, options, &f))) {
        CU_ASSERT_EQUAL(f.keys, has.key_capacity);
        CU_ASSERT_EQUAL(f.values, has.value_capacity);
        CU_ASSERT_EQUAL(f.selector, has.selector_capacity);
        CU_ASSERT_EQUAL(f.open_tile, has.open_bytes);
        /* Small arrays of the host are not in step_bytes. */
        CU_ASSERT_TRUE(f.step >= has.step_bytes && f.step < has.step_bytes + 1024);
        CU_ASSERT_TRUE(f.other > 0 && f.weights == aq_engine_describe(engine).weights_bytes);
        CU_ASSERT_EQUAL(aq_footprint_own(&f), f.moved + f.projection + f.keys + f.values +
                                                  f.selector + f.open_tile + f.step + f.other);
    }
    aq_plan_close(&plan);
    aq_session_close(session);
}

/* The same sizes would be given for anything if they did not depend on what they should. */
static void memory_depends_on_what_is_asked(aq_engine *engine, const aq_session_options *options) {
    aq_session_options more = *options;
    aq_plan plan = plan_here(), other = open_plan(plan.n_rank == 1 ? 3 : 1, 0);
    aq_footprint f, g, h;
    more.n_ctx = 2 * N_CTX;
    more.n_batch = 2 * N_BATCH;
    if (options->n_h2o == 0 && aq_test_ok(aq_footprint_of(engine, &plan, 1, options, &f)) &&
        aq_test_ok(aq_footprint_of(engine, &plan, 1, &more, &g)) &&
        aq_test_ok(aq_footprint_of(engine, &other, 1, options, &h))) {
        CU_ASSERT_TRUE(g.keys >= f.keys && g.values >= f.values);
        CU_ASSERT_TRUE(aq_footprint_own(&g) > aq_footprint_own(&f));
        CU_ASSERT_TRUE(plan.n_rank == 1 ? h.keys < f.keys : h.keys > f.keys);
    }
    aq_plan_close(&plan);
    aq_plan_close(&other);
}

/* Bytes per token that a session has sent, over all ranks: of prefill, then of decode. */
static void wire_is_what_a_session_sends(aq_engine *engine, const aq_session_options *options) {
    enum { N = 192, N_DECODED = 5 };
    aq_comm *world = aq_test_world();
    const int n_rank = aq_comm_size(world);
    int32_t ids[N + N_DECODED];
    aq_wire wire;
    aq_session *session = aq_case_session(engine, options);
    if (!session) return;
    for (int i = 0; i < N + N_DECODED; i++)
        ids[i] = i * 7 % 200;
    aq_test_ok(aq_wire_of(engine, n_rank, 1, options, &wire));
    aq_test_ok(aq_session_prefill(session, ids, N, NULL));
    aq_session_stats after = aq_session_describe(session);
    int64_t sent[2] = {after.sent_bytes, 0}, calls = after.n_exchange;
    for (int i = 0; i < N_DECODED; i++)
        aq_test_ok(aq_session_decode(session, ids[N + i]));
    after = aq_session_describe(session);
    sent[1] = after.sent_bytes - sent[0];
    const int64_t decode_calls = after.n_exchange - calls;
    aq_test_ok(aq_comm_sum_i64(world, sent, 2));
    /* After prefill the row of the last token goes to all. */
    const double row = n_rank > 1 ? 4.0 * aq_engine_describe(engine).d_model * (n_rank - 1) : 0;
    CU_ASSERT_DOUBLE_EQUAL((double)sent[0], wire.prefill_bytes * N * n_rank + row, 0.5);
    CU_ASSERT_DOUBLE_EQUAL((double)sent[1], wire.decode_bytes * N_DECODED * n_rank, 0.5);
    CU_ASSERT_EQUAL(decode_calls, (int64_t)wire.decode_messages * N_DECODED);
    const int64_t n_chunk = (N + N_BATCH - 1) / N_BATCH;
    CU_ASSERT_EQUAL(calls, n_chunk * wire.prefill_messages + (n_rank > 1));
    aq_session_close(session);
}

static void families_and_ways(void) {
    char path[AQ_CASE_PATH_BYTES], projection[AQ_CASE_PATH_BYTES];
    for (int i = 0; i < N_FAMILY; i++) {
        snprintf(path, sizeof path, "%s/hf/%s", aq_test_data_dir(), families[i]);
        aq_case_projection(path, projection);
        aq_engine *engine = aq_case_engine(aq_test_world(), path, projection);
        if (!engine) continue;
        const int64_t n_ctx_model = aq_engine_describe(engine).n_ctx_model;
        for (int w = 0; w < N_WAY; w++) {
            aq_session_options options = way(w);
            if (options.n_ctx * 2 > n_ctx_model) options.n_ctx = n_ctx_model / 2;
            memory_is_what_a_session_has(engine, &options);
            memory_depends_on_what_is_asked(engine, &options);
            if (options.n_ctx >= 200) wire_is_what_a_session_sends(engine, &options);
        }
        aq_engine_close(engine);
    }
}

/* Without a projection as with one that has the default selector. */
static void before_there_is_a_projection(void) {
    const aq_case *c = aq_case_default();
    aq_plan plan = plan_here();
    const aq_session_options options = way(4);
    aq_footprint with, without;
    aq_engine *a = aq_case_engine(aq_test_world(), c->model, c->projection);
    aq_engine *b = aq_case_engine(aq_test_world(), c->model, NULL);
    if (a && b && aq_test_ok(aq_footprint_of(a, &plan, 1, &options, &with)) &&
        aq_test_ok(aq_footprint_of(b, &plan, 1, &options, &without))) {
        CU_ASSERT_TRUE(without.selector > 0 && without.projection > 0);
        CU_ASSERT_EQUAL(with.selector, without.selector);
        CU_ASSERT_EQUAL(with.projection, without.projection);
        CU_ASSERT_EQUAL(with.step, without.step);
    }
    aq_plan_close(&plan);
    aq_engine_close(a);
    aq_engine_close(b);
}

/* Ranks that share the weights, against what they send each other for it: of prefill in chunks,
 * then of decode with logits. Experts are as many messages in prefill as there are, those that no
 * token uses included. */
static void shared_weights_travel(void) {
    enum { N = 60, N_DECODED = 3 };
    char path[AQ_CASE_PATH_BYTES];
    aq_comm *world = aq_test_world();
    const int n_rank = aq_comm_size(world);
    for (int i = 0; i < N_FAMILY; i++) {
        snprintf(path, sizeof path, "%s/hf/%s", aq_test_data_dir(), families[i]);
        const aq_session_options options = aq_case_options(N + N_DECODED, 40);
        const aq_engine_options how = {.model_path = path, .n_thread = 1, .n_tp = n_rank};
        int32_t ids[N];
        aq_engine *engine = NULL;
        aq_wire wire;
        if (!aq_test_ok(aq_engine_open(&how, world, &engine))) continue;
        float *logits = aq_case_floats(aq_engine_describe(engine).n_vocab);
        aq_session *session = aq_case_session(engine, &options);
        for (int t = 0; t < N; t++)
            ids[t] = t * 7 % 200;
        aq_test_ok(aq_wire_of(engine, n_rank, n_rank, &options, &wire));
        aq_test_ok(aq_session_prefill(session, ids, N, NULL));
        const aq_session_stats filled = aq_session_describe(session);
        for (int t = 0; t < N_DECODED; t++) {
            aq_test_ok(aq_session_decode(session, ids[t]));
            aq_test_ok(aq_session_logits(session, logits));
        }
        const aq_session_stats after = aq_session_describe(session);
        int64_t sent[2] = {filled.shared_bytes, after.shared_bytes - filled.shared_bytes};
        aq_test_ok(aq_comm_sum_i64(world, sent, 2));
        CU_ASSERT_DOUBLE_EQUAL((double)sent[0], 2 * wire.share_chunk_bytes * n_rank, 0.5);
        CU_ASSERT_DOUBLE_EQUAL((double)sent[1], N_DECODED * wire.share_decode_bytes * n_rank, 0.5);
        CU_ASSERT_EQUAL(filled.n_share, 2 * wire.share_chunk_messages);
        CU_ASSERT_EQUAL(after.n_share - filled.n_share, N_DECODED * wire.share_decode_messages);
        aq_session_close(session);
        free(logits);
        aq_engine_close(engine);
    }
}

/* Ranks that share the weights, against what their engine keeps and has room for. */
static void shared_weights(void) {
    const aq_case *c = aq_case_default();
    const aq_session_options options = way(0);
    const aq_plan plan = plan_here();
    aq_footprint f, whole;
    for (int n_tp = 2; n_tp <= plan.n_rank; n_tp++) {
        aq_engine_options engine_options = {.model_path = c->model, .n_thread = 1, .n_tp = n_tp};
        aq_engine *engine = NULL;
        if (plan.n_rank % n_tp != 0 ||
            !aq_test_ok(aq_engine_open(&engine_options, aq_test_world(), &engine)))
            continue;
        if (aq_test_ok(aq_footprint_of(engine, &plan, n_tp, &options, &f)) &&
            aq_test_ok(aq_footprint_of(engine, &plan, 1, &options, &whole))) {
            CU_ASSERT_EQUAL(f.weights, aq_engine_describe(engine).kept_weights_bytes);
            CU_ASSERT_TRUE(f.weights < whole.weights && f.moved == 0);
            /* d_ff and d_model are 128 and 64, the vocabulary 288: the widest row. */
            CU_ASSERT_EQUAL(f.other - whole.other,
                            (int64_t)engine->shard.layer_bytes + 2 * 288 * 4);
        }
        aq_engine_close(engine);
    }
}

static void refusals(void) {
    const aq_case *c = aq_case_default();
    aq_session_options options = aq_case_options(100000, 0);
    aq_footprint f;
    aq_engine *engine = aq_case_engine(aq_test_world(), c->model, NULL);
    if (!engine) return;
    aq_plan plan = plan_here();
    aq_test_fails(aq_footprint_of(engine, &plan, 1, &options, &f), AQ_ERR_LIMIT, "made for 2048");
    options = aq_case_options(100, -1);
    aq_test_fails(aq_footprint_of(engine, &plan, 1, &options, &f), AQ_ERR_USAGE, "-b");
    aq_plan_close(&plan);
    aq_engine_close(engine);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "families and ways", families_and_ways);
    CU_add_test(suite, "before there is a projection", before_there_is_a_projection);
    CU_add_test(suite, "shared weights", shared_weights);
    CU_add_test(suite, "shared weights travel", shared_weights_travel);
    CU_add_test(suite, "refusals", refusals);
}
