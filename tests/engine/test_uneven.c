/* Ranks of unequal shares, some of them without any: the logits of one rank in every way of
 * attention, the same bits again, and a cache divided in proportion. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/session.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

/* Of the range of the logits; both sides are fp32 with their own order of sums. */
#define TOLERANCE 1e-5

/* More tiles than any period below; the last tokens by decode, over a border of tiles. */
enum { N_TOK = 660, N_PREFILL = 600, N_SPLIT = 3 };

static const int64_t splits[4][N_SPLIT][4] = {
    {{1}, {2}, {7}},
    {{3, 1}, {1, 0}, {0, 1}},
    {{1, 0, 2}, {5, 1, 1}, {0, 0, 3}},
    {{5, 1, 1, 2}, {0, 2, 0, 1}, {1, 3, 3, 3}},
};

static const int64_t *split_of(int i) {
    return splits[aq_comm_size(aq_test_world()) - 1][i];
}

/* An engine over all ranks and the same model on this rank alone. */
typedef struct {
    aq_comm *self;
    aq_engine *all, *one;
    int64_t n_vocab;
} subject;

static bool open_subject(const char *model, const char *projection, subject *s) {
    *s = (subject){.self = NULL};
    if (!aq_test_ok(aq_comm_open_self(&s->self))) return false;
    s->all = aq_case_engine(aq_test_world(), model, projection);
    s->one = aq_case_engine(s->self, model, projection);
    if (!s->all || !s->one) return false;
    s->n_vocab = aq_engine_describe(s->one).n_vocab;
    return true;
}

static void close_subject(subject *s) {
    aq_engine_close(s->all);
    aq_engine_close(s->one);
    aq_comm_close(s->self);
}

/* Logits [N_TOK, n_vocab] of a text in an open session, which is closed; to be freed. */
static float *run(aq_engine *engine, aq_comm *comm, aq_session *session) {
    const int64_t n_vocab = aq_engine_describe(engine).n_vocab;
    float *logits = aq_case_floats(N_TOK * n_vocab);
    int32_t ids[N_TOK];
    for (int i = 0; i < N_TOK; i++)
        ids[i] = (int32_t)((i * 7 + i / 5 * 31) % 250);
    if (session) {
        aq_case_prefill(engine, comm, session, ids, N_PREFILL, logits);
        aq_case_decode(engine, session, ids + N_PREFILL, N_TOK - N_PREFILL,
                       logits + N_PREFILL * n_vocab);
    }
    aq_session_close(session);
    return logits;
}

/* How far all ranks with the i-th split are from one rank. */
static double distance(const subject *s, const aq_session_options *options, int i) {
    if (!aq_test_ok(aq_engine_set_split(s->all, split_of(i)))) return INFINITY;
    float *a = run(s->all, aq_test_world(), aq_case_session(s->all, options));
    float *b = run(s->one, s->self, aq_case_session(s->one, options));
    const double d = aq_case_distance_f32(a, b, N_TOK * s->n_vocab);
    free(a);
    free(b);
    return d;
}

/* Dense, the paper's scores, and all tokens selected, in fp32. */
static void logits_are_those_of_one_rank(void) {
    static const aq_attn_mode modes[] = {AQ_ATTN_DENSE, AQ_ATTN_AQUA, AQ_ATTN_SELECT};
    const aq_case *c = aq_case_default();
    subject s;
    if (open_subject(c->model, c->projection, &s))
        for (int i = 0; i < 3 * N_SPLIT; i++) {
            aq_session_options options = aq_case_options(N_TOK, i % 2 ? 300 : 100);
            options.attn = modes[i / N_SPLIT];
            options.rank_by = AQ_RANK_ENERGY;
            options.mass = 1;
            const double found = distance(&s, &options, i % N_SPLIT);
            printf("  way %d, split %d: %.1e of the range\n", i / N_SPLIT, i % N_SPLIT, found);
            CU_ASSERT_TRUE(found <= TOLERANCE);
        }
    close_subject(&s);
}

