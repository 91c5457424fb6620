/* Weights that ranks share: the same bits as where every rank has all of them, in every family and
 * type of weights, over every size of group that divides the ranks. */
#include "src/engine/shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/device.h"
#include "src/engine/engine.h"
#include "tests/engine/engine_case.h"
#include "tests/support/known_logits.h"
#include "tests/support/mpi_world.h"
#include "tests/support/resident.h"
#include "tests/support/suite.h"
#include "tests/support/tiny_model.h"

enum { N_PREFILL = 70, N_DECODE = 5, N_TOK = N_PREFILL + N_DECODE };

static int size(void) {
    return aq_comm_size(aq_test_world());
}

static aq_engine *open_engine(const char *model, const char *projection, int n_tp) {
    aq_engine_options options = {
        .model_path = model, .projection_path = projection, .n_thread = 2, .n_tp = n_tp};
    aq_engine *engine = NULL;
    aq_test_ok(aq_device_choose(getenv("AQUA_TEST_DEVICE"), aq_test_world(), &options.device));
    aq_test_ok(aq_engine_open(&options, aq_test_world(), &engine));
    return engine;
}

/* logits[N_TOK, n_vocab], of prefill in two chunks, then decode. */
static float *run(aq_engine *engine, const aq_session_options *options) {
    const int64_t n_vocab = aq_engine_describe(engine).n_vocab;
    float *logits = aq_case_floats(N_TOK * n_vocab);
    int32_t ids[N_TOK];
    aq_case_ids(5, N_TOK, ids);
    for (int i = 0; i < N_TOK; i++)
        ids[i] %= (int32_t)n_vocab;
    aq_session *session = aq_case_session(engine, options);
    if (session) {
        aq_case_prefill(engine, aq_test_world(), session, ids, N_PREFILL, logits);
        aq_case_decode(engine, session, ids + N_PREFILL, N_DECODE, logits + N_PREFILL * n_vocab);
    }
    aq_session_close(session);
    return logits;
}

/* Whether a model gives the same bits with every size of group as without one. */
static bool same_bits(const char *model, const char *projection,
                      const aq_session_options *options) {
    aq_engine *alone = open_engine(model, projection, 1);
    bool same = alone != NULL;
    float *expected = alone ? run(alone, options) : NULL;
    for (int n_tp = 2; alone && n_tp <= size(); n_tp++) {
        if (size() % n_tp != 0) continue;
        aq_engine *engine = open_engine(model, projection, n_tp);
        float *got = engine ? run(engine, options) : NULL;
        const size_t bytes = (size_t)N_TOK * (size_t)alone->config.n_vocab * sizeof *got;
        same = same && got && memcmp(got, expected, bytes) == 0;
        free(got);
        aq_engine_close(engine);
    }
    free(expected);
    aq_engine_close(alone);
    return same;
}

static void every_family_is_shared(void) {
    for (int m = 0; m < AQ_KNOWN_MODELS; m++) {
        const aq_session_options options = aq_case_options(N_TOK, 40);
        aq_known k;
        if (aq_test_ok(aq_known_read(aq_known_models[m], &k))) {
            CU_ASSERT_TRUE(same_bits(k.folder, NULL, &options));
            if (k.gguf[0]) CU_ASSERT_TRUE(same_bits(k.gguf, NULL, &options));
        }
        aq_known_free(&k);
    }
}

/* Rows of blocks, with heads and widths that the ranks do not divide; every way of attention. */
static void quantised_rows_are_shared(void) {
    static const aq_dtype types[] = {AQ_Q4_0, AQ_Q8_0, AQ_Q4_K, AQ_Q6_K, AQ_BF16};
    static const aq_attn_mode ways[] = {AQ_ATTN_DENSE, AQ_ATTN_AQUA, AQ_ATTN_SELECT};
    for (int i = 0; i < 5; i++) {
        aq_tiny_model shape = aq_tiny_model_default();
        char name[32];
        aq_case c;
        shape.n_head = 8;
        shape.n_kv_head = 1;
        shape.d_head = 32;
        shape.d_model = 256;
        shape.d_ff = 768;
        shape.tied = i % 2 == 1;
        shape.embed_dtype = shape.output_dtype = types[(i + 1) % 5];
        shape.attn_dtype = shape.ffn_dtype = types[i];
        snprintf(name, sizeof name, "shared%d", i);
        aq_case_make(&shape, name, &c);
        for (int w = 0; w < 3; w++) {
            aq_session_options options = aq_case_options(N_TOK, 40);
            options.attn = ways[w];
            CU_ASSERT_TRUE(same_bits(c.model, c.projection, &options));
        }
    }
}

/* A row off by one in one rank's share shows. */
static void a_wrong_row_is_noticed(void) {
    const aq_session_options options = aq_case_options(N_TOK, 40);
    const aq_case *c = aq_case_default();
    if (size() == 1) return;
    aq_engine *alone = open_engine(c->model, NULL, 1),
              *engine = open_engine(c->model, NULL, size());
    if (alone && engine) {
        aq_weight *wo = &engine->placed.layers[1].wo;
        const size_t bytes = (size_t)N_DECODE * (size_t)engine->config.n_vocab * sizeof(float);
        const int64_t at = N_PREFILL * engine->config.n_vocab;
        if (engine->shard.share.rank == 1)
            wo->data = (const char *)wo->data - aq_dtype_row_bytes(wo->dtype, wo->n_in);
        float *expected = run(alone, &options), *got = run(engine, &options);
        CU_ASSERT_NOT_EQUAL(memcmp(got + at, expected + at, bytes), 0);
        CU_ASSERT_EQUAL(memcmp(got, expected, (size_t)at * sizeof *got), 0); /* prefill has all */
        free(expected);
        free(got);
    }
    aq_engine_close(alone);
    aq_engine_close(engine);
}

