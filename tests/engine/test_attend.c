/* Attention over ranks in the ways that do not read everything: with all mass asked for they are
 * dense; with less, the figures of what was read and held are right. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/session.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

enum { N_TOK = 300, N_PREFILL = 280, N_VOCAB = 288 };

static aq_session_options select_options(double mass) {
    aq_session_options options = aq_case_options(N_TOK, 100);
    options.attn = AQ_ATTN_SELECT;
    options.mass = mass;
    options.n_sink = 4;
    options.n_recent = 16;
    return options;
}

/* Logits [N_TOK, N_VOCAB], the last tokens by decode, and what the session counted, of all ranks.
 */
static bool run(aq_engine *engine, const aq_session_options *options, float *logits,
                aq_session_stats *stats) {
    int32_t ids[N_TOK];
    aq_session *session = aq_case_session(engine, options);
    if (!session) return false;
    aq_case_ids(3, N_TOK, ids);
    aq_case_prefill(engine, aq_test_world(), session, ids, N_PREFILL, logits);
    aq_case_decode(engine, session, ids + N_PREFILL, N_TOK - N_PREFILL,
                   logits + (int64_t)N_PREFILL * N_VOCAB);
    *stats = aq_session_describe(session);
    double sums[] = {(double)stats->n_pair, (double)stats->n_attended, (double)stats->n_byte_moved,
                     stats->mass_sum, (double)stats->n_mass};
    aq_test_ok(aq_comm_sum_f64(aq_test_world(), sums, 5));
    stats->n_pair = (int64_t)sums[0];
    stats->n_attended = (int64_t)sums[1];
    stats->n_byte_moved = (int64_t)sums[2];
    stats->mass_sum = sums[3];
    stats->n_mass = (int64_t)sums[4];
    aq_session_close(session);
    return true;
}

/* Distance of a way of attention from dense attention in fp32, in the largest logit. */
static double distance(const aq_session_options *options, aq_session_stats *stats) {
    const aq_case *c = aq_case_default();
    const aq_session_options dense = aq_case_options(N_TOK, 100);
    float *a = aq_case_floats(N_TOK * N_VOCAB), *b = aq_case_floats(N_TOK * N_VOCAB);
    double d = INFINITY;
    aq_engine *engine = aq_case_engine(aq_test_world(), c->model, c->projection);
    if (engine && run(engine, &dense, a, stats) && run(engine, options, b, stats))
        d = aq_case_distance_f32(b, a, N_TOK * N_VOCAB);
    aq_engine_close(engine);
    free(a);
    free(b);
    return d;
}

static void all_mass_is_dense(void) {
    aq_session_stats stats;
    aq_session_options options = select_options(1);
    CU_ASSERT_TRUE(distance(&options, &stats) < 1e-5);
    CU_ASSERT_EQUAL(stats.n_attended, stats.n_pair);
    /* 2 layers and 2 KV heads; in a selecting layer token p sees p + 1 tokens. */
    CU_ASSERT_EQUAL(stats.n_pair, (int64_t)2 * 2 * N_TOK * (N_TOK + 1) / 2);
}

static void coded_caches_are_near(void) {
    aq_session_stats stats;
    aq_session_options options = aq_case_options(N_TOK, 100);
    options.key_type = options.value_type = AQ_KV_Q8;
    const double q8 = distance(&options, &stats);
    CU_ASSERT_TRUE(q8 > 1e-6 && q8 < 2e-2);
    options.key_type = options.value_type = AQ_KV_Q4;
    const double q4 = distance(&options, &stats);
    CU_ASSERT_TRUE(q4 > 2 * q8 && q4 < 0.5);
    options = select_options(1);
    options.key_type = options.value_type = AQ_KV_Q8;
    const double selecting = distance(&options, &stats);
    CU_ASSERT_TRUE(selecting > 1e-6 && selecting < 2e-2);
}

