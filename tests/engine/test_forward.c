/* The whole forward pass against a naive one in double precision (oracle_model.h), on any number of
 * ranks, by prefill in chunks and by decode; and that the check rejects a wrong one.
 *
 * Tolerance, as a fraction of the largest logit: each of the 9 products, sums and norms that follow
 * one another in a layer adds a relative error of at most 4 sqrt(n) eps for reductions of length
 * n <= 128 (oracle.h), and they add up like independent ones: sqrt(9 n_layer) 4 sqrt(128) eps
 * = 1.2e-5 with 2 layers. Scores of size 8 turn relative errors into absolute ones in the exponent,
 * which doubles it. Wrong formulas differ by more than 1e-3.
 *
 * With a bf16 cache, of the 25600 numbers stored a few lie so near a rounding boundary that the
 * engine's fp32 and the oracle's double fall on different sides, a whole step of 2^-7 apart. A
 * value that has all the weight so moves one of the 64 numbers of attention's result by 2^-7, which
 * is 2^-7 / sqrt(64) = 1e-3 of the row; four of them meet in one token at most. Wrong formulas
 * differ by more than 6e-3. How numbers are rounded is for test_kv_append, which wants the very
 * bits. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/engine.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/oracle_model.h"
#include "tests/support/suite.h"

#define TOLERANCE      2.5e-5
#define BF16_TOLERANCE 4e-3
#define N_TOK          200
#define N_BUG_TOK      70  /* a tile and a bit */
#define N_FAMILY_TOK   150 /* three tiles: a ring of two goes round */

static aq_projection projection;

/* How a run makes scores, for the engine and for the oracle, each in its own terms. */
typedef struct {
    const char *name;
    aq_session_options engine;
    aq_oracle_attention oracle;
} way;

#define CACHE(type) .key_type = (type), .value_type = (type)
#define AQUA(s, k, rank)                                                                           \
    .attn = AQ_ATTN_AQUA, .s_ratio = (s), .k_ratio = (k), .rank_by = (rank), CACHE(AQ_KV_F32)

static const way dense = {"dense", {CACHE(AQ_KV_F32)}, {.n_col = 0}};

static const way ways[] = {
    {"dense", {CACHE(AQ_KV_F32)}, {.n_col = 0}},
    {"dense, bf16", {CACHE(AQ_KV_BF16)}, {.bf16 = true}},
    {"all columns", {AQUA(1, 1, AQ_RANK_ENERGY)}, {.n_col = 16, .n_dim = 16}},
    {"magnitude",
     {AQUA(1, .75, AQ_RANK_MAGNITUDE)},
     {NULL, 16, 12, AQ_ORACLE_MAGNITUDE, 0, 0, {0}}},
    {"energy", {AQUA(1, .5, AQ_RANK_ENERGY)}, {NULL, 16, 8, AQ_ORACLE_ENERGY, 0, 0, {0}}},
    {"stored and chosen",
     {AQUA(.75, .33, AQ_RANK_ENERGY)},
     {NULL, 12, 5, AQ_ORACLE_ENERGY, 0, 0, {0}}},
    {"more chosen than stored", {AQUA(.5, .75, AQ_RANK_ENERGY)}, {.n_col = 8, .n_dim = 8}},
    {"static", {AQUA(1, .4, AQ_RANK_STATIC)}, {.n_col = 6, .n_dim = 6}},
    {"one column", {AQUA(.01, .01, AQ_RANK_MAGNITUDE)}, {.n_col = 1, .n_dim = 1}},
};

static const int n_way = sizeof ways / sizeof ways[0];

/* The default model with its projection, for the engine and for the oracle; NULL if it fails. */
static aq_engine *open_default(void) {
    const aq_case *c = aq_case_default();
    if (!projection.pq && !aq_test_ok(aq_projection_read(c->projection, &projection))) return NULL;
    return aq_case_engine(aq_test_world(), c->model, c->projection);
}

/* The oracle's logits [n, n_vocab], to be freed. Rank 0 makes them for all. */
static double *expected(const aq_engine *engine, const way *w, aq_oracle_bug bug,
                        const int32_t *ids, int64_t n) {
    const int64_t n_number = n * engine->config.n_vocab;
    double *logits = aq_case_doubles(n_number);
    aq_oracle_attention attention = w->oracle;
    attention.bug = bug;
    attention.projection = w->engine.attn == AQ_ATTN_AQUA ? &projection : NULL;
    if (aq_comm_rank(aq_test_world()) == 0) {
        const double narrowest =
            aq_oracle_logits(&engine->config, &engine->weights, &attention, ids, n, logits);
        /* Else fp32 may well choose another column and be right. */
        CU_ASSERT_TRUE(narrowest > 1e-5 || bug != AQ_ORACLE_RIGHT);
    }
    aq_test_ok(aq_comm_bcast(aq_test_world(), logits, (size_t)n_number * sizeof *logits, 0));
    return logits;
}

