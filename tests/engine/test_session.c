/* A session from outside: the same bits again, memory per rank, refusals with one text on all
 * ranks, and no memory left behind when one rank cannot go on. */
#include "src/engine/session.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/projection_file.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

#define N_TOK   150
#define N_VOCAB 288

static aq_engine *open_engine(void) {
    const aq_case *c = aq_case_default();
    return aq_case_engine(aq_test_world(), c->model, c->projection);
}

static aq_session_options aqua_options(int64_t n_ctx, int64_t n_batch) {
    aq_session_options options = aq_case_options(n_ctx, n_batch);
    options.attn = AQ_ATTN_AQUA;
    options.rank_by = AQ_RANK_ENERGY;
    return options;
}

/* Logits [N_TOK, N_VOCAB] of one text, most of it by prefill. */
static void run(aq_engine *engine, aq_session *session, uint64_t seed, float *logits) {
    int32_t ids[N_TOK];
    aq_case_ids(seed, N_TOK, ids);
    aq_case_prefill(engine, aq_test_world(), session, ids, 130, logits);
    aq_case_decode(engine, session, ids + 130, N_TOK - 130, logits + 130 * N_VOCAB);
}

/* After a reset and in another session: nothing of what was there before shows. */
static void the_same_again_gives_the_same_bits(void) {
    aq_engine *engine = open_engine();
    const size_t bytes = N_TOK * N_VOCAB * sizeof(float);
    float *a = aq_case_floats(N_TOK * N_VOCAB), *b = aq_case_floats(N_TOK * N_VOCAB);
    for (int i = 0; i < 2 && engine; i++) {
        const aq_session_options options = i ? aqua_options(N_TOK, 50) : aq_case_options(N_TOK, 50);
        aq_session *first = aq_case_session(engine, &options);
        aq_session *second = aq_case_session(engine, &options);
        if (!first || !second) break;
        run(engine, first, 1, a);
        run(engine, second, 1, b);
        CU_ASSERT_EQUAL(memcmp(a, b, bytes), 0);
        aq_session_reset(second);
        CU_ASSERT_EQUAL(aq_session_length(second), 0);
        run(engine, second, 2, b);
        CU_ASSERT_NOT_EQUAL(memcmp(a, b, bytes), 0); /* the comparison sees another text */
        aq_session_reset(second);
        run(engine, second, 1, b);
        CU_ASSERT_EQUAL(memcmp(a, b, bytes), 0);
        aq_session_close(first);
        aq_session_close(second);
    }
    free(a);
    free(b);
    aq_engine_close(engine);
}

/* Logits [n_vocab] behind n tokens, prefilled in the session as it is after a reset. */
static void last_logits(aq_session *session, const int32_t *ids, int64_t n, float *logits) {
    aq_session_reset(session);
    aq_test_ok(aq_session_prefill(session, ids, n, NULL));
    aq_test_ok(aq_session_logits(session, logits));
}

/* Rings hold tiles of the text before: a new text sees none of them, wherever it ends. */
static void a_reset_empties_rings(void) {
    static const int64_t lengths[] = {1, 40, 64, 65, 130, 200, 280};
    char path[AQ_CASE_PATH_BYTES];
    float used[256], fresh[256];
    int32_t ids[300], other[300];
    const aq_session_options options = aq_case_options(300, 16);
    snprintf(path, sizeof path, "%s/hf/mistral_swa", aq_test_data_dir());
    aq_engine *engine = aq_case_engine(aq_test_world(), path, NULL);
    for (int i = 0; i < 300; i++) {
        ids[i] = i * 7 % 256;
        other[i] = i * 11 % 256;
    }
    for (int i = 0; i < 7 && engine; i++) {
        aq_session *a = aq_case_session(engine, &options), *b = aq_case_session(engine, &options);
        if (a && b) {
            last_logits(a, other, 300, used);
            last_logits(a, ids, lengths[i], used);
            last_logits(b, ids, lengths[i], fresh);
            CU_ASSERT_EQUAL(memcmp(used, fresh, sizeof used), 0);
        }
        aq_session_close(a);
        aq_session_close(b);
    }
    aq_engine_close(engine);
}