/* A selector of 8 bits in all columns is nearly exact: the mass held is what was asked for, or on
 * several ranks, each of which holds its share of its own, more. A rule that took half would not
 * pass. */
static void mass_is_held(void) {
    aq_session_stats stats;
    aq_session_options options = select_options(0.9);
    options.codes = (aq_code_layout){1, {{16, 8}}};
    options.measure_mass = true;
    CU_ASSERT_TRUE(distance(&options, &stats) < 0.5);
    const double mass = stats.mass_sum / (double)stats.n_mass;
    const double share = (double)stats.n_attended / (double)stats.n_pair;
    CU_ASSERT_TRUE(mass > 0.9 && mass < 0.995);
    CU_ASSERT_TRUE(share > 0.1 && share < 0.95);
    options.mass = 0.45;
    CU_ASSERT_TRUE(distance(&options, &stats) < 1);
    CU_ASSERT_TRUE(stats.mass_sum / (double)stats.n_mass < 0.9); /* the check would see it */
}

/* What ranks leave out by the mass of all is about what one rank would: with fewer tokens than each
 * takes for its own, the mass asked for is held. One rank has nobody to ask. */
static void ranks_share_their_mass(void) {
    const int n_rank = aq_comm_size(aq_test_world());
    aq_session_stats own, shared;
    aq_session_options options = select_options(0.9);
    options.codes = (aq_code_layout){1, {{16, 8}}};
    options.measure_mass = true;
    distance(&options, &own);
    options.mass_exchange = true;
    CU_ASSERT_TRUE(distance(&options, &shared) < 0.5);
    CU_ASSERT_TRUE(shared.mass_sum / (double)shared.n_mass > 0.9);
    if (n_rank == 1) CU_ASSERT_EQUAL(shared.n_attended, own.n_attended);
    if (n_rank > 1) CU_ASSERT_TRUE(shared.n_attended < own.n_attended);
    printf("  attended: %.4f, each for its own %.4f; mass %.4f, %.4f\n",
           (double)shared.n_attended / (double)shared.n_pair,
           (double)own.n_attended / (double)own.n_pair, shared.mass_sum / (double)shared.n_mass,
           own.mass_sum / (double)own.n_mass);
    options.mass = 1;
    CU_ASSERT_TRUE(distance(&options, &shared) < 1e-5);
}

/* With next to no mass asked for, what is attended to is the window, the sinks, and at most the one
 * heaviest token of each shard. */
static void the_recent_window(void) {
    aq_session_stats stats;
    aq_session_options options = select_options(1e-9);
    options.n_sink = 0;
    options.n_recent = 32;
    distance(&options, &stats);
    int64_t near = 0;
    for (int64_t p = 0; p < N_TOK; p++)
        near += p + 1 < options.n_recent ? p + 1 : options.n_recent;
    near *= 4; /* layers times KV heads */
    const int64_t n_row = 4 * N_TOK;
    CU_ASSERT_TRUE(stats.n_attended >= near);
    CU_ASSERT_TRUE(stats.n_attended <= near + n_row * aq_comm_size(aq_test_world()));
    const int64_t with_32 = stats.n_attended;
    options.n_recent = 0; /* forgotten: not within the bounds above */
    distance(&options, &stats);
    CU_ASSERT_TRUE(stats.n_attended < near && with_32 > 4 * stats.n_attended);
}

/* All pages are dense attention; half of them, of each rank's own, are half of what it sees, but
 * for the pages in any case. Bounds of 8 bits: 2 * 16 / 8 bytes a token, and 4 bytes a column a
 * tile. */
