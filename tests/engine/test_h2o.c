/* H2O: who is dropped, where new tokens go, and how much room that takes; and whole models that
 * drop tokens, on any number of ranks, against the oracle that drops the same. */
#include "src/engine/h2o.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/engine/session.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/oracle_model.h"
#include "tests/support/suite.h"

typedef enum { NO_BUG, SINKS_GO, RECENT_GO, MOST_GO, NEWER_FIRST } planted_bug;

enum { N_CTX = 1000, MAX_SLOT = 16 * AQ_TILE };

/* What a layer holds, on its own: a list without order. */
typedef struct {
    int64_t n;
    int64_t pos[MAX_SLOT];
    float acc[MAX_SLOT];
} token_list;

/* Whether token i of the list goes before token j. */
static bool goes_before(const token_list *l, int64_t i, int64_t j, int64_t recent_from,
                        planted_bug bug) {
    const bool recent_i = bug != RECENT_GO && l->pos[i] >= recent_from;
    const bool recent_j = bug != RECENT_GO && l->pos[j] >= recent_from;
    if (recent_i != recent_j) return recent_j;
    if (!recent_i && l->acc[i] != l->acc[j])
        return bug == MOST_GO ? l->acc[i] > l->acc[j] : l->acc[i] < l->acc[j];
    return bug == NEWER_FIRST ? l->pos[i] > l->pos[j] : l->pos[i] < l->pos[j];
}

/* Drops one token after the other, looking at all each time. */
static void reference(token_list *l, int64_t n_keep, int64_t recent_from, planted_bug bug) {
    while (l->n > n_keep) {
        int64_t first = -1;
        for (int64_t i = 0; i < l->n; i++)
            if ((bug == SINKS_GO || l->pos[i] >= 4) &&
                (first < 0 || goes_before(l, i, first, recent_from, bug)))
                first = i;
        if (first < 0) return;
        l->pos[first] = l->pos[--l->n];
        l->acc[first] = l->acc[l->n];
    }
}

static token_list list_of(const aq_h2o_layer *layer) {
    token_list l = {.n = 0};
    for (int64_t s = 0; s < layer->n_tile * AQ_TILE; s++) {
        if (layer->slot_pos[s] == AQ_H2O_FREE) continue;
        l.pos[l.n] = layer->slot_pos[s];
        l.acc[l.n++] = layer->acc[s];
    }
    return l;
}

/* Whether the layer holds the tokens of the list. */
static bool same_tokens(const aq_h2o_layer *layer, const token_list *l) {
    if (aq_h2o_held(layer) != l->n) return false;
    float acc_at[N_CTX];
    bool there[N_CTX] = {false};
    for (int64_t s = 0; s < layer->n_tile * AQ_TILE; s++) {
        if (layer->slot_pos[s] == AQ_H2O_FREE) continue;
        there[layer->slot_pos[s]] = true;
        acc_at[layer->slot_pos[s]] = layer->acc[s];
    }
    for (int64_t i = 0; i < l->n; i++)
        if (!there[l->pos[i]] || acc_at[l->pos[i]] != l->acc[i]) return false;
    return true;
}

/* Free slots have no attention, and the directory of tiles tells what is in them. */
static void check_directory(const aq_h2o_layer *layer) {
    int64_t n_used = 0;
    for (int64_t tile = 0; tile < layer->n_tile; tile++) {
        int64_t first = AQ_H2O_FREE;
        for (int64_t s = tile * AQ_TILE; s < (tile + 1) * AQ_TILE; s++) {
            if (layer->slot_pos[s] < first) first = layer->slot_pos[s];
            if (layer->slot_pos[s] == AQ_H2O_FREE) CU_ASSERT_EQUAL(layer->acc[s], 0.0f);
        }
        CU_ASSERT_EQUAL(layer->tile_pos[tile], first);
        if (first != AQ_H2O_FREE) n_used = tile + 1;
    }
    CU_ASSERT_EQUAL(aq_h2o_used(layer), n_used);
}

static aq_backend *open_backend(void) {
    aq_backend *be = NULL;
    aq_test_ok(aq_backend_cpu_open(1, AQ_ISA_PORTABLE, &be));
    return be;
}