/* Every rank can give the next token's logits, the same bits, after prefill and after decode. */
static void every_rank_has_the_same_logits(void) {
    aq_engine *engine = open_engine();
    const aq_session_options options = aqua_options(N_TOK, 0);
    float logits[N_VOCAB], first[N_VOCAB];
    int32_t ids[N_TOK];
    if (!engine) return;
    aq_session *session = aq_case_session(engine, &options);
    aq_case_ids(4, N_TOK, ids);
    for (int64_t n = 0; session && n < 3; n++) {
        if (n == 0) aq_test_ok(aq_session_prefill(session, ids, 70, NULL));
        if (n > 0) aq_test_ok(aq_session_decode(session, ids[70 + n]));
        aq_test_ok(aq_session_logits(session, logits));
        memcpy(first, logits, sizeof first);
        aq_test_ok(aq_comm_bcast(aq_test_world(), first, sizeof first, 0));
        CU_ASSERT_EQUAL(memcmp(first, logits, sizeof first), 0);
    }
    aq_session_close(session);
    aq_engine_close(engine);
}

/* The cache of one rank by hand: 24 tiles of text, 2 layers, 2 KV heads, bf16 keys of `n_col`. */
static void check_cache(aq_engine *engine, const aq_session_options *options, int64_t n_col) {
    const int64_t n_rank = aq_comm_size(aq_test_world()), n_tok = 24 * 64;
    int32_t *ids = calloc((size_t)n_tok, sizeof *ids);
    aq_session *session = aq_case_session(engine, options);
    if (session && ids) {
        aq_test_ok(aq_session_prefill(session, ids, n_tok, NULL));
        const aq_session_stats stats = aq_session_describe(session);
        /* 24 tiles are dealt evenly to 1, 2, 3, and 4 ranks: exactly 1/P each. */
        CU_ASSERT_EQUAL(stats.n_tok_owned, n_tok / n_rank);
        CU_ASSERT_EQUAL(stats.key_bytes, 2 * 2 * n_tok / n_rank * n_col * 2);
        CU_ASSERT_EQUAL(stats.value_bytes, 2 * 2 * n_tok / n_rank * 16 * 4);
        CU_ASSERT_EQUAL(stats.key_capacity, stats.key_bytes);
        CU_ASSERT_EQUAL(stats.value_capacity, stats.value_bytes);
        CU_ASSERT_TRUE(stats.step_bytes > 0 && (n_rank == 1) == (stats.sent_bytes == 0));
    }
    aq_session_close(session);
    free(ids);
}

static void the_cache_is_divided(void) {
    aq_engine *engine = open_engine();
    aq_session_options options = aq_case_options(24 * 64, 512);
    options.key_type = AQ_KV_BF16;
    if (!engine || 24 % aq_comm_size(aq_test_world()) != 0) return;
    check_cache(engine, &options, 16);
    options.attn = AQ_ATTN_AQUA;
    check_cache(engine, &options, 16); /* --k-ratio alone saves no memory */
    options.s_ratio = 0.25;
    check_cache(engine, &options, 4);
    aq_engine_close(engine);
}

/* Bytes of the cache of a windowed model, told after a text as long as its context. */
static aq_session_stats stats_of(aq_engine *engine, int64_t n_ctx) {
    const aq_session_options options = aq_case_options(n_ctx, 32);
    int32_t *ids = calloc((size_t)n_ctx, sizeof *ids);
    aq_session *session = aq_case_session(engine, &options);
    aq_session_stats stats = {.key_bytes = -1};
    if (session && ids) {
        aq_test_ok(aq_session_prefill(session, ids, n_ctx, NULL));
        stats = aq_session_describe(session);
    }
    aq_session_close(session);
    free(ids);
    return stats;
}