static void whole_pages(void) {
    aq_session_stats stats;
    aq_session_options options = aq_case_options(N_TOK, 100);
    options.attn = AQ_ATTN_PAGES;
    options.n_page = 8;
    options.page_share = 1;
    CU_ASSERT_TRUE(distance(&options, &stats) < 1e-5);
    CU_ASSERT_EQUAL(stats.n_attended, stats.n_pair);
    CU_ASSERT_EQUAL(stats.n_pair, (int64_t)2 * 2 * N_TOK * (N_TOK + 1) / 2);
    options.page_share = 0.5;
    options.measure_mass = true;
    const double half = distance(&options, &stats);
    const double share = (double)stats.n_attended / (double)stats.n_pair;
    CU_ASSERT_TRUE(half > 1e-4 && half < 1);
    CU_ASSERT_TRUE(share > 0.49 && share < 0.6);
    CU_ASSERT_TRUE(stats.mass_sum / (double)stats.n_mass > share + 0.05); /* better than chance */
    const double selector = 2.0 * 16 / 8 + 4.0 * 16 / 64, token = 2 * 16 * 4;
    const double moved = selector * (double)stats.n_pair + token * (double)stats.n_attended;
    CU_ASSERT_DOUBLE_EQUAL((double)stats.n_byte_moved / moved, 1, 1e-3);
    options.n_dense_layer = 2;
    CU_ASSERT_TRUE(distance(&options, &stats) < 1e-5);
}

static void dense_prefill_selects_in_decode_only(void) {
    aq_session_stats stats;
    aq_session_options options = select_options(1e-9);
    options.dense_prefill = true;
    distance(&options, &stats);
    const int64_t n_dense = (int64_t)4 * N_PREFILL * (N_PREFILL + 1) / 2;
    CU_ASSERT_TRUE(stats.n_attended > n_dense && stats.n_attended < stats.n_pair);
    CU_ASSERT_TRUE(stats.n_attended - n_dense < (stats.n_pair - n_dense) / 2);
}

/* Bytes that dense attention moves are those of the cache; selecting moves fewer. */
static void bytes_moved(void) {
    aq_session_stats stats;
    aq_session_options options = aq_case_options(N_TOK, 100);
    distance(&options, &stats);
    CU_ASSERT_EQUAL(stats.n_byte_moved, stats.n_pair * 2 * 16 * 4);
    options.attn = AQ_ATTN_AQUA;
    options.rank_by = AQ_RANK_STATIC;
    options.k_ratio = 0.5;
    distance(&options, &stats);
    CU_ASSERT_EQUAL(stats.n_byte_moved, stats.n_pair * (16 / 2 + 16) * 4);
    options.rank_by = AQ_RANK_ENERGY; /* two heads choose: between one set of columns and two */
    distance(&options, &stats);
    const double columns = (double)stats.n_byte_moved / (double)stats.n_pair / 4 - 16;
    CU_ASSERT_TRUE(columns > 8 && columns < 16);
}

static void the_same_bits_again(void) {
    const aq_case *c = aq_case_default();
    aq_session_options options = select_options(0.9);
    options.key_type = options.value_type = AQ_KV_Q8;
    float *a = aq_case_floats(N_TOK * N_VOCAB), *b = aq_case_floats(N_TOK * N_VOCAB);
    aq_session_stats stats;
    aq_engine *engine = aq_case_engine(aq_test_world(), c->model, c->projection);
    if (engine && run(engine, &options, a, &stats) && run(engine, &options, b, &stats))
        CU_ASSERT_EQUAL(memcmp(a, b, (size_t)N_TOK * N_VOCAB * sizeof *a), 0);
    aq_engine_close(engine);
    free(a);
    free(b);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "all mass is dense", all_mass_is_dense);
    CU_add_test(suite, "coded caches are near", coded_caches_are_near);
    CU_add_test(suite, "mass is held", mass_is_held);
    CU_add_test(suite, "ranks share their mass", ranks_share_their_mass);
    CU_add_test(suite, "the recent window", the_recent_window);
    CU_add_test(suite, "whole pages", whole_pages);
    CU_add_test(suite, "dense prefill selects in decode only",
                dense_prefill_selects_in_decode_only);
    CU_add_test(suite, "bytes moved", bytes_moved);
    CU_add_test(suite, "the same bits again", the_same_bits_again);
}