/* Attention of the kinds there are: all unlike, with many equal ones, none at all. */
static void give_attention(const aq_h2o_layer *layer, aq_rng *rng, int kind) {
    for (int64_t s = 0; s < layer->n_tile * AQ_TILE; s++) {
        const double u = aq_rng_uniform(rng);
        if (layer->slot_pos[s] == AQ_H2O_FREE || kind == 2) continue;
        layer->acc[s] += kind == 0 ? (float)u : (float)(int)(u * 3);
    }
}

/* Steps of a text on one rank. Returns how many evictions the reference with the bug does
 * otherwise. */
static int run_text(aq_backend *be, const aq_plan *plan, int64_t n_keep, int64_t n_step, int kind,
                    planted_bug bug) {
    aq_rng rng = {(uint64_t)(n_keep * 10 + kind)};
    aq_h2o h2o;
    int n_unlike = 0;
    if (!aq_test_ok(aq_h2o_open(be, plan, 2, n_keep, n_step, N_CTX, &h2o))) return 0;
    const aq_h2o_layer layer = aq_h2o_at(&h2o, 1);
    int64_t *pos = calloc(N_CTX, sizeof *pos);
    for (int64_t begin = 0, i = 0; pos && begin < N_CTX; i++) {
        const int64_t n = i % 3 == 1 ? 1 + n_step / 2 : n_step;
        const int64_t end = begin + n < N_CTX ? begin + n : N_CTX;
        const int64_t n_tok = aq_plan_owned(plan, plan->rank, begin, end, pos);
        CU_ASSERT_TRUE(aq_h2o_held(&layer) + n_tok <= layer.n_tile * AQ_TILE);
        aq_h2o_place(&layer, pos, n_tok, h2o.slot);
        for (int64_t t = 0; t < n_tok; t++)
            CU_ASSERT_TRUE(layer.slot_pos[h2o.slot[t]] == pos[t] &&
                           (t == 0 || h2o.slot[t] > h2o.slot[t - 1]));
        give_attention(&layer, &rng, kind);
        token_list expected = list_of(&layer);
        reference(&expected, h2o.n_keep, end - h2o.n_recent, bug);
        const int64_t n_before = aq_h2o_held(&layer);
        const int64_t n_gone = aq_h2o_evict(&layer, h2o.n_keep, end - h2o.n_recent, h2o.work);
        CU_ASSERT_EQUAL(n_before - n_gone, aq_h2o_held(&layer));
        CU_ASSERT_TRUE(aq_h2o_held(&layer) <= h2o.n_keep);
        if (end <= n_keep) CU_ASSERT_EQUAL(n_gone, 0);
        n_unlike += !same_tokens(&layer, &expected);
        check_directory(&layer);
        begin = end;
    }
    const aq_h2o_layer other = aq_h2o_at(&h2o, 0);
    CU_ASSERT_EQUAL(aq_h2o_held(&other), 0);
    free(pos);
    aq_h2o_close(&h2o);
    return n_unlike;
}

/* The caller closes it. */
static aq_plan open_plan(int n_rank, int rank, const int64_t *weights) {
    aq_plan plan;
    aq_test_ok(aq_plan_open(n_rank, rank, weights, &plan));
    return plan;
}

static void the_least_attended_go(void) {
    static const int64_t keeps[] = {16, 64, 130, 400, 1000}, steps[] = {1, 20, 256};
    static const int64_t uneven[] = {3, 1, 2, 0};
    aq_backend *be = open_backend();
    int n_found[NEWER_FIRST + 1] = {0};
    for (int n_rank = 1; be && n_rank <= 4; n_rank++)
        for (int i = 0; i < 15; i++)
            for (int bug = NO_BUG; bug <= NEWER_FIRST; bug++) {
                aq_plan plan = open_plan(n_rank, i % n_rank, i % 2 ? uneven : NULL);
                const int64_t n_keep = keeps[i % 5] < 16 * n_rank ? 16 * n_rank : keeps[i % 5];
                n_found[bug] += run_text(be, &plan, n_keep, steps[i / 5], i % 3, (planted_bug)bug);
                aq_plan_close(&plan);
            }
    CU_ASSERT_EQUAL(n_found[NO_BUG], 0);
    for (int bug = NO_BUG + 1; bug <= NEWER_FIRST; bug++)
        CU_ASSERT_TRUE(n_found[bug] > 0);
    if (be) be->ops->close(be);
}