/* What all ranks keep of the matrices adds up to them once for each group; the rest is on each. */
static void shares_add_up(void) {
    const aq_case *c = aq_case_default();
    for (int n_tp = 1; n_tp <= size(); n_tp++) {
        if (size() % n_tp != 0) continue;
        aq_engine *engine = open_engine(c->model, NULL, n_tp);
        if (!engine) continue;
        const aq_engine_info info = aq_engine_describe(engine);
        /* fp32: embedding and three kinds of norms are whole; output and matrices are not. */
        const int64_t layer = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 128;
        const int64_t cut = 4 * (288 * 64 + 2 * layer), whole = 4 * (288 * 64 + 5 * 64);
        int64_t sum = info.kept_weights_bytes;
        aq_test_ok(aq_comm_sum_i64(aq_test_world(), &sum, 1));
        CU_ASSERT_EQUAL(sum, size() / n_tp * cut + size() * whole);
        CU_ASSERT_EQUAL(info.n_tp, n_tp);
        aq_engine_close(engine);
    }
}

/* Bytes of all matrices of the file, or of those of them that are in this process. */
static int64_t matrices_bytes(const aq_engine *engine, bool resident) {
    int64_t sum = 0;
    for (int64_t i = 0; i < aq_model_file_tensor_count(engine->file); i++) {
        const aq_tensor *tensor = aq_model_file_tensor_at(engine->file, i);
        int64_t whole = 0;
        const int64_t there = aq_test_resident(tensor->data, tensor->bytes, &whole);
        if (tensor->n_dim > 1) sum += resident ? there : whole;
    }
    return sum;
}

/* Of the file a rank has its rows and the embedding in memory, though the system maps pages around
 * those that are read. Q and K are moved. */
static void others_are_not_resident(void) {
    char path[512];
    aq_tiny_model shape = aq_tiny_model_default();
    shape.d_model = 256; /* matrices of many pages */
    shape.d_head = 64;
    shape.d_ff = 512;
    snprintf(path, sizeof path, "%s/wide.gguf", aq_test_temp_dir());
    if (aq_test_resident("", 0, NULL) < 0) {
        aq_test_skip("this system does not tell which pages are there");
        return;
    }
    if (!aq_test_ok(aq_tiny_model_write(path, &shape))) return;
    for (int n_tp = 2; n_tp <= size(); n_tp++) {
        if (size() % n_tp != 0) continue;
        aq_engine *engine = open_engine(path, NULL, n_tp);
        if (!engine) continue;
        const int64_t embed = 4 * 288 * 256, layer = 4 * (256 * 256 + 128 * 256 + 3 * 256 * 512);
        const int64_t most = embed + (embed + 2 * layer) / n_tp + 64 * 4096; /* rows' ends */
        const int64_t resident = matrices_bytes(engine, true);
        if (engine->be->host_memory) { /* else all went through it, up to the device */
            CU_ASSERT_TRUE(resident > (embed + 2 * layer) / n_tp - 64 * 4096);
            CU_ASSERT_TRUE(resident <= most && most < matrices_bytes(engine, false) - 64 * 4096);
        }
        aq_engine_close(engine);
    }
}

/* Bytes by hand, where the ranks divide all rows: each sends its part to the others of the group.
 */
static void traffic_is_counted(void) {
    const aq_case *c = aq_case_default();
    const int64_t n = size(), others = n - 1;
    if (n != 2 && n != 4) return;
    aq_engine *engine = open_engine(c->model, NULL, (int)n);
    const aq_session_options options = aq_case_options(N_TOK, N_TOK);
    aq_session *session = engine ? aq_case_session(engine, &options) : NULL;
    if (session) {
        const int32_t ids[] = {1, 2, 3};
        float *logits = aq_case_floats(288);
        aq_test_ok(aq_session_prefill(session, ids, 3, NULL));
        const aq_session_stats filled = aq_session_describe(session);
        const int64_t layer = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 128;
        CU_ASSERT_EQUAL(filled.shared_bytes, 2 * layer * 4 / n * others);
        aq_test_ok(aq_session_decode(session, 7));
        aq_test_ok(aq_session_logits(session, logits));
        const aq_session_stats stats = aq_session_describe(session);
        const int64_t numbers = 2 * (64 + 2 * 32 + 64 + 128 + 64) + 288;
        CU_ASSERT_EQUAL(stats.shared_bytes - filled.shared_bytes, numbers * 4 / n * others);
        CU_ASSERT_EQUAL(stats.n_share - filled.n_share, 2 * 4 + 1);
        free(logits);
    }
    aq_session_close(session);
    aq_engine_close(engine);
}

static void bad_groups_are_refused(void) {
    aq_engine_options options = {.model_path = aq_case_default()->model, .n_thread = 1};
    const int bad[] = {-1, size() + 1, 2 * size()};
    for (int i = 0; i < 3; i++) {
        aq_engine *engine = NULL;
        options.n_tp = bad[i];
        aq_test_fails(aq_engine_open(&options, aq_test_world(), &engine), AQ_ERR_USAGE,
                      "must divide");
        CU_ASSERT_PTR_NULL(engine);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "every family is shared", every_family_is_shared);
    CU_add_test(suite, "quantised rows are shared", quantised_rows_are_shared);
    CU_add_test(suite, "a wrong row is noticed", a_wrong_row_is_noticed);
    CU_add_test(suite, "shares add up", shares_add_up);
    CU_add_test(suite, "others are not resident", others_are_not_resident);
    CU_add_test(suite, "traffic is counted", traffic_is_counted);
    CU_add_test(suite, "bad groups are refused", bad_groups_are_refused);
}
