/* Prefill and greedy decode against Hugging Face transformers in fp32, on models with known logits
 * (tests/data/hf/README.md): rotary variants, grouped heads, an odd head width. And what a program
 * may watch while it runs. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "src/model/npy.h"
#include "src/model/projection_file.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"
#include "tests/support/tiny_projection.h"

/* Of the range of the logits. Both sides are fp32 with their own order of sums. */
#define TOLERANCE 1e-5

static const char *const models[] = {"llama", "llama3_rope", "llama_linear", "llama_yarn",
                                     "llama_mha_hd24"};
#define N_MODEL ((int)(sizeof models / sizeof models[0]))

enum { N_VOCAB = 256, N_FIRST = 40 };

/* What transformers said about one model. */
typedef struct {
    char model[AQ_CASE_PATH_BYTES];
    int32_t *ids, *positions, *greedy;
    int64_t n_id, n_position, n_greedy;
    float *logits; /* [n_position, N_VOCAB] */
} known;

static char *data_path(const char *folder, const char *name, char path[AQ_CASE_PATH_BYTES]) {
    snprintf(path, AQ_CASE_PATH_BYTES, "%s/hf/%s/%s", aq_test_data_dir(), folder, name);
    return path;
}

static aq_status read_known(const char *folder, known *k) {
    char path[AQ_CASE_PATH_BYTES], *data = NULL;
    size_t bytes = 0;
    *k = (known){.n_id = 0};
    data_path(folder, "model.gguf", k->model);
    AQ_TRY(aq_npy_read_ids(data_path(folder, "ids.npy", path), &k->ids, &k->n_id));
    AQ_TRY(
        aq_npy_read_ids(data_path(folder, "positions.npy", path), &k->positions, &k->n_position));
    AQ_TRY(aq_npy_read_ids(data_path(folder, "greedy_from40.npy", path), &k->greedy, &k->n_greedy));
    AQ_TRY(aq_file_read(data_path(folder, "logits.npy", path), &data, &bytes));
    const size_t n = (size_t)k->n_position * N_VOCAB;
    if (bytes != AQ_NPY_HEADER_BYTES + n * sizeof(float) || !strstr(data + 10, "'<f4'")) {
        free(data);
        return aq_fail(AQ_ERR_FORMAT, "%s: not %d x %d fp32", path, (int)k->n_position, N_VOCAB);
    }
    k->logits = aq_case_floats((int64_t)n);
    memcpy(k->logits, data + AQ_NPY_HEADER_BYTES, n * sizeof(float));
    free(data);
    return AQ_OK;
}

static void free_known(known *k) {
    free(k->ids);
    free(k->positions);
    free(k->greedy);
    free(k->logits);
}

/* Largest difference at the known positions, as a fraction of the range of the known logits. */
static double distance_to(const known *k, const float *logits) {
    double most = 0, low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < k->n_position; i++)
        for (int j = 0; j < N_VOCAB; j++) {
            const double ref = (double)k->logits[i * N_VOCAB + j];
            const double apart = fabs((double)logits[k->positions[i] * N_VOCAB + j] - ref);
            most = fmax(most, isnan(apart) ? INFINITY : apart);
            low = fmin(low, ref);
            high = fmax(high, ref);
        }
    return most / (high - low);
}

/* Logits [n_id, N_VOCAB] of all ids, to be freed. */
static float *prefill_all(aq_engine *engine, const aq_session_options *options, const known *k) {
    float *logits = aq_case_floats(k->n_id * N_VOCAB);
    aq_session *session = aq_case_session(engine, options);
    if (session) aq_case_prefill(engine, aq_test_world(), session, k->ids, k->n_id, logits);
    aq_session_close(session);
    return logits;
}

static int32_t best_of(const float *logits) {
    int32_t best = 0;
    for (int32_t id = 1; id < N_VOCAB; id++)
        if (logits[id] > logits[best]) best = id;
    return best;
}