/* Where every layer has a window, nothing grows; else the layers that see everything alone do. */
static void windows_bound_the_cache(void) {
    static const char *const names[] = {"mistral_swa", "gemma3"};
    const int64_t n_rank = aq_comm_size(aq_test_world()), n_tile = 6 * 2;
    for (int i = 0; i < 2; i++) {
        char path[AQ_CASE_PATH_BYTES];
        snprintf(path, sizeof path, "%s/hf/%s", aq_test_data_dir(), names[i]);
        aq_engine *engine = aq_case_engine(aq_test_world(), path, NULL);
        if (!engine || 12 % n_rank != 0) break;
        const aq_session_stats shorter = stats_of(engine, n_tile * 64);
        const aq_session_stats longer = stats_of(engine, 2 * n_tile * 64);
        const int64_t width = (int64_t)engine->config.n_kv_head * engine->config.d_head * 4;
        const int64_t grown = i == 0 ? 0 : n_tile / n_rank * 64 * width; /* one full layer */
        /* A window of 48 and a step of 32 lie on at most 3 tiles, one of 32 on 2. */
        const int64_t n_ring = ((i == 0 ? 3 : 2) + n_rank - 1) / n_rank;
        const int64_t rings = (i == 0 ? 2 : 6) * n_ring * 64 * width;
        CU_ASSERT_EQUAL(longer.key_bytes - shorter.key_bytes, grown);
        CU_ASSERT_EQUAL(longer.value_bytes - shorter.value_bytes, grown);
        CU_ASSERT_EQUAL(shorter.key_bytes, rings + grown);
        CU_ASSERT_EQUAL(longer.key_capacity, rings + 2 * grown);
        CU_ASSERT_EQUAL(longer.value_capacity, longer.key_capacity);
        printf("  %s: %lld bytes of keys for %d tokens, %lld for %d\n", names[i],
               (long long)shorter.key_bytes, (int)n_tile * 64, (long long)longer.key_bytes,
               (int)n_tile * 128);
        aq_engine_close(engine);
    }
}

/* Opening fails with that code and text on every rank. */
static void refuses(aq_engine *engine, const aq_session_options *options, aq_status code,
                    const char *text) {
    aq_session *session = NULL;
    aq_test_fails(aq_session_open(engine, options, &session), code, text);
    CU_ASSERT_PTR_NULL(session);
    aq_session_close(session);
}

static void bad_options_are_refused(void) {
    aq_engine *engine = open_engine();
    const aq_session_options good = aqua_options(100, 10);
    if (!engine) return;
    aq_session_options bad = good;
    bad.n_ctx = 0;
    refuses(engine, &bad, AQ_ERR_USAGE, "at least one token (-c)");
    bad.n_ctx = 2049;
    refuses(engine, &bad, AQ_ERR_LIMIT, "needs 2049 tokens, the model was made for 2048");
    bad = good;
    bad.n_batch = -1;
    refuses(engine, &bad, AQ_ERR_USAGE, "batch (-b)");
    bad.n_batch = (int64_t)1 << 40;
    refuses(engine, &bad, AQ_ERR_USAGE, "batch (-b)");
    static const double ratios[] = {-0.5, 1.01, NAN, INFINITY};
    for (int i = 0; i < 4; i++) {
        bad = good;
        bad.k_ratio = ratios[i];
        refuses(engine, &bad, AQ_ERR_USAGE, "--k-ratio");
        bad = good;
        bad.s_ratio = ratios[i];
        refuses(engine, &bad, AQ_ERR_USAGE, "--s-ratio");
    }
    bad = good;
    bad.key_type = AQ_KV_TYPES;
    refuses(engine, &bad, AQ_ERR_USAGE, "-ctk");
    bad = good;
    bad.value_type = AQ_KV_TYPES;
    refuses(engine, &bad, AQ_ERR_USAGE, "-ctv");
    aq_engine_close(engine);

    engine = aq_case_engine(aq_test_world(), aq_case_default()->model, NULL);
    if (engine) refuses(engine, &good, AQ_ERR_USAGE, "need a projection");
    aq_engine_close(engine);
}

/* Refused on all ranks before anything is exchanged; the session goes on as if never asked. */
static void bad_tokens_are_refused(void) {
    aq_engine *engine = open_engine();
    const aq_session_options options = aq_case_options(N_TOK, 64);
    float *a = aq_case_floats(N_TOK * N_VOCAB), *b = aq_case_floats(N_TOK * N_VOCAB);
    aq_session *session = engine ? aq_case_session(engine, &options) : NULL;
    if (session) {
        int32_t ids[N_TOK + 1] = {0};
        run(engine, session, 1, a);
        aq_session_reset(session);
        aq_test_fails(aq_session_logits(session, b), AQ_ERR_USAGE, "empty context");
        aq_test_fails(aq_session_prefill(session, ids, N_TOK + 1, NULL), AQ_ERR_LIMIT,
                      "151 more tokens do not fit: the context holds 0 of 150");
        ids[100] = N_VOCAB;
        aq_test_fails(aq_session_prefill(session, ids, N_TOK, NULL), AQ_ERR_USAGE,
                      "token 100 is id 288, outside the vocabulary of 288");
        aq_test_fails(aq_session_decode(session, -1), AQ_ERR_USAGE, "id -1");
        CU_ASSERT_EQUAL(aq_session_length(session), 0);
        run(engine, session, 1, b);
        CU_ASSERT_EQUAL(memcmp(a, b, N_TOK * N_VOCAB * sizeof(float)), 0);
        aq_test_fails(aq_session_decode(session, 0), AQ_ERR_LIMIT, "1 more tokens do not fit");
        CU_ASSERT_EQUAL(aq_session_length(session), N_TOK);
    }
    aq_session_close(session);
    aq_engine_close(engine);
    free(a);
    free(b);
}