/* Room for the share and one step, whatever the length of the text; never more than the text. */
static void room_is_bounded(void) {
    static const int64_t uneven[] = {3, 1, 0};
    aq_plan two = open_plan(2, 1, NULL);
    CU_ASSERT_EQUAL(aq_h2o_tiles(&two, 1024, 256, 1 << 20), (512 + 192 + 63) / 64);
    CU_ASSERT_EQUAL(aq_h2o_tiles(&two, 1024, 1, 1 << 20), 9);
    CU_ASSERT_EQUAL(aq_h2o_tiles(&two, 1024, 256, 400), 3);
    CU_ASSERT_EQUAL(aq_h2o_tiles(&two, 1 << 30, 256, 400), 3);
    aq_plan_close(&two);
    /* A quarter of 1024 and the tiles of a step, which are 5 at most: 2 of this rank's; and none.
     */
    for (int rank = 1; rank < 3; rank++) {
        aq_plan plan = open_plan(3, rank, uneven);
        CU_ASSERT_EQUAL(aq_h2o_tiles(&plan, 1024, 256, 1 << 20), rank == 1 ? (256 + 128) / 64 : 0);
        aq_plan_close(&plan);
    }
}

/* A reset session starts with every slot free, the first one first. */
static void reset_frees_all(void) {
    aq_plan plan = open_plan(1, 0, NULL);
    const int64_t pos[] = {0, 1, 2};
    aq_backend *be = open_backend();
    aq_h2o h2o;
    if (!be || !aq_test_ok(aq_h2o_open(be, &plan, 2, 16, 8, 100, &h2o))) return;
    const aq_h2o_layer layer = aq_h2o_at(&h2o, 1);
    for (int run = 0; run < 2; run++) {
        CU_ASSERT_EQUAL(aq_h2o_used(&layer), 0);
        aq_h2o_place(&layer, pos, 3, h2o.slot);
        CU_ASSERT_TRUE(h2o.slot[0] == 0 && h2o.slot[2] == 2);
        CU_ASSERT_TRUE(aq_h2o_held(&layer) == 3 && layer.tile_pos[0] == 0);
        layer.acc[1] = 3.0f;
        aq_h2o_reset(&h2o);
        check_directory(&layer);
    }
    aq_h2o_close(&h2o);
    aq_plan_close(&plan);
    be->ops->close(be);
}

/* A whole model: N_PREFILL of N_TEXT tokens by prefill in steps of N_STEP, the rest by decode. */
enum { N_TEXT = 260, N_PREFILL = 220, N_STEP = 50, N_VOCAB = 288 };

/* Of the range of the logits, see test_forward.c. Another token dropped differs by more than 1e-3.
 */
#define TOLERANCE 2.5e-5

static aq_session_options h2o_options(aq_attn_mode attn, int64_t n_h2o) {
    aq_session_options options = aq_case_options(N_TEXT, N_STEP);
    options.attn = attn;
    options.rank_by = AQ_RANK_ENERGY;
    options.k_ratio = 0.75;
    options.mass = 1; /* select: all tokens, whatever the codes say */
    options.n_h2o = n_h2o;
    return options;
}

static aq_engine *open_engine(void) {
    const aq_case *c = aq_case_default();
    return aq_case_engine(aq_test_world(), c->model, c->projection);
}

static void run_model(aq_engine *engine, aq_session *session, float *logits) {
    int32_t ids[N_TEXT];
    aq_case_ids(5, N_TEXT, ids);
    aq_case_prefill(engine, aq_test_world(), session, ids, N_PREFILL, logits);
    aq_case_decode(engine, session, ids + N_PREFILL, N_TEXT - N_PREFILL,
                   logits + (int64_t)N_PREFILL * N_VOCAB);
}

/* Logits [N_TEXT, N_VOCAB] of a fresh session, to be freed. */
static float *logits_of(aq_engine *engine, const aq_session_options *options) {
    float *logits = aq_case_floats(N_TEXT * N_VOCAB);
    aq_session *session = aq_case_session(engine, options);
    if (session) run_model(engine, session, logits);
    aq_session_close(session);
    return logits;
}

