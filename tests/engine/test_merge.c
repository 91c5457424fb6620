/* The ways to merge the partial results of a decoded token: in rank order, both with the same bits,
 * and as MPI likes; all near one rank, again the same bits, on any number of ranks, of equal shares
 * and others, that share the weights or not. And the choice between them. */
#include "src/engine/merge.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/device.h"
#include "src/engine/session.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

/* Of the range of the logits; both sides are fp32 with their own order of sums. */
#define TOLERANCE 1e-5

/* Each of 8 ranks has a tile; the last tokens by decode, over a border of tiles. */
enum { N_TOK = 644, N_PREFILL = 632, N_DECODE = N_TOK - N_PREFILL, N_VOCAB = 288, MAX_RANK = 64 };

static int size(void) {
    return aq_comm_size(aq_test_world());
}

static int64_t over_ranks(int64_t n) {
    aq_test_ok(aq_comm_sum_i64(aq_test_world(), &n, 1));
    return n;
}

static aq_engine *open_engine(const aq_case *c, int n_tp) {
    aq_engine_options options = {
        .model_path = c->model, .projection_path = c->projection, .n_thread = 2, .n_tp = n_tp};
    aq_engine *engine = NULL;
    aq_test_ok(aq_device_choose(getenv("AQUA_TEST_DEVICE"), aq_test_world(), &options.device));
    aq_test_ok(aq_engine_open(&options, aq_test_world(), &engine));
    return engine;
}

static aq_session_options dense(aq_merge_way merge) {
    aq_session_options options = aq_case_options(N_TOK, 316);
    options.merge = merge;
    return options;
}

/* logits[N_TOK, N_VOCAB], the last ones by decode, of these each rank's own; *stats: what decoding
 * them added to bytes, calls and mass, and the whole of the other numbers. */
static float *run(aq_engine *engine, const aq_session_options *options, aq_session_stats *stats) {
    float *logits = aq_case_floats(N_TOK * N_VOCAB);
    int32_t ids[N_TOK];
    aq_case_ids(8, N_TOK, ids);
    aq_session *session = aq_case_session(engine, options);
    if (session) {
        aq_case_prefill(engine, engine->comm, session, ids, N_PREFILL, logits);
        const aq_session_stats before = aq_session_describe(session);
        aq_case_decode(engine, session, ids + N_PREFILL, N_DECODE, logits + N_PREFILL * N_VOCAB);
        *stats = aq_session_describe(session);
        stats->sent_bytes -= before.sent_bytes;
        stats->n_exchange -= before.n_exchange;
        stats->mass_sum -= before.mass_sum;
    }
    aq_session_close(session);
    return logits;
}

static bool same(const float *a, const float *b) {
    return memcmp(a, b, (size_t)N_TOK * N_VOCAB * sizeof *a) == 0;
}

static double distance(const float *a, const float *b) {
    return aq_case_distance_f32(a, b, N_TOK * N_VOCAB);
}

/* Whether all ranks have the same bits. */
static bool ranks_agree(const float *logits) {
    const size_t bytes = (size_t)N_TOK * N_VOCAB * sizeof *logits;
    float *first = aq_case_floats(N_TOK * N_VOCAB);
    memcpy(first, logits, bytes);
    aq_test_ok(aq_comm_bcast(aq_test_world(), first, bytes, 0));
    const bool agree = over_ranks(!same(first, logits)) == 0;
    free(first);
    return agree;
}

/* The same text on this rank alone. */
static float *run_alone(const aq_case *c) {
    const aq_session_options options = dense(AQ_MERGE_ALLGATHER);
    aq_session_stats stats;
    aq_comm *self = NULL;
    if (!aq_test_ok(aq_comm_open_self(&self))) return NULL;
    aq_engine *engine = aq_case_engine(self, c->model, c->projection);
    float *logits = engine ? run(engine, &options, &stats) : NULL;
    aq_engine_close(engine);
    aq_comm_close(self);
    return logits;
}

/* All ways on one engine, against `alone`. */
static void expect_ways(aq_engine *engine, const float *alone) {
    float *logits[3][2];
    aq_session_stats stats;
    for (int way = 0; way < 3; way++) {
        const aq_session_options options = dense((aq_merge_way)way);
        for (int again = 0; again < 2; again++)
            logits[way][again] = run(engine, &options, &stats);
        CU_ASSERT_TRUE(same(logits[way][0], logits[way][1]));
        CU_ASSERT_TRUE(ranks_agree(logits[way][0]));
        CU_ASSERT_TRUE(distance(logits[way][0], alone) <= TOLERANCE);
    }
    CU_ASSERT_TRUE(same(logits[AQ_MERGE_ALLGATHER][0], logits[AQ_MERGE_ALLTOALL][0]));
    for (int i = 0; i < 6; i++)
        free(logits[i / 2][i % 2]);
}

