/* What goes between ranks: of queries the columns that decide, in bytes as counted by hand, with
 * the logits of one rank; and in bf16, half of it, near fp32, with the same bits on every rank. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/session.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

/* Of the tiny model; N_HEAD queries of N_COL columns. */
enum { N_LAYER = 2, N_HEAD = 4, N_COL = 16, D_MODEL = 64, N_VOCAB = 288 };

enum { N_TOK = 200, N_PREFILL = 180 };

static aq_session_options aqua_options(double k_ratio) {
    aq_session_options options = aq_case_options(N_TOK, 77);
    options.attn = AQ_ATTN_AQUA;
    options.rank_by = AQ_RANK_ENERGY;
    options.k_ratio = k_ratio;
    return options;
}

/* Logits [N_TOK, N_VOCAB], the last by decode, and statistics of this rank. */
static void run(aq_engine *engine, aq_comm *comm, const aq_session_options *options, float *logits,
                aq_session_stats *prefilled, aq_session_stats *decoded) {
    int32_t ids[N_TOK];
    aq_session *session = aq_case_session(engine, options);
    if (!session) return;
    aq_case_ids(6, N_TOK, ids);
    aq_case_prefill(engine, comm, session, ids, N_PREFILL, logits);
    *prefilled = aq_session_describe(session);
    aq_case_decode(engine, session, ids + N_PREFILL, N_TOK - N_PREFILL,
                   logits + (int64_t)N_PREFILL * N_VOCAB);
    *decoded = aq_session_describe(session);
    aq_session_close(session);
}

static int64_t over_ranks(int64_t n) {
    aq_test_ok(aq_comm_sum_i64(aq_test_world(), &n, 1));
    return n;
}

/* A head's query takes `query` words and a partial result of it `part`, in prefill and in decode:
 * each to or from P - 1 ranks. */
static void expect_bytes(const aq_session_options *options, int64_t query, int64_t part) {
    const aq_case *c = aq_case_default();
    const int64_t n_other = aq_comm_size(aq_test_world()) - 1;
    const int64_t n_row = (int64_t)N_LAYER * N_HEAD * N_PREFILL * n_other;
    aq_session_stats prefilled = {0}, decoded = {0};
    float *logits = aq_case_floats(N_TOK * N_VOCAB);
    aq_engine *engine = aq_case_engine(aq_test_world(), c->model, c->projection);
    if (engine) run(engine, aq_test_world(), options, logits, &prefilled, &decoded);
    CU_ASSERT_EQUAL(over_ranks(prefilled.query_bytes), n_row * query * 4);
    CU_ASSERT_EQUAL(over_ranks(prefilled.part_bytes), n_row * part * 4);
    CU_ASSERT_EQUAL(over_ranks(prefilled.full_query_bytes), n_row * N_COL * 4);
    CU_ASSERT_EQUAL(over_ranks(prefilled.full_part_bytes), n_row * (N_COL + 2) * 4);
    /* Beside these the last token's row, which its owner sends to all. */
    CU_ASSERT_EQUAL(over_ranks(prefilled.sent_bytes),
                    n_row * (query + part) * 4 + n_other * D_MODEL * 4);
    CU_ASSERT_EQUAL(decoded.sent_bytes - prefilled.sent_bytes,
                    n_other * (N_TOK - N_PREFILL) * N_LAYER * N_HEAD * part * 4);
    CU_ASSERT_EQUAL(decoded.query_bytes, prefilled.query_bytes);
    aq_engine_close(engine);
    free(logits);
}

static void bytes_are_those_of_deciding_columns(void) {
    aq_session_options options = aq_case_options(N_TOK, 77);
    expect_bytes(&options, 16, 18);
    options = aqua_options(0.75);
    expect_bytes(&options, 12 + 1, 18);
    options.wire_bf16 = true;
    expect_bytes(&options, 6 + 1, 8 + 2);
    options = aqua_options(0.5);
    expect_bytes(&options, 8 + 1, 18);
    options.k_ratio = 1;
    expect_bytes(&options, 16, 18);
    options.k_tau = 0.9; /* as many as each query needs: sent whole */
    expect_bytes(&options, 16, 18);
    options = aq_case_options(N_TOK, 77);
    options.wire_bf16 = true;
    expect_bytes(&options, 8, 8 + 2);
}

/* Planted bugs, in place of unpack_rows. */
static const aq_backend_ops *real_ops;
static const aq_session *watched;

static void forget_columns(aq_backend *be, const aq_unpack_rows_args *args) {
    const size_t n = (size_t)(args->n_row * args->form.n_dim);
    real_ops->unpack_rows(be, args);
    if (args->form.n_dim < args->form.n_col) be->ops->clear(be, args->dims, n * sizeof *args->dims);
}