/* A rank that puts one of its tiles in the place of another is told apart. */
static void a_wrong_place_is_rejected(void) {
    const aq_session_options options = aq_case_options(N_TOK, 100);
    subject s;
    if (open_subject(aq_case_default()->model, NULL, &s) &&
        aq_test_ok(aq_engine_set_split(s.all, split_of(0)))) {
        const aq_plan *plan = &s.all->plan;
        bool planted = false;
        for (int r = 0; r < plan->n_rank; r++)
            if (aq_plan_weight(plan, r) > 1) {
                plan->index[plan->tiles[plan->first[r] + 1]] = 0;
                planted = true;
            }
        float *a = run(s.all, aq_test_world(), aq_case_session(s.all, &options));
        float *b = run(s.one, s.self, aq_case_session(s.one, &options));
        CU_ASSERT_TRUE(!planted || aq_case_distance_f32(a, b, N_TOK * s.n_vocab) > 1e-3);
        CU_ASSERT_TRUE(planted || aq_comm_size(aq_test_world()) == 1);
        free(a);
        free(b);
    }
    close_subject(&s);
}

/* Rings of windowed layers, in steps much shorter than a window. */
static void windowed_models_agree(void) {
    static const char *const names[] = {"gemma3", "mistral_swa"};
    for (int m = 0; m < 2; m++) {
        const aq_session_options options = aq_case_options(N_TOK, 40);
        char path[AQ_CASE_PATH_BYTES];
        subject s;
        snprintf(path, sizeof path, "%s/hf/%s", aq_test_data_dir(), names[m]);
        if (open_subject(path, NULL, &s))
            for (int i = 0; i < N_SPLIT; i++)
                CU_ASSERT_TRUE(distance(&s, &options, i) <= TOLERANCE);
        close_subject(&s);
    }
}

/* Select with codes, as programs use it: the same bits each time. */
static void selecting_is_repeatable(void) {
    const aq_case *c = aq_case_default();
    aq_session_options options = aq_case_options(N_TOK, 100);
    options.attn = AQ_ATTN_SELECT;
    options.mass = 0.9;
    options.n_sink = 4;
    options.n_recent = 16;
    options.codes = (aq_code_layout){1, {{16, 8}}};
    options.key_type = options.value_type = AQ_KV_Q8;
    aq_engine *engine = aq_case_engine(aq_test_world(), c->model, c->projection);
    for (int i = 0; engine && i < N_SPLIT; i++) {
        float *logits[2] = {NULL, NULL};
        if (!aq_test_ok(aq_engine_set_split(engine, split_of(i)))) break;
        for (int again = 0; again < 2; again++)
            logits[again] = run(engine, aq_test_world(), aq_case_session(engine, &options));
        const size_t bytes = (size_t)(N_TOK * aq_engine_describe(engine).n_vocab) * sizeof(float);
        CU_ASSERT_EQUAL(memcmp(logits[0], logits[1], bytes), 0);
        free(logits[0]);
        free(logits[1]);
    }
    aq_engine_close(engine);
}

/* Every rank holds its share and no more, and tells it. */
static void the_cache_is_divided_in_proportion(void) {
    const int rank = aq_comm_rank(aq_test_world()), n_rank = aq_comm_size(aq_test_world());
    const aq_session_options options = aq_case_options(N_TOK, 100);
    aq_engine *engine = aq_case_engine(aq_test_world(), aq_case_default()->model, NULL);
    for (int i = 0; engine && i < N_SPLIT; i++) {
        const int64_t *split = split_of(i);
        int64_t all = 0;
        for (int r = 0; r < n_rank; r++)
            all += split[r];
        aq_test_ok(aq_engine_set_split(engine, split));
        aq_session *session = aq_case_session(engine, &options);
        if (!session) break;
        int32_t ids[N_TOK];
        aq_case_ids(9, N_TOK, ids);
        aq_test_ok(aq_session_prefill(session, ids, N_TOK, NULL));
        const aq_session_stats stats = aq_session_describe(session);
        const double exact = (double)N_TOK * (double)split[rank] / (double)all;
        CU_ASSERT_TRUE(fabs((double)stats.n_tok_owned - exact) < 2 * AQ_TILE);
        CU_ASSERT_TRUE(split[rank] > 0 || (stats.n_tok_owned == 0 && stats.key_capacity == 0 &&
                                           stats.value_capacity == 0));
        CU_ASSERT_TRUE(all == split[rank] ? stats.split == 1 : stats.split == split[rank]);
        /* 2 layers, 2 KV heads, 16 columns of 4 bytes, in whole tiles */
        const int64_t tiles = (stats.n_tok_owned + AQ_TILE - 1) / AQ_TILE;
        CU_ASSERT_EQUAL(stats.key_capacity, tiles * AQ_TILE * 2 * 2 * 16 * 4);
        int64_t sum = stats.n_tok_owned;
        aq_test_ok(aq_comm_sum_i64(aq_test_world(), &sum, 1));
        CU_ASSERT_EQUAL(sum, N_TOK);
        aq_session_close(session);
    }
    aq_engine_close(engine);
}