/* Distance of the oracle's logits from `logits`, the same on all ranks; expects no near ties where
 * nothing is wrong. */
static double distance(const aq_engine *engine, const aq_session_options *options,
                       aq_oracle_bug bug, const float *logits) {
    double *expected = aq_case_doubles(N_TEXT * N_VOCAB), d;
    const bool projects = options->attn != AQ_ATTN_DENSE;
    const aq_plan *plan = &engine->plan;
    const aq_oracle_attention attention = {
        .projection = projects ? &engine->projection : NULL,
        .n_col = 16,
        .n_dim = options->attn == AQ_ATTN_AQUA ? 12 : 16,
        .choice = AQ_ORACLE_ENERGY,
        .bug = bug,
        .evict = {options->n_h2o, N_STEP, N_PREFILL, plan->n_rank, plan->owner, plan->n_period}};
    int32_t ids[N_TEXT];
    aq_case_ids(5, N_TEXT, ids);
    if (aq_comm_rank(aq_test_world()) == 0) {
        const double narrowest =
            aq_oracle_logits(&engine->config, &engine->weights, &attention, ids, N_TEXT, expected);
        CU_ASSERT_TRUE(bug != AQ_ORACLE_RIGHT || narrowest > 1e-5);
        d = aq_case_distance(logits, expected, N_TEXT * N_VOCAB);
    }
    aq_test_ok(aq_comm_bcast(aq_test_world(), &d, sizeof d, 0));
    free(expected);
    return d;
}

static void models_drop_what_the_oracle_drops(void) {
    static const aq_attn_mode modes[] = {AQ_ATTN_DENSE, AQ_ATTN_AQUA, AQ_ATTN_SELECT};
    static const char *const names[] = {"dense", "aqua", "select"};
    const int n_rank = aq_comm_size(aq_test_world());
    aq_engine *engine = open_engine();
    for (int i = 0; engine && i < 6; i++) {
        const aq_session_options options = h2o_options(modes[i / 2], i % 2 ? 200 : 100);
        float *logits = logits_of(engine, &options);
        const double right = distance(engine, &options, AQ_ORACLE_RIGHT, logits);
        const double local = distance(engine, &options, AQ_ORACLE_LOCAL_SUM, logits);
        CU_ASSERT_TRUE(right <= TOLERANCE);
        CU_ASSERT_TRUE(n_rank == 1 || local > 1e-3);
        CU_ASSERT_TRUE(distance(engine, &options, AQ_ORACLE_NO_RECENT, logits) > 1e-3);
        printf("  %s, %d tokens kept: %.1e, local sums %.1e\n", names[i / 2], (int)options.n_h2o,
               right, local);
        free(logits);
    }
    aq_engine_close(engine);
}

/* The same where ranks have unequal shares: the last one little, and of several the second none. */
static void shares_may_be_unequal(void) {
    static const int64_t splits[4][4] = {{1}, {3, 1}, {2, 0, 1}, {2, 0, 2, 1}};
    const int n_rank = aq_comm_size(aq_test_world());
    aq_engine *engine = open_engine();
    if (!engine || n_rank > 4 || !aq_test_ok(aq_engine_set_split(engine, splits[n_rank - 1])))
        return;
    const aq_session_options options = h2o_options(AQ_ATTN_AQUA, 100);
    float *logits = logits_of(engine, &options);
    const double right = distance(engine, &options, AQ_ORACLE_RIGHT, logits);
    CU_ASSERT_TRUE(right <= TOLERANCE);
    aq_test_ok(aq_engine_set_split(engine, NULL)); /* planted: other shares than were run with */
    const double equal = distance(engine, &options, AQ_ORACLE_RIGHT, logits);
    CU_ASSERT_TRUE(n_rank == 1 || equal > 1e-3);
    printf("  unequal shares: %.1e, of equal ones %.1e\n", right, equal);
    free(logits);
    aq_engine_close(engine);
}