static void check_greedy(aq_engine *engine, const aq_session_options *options, const known *k) {
    float logits[N_VOCAB];
    aq_session *session = aq_case_session(engine, options);
    if (!session) return;
    aq_test_ok(aq_session_prefill(session, k->ids, N_FIRST, NULL));
    for (int64_t i = 0; i < k->n_greedy; i++) {
        aq_test_ok(aq_session_logits(session, logits));
        CU_ASSERT_EQUAL(best_of(logits), k->greedy[i]);
        aq_test_ok(aq_session_decode(session, k->greedy[i]));
    }
    aq_session_close(session);
}

static void dense_agrees_with_transformers(void) {
    for (int m = 0; m < N_MODEL; m++) {
        known k;
        if (!aq_test_ok(read_known(models[m], &k))) continue;
        const aq_session_options options = aq_case_options(k.n_id, 100);
        aq_engine *engine = aq_case_engine(aq_test_world(), k.model, NULL);
        if (engine) {
            float *logits = prefill_all(engine, &options, &k);
            const double distance = distance_to(&k, logits);
            CU_ASSERT_TRUE(distance <= TOLERANCE);
            printf("  %s: %.1e of the range\n", models[m], distance);
            check_greedy(engine, &options, &k);
            free(logits);
        }
        aq_engine_close(engine);
        free_known(&k);
    }
}

/* Each model's rope without its scaling, or with another base, is told apart. */
static void another_rope_is_rejected(void) {
    for (int m = 0; m < N_MODEL; m++) {
        known k;
        if (!aq_test_ok(read_known(models[m], &k))) continue;
        const bool scaled = strstr(models[m], "linear") || strstr(models[m], "yarn");
        const aq_engine_options wrong = {.model_path = k.model,
                                         .n_thread = 1,
                                         .rope_scaling =
                                             scaled ? AQ_SCALING_NONE : AQ_SCALING_MODEL,
                                         .rope_freq_base = scaled ? 0 : 10100};
        aq_engine *engine = NULL;
        if (aq_test_ok(aq_engine_open(&wrong, aq_test_world(), &engine))) {
            int64_t n_ctx = aq_engine_describe(engine).n_ctx_model;
            if (n_ctx < k.n_id) k.n_id = n_ctx; /* without yarn, as far as the model goes */
            while (k.positions[k.n_position - 1] >= k.n_id)
                k.n_position--;
            const aq_session_options options = aq_case_options(k.n_id, 0);
            float *logits = prefill_all(engine, &options, &k);
            const double distance = distance_to(&k, logits);
            CU_ASSERT_TRUE(distance > 10 * TOLERANCE);
            printf("  %s with another rope: %.1e of the range\n", models[m], distance);
            free(logits);
        }
        aq_engine_close(engine);
        free_known(&k);
    }
}

/* A random projection for the model, in a file that all ranks can read. */
static void share_projection(const char *model, char path[AQ_CASE_PATH_BYTES]) {
    aq_projection p = {.pq = NULL};
    aq_status status = AQ_OK;
    path[0] = '\0';
    if (aq_comm_rank(aq_test_world()) == 0) {
        snprintf(path, AQ_CASE_PATH_BYTES, "%s/hf.aqua", aq_test_temp_dir());
        status = aq_tiny_projection_make(model, 3, &p);
        if (status == AQ_OK) status = aq_projection_write(path, &p);
        aq_projection_free(&p);
    }
    aq_test_ok(aq_comm_agree(aq_test_world(), status));
    aq_test_ok(aq_comm_bcast(aq_test_world(), path, AQ_CASE_PATH_BYTES, 0));
}