/* What another session leaves is taken over tile by tile, whoever holds it. */
static void recoding_keeps_tiles_where_they_are(void) {
    const aq_case *c = aq_case_default();
    const aq_session_options dense = aq_case_options(N_TOK, 100);
    aq_session_options aqua = dense;
    int32_t ids[N_TOK];
    subject s;
    aqua.attn = AQ_ATTN_AQUA;
    aqua.k_ratio = 1; /* dense attention in another basis */
    aq_case_ids(9, N_TOK, ids);
    if (open_subject(c->model, c->projection, &s))
        for (int i = 0; i < N_SPLIT; i++) {
            float *a = aq_case_floats(N_TOK * s.n_vocab), *b = aq_case_floats(N_TOK * s.n_vocab);
            aq_test_ok(aq_engine_set_split(s.all, split_of(i)));
            aq_session *from = aq_case_session(s.all, &dense), *to = aq_case_session(s.all, &aqua);
            aq_session *one = aq_case_session(s.one, &dense);
            if (from && to && one) {
                aq_test_ok(aq_session_prefill(from, ids, N_PREFILL, NULL));
                aq_test_ok(aq_session_prefill(one, ids, N_PREFILL, NULL));
                aq_test_ok(aq_session_recode(to, from));
                aq_case_decode(s.all, to, ids + N_PREFILL, N_TOK - N_PREFILL, a);
                aq_case_decode(s.one, one, ids + N_PREFILL, N_TOK - N_PREFILL, b);
                const int64_t n = (N_TOK - N_PREFILL) * s.n_vocab;
                CU_ASSERT_TRUE(aq_case_distance_f32(a, b, n) <= TOLERANCE);
            }
            aq_session_close(from);
            aq_session_close(to);
            aq_session_close(one);
            free(a);
            free(b);
        }
    close_subject(&s);
}

static void wrong_splits_are_refused(void) {
    const int64_t none[] = {0, 0, 0, 0}, negative[] = {-1, 1, 1, 1};
    const int64_t mine[] = {1 + aq_comm_rank(aq_test_world()), 1, 1, 1};
    const aq_session_options options = aq_case_options(N_TOK, 100);
    aq_engine *engine = aq_case_engine(aq_test_world(), aq_case_default()->model, NULL);
    if (!engine) return;
    aq_test_fails(aq_engine_set_split(engine, none), AQ_ERR_USAGE, "a share of 0");
    aq_test_fails(aq_engine_set_split(engine, negative), AQ_ERR_USAGE, "rank 0 is negative");
    if (aq_comm_size(aq_test_world()) > 1)
        aq_test_fails(aq_engine_set_split(engine, mine), AQ_ERR_MISMATCH, "the same --split");
    aq_session *session = aq_case_session(engine, &options);
    aq_test_fails(aq_engine_set_split(engine, NULL), AQ_ERR_USAGE, "no session is open");
    aq_session_close(session);
    aq_test_ok(aq_engine_set_split(engine, NULL));
    aq_engine_close(engine);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "logits are those of one rank", logits_are_those_of_one_rank);
    CU_add_test(suite, "a wrong place is rejected", a_wrong_place_is_rejected);
    CU_add_test(suite, "windowed models agree", windowed_models_agree);
    CU_add_test(suite, "selecting is repeatable", selecting_is_repeatable);
    CU_add_test(suite, "the cache is divided in proportion", the_cache_is_divided_in_proportion);
    CU_add_test(suite, "recoding keeps tiles where they are", recoding_keeps_tiles_where_they_are);
    CU_add_test(suite, "wrong splits are refused", wrong_splits_are_refused);
}