/* Room for as many tokens as there are: to the bit what a session does that drops nothing. */
static void keeping_all_is_exact(void) {
    static const aq_attn_mode modes[] = {AQ_ATTN_DENSE, AQ_ATTN_AQUA};
    aq_engine *engine = open_engine();
    for (int i = 0; engine && i < 2; i++) {
        const aq_session_options all = h2o_options(modes[i], 0);
        const aq_session_options h2o = h2o_options(modes[i], N_TEXT);
        const aq_session_options less = h2o_options(modes[i], N_TEXT / 2);
        float *a = logits_of(engine, &all), *b = logits_of(engine, &h2o);
        float *c = logits_of(engine, &less);
        CU_ASSERT_EQUAL(aq_case_distance_f32(b, a, N_TEXT * N_VOCAB), 0.0);
        CU_ASSERT_TRUE(aq_case_distance_f32(c, a, N_TEXT * N_VOCAB) > 1e-3);
        free(a);
        free(b);
        free(c);
    }
    aq_engine_close(engine);
}

/* The codes are made again as slots are used again: the tokens they choose hold the mass that was
 * asked for, about. */
static void codes_follow_the_slots(void) {
    aq_session_options options = h2o_options(AQ_ATTN_SELECT, 120);
    options.mass = 0.95;
    options.measure_mass = true;
    aq_engine *engine = open_engine();
    aq_session *session = engine ? aq_case_session(engine, &options) : NULL;
    float *logits = aq_case_floats(N_TEXT * N_VOCAB);
    if (session) {
        run_model(engine, session, logits);
        const aq_session_stats stats = aq_session_describe(session);
        double sums[] = {stats.mass_sum, (double)stats.n_mass};
        aq_test_ok(aq_comm_sum_f64(aq_test_world(), sums, 2));
        printf("  select, mass 0.95: %.4f held\n", sums[0] / sums[1]);
        CU_ASSERT_TRUE(sums[0] > 0.9 * sums[1] && sums[0] < 0.999 * sums[1]);
    }
    aq_session_close(session);
    aq_engine_close(engine);
    free(logits);
}

/* What a layer holds after the text: no more than the share, in less room than the text needs, the
 * sinks on the rank of the first tile; a session that was reset does the same again. */
static void memory_is_bounded(void) {
    const aq_session_options options = h2o_options(AQ_ATTN_AQUA, 64),
                             all = h2o_options(AQ_ATTN_AQUA, 0);
    const int n_rank = aq_comm_size(aq_test_world()), rank = aq_comm_rank(aq_test_world());
    const int64_t share = rank == 0 ? 64 : 64 / n_rank + (64 % n_rank > 0); /* 64: the first tile */
    float *logits = aq_case_floats(N_TEXT * N_VOCAB), *again = aq_case_floats(N_TEXT * N_VOCAB);
    aq_engine *engine = open_engine();
    aq_session *session = engine ? aq_case_session(engine, &options) : NULL;
    aq_session *whole = engine ? aq_case_session(engine, &all) : NULL;
    if (session && whole) {
        run_model(engine, session, logits);
        for (int layer = 0; layer < session->h2o.n_layer; layer++) {
            const aq_h2o_layer l = aq_h2o_at(&session->h2o, layer);
            int n_sink = 0;
            for (int64_t s = 0; s < l.n_tile * AQ_TILE; s++)
                n_sink += l.slot_pos[s] < AQ_H2O_SINKS;
            CU_ASSERT_EQUAL(n_sink, rank == 0 ? AQ_H2O_SINKS : 0);
            CU_ASSERT_TRUE(aq_h2o_held(&l) <= share);
        }
        const aq_session_stats stats = aq_session_describe(session);
        const aq_session_stats more = aq_session_describe(whole);
        CU_ASSERT_EQUAL(session->cache.full.n_tile_max, session->h2o.n_tile);
        CU_ASSERT_TRUE(stats.key_capacity <= more.key_capacity);
        CU_ASSERT_TRUE(n_rank > 1 || stats.key_capacity < more.key_capacity);
        CU_ASSERT_TRUE(stats.n_tok_owned <= share);
        CU_ASSERT_TRUE(stats.n_attended < stats.n_pair && stats.n_attended > stats.n_pair / 8);
        aq_session_reset(session);
        run_model(engine, session, again);
        CU_ASSERT_EQUAL(aq_case_distance_f32(again, logits, N_TEXT * N_VOCAB), 0.0);
    }
    aq_session_close(session);
    aq_session_close(whole);
    aq_engine_close(engine);
    free(logits);
    free(again);
}