/* The engine's logits [n, n_vocab] with n_prefill tokens by prefill and the rest by decode. */
static float *computed(aq_engine *engine, aq_comm *comm, const way *w, const int32_t *ids,
                       int64_t n, int64_t n_batch, int64_t n_prefill) {
    const int64_t n_vocab = engine->config.n_vocab;
    float *logits = aq_case_floats(n * n_vocab);
    aq_session_options options = w->engine;
    options.n_ctx = n;
    options.n_batch = n_batch;
    aq_session *session = aq_case_session(engine, &options);
    if (!session) return logits;
    aq_case_prefill(engine, comm, session, ids, n_prefill, logits);
    aq_case_decode(engine, session, ids + n_prefill, n - n_prefill, logits + n_prefill * n_vocab);
    aq_session_close(session);
    return logits;
}

/* Expects engine and oracle to agree on one text; says by how much they differ. */
static void compare(aq_engine *engine, const way *w, int64_t n, int64_t n_batch,
                    int64_t n_prefill) {
    const double tolerance = w->oracle.bf16 ? BF16_TOLERANCE : TOLERANCE;
    const int64_t n_number = n * engine->config.n_vocab;
    int32_t ids[N_TOK];
    aq_case_ids(3, n, ids);
    double *right = expected(engine, w, AQ_ORACLE_RIGHT, ids, n);
    float *logits = computed(engine, aq_test_world(), w, ids, n, n_batch, n_prefill);
    const double distance = aq_case_distance(logits, right, n_number);
    CU_ASSERT_TRUE(distance <= tolerance);
    printf("  %s, %d tokens, batch %d, %d prefilled: %.1e of %.1e\n", w->name, (int)n, (int)n_batch,
           (int)n_prefill, distance, tolerance);
    free(right);
    free(logits);
}

static void each_way_agrees(void) {
    aq_engine *engine = open_default();
    if (!engine) return;
    for (int i = 0; i < n_way; i++)
        compare(engine, &ways[i], N_TOK, 128, 150);
    aq_engine_close(engine);
}

/* Around the edges of tiles and chunks, with fewer tiles than ranks, with chunks of odd lengths. */
static void each_length_agrees(void) {
    static const int lengths[] = {1, 2, 63, 64, 65, 129};
    aq_engine *engine = open_default();
    if (!engine) return;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        compare(engine, &dense, lengths[i], 0, lengths[i]);
        compare(engine, &dense, lengths[i], 50, (lengths[i] + 1) / 2);
    }
    compare(engine, &dense, 70, 1, 70);
    compare(engine, &ways[4], 65, 7, 64);
    compare(engine, &ways[4], 2, 0, 1);
    aq_engine_close(engine);
}

/* Rejects every planted error: `first` to `last` - 1. */
static void rejects(aq_engine *engine, const way *w, int first, int last) {
    const int64_t n_number = N_BUG_TOK * aq_case_default()->shape.n_vocab;
    int32_t ids[N_BUG_TOK];
    aq_case_ids(3, N_BUG_TOK, ids);
    float *logits = computed(engine, aq_test_world(), w, ids, N_BUG_TOK, 0, N_BUG_TOK);
    for (int bug = first; bug < last; bug++) {
        double *wrong = expected(engine, w, (aq_oracle_bug)bug, ids, N_BUG_TOK);
        const double distance = aq_case_distance(logits, wrong, n_number);
        CU_ASSERT_TRUE(distance > 40 * TOLERANCE);
        printf("  %s, bug %d: %.1e\n", w->name, bug, distance);
        free(wrong);
    }
    free(logits);
}