/* With all columns aqua is dense attention in another basis; with fewer it is not. */
static void aqua_with_all_columns_is_dense(void) {
    for (int m = 0; m < N_MODEL; m++) {
        known k;
        char path[AQ_CASE_PATH_BYTES];
        if (!aq_test_ok(read_known(models[m], &k))) continue;
        share_projection(k.model, path);
        aq_session_options options = aq_case_options(k.n_id, 128);
        aq_engine *engine = aq_case_engine(aq_test_world(), k.model, path);
        options.attn = AQ_ATTN_AQUA;
        options.k_ratio = 1;
        if (engine) {
            float *all = prefill_all(engine, &options, &k);
            options.k_ratio = 0.5;
            float *half = prefill_all(engine, &options, &k);
            CU_ASSERT_TRUE(distance_to(&k, all) <= TOLERANCE);
            CU_ASSERT_TRUE(distance_to(&k, half) > 10 * TOLERANCE);
            printf("  %s, aqua: all columns %.1e, half of them %.1e of the range\n", models[m],
                   distance_to(&k, all), distance_to(&k, half));
            free(all);
            free(half);
        }
        aq_engine_close(engine);
        aq_test_ok(aq_comm_barrier(aq_test_world())); /* the next model's file takes the name */
        free_known(&k);
    }
}

/* Counts what hooks see on this rank and can end prefill. */
typedef struct {
    int64_t n_tap, n_row, n_progress, n_done, end_after;
} watch;

static aq_status on_tap(void *arg, int layer, const int64_t *pos, int64_t n_tok, const float *q,
                        const float *k) {
    watch *w = arg;
    (void)pos;
    CU_ASSERT_TRUE(layer >= 0 && layer < 2 && q && k);
    w->n_tap += n_tok;
    return AQ_OK;
}

static aq_status on_rows(void *arg, const int64_t *pos, const float *hidden, int64_t n_tok) {
    watch *w = arg;
    CU_ASSERT_PTR_NOT_NULL(hidden);
    for (int64_t t = 1; t < n_tok; t++)
        CU_ASSERT_TRUE(pos[t] > pos[t - 1]);
    w->n_row += n_tok;
    return AQ_OK;
}

static aq_status on_progress(void *arg, int64_t n_done, int64_t n_all) {
    watch *w = arg;
    CU_ASSERT_EQUAL(n_all, 150);
    w->n_done = n_done;
    if (++w->n_progress == w->end_after) return aq_fail(AQ_ERR_IO, "ended by the test");
    return AQ_OK;
}

static void hooks_see_every_token_once(void) {
    int32_t ids[150];
    watch w = {.end_after = -1};
    const aq_hooks hooks = {.arg = &w, .progress = on_progress, .rows = on_rows, .tap = on_tap};
    const aq_session_options options = aq_case_options(150, 70);
    aq_engine *engine = aq_case_engine(aq_test_world(), aq_case_default()->model, NULL);
    aq_session *session = engine ? aq_case_session(engine, &options) : NULL;
    aq_case_ids(1, 150, ids);
    if (session) {
        aq_test_ok(aq_session_prefill(session, ids, 150, &hooks));
        int64_t sums[] = {w.n_tap, w.n_row};
        aq_test_ok(aq_comm_sum_i64(aq_test_world(), sums, 2));
        CU_ASSERT_EQUAL(sums[0], 2 * 150); /* in each of two layers */
        CU_ASSERT_EQUAL(sums[1], 150);
        CU_ASSERT_TRUE(w.n_progress == 3 && w.n_done == 150);
        CU_ASSERT_EQUAL(w.n_row, aq_session_describe(session).n_tok_owned);
        aq_session_reset(session);
        w = (watch){.end_after = 2};
        aq_test_fails(aq_session_prefill(session, ids, 150, &hooks), AQ_ERR_IO,
                      "ended by the test");
        CU_ASSERT_TRUE(w.n_done == 140 && aq_session_length(session) == 140);
        aq_test_ok(aq_session_prefill(session, ids, 0, NULL)); /* nothing to do is no error */
    }
    aq_session_close(session);
    aq_engine_close(engine);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "dense agrees with transformers", dense_agrees_with_transformers);
    CU_add_test(suite, "another rope is rejected", another_rope_is_rejected);
    CU_add_test(suite, "aqua with all columns is dense", aqua_with_all_columns_is_dense);
    CU_add_test(suite, "hooks see every token once", hooks_see_every_token_once);
}