/* Equal shares; others; and ranks without any. */
static void split_by(aq_engine *engine, int which) {
    int64_t weights[MAX_RANK];
    for (int r = 0; r < size(); r++)
        weights[r] = which == 0 ? 1 : which == 1 ? 1 + 2 * r % 5 : (r + 1) % 2;
    aq_test_ok(aq_engine_set_split(engine, weights));
}

static void all_ways_are_near_one_rank(void) {
    const aq_case *c = aq_case_default();
    float *alone = run_alone(c);
    for (int n_tp = 1; n_tp <= 4 && alone; n_tp++) {
        if (size() % n_tp != 0) continue;
        aq_engine *engine = open_engine(c, n_tp);
        for (int which = 0; which < 3 && engine; which++) {
            split_by(engine, which);
            expect_ways(engine, alone);
        }
        aq_engine_close(engine);
    }
    free(alone);
}

/* More heads on some ranks than on others, and more ranks than heads. */
static void heads_are_dealt_as_they_come(void) {
    static const int heads[][2] = {{6, 3}, {7, 1}, {2, 1}, {1, 1}};
    for (int i = 0; i < 4; i++) {
        aq_tiny_model shape = aq_tiny_model_default();
        char name[32];
        aq_case c;
        shape.n_head = heads[i][0];
        shape.n_kv_head = heads[i][1];
        snprintf(name, sizeof name, "heads%d", i);
        aq_case_make(&shape, name, &c);
        float *alone = run_alone(&c);
        aq_engine *engine = open_engine(&c, 1);
        if (engine && alone) expect_ways(engine, alone);
        aq_engine_close(engine);
        free(alone);
    }
}

/* What else decode does with what is merged: scores that are not dense, numbers in bf16, tokens
 * that are dropped by it, the mass that is measured. */
static aq_session_options other(int i) {
    aq_session_options options = dense(AQ_MERGE_ALLGATHER);
    if (i == 0) options.attn = AQ_ATTN_AQUA;
    if (i == 1 || i == 2) options.n_h2o = 32 * size();
    if (i >= 2) options.attn = AQ_ATTN_SELECT;
    if (i == 3) options.key_type = options.value_type = AQ_KV_Q8;
    options.mass = 0.9;
    options.mass_exchange = i == 3 && !getenv("AQUA_TEST_DEVICE");
    options.measure_mass = i == 4;
    options.wire_bf16 = i == 1 || i == 3;
    return options;
}

static void other_ways_of_attention_have_the_same_bits(void) {
    aq_engine *engine = open_engine(aq_case_default(), 1);
    for (int i = 0; i < 5 && engine; i++) {
        aq_session_options options = other(i);
        aq_session_stats stats, apart;
        float *all = run(engine, &options, &stats);
        options.merge = AQ_MERGE_ALLTOALL;
        float *heads = run(engine, &options, &apart);
        CU_ASSERT_TRUE(same(all, heads));
        CU_ASSERT_EQUAL(stats.n_attended, apart.n_attended);
        CU_ASSERT_EQUAL(stats.mass_sum, apart.mass_sum);
        CU_ASSERT_EQUAL(stats.n_mass, apart.n_mass);
        options.merge = AQ_MERGE_TREE;
        options.wire_bf16 = false;
        float *tree = run(engine, &options, &apart);
        CU_ASSERT_TRUE(ranks_agree(tree));
        if (i == 4) CU_ASSERT_DOUBLE_EQUAL(stats.mass_sum, apart.mass_sum, 0.01 * stats.mass_sum);
        free(all);
        free(heads);
        free(tree);
    }
    aq_engine_close(engine);
}

/* Without rounding, tokens dropped by sums that a tree has made are those of rank order. */
static void a_tree_gives_maximum_and_sum(void) {
    aq_engine *engine = open_engine(aq_case_default(), 1);
    aq_session_options options = dense(AQ_MERGE_ALLGATHER);
    aq_session_stats stats;
    options.n_h2o = 32 * size();
    float *all = engine ? run(engine, &options, &stats) : NULL;
    options.merge = AQ_MERGE_TREE;
    float *tree = engine ? run(engine, &options, &stats) : NULL;
    if (all && tree) CU_ASSERT_TRUE(distance(tree, all) <= TOLERANCE);
    free(all);
    free(tree);
    aq_engine_close(engine);
}