/* Quantised, tied, more query heads to a KV head, a head width that is no power of two. */
static void another_shape_agrees(void) {
    aq_case c;
    int32_t ids[N_TOK];
    aq_tiny_model shape = aq_tiny_model_default();
    shape.n_head = 8;
    shape.n_layer = 3;
    shape.d_head = 20;
    shape.d_model = 96;
    shape.d_ff = 160;
    shape.tied = true;
    shape.embed_dtype = shape.attn_dtype = AQ_Q8_0;
    shape.ffn_dtype = AQ_Q5_1;
    aq_case_make(&shape, "other", &c);
    aq_engine *engine = aq_case_engine(aq_test_world(), c.model, c.projection);
    aq_case_ids(9, N_TOK, ids);
    if (engine) {
        const int64_t n_number = (int64_t)N_TOK * shape.n_vocab;
        double *right = expected(engine, &dense, AQ_ORACLE_RIGHT, ids, N_TOK);
        float *logits = computed(engine, aq_test_world(), &dense, ids, N_TOK, 100, 160);
        const double distance = aq_case_distance(logits, right, n_number);
        CU_ASSERT_TRUE(distance <= TOLERANCE);
        printf("  quantised, tied, 8 heads of 20: %.1e of %.1e\n", distance, TOLERANCE);
        free(right);
        free(logits);
    }
    aq_engine_close(engine);
}

static void planted_bugs_are_rejected(void) {
    aq_engine *engine = open_default();
    if (!engine) return;
    rejects(engine, &dense, AQ_ORACLE_RIGHT + 1, AQ_ORACLE_LLAMA_BUGS);
    rejects(engine, &ways[3], AQ_ORACLE_FAMILY_BUGS + 1, AQ_ORACLE_ALL_BUGS);
    rejects(engine, &ways[4], AQ_ORACLE_FAMILY_BUGS + 1, AQ_ORACLE_ALL_BUGS);
    rejects(engine, &ways[5], AQ_ORACLE_SWAPPED, AQ_ORACLE_ALL_BUGS);
    aq_engine_close(engine);
}

/* What each family adds to llama, and the mistakes that its model must tell apart. */
typedef struct {
    const char *model;
    aq_oracle_bug bugs[8];
} family;

static const family families[] = {
    {"mistral_swa", {AQ_ORACLE_WIDE, AQ_ORACLE_NARROW, AQ_ORACLE_RING}},
    {"gemma3",
     {AQ_ORACLE_WIDE, AQ_ORACLE_NARROW, AQ_ORACLE_RING, AQ_ORACLE_ROPE_LOCAL, AQ_ORACLE_POST_NORM,
      AQ_ORACLE_HEAD_NORM, AQ_ORACLE_EMBED, AQ_ORACLE_SCALE}},
    {"mixtral", {AQ_ORACLE_SHARES, AQ_ORACLE_GATE}},
    {"olmoe", {AQ_ORACLE_SHARES, AQ_ORACLE_HEAD_NORM}},
    {"qwen3_moe", {AQ_ORACLE_SHARES, AQ_ORACLE_HEAD_NORM}},
    {"gpt_neox", {AQ_ORACLE_SERIAL, AQ_ORACLE_BIAS, AQ_ORACLE_NORM}},
    {"opt", {AQ_ORACLE_POSITION, AQ_ORACLE_BIAS, AQ_ORACLE_NORM}},
    {"olmo2", {AQ_ORACLE_POST_NORM, AQ_ORACLE_HEAD_NORM}},
};

/* By prefill in short steps, so that rings go round, then by decode. */
static void check_family(aq_engine *engine, const way *w, const family *f) {
    const aq_model_config *config = &engine->config;
    /* As above, for this model's layers and widths. */
    const double tolerance = TOLERANCE * sqrt(config->n_layer / 2.0 * 160 / 128);
    int32_t ids[N_FAMILY_TOK];
    aq_case_ids(3, N_FAMILY_TOK, ids);
    for (int i = 0; i < N_FAMILY_TOK; i++)
        ids[i] %= config->n_vocab;
    float *logits = computed(engine, aq_test_world(), w, ids, N_FAMILY_TOK, 13, 120);
    double *right = expected(engine, w, AQ_ORACLE_RIGHT, ids, N_FAMILY_TOK);
    const double distance =
        aq_case_distance(logits, right, (int64_t)N_FAMILY_TOK * config->n_vocab);
    CU_ASSERT_TRUE(distance <= tolerance);
    printf("  %s, %s: %.1e of %.1e\n", f->model, w->name, distance, tolerance);
    free(right);
    for (int i = 0; i < 8 && f->bugs[i] != AQ_ORACLE_RIGHT; i++) {
        double *wrong = expected(engine, w, f->bugs[i], ids, N_BUG_TOK);
        const double off = aq_case_distance(logits, wrong, (int64_t)N_BUG_TOK * config->n_vocab);
        CU_ASSERT_TRUE(off > 10 * tolerance);
        printf("  %s, %s, bug %d: %.1e\n", f->model, w->name, f->bugs[i], off);
        free(wrong);
    }
    free(logits);
}

