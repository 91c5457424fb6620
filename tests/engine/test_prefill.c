/* Prefill and greedy decode against Hugging Face transformers in fp32, on models with known logits
 * (tests/data/hf/README.md): one or more of each family. And what a program may watch while it
 * runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/engine.h"
#include "tests/engine/engine_case.h"
#include "tests/support/known_logits.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

/* Of the range of the logits. Both sides are fp32 with their own order of sums. */
#define TOLERANCE 1e-5
#define N_GGUF    5 /* known models that are there as GGUF files too */

typedef struct {
    aq_known known;
    aq_engine *engine;
} subject;

/* A known model, from its GGUF file or from its folder. False if there is no such file. */
static bool open_subject(const char *name, bool gguf, const char *projection, subject *s) {
    *s = (subject){.engine = NULL};
    if (!aq_test_ok(aq_known_read(name, &s->known))) return false;
    if (gguf && s->known.gguf[0] == '\0') return false;
    s->engine = aq_case_engine(aq_test_world(), gguf ? s->known.gguf : s->known.folder, projection);
    return s->engine != NULL;
}

static void close_subject(subject *s) {
    aq_engine_close(s->engine);
    aq_known_free(&s->known);
}

/* Logits [n, n_vocab] of the first n ids, to be freed. */
static float *prefill(const subject *s, const aq_session_options *options, int64_t n) {
    float *logits = aq_case_floats(n * s->known.n_vocab);
    aq_session *session = aq_case_session(s->engine, options);
    if (session) aq_case_prefill(s->engine, aq_test_world(), session, s->known.ids, n, logits);
    aq_session_close(session);
    return logits;
}

/* How far off all known logits are. */
static double distance(const subject *s, const aq_session_options *options) {
    float *logits = prefill(s, options, s->known.n_id);
    const double found = aq_known_distance(&s->known, logits, s->known.n_id);
    free(logits);
    return found;
}

static int32_t best_of(const float *logits, int64_t n_vocab) {
    int32_t best = 0;
    for (int32_t id = 1; id < n_vocab; id++)
        if (logits[id] > logits[best]) best = id;
    return best;
}

static void check_greedy(const subject *s, const aq_session_options *options) {
    const aq_known *k = &s->known;
    float *logits = aq_case_floats(k->n_vocab);
    aq_session *session = aq_case_session(s->engine, options);
    if (session) aq_test_ok(aq_session_prefill(session, k->ids, AQ_KNOWN_FIRST, NULL));
    for (int64_t i = 0; session && i < k->n_greedy; i++) {
        aq_test_ok(aq_session_logits(session, logits));
        CU_ASSERT_EQUAL(best_of(logits, k->n_vocab), k->greedy[i]);
        aq_test_ok(aq_session_decode(session, k->greedy[i]));
    }
    aq_session_close(session);
    free(logits);
}

/* Every family, from every file format there is. */
static void dense_agrees_with_transformers(void) {
    int n = 0;
    aq_known_expect_all();
    for (int m = 0; m < 2 * AQ_KNOWN_MODELS; m++) {
        const bool gguf = m >= AQ_KNOWN_MODELS;
        subject s;
        if (open_subject(aq_known_models[m % AQ_KNOWN_MODELS], gguf, NULL, &s)) {
            const aq_session_options options = aq_case_options(s.known.n_id, 100);
            const double found = distance(&s, &options);
            CU_ASSERT_TRUE(found <= TOLERANCE);
            printf("  %s%s: %.1e of the range\n", s.known.name, gguf ? ".gguf" : "", found);
            check_greedy(&s, &options);
            n++;
        }
        close_subject(&s);
    }
    CU_ASSERT_EQUAL(n, AQ_KNOWN_MODELS + N_GGUF);
}

/* In steps much shorter than a window, so that the rings are small and go round several times. */
static void small_steps_agree_with_transformers(void) {
    static const char *const names[] = {"mistral_swa", "gemma3", "olmoe", "opt", "gpt_neox"};
    static const int64_t batches[] = {13, 64};
    for (int m = 0; m < 5; m++) {
        const int n_batch = m < 2 ? 2 : 1;
        subject s;
        if (open_subject(names[m], false, NULL, &s))
            for (int i = 0; i < n_batch; i++) {
                const aq_session_options options = aq_case_options(s.known.n_id, batches[i]);
                const double found = distance(&s, &options);
                CU_ASSERT_TRUE(found <= TOLERANCE);
                printf("  %s in steps of %d: %.1e of the range\n", names[m], (int)batches[i],
                       found);
            }
        close_subject(&s);
    }
}