static const aq_backend_ops *real_ops;
static int n_until_refusal; /* blocks given before one is refused; negative: none is */
static int n_live;

static aq_status alloc_or_refuse(aq_backend *be, size_t bytes, void **out) {
    *out = NULL;
    if (n_until_refusal-- == 0) return aq_fail(AQ_ERR_MEMORY, "no memory for %zu bytes", bytes);
    const aq_status status = real_ops->alloc(be, bytes, out);
    n_live += status == AQ_OK;
    return status;
}

static void release_counted(aq_backend *be, void *memory) {
    n_live -= memory != NULL;
    real_ops->release(be, memory);
}

/* Whichever block it is that one rank does not get: all ranks hear of it, nothing is left. */
static void one_rank_without_memory_stops_all(void) {
    aq_engine *engine = open_engine();
    const aq_session_options options = aqua_options(100, 10);
    const int n_rank = aq_comm_size(aq_test_world()), last = n_rank - 1;
    char from[64] = "no memory";
    if (!engine) return;
    if (n_rank > 1) snprintf(from, sizeof from, "rank %d on ", last);
    real_ops = engine->be->ops;
    aq_backend_ops counting = *real_ops;
    counting.alloc = alloc_or_refuse;
    counting.release = release_counted;
    engine->be->ops = &counting;
    aq_session *session = NULL;
    int n_block = 0;
    /* Keys, values, tile directory, step, rope, sigma, hidden row: seven blocks. */
    for (aq_status status = AQ_ERR_MEMORY; status != AQ_OK && n_block < 20; n_block++) {
        n_until_refusal = aq_comm_rank(aq_test_world()) == last ? n_block : -1;
        status = aq_session_open(engine, &options, &session);
        if (status == AQ_OK) break;
        CU_ASSERT_EQUAL(status, AQ_ERR_MEMORY);
        CU_ASSERT_PTR_NOT_NULL(strstr(aq_error_text(), from));
        CU_ASSERT_PTR_NULL(session);
        CU_ASSERT_EQUAL(n_live, 0);
    }
    CU_ASSERT_EQUAL(n_block, 7);
    aq_session_close(session);
    CU_ASSERT_EQUAL(n_live, 0);
    engine->be->ops = real_ops;
    aq_engine_close(engine);
}

/* Messages that one rank alone would find too large are refused when the session opens. */
static void batches_over_the_message_limit_are_refused(void) {
    aq_engine *engine = open_engine();
    aq_session_options options = aq_case_options((int64_t)1 << 30, 1 << 20);
    if (!engine) return;
    const aq_model_config config = engine->config;
    engine->config.n_ctx = options.n_ctx;
    engine->config.n_head = 1024; /* 2^20 queries of 1024 heads are far above 2 GiB */
    if (aq_comm_size(aq_test_world()) > 1)
        refuses(engine, &options, AQ_ERR_LIMIT, "use a smaller one (-b)");
    engine->config = config;
    aq_engine_close(engine);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "the same again gives the same bits", the_same_again_gives_the_same_bits);
    CU_add_test(suite, "a reset empties rings", a_reset_empties_rings);
    CU_add_test(suite, "every rank has the same logits", every_rank_has_the_same_logits);
    CU_add_test(suite, "the cache is divided", the_cache_is_divided);
    CU_add_test(suite, "windows bound the cache", windows_bound_the_cache);
    CU_add_test(suite, "bad options are refused", bad_options_are_refused);
    CU_add_test(suite, "bad tokens are refused", bad_tokens_are_refused);
    CU_add_test(suite, "one rank without memory stops all", one_rank_without_memory_stops_all);
    CU_add_test(suite, "batches over the message limit are refused",
                batches_over_the_message_limit_are_refused);
}