static void each_family_agrees(void) {
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        char path[AQ_CASE_PATH_BYTES];
        snprintf(path, sizeof path, "%s/hf/%s", aq_test_data_dir(), families[i].model);
        aq_engine *engine = aq_case_engine(aq_test_world(), path, NULL);
        if (engine) check_family(engine, &dense, &families[i]);
        aq_engine_close(engine);
    }
}

/* Windows at the edges of tiles, wider than a step and narrower, and wider than the context. */
static void each_window_agrees(void) {
    static const int64_t windows[] = {1, 2, 63, 64, 65, 128, 129, 400};
    static const int64_t batches[] = {5, 64, 100, 3, 65, 1, 70, 40};
    char path[AQ_CASE_PATH_BYTES];
    int32_t ids[N_TOK];
    snprintf(path, sizeof path, "%s/hf/mistral_swa", aq_test_data_dir());
    aq_engine *engine = aq_case_engine(aq_test_world(), path, NULL);
    aq_case_ids(3, N_TOK, ids);
    for (int i = 0; i < N_TOK && engine; i++)
        ids[i] %= engine->config.n_vocab;
    for (int i = 0; i < 8 && engine; i++) {
        engine->config.window = windows[i]; /* the oracle reads it too */
        double *right = expected(engine, &dense, AQ_ORACLE_RIGHT, ids, N_TOK);
        float *logits = computed(engine, aq_test_world(), &dense, ids, N_TOK, batches[i], 190);
        const double distance =
            aq_case_distance(logits, right, (int64_t)N_TOK * engine->config.n_vocab);
        CU_ASSERT_TRUE(distance <= TOLERANCE);
        printf("  window %d, batch %d: %.1e\n", (int)windows[i], (int)batches[i], distance);
        free(right);
        free(logits);
    }
    aq_engine_close(engine);
}

/* Aqua in the one layer that sees everything, dense attention over rings in the six others. */
static void aqua_leaves_windows_dense(void) {
    static const way half = {
        "energy", {AQUA(1, .5, AQ_RANK_ENERGY)}, {NULL, 32, 16, AQ_ORACLE_ENERGY, 0, 0, {0}}};
    static const family gemma3 = {
        "gemma3", {AQ_ORACLE_SWAPPED, AQ_ORACLE_OTHER_RANK, AQ_ORACLE_SAME_DIMS, AQ_ORACLE_RING}};
    const aq_projection other = projection;
    char path[AQ_CASE_PATH_BYTES], own[AQ_CASE_PATH_BYTES];
    snprintf(path, sizeof path, "%s/hf/%s", aq_test_data_dir(), gemma3.model);
    aq_case_projection(path, own);
    aq_engine *engine = aq_case_engine(aq_test_world(), path, own);
    if (engine) {
        projection = engine->projection;
        check_family(engine, &half, &gemma3);
    }
    projection = other;
    aq_engine_close(engine);
}

/* Many ranks against one, which is an engine of this rank alone. */
static void ranks_agree_with_one(void) {
    const aq_case *c = aq_case_default();
    const int64_t n_number = N_TOK * c->shape.n_vocab;
    aq_comm *self;
    int32_t ids[N_TOK];
    if (!aq_test_ok(aq_comm_open_self(&self))) return;
    aq_engine *many = aq_case_engine(aq_test_world(), c->model, c->projection);
    aq_engine *one = aq_case_engine(self, c->model, c->projection);
    aq_case_ids(5, N_TOK, ids);
    for (int i = 0; i < 2 && many && one; i++) {
        const way *w = i == 0 ? &dense : &ways[4];
        float *a = computed(many, aq_test_world(), w, ids, N_TOK, 100, 130);
        float *b = computed(one, self, w, ids, N_TOK, 77, 140);
        const double distance = aq_case_distance_f32(a, b, n_number);
        CU_ASSERT_TRUE(distance <= 1e-5);
        printf("  %s, against one rank: %.1e\n", w->name, distance);
        free(a);
        free(b);
    }
    aq_engine_close(one);
    aq_engine_close(many);
    aq_comm_close(self);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "each way of scoring agrees with the oracle", each_way_agrees);
    CU_add_test(suite, "each length agrees with the oracle", each_length_agrees);
    CU_add_test(suite, "another shape agrees with the oracle", another_shape_agrees);
    CU_add_test(suite, "planted bugs are rejected", planted_bugs_are_rejected);
    CU_add_test(suite, "each family agrees with the oracle", each_family_agrees);
    CU_add_test(suite, "each window agrees with the oracle", each_window_agrees);
    CU_add_test(suite, "aqua leaves windows dense", aqua_leaves_windows_dense);
    CU_add_test(suite, "many ranks agree with one", ranks_agree_with_one);
}