/* What a rank has of its own it does not need to round; but the others have it rounded. */
static void keep_own_parts(aq_backend *be, const aq_unpack_rows_args *args) {
    const aq_step *step = &watched->step;
    const int64_t width = N_HEAD * (N_COL + 2);
    real_ops->unpack_rows(be, args);
    if (args->form.n_exact == 2 && step->n_q == 1)
        be->ops->copy(be, args->x + watched->plan.rank * width, step->part,
                      (size_t)width * sizeof(float));
}

/* How far the logits over all ranks are from those of one; of which each rank runs all. */
static double distance_from_one_rank(const aq_session_options *options, bool planted) {
    const aq_case *c = aq_case_default();
    float *a = aq_case_floats(N_TOK * N_VOCAB), *b = aq_case_floats(N_TOK * N_VOCAB);
    aq_session_stats stats[2];
    aq_comm *self = NULL;
    double apart = INFINITY;
    if (!aq_test_ok(aq_comm_open_self(&self))) return apart;
    aq_engine *all = aq_case_engine(aq_test_world(), c->model, c->projection);
    aq_engine *one = aq_case_engine(self, c->model, c->projection);
    if (all && one) {
        aq_backend_ops ops = *all->be->ops;
        real_ops = all->be->ops;
        ops.unpack_rows = forget_columns;
        if (planted) all->be->ops = &ops;
        run(all, aq_test_world(), options, a, &stats[0], &stats[1]);
        run(one, self, options, b, &stats[0], &stats[1]);
        apart = aq_case_distance_f32(a, b, N_TOK * N_VOCAB);
        all->be->ops = real_ops;
    }
    aq_engine_close(one);
    aq_engine_close(all);
    aq_comm_close(self);
    free(a);
    free(b);
    return apart;
}

static void logits_are_those_of_one_rank(void) {
    const bool several = aq_comm_size(aq_test_world()) > 1;
    aq_session_options options = aqua_options(0.5);
    CU_ASSERT_TRUE(distance_from_one_rank(&options, false) <= 1e-5);
    if (several) CU_ASSERT_TRUE(distance_from_one_rank(&options, true) > 1e-3);
    options.s_ratio = 0.75;
    options.k_ratio = 0.25;
    CU_ASSERT_TRUE(distance_from_one_rank(&options, false) <= 1e-5);
}

/* Rounding has a relative error of 2^-8; one rank sends nothing. With aqua it also decides between
 * columns of nearly the same energy, which counts least where all but one decide. */
static void bf16_is_near(void) {
    const bool several = aq_comm_size(aq_test_world()) > 1;
    for (int i = 0; i < 2; i++) {
        aq_session_options options = i == 0 ? aq_case_options(N_TOK, 77) : aqua_options(0.94);
        options.wire_bf16 = true;
        const double apart = distance_from_one_rank(&options, false);
        printf("  %s: %.1e of the range\n", i == 0 ? "dense" : "aqua", apart);
        CU_ASSERT_TRUE(several ? apart > 1e-5 && apart < 2e-2 : apart == 0);
    }
}

/* Whether the logits behind each of some decoded tokens have the same bits on all ranks. */
static bool ranks_agree(aq_engine *engine, bool planted) {
    aq_session_options options = aq_case_options(N_TOK, 77);
    aq_backend_ops ops = *engine->be->ops;
    int32_t ids[N_TOK];
    float logits[N_VOCAB], first[N_VOCAB];
    int64_t n_other = 0;
    options.wire_bf16 = true;
    aq_session *session = aq_case_session(engine, &options);
    if (!session) return false;
    aq_case_ids(6, N_TOK, ids);
    real_ops = engine->be->ops;
    watched = session;
    ops.unpack_rows = keep_own_parts;
    if (planted) engine->be->ops = &ops;
    aq_test_ok(aq_session_prefill(session, ids, N_PREFILL, NULL));
    for (int64_t t = N_PREFILL; t < N_TOK; t++) {
        aq_test_ok(aq_session_decode(session, ids[t]));
        aq_test_ok(aq_session_logits(session, logits));
        memcpy(first, logits, sizeof first);
        aq_test_ok(aq_comm_bcast(aq_test_world(), first, sizeof first, 0));
        n_other += memcmp(first, logits, sizeof first) != 0;
    }
    engine->be->ops = real_ops;
    aq_session_close(session);
    return over_ranks(n_other) == 0;
}

static void bf16_has_the_same_bits_on_all_ranks(void) {
    const aq_case *c = aq_case_default();
    aq_engine *engine = aq_case_engine(aq_test_world(), c->model, c->projection);
    if (!engine) return;
    CU_ASSERT_TRUE(ranks_agree(engine, false));
    if (aq_comm_size(aq_test_world()) > 1) CU_ASSERT_FALSE(ranks_agree(engine, true));
    aq_engine_close(engine);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "bytes are those of deciding columns", bytes_are_those_of_deciding_columns);
    CU_add_test(suite, "logits are those of one rank", logits_are_those_of_one_rank);
    CU_add_test(suite, "bf16 is near", bf16_is_near);
    CU_add_test(suite, "bf16 has the same bits on all ranks", bf16_has_the_same_bits_on_all_ranks);
}