/* Bytes by hand, of all ranks: L 2, H 4, d 16. */
static void traffic_is_counted(void) {
    const int64_t n_rank = size(), n_others = n_rank - 1, n = (int64_t)N_DECODE * 2;
    const int64_t part = 4 * (16 + 2) * 4, rounded = 4 * (8 + 2) * 4, merged = 4 * 16 * 4;
    const struct {
        aq_merge_way way;
        bool bf16, evicts;
        int64_t bytes, calls;
    } cases[] = {
        {AQ_MERGE_ALLGATHER, false, false, n_rank * part, 1},
        {AQ_MERGE_ALLGATHER, false, true, n_rank * part, 1},
        {AQ_MERGE_ALLTOALL, false, false, part + merged, 2},
        {AQ_MERGE_ALLTOALL, true, false, rounded + merged, 2},
        {AQ_MERGE_ALLTOALL, false, true, part + merged + 4 * 2 * 4, 3},
        {AQ_MERGE_TREE, false, false, 2 * part, 1},
        {AQ_MERGE_TREE, false, true, 2 * part, 1},
    };
    aq_engine *engine = open_engine(aq_case_default(), 1);
    for (int i = 0; i < 7 && engine; i++) {
        aq_session_options options = dense(cases[i].way);
        aq_session_stats stats = {0};
        options.wire_bf16 = cases[i].bf16;
        if (cases[i].evicts) options.n_h2o = 32 * n_rank;
        free(run(engine, &options, &stats));
        CU_ASSERT_EQUAL(over_ranks(stats.sent_bytes), n * n_others * cases[i].bytes);
        CU_ASSERT_EQUAL(stats.n_exchange, n_rank > 1 ? n * cases[i].calls : 0);
    }
    aq_engine_close(engine);
}

/* Planted bugs, in place of attn_merge, where a rank merges heads of its own. */
static const aq_backend_ops *real_ops;
static float *scratch; /* in backend memory, for the parts of a token */
static float *all_heads;

static void reverse_parts(aq_backend *be, const aq_attn_merge_args *args) {
    const int64_t n = args->n_row * (args->d_head + 2);
    aq_attn_merge_args wrong = *args;
    for (int p = 0; p < args->n_part; p++)
        be->ops->copy(be, scratch + p * n, args->parts + (args->n_part - 1 - p) * n,
                      (size_t)n * sizeof *scratch);
    wrong.parts = scratch;
    real_ops->attn_merge(be, &wrong);
}

/* Every rank's heads to where rank 0's belong. */
static void misplace_heads(aq_backend *be, const aq_attn_merge_args *args) {
    aq_attn_merge_args wrong = *args;
    if (args->n_row < 4) wrong.out = all_heads;
    real_ops->attn_merge(be, &wrong);
}

static float *run_planted(aq_engine *engine,
                          void (*bug)(aq_backend *be, const aq_attn_merge_args *args)) {
    const aq_session_options options = dense(AQ_MERGE_ALLTOALL);
    float *logits = aq_case_floats(N_TOK * N_VOCAB);
    aq_backend_ops ops = *engine->be->ops;
    int32_t ids[N_TOK];
    aq_case_ids(8, N_TOK, ids);
    aq_session *session = aq_case_session(engine, &options);
    if (!session) return logits;
    aq_case_prefill(engine, aq_test_world(), session, ids, N_PREFILL, logits);
    real_ops = engine->be->ops;
    ops.attn_merge = bug;
    all_heads = session->step.mixed;
    engine->be->ops = &ops;
    aq_case_decode(engine, session, ids + N_PREFILL, N_DECODE, logits + N_PREFILL * N_VOCAB);
    engine->be->ops = real_ops;
    aq_session_close(session);
    return logits;
}

/* Of two parts the order makes no difference; of three it is in the last bits. */
static void planted_bugs_are_noticed(void) {
    const aq_session_options options = dense(AQ_MERGE_ALLGATHER);
    const size_t bytes = (size_t)(size() * 4 * (16 + 2)) * sizeof *scratch;
    aq_session_stats stats;
    aq_engine *engine = open_engine(aq_case_default(), 1);
    if (engine && size() > 1 &&
        aq_test_ok(engine->be->ops->alloc(engine->be, bytes, (void **)&scratch))) {
        float *right = run(engine, &options, &stats);
        float *reversed = run_planted(engine, reverse_parts);
        float *misplaced = run_planted(engine, misplace_heads);
        CU_ASSERT_EQUAL(same(reversed, right), size() == 2);
        CU_ASSERT_TRUE(distance(reversed, right) <= TOLERANCE);
        CU_ASSERT_TRUE(distance(misplaced, right) > 1e-3);
        free(right);
        free(reversed);
        free(misplaced);
        engine->be->ops->release(engine->be, scratch);
    }
    aq_engine_close(engine);
}