/* A window one token off in the engine is told apart by the known logits. */
static void another_window_is_rejected(void) {
    static const char *const names[] = {"mistral_swa", "gemma3"};
    for (int i = 0; i < 4; i++) {
        subject s;
        if (open_subject(names[i / 2], false, NULL, &s)) {
            const aq_session_options options = aq_case_options(s.known.n_id, 13);
            s.engine->config.window += i % 2 ? 1 : -1;
            CU_ASSERT_TRUE(distance(&s, &options) > 10 * TOLERANCE);
        }
        close_subject(&s);
    }
}

/* Each model's rope without its scaling, or with another base, is told apart. */
static void another_rope_is_rejected(void) {
    for (int m = 0; m < AQ_KNOWN_MODELS; m++) {
        const char *name = aq_known_models[m];
        const bool scaled = strstr(name, "linear") || strstr(name, "yarn");
        subject s = {.engine = NULL};
        if (!strstr(name, "llama") || strstr(name, "llama3")) continue; /* its base is its own */
        if (!aq_test_ok(aq_known_read(name, &s.known))) continue;
        const aq_engine_options wrong = {.model_path = s.known.gguf,
                                         .n_thread = 1,
                                         .rope_scaling =
                                             scaled ? AQ_SCALING_NONE : AQ_SCALING_MODEL,
                                         .rope_freq_base = scaled ? 0 : 10100};
        if (aq_test_ok(aq_engine_open(&wrong, aq_test_world(), &s.engine))) {
            /* Without yarn, as far as the model goes. */
            const int64_t n_ctx = aq_engine_describe(s.engine).n_ctx_model;
            const int64_t n = n_ctx < s.known.n_id ? n_ctx : s.known.n_id;
            const aq_session_options options = aq_case_options(n, 0);
            float *logits = prefill(&s, &options, n);
            const double found = aq_known_distance(&s.known, logits, n);
            CU_ASSERT_TRUE(found > 10 * TOLERANCE);
            printf("  %s with another rope: %.1e of the range\n", name, found);
            free(logits);
        }
        close_subject(&s);
    }
}

static bool all_windowed(const aq_model_config *config) {
    for (int layer = 0; layer < config->n_layer; layer++)
        if (!aq_model_windowed(config, layer)) return false;
    return true;
}

/* With all columns aqua is dense attention in another basis; with fewer it is not, but for layers
 * with a window, which stay dense. */
static void aqua_with_all_columns_is_dense(void) {
    for (int m = 0; m < AQ_KNOWN_MODELS; m++) {
        char folder[AQ_KNOWN_PATH_BYTES], path[AQ_CASE_PATH_BYTES];
        subject s;
        snprintf(folder, sizeof folder, "%s/hf/%s", aq_test_data_dir(), aq_known_models[m]);
        aq_case_projection(folder, path);
        if (open_subject(aq_known_models[m], false, path, &s)) {
            aq_session_options options = aq_case_options(s.known.n_id, 128);
            options.attn = AQ_ATTN_AQUA;
            options.k_ratio = 1;
            const double all = distance(&s, &options);
            options.k_ratio = 0.5;
            const double half = distance(&s, &options);
            CU_ASSERT_TRUE(all <= TOLERANCE);
            CU_ASSERT_TRUE(all_windowed(&s.engine->config) ? half == all : half > 10 * TOLERANCE);
            printf("  %s, aqua: all columns %.1e, half of them %.1e of the range\n", s.known.name,
                   all, half);
        }
        close_subject(&s);
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
    CU_add_test(suite, "small steps agree with transformers", small_steps_agree_with_transformers);
    CU_add_test(suite, "another window is rejected", another_window_is_rejected);
    CU_add_test(suite, "another rope is rejected", another_rope_is_rejected);
    CU_add_test(suite, "aqua with all columns is dense", aqua_with_all_columns_is_dense);
    CU_add_test(suite, "hooks see every token once", hooks_see_every_token_once);
}