/* Attention is given out once: over all ranks, each query and head gives 1. */
static void each_query_gives_one(void) {
    const aq_session_options options = h2o_options(AQ_ATTN_DENSE, N_TEXT);
    float *logits = aq_case_floats(N_TEXT * N_VOCAB);
    aq_engine *engine = open_engine();
    aq_session *session = engine ? aq_case_session(engine, &options) : NULL;
    double sum = 0;
    if (session) {
        run_model(engine, session, logits);
        const int64_t n_slot = session->h2o.n_layer * session->h2o.n_tile * AQ_TILE;
        for (int64_t i = 0; i < n_slot; i++)
            sum += (double)session->h2o.acc[i];
        aq_test_ok(aq_comm_sum_f64(aq_test_world(), &sum, 1));
        const double expected =
            (double)session->h2o.n_layer * N_TEXT * session->engine->config.n_head;
        CU_ASSERT_DOUBLE_EQUAL(sum, expected, 1e-4 * expected);
    }
    aq_session_close(session);
    aq_engine_close(engine);
    free(logits);
}

/* Windowed layers keep their windows, and the others drop. */
static void windowed_models_run(void) {
    char path[AQ_CASE_PATH_BYTES];
    snprintf(path, sizeof path, "%s/hf/gemma3", aq_test_data_dir());
    aq_engine *engine = aq_case_engine(aq_test_world(), path, NULL);
    aq_session_options options = aq_case_options(300, 0);
    for (int i = 0; engine && i < 2; i++) {
        options.n_h2o = i ? 300 : 64;
        aq_session *session = aq_case_session(engine, &options);
        if (!session) break;
        int32_t ids[300];
        for (int t = 0; t < 300; t++)
            ids[t] = t % engine->config.n_vocab;
        aq_test_ok(aq_session_prefill(session, ids, 280, NULL));
        for (int t = 280; t < 300; t++)
            aq_test_ok(aq_session_decode(session, ids[t]));
        CU_ASSERT_TRUE(session->h2o.n_layer > 0 && session->h2o.n_layer < engine->config.n_layer);
        CU_ASSERT_EQUAL(session->options.n_batch, 256);
        aq_session_close(session);
    }
    aq_engine_close(engine);
}

static void wrong_options_are_refused(void) {
    aq_engine *engine = open_engine();
    aq_session_options options = h2o_options(AQ_ATTN_DENSE, 100);
    aq_session *session = NULL;
    if (!engine) return;
    options.key_type = AQ_KV_Q8;
    aq_test_fails(aq_session_open(engine, &options, &session), AQ_ERR_USAGE, "f32 or bf16");
    options = h2o_options(AQ_ATTN_DENSE, -1);
    aq_test_fails(aq_session_open(engine, &options, &session), AQ_ERR_USAGE, "--h2o");
    options = h2o_options(AQ_ATTN_DENSE, 15);
    aq_test_fails(aq_session_open(engine, &options, &session), AQ_ERR_USAGE, "at least 16 tokens");
    options = h2o_options(AQ_ATTN_AQUA, 100);
    const aq_session_options dense = h2o_options(AQ_ATTN_DENSE, 0);
    session = aq_case_session(engine, &options);
    aq_session *from = aq_case_session(engine, &dense);
    if (session && from) aq_test_fails(aq_session_recode(session, from), AQ_ERR_USAGE, "--h2o");
    aq_session_close(session);
    aq_session_close(from);
    aq_engine_close(engine);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "the least attended go", the_least_attended_go);
    CU_add_test(suite, "room is bounded", room_is_bounded);
    CU_add_test(suite, "reset frees all", reset_frees_all);
    CU_add_test(suite, "models drop what the oracle drops", models_drop_what_the_oracle_drops);
    CU_add_test(suite, "shares may be unequal", shares_may_be_unequal);
    CU_add_test(suite, "keeping all is exact", keeping_all_is_exact);
    CU_add_test(suite, "codes follow the slots", codes_follow_the_slots);
    CU_add_test(suite, "memory is bounded", memory_is_bounded);
    CU_add_test(suite, "each query gives one", each_query_gives_one);
    CU_add_test(suite, "windowed models run", windowed_models_run);
    CU_add_test(suite, "wrong options are refused", wrong_options_are_refused);
}