/* The clock of this process, that a planted delay puts forward (--wrap=aq_clock_ns). */
int64_t __real_aq_clock_ns(void);
int64_t __wrap_aq_clock_ns(void);
static int64_t ahead_ns;
static bool delays_all, delays_heads;

int64_t __wrap_aq_clock_ns(void) {
    return __real_aq_clock_ns() + ahead_ns;
}

/* A merge of all heads, or of some, takes an hour, on the last rank alone. */
static void merge_late(aq_backend *be, const aq_attn_merge_args *args) {
    const bool late = args->n_row < 4 ? delays_heads : delays_all;
    real_ops->attn_merge(be, args);
    if (late && aq_comm_rank(aq_test_world()) == size() - 1) ahead_ns += INT64_C(3600) * 1000000000;
}

/* Calls a token that a session which leaves the choice to the engine makes. */
static int64_t calls_of_auto(aq_engine *engine) {
    const aq_session_options options = dense(AQ_MERGE_AUTO);
    aq_session_stats stats = {0};
    free(run(engine, &options, &stats));
    return stats.n_exchange / N_DECODE / 2;
}

static void the_faster_way_is_chosen(void) {
    const int64_t n_other = size() > 1;
    aq_engine *engine = open_engine(aq_case_default(), 1);
    if (!engine) return;
    aq_backend_ops ops = *engine->be->ops;
    real_ops = engine->be->ops;
    ops.attn_merge = merge_late;
    CU_ASSERT_EQUAL(aq_merge_of(engine, AQ_MERGE_AUTO), AQ_MERGE_ALLGATHER);
    for (int late = 0; late < 2; late++) {
        aq_merge_times times, first;
        delays_all = late == 0;
        delays_heads = late == 1;
        engine->be->ops = &ops;
        aq_test_ok(aq_merge_choose(engine, late == 1, &times));
        engine->be->ops = real_ops;
        const aq_merge_way chosen = aq_merge_of(engine, AQ_MERGE_AUTO);
        CU_ASSERT_EQUAL(chosen, late == 0 && n_other ? AQ_MERGE_ALLTOALL : AQ_MERGE_ALLGATHER);
        const int64_t hour_ns = n_other * 3600 * INT64_C(1000000000);
        CU_ASSERT_TRUE((late ? times.alltoall_ns : times.allgather_ns) >= hour_ns);
        CU_ASSERT_TRUE((late ? times.allgather_ns : times.alltoall_ns) < hour_ns + 1 - n_other);
        CU_ASSERT_TRUE(times.allgather_ns >= n_other && times.alltoall_ns >= n_other);
        first = times;
        aq_test_ok(aq_comm_bcast(aq_test_world(), &first, sizeof first, 0));
        CU_ASSERT_EQUAL(memcmp(&first, &times, sizeof first), 0);
        CU_ASSERT_EQUAL(calls_of_auto(engine), n_other * (chosen == AQ_MERGE_ALLTOALL ? 2 : 1));
    }
    CU_ASSERT_EQUAL(aq_merge_of(engine, AQ_MERGE_TREE), AQ_MERGE_TREE);
    aq_engine_close(engine);
}

static void ways_have_names(void) {
    const char *const known[] = {"allgather", "alltoall", "tree", "auto"};
    aq_session_options options = dense(AQ_MERGE_TREE);
    aq_session *session = NULL;
    aq_merge_way way;
    for (int i = 0; i < 4; i++) {
        if (aq_test_ok(aq_merge_parse(known[i], &way))) CU_ASSERT_EQUAL(way, (aq_merge_way)i);
        CU_ASSERT_STRING_EQUAL(aq_merge_name((aq_merge_way)i), known[i]);
    }
    aq_test_fails(aq_merge_parse("ring", &way), AQ_ERR_USAGE, "--merge ring");
    options.wire_bf16 = true;
    aq_engine *engine = open_engine(aq_case_default(), 1);
    if (engine) aq_test_fails(aq_session_open(engine, &options, &session), AQ_ERR_USAGE, "--wire");
    CU_ASSERT_PTR_NULL(session);
    aq_engine_close(engine);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "all ways are near one rank", all_ways_are_near_one_rank);
    CU_add_test(suite, "heads are dealt as they come", heads_are_dealt_as_they_come);
    CU_add_test(suite, "other ways of attention have the same bits",
                other_ways_of_attention_have_the_same_bits);
    CU_add_test(suite, "a tree gives maximum and sum", a_tree_gives_maximum_and_sum);
    CU_add_test(suite, "traffic is counted", traffic_is_counted);
    CU_add_test(suite, "planted bugs are noticed", planted_bugs_are_noticed);
    CU_add_test(suite, "the faster way is chosen", the_faster_way_is_chosen);
    CU_add_test(suite, "ways have names", ways_have_names);
}
