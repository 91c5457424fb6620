/* Opening a model on ranks: facts, refusals with one text on all ranks, and ranks that hold
 * different files. */
#include "src/engine/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/file.h"
#include "tests/engine/engine_case.h"
#include "tests/support/known_logits.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"
#include "tests/support/tiny_projection.h"

static int rank(void) {
    return aq_comm_rank(aq_test_world());
}

static int n_rank(void) {
    return aq_comm_size(aq_test_world());
}

static void facts_are_told(void) {
    const aq_case *c = aq_case_default();
    aq_engine *engine = aq_case_engine(aq_test_world(), c->model, c->projection);
    if (!engine) return;
    const aq_engine_info info = aq_engine_describe(engine);
    CU_ASSERT_STRING_EQUAL(info.arch, "llama");
    CU_ASSERT_STRING_EQUAL(info.name, "tiny");
    CU_ASSERT_STRING_EQUAL(info.basis, "joint");
    CU_ASSERT_TRUE(info.n_layer == 2 && info.n_head == 4 && info.n_kv_head == 2);
    CU_ASSERT_TRUE(info.d_head == 16 && info.d_model == 64 && info.d_ff == 128);
    CU_ASSERT_TRUE(info.n_vocab == 288 && info.n_ctx_model == 2048);
    CU_ASSERT_TRUE(info.n_rank == n_rank() && info.n_thread == 2);
    /* fp32: embedding and output, three kinds of norms, and the matrices of two layers. */
    const int64_t layer = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 128 + 2 * 64;
    CU_ASSERT_EQUAL(info.weights_bytes, 4 * (2 * 288 * 64 + 64 + 2 * layer));
    aq_engine_close(engine);
}

/* Opens with these options and expects a failure on all ranks. */
static void refuses(const aq_engine_options *options, aq_status code, const char *text) {
    aq_engine *engine = NULL;
    aq_test_fails(aq_engine_open(options, aq_test_world(), &engine), code, text);
    CU_ASSERT_PTR_NULL(engine);
    aq_engine_close(engine);
}

static void bad_rope_options_are_refused(void) {
    static const double scales[] = {-1, 1e300, INFINITY, NAN};
    static const double bases[] = {-1, 1, 1e300, NAN};
    const aq_engine_options good = {.model_path = aq_case_default()->model, .n_thread = 1};
    aq_engine_options bad = good;
    for (int i = 0; i < 4; i++) {
        bad = good;
        bad.rope_scaling = AQ_SCALING_YARN;
        bad.rope_scale = scales[i];
        refuses(&bad, AQ_ERR_USAGE, "--rope-scale must be");
        bad = good;
        bad.rope_freq_base = bases[i];
        refuses(&bad, AQ_ERR_USAGE, "--rope-freq-base must be");
    }
    bad = good;
    bad.rope_scale = 2;
    refuses(&bad, AQ_ERR_USAGE, "needs --rope-scaling");
    bad.rope_scaling = AQ_SCALING_LINEAR;
    bad.rope_scale = 0.5;
    refuses(&bad, AQ_ERR_USAGE, "--rope-scale N, N >= 1");
    bad = good;
    bad.yarn_orig_ctx = -1;
    refuses(&bad, AQ_ERR_USAGE, "--yarn-orig-ctx");
}

/* The longest context under each scaling. */
static void scaling_stretches_the_context(void) {
    static const struct {
        aq_scaling scaling;
        double scale;
        int64_t plain, yarn; /* expected: of a model without scaling, of one made with yarn */
    } cases[] = {{AQ_SCALING_MODEL, 0, 2048, 2048},
                 {AQ_SCALING_NONE, 0, 2048, 512},
                 {AQ_SCALING_LINEAR, 3, 6144, 1536},
                 {AQ_SCALING_YARN, 8, 16384, 4096}};
    aq_tiny_model shape = aq_tiny_model_default();
    aq_case scaled;
    shape.rope_scaling = AQ_ROPE_YARN;
    shape.rope_factor = 4;
    shape.rope_n_ctx_orig = 512;
    aq_case_make(&shape, "yarn", &scaled);
    for (int i = 0; i < 8; i++) {
        const bool plain = i % 2 == 0;
        const aq_engine_options options = {.model_path =
                                               plain ? aq_case_default()->model : scaled.model,
                                           .n_thread = 1,
                                           .rope_scaling = cases[i / 2].scaling,
                                           .rope_scale = cases[i / 2].scale};
        aq_engine *engine = NULL;
        if (aq_test_ok(aq_engine_open(&options, aq_test_world(), &engine)))
            CU_ASSERT_EQUAL(aq_engine_describe(engine).n_ctx_model,
                            plain ? cases[i / 2].plain : cases[i / 2].yarn);
        aq_engine_close(engine);
    }
}

/* Llama 3's divisors are part of its frequencies, in both file formats: they were made for its base
 * and scaling, and others are refused. */
static void divisors_stay(void) {
    aq_known k;
    if (!aq_test_ok(aq_known_read("llama3_rope", &k))) return;
    for (int i = 0; i < 2; i++) {
        const aq_engine_options good = {.model_path = i ? k.gguf : k.folder, .n_thread = 1};
        aq_engine_options bad = good;
        bad.rope_scaling = AQ_SCALING_NONE;
        refuses(&bad, AQ_ERR_USAGE, "factors of its own; --rope-scaling cannot");
        bad.rope_scaling = AQ_SCALING_LINEAR;
        bad.rope_scale = 2;
        refuses(&bad, AQ_ERR_USAGE, "factors of its own; --rope-scaling cannot");
        bad = good;
        bad.rope_freq_base = 20000;
        refuses(&bad, AQ_ERR_USAGE, "factors of its own; --rope-freq-base cannot");
    }
    aq_known_free(&k);
}

/* A stored model with a window as long as its context; its path goes to `folder`. */
static bool make_wide_window(char folder[AQ_CASE_PATH_BYTES]) {
    static const char from[] = "\"sliding_window\": 48", to[] = "\"sliding_window\": 4096";
    char path[AQ_CASE_PATH_BYTES + 32], target[AQ_CASE_PATH_BYTES + 32], text[4096], *config = NULL;
    size_t n = 0;
    snprintf(folder, AQ_CASE_PATH_BYTES, "%s/window", aq_test_temp_dir());
    snprintf(path, sizeof path, "%s/hf/mistral_swa/config.json", aq_test_data_dir());
    if (!aq_test_ok(aq_file_read(path, &config, &n))) return false;
    const char *at = strstr(config, from);
    CU_ASSERT_TRUE(at && mkdir(folder, 0777) == 0);
    snprintf(text, sizeof text, "%.*s%s%s", at ? (int)(at - config) : 0, config, to,
             at ? at + strlen(from) : "");
    free(config);
    snprintf(path, sizeof path, "%s/config.json", folder);
    const bool made = at && aq_test_ok(aq_file_write(path, text, strlen(text)));
    snprintf(target, sizeof target, "%s/hf/mistral_swa/model.safetensors", aq_test_data_dir());
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    return made && symlink(target, path) == 0;
}

/* A window as long as the context hides nothing, until the context is stretched. */
static void stretched_contexts_keep_windows(void) {
    char folder[AQ_CASE_PATH_BYTES];
    if (!make_wide_window(folder)) return;
    for (int i = 0; i < 2; i++) {
        const aq_engine_options options = {.model_path = folder,
                                           .n_thread = 1,
                                           .rope_scaling = i ? AQ_SCALING_LINEAR : AQ_SCALING_MODEL,
                                           .rope_scale = i ? 2 : 0};
        aq_engine *engine = NULL;
        if (aq_test_ok(aq_engine_open(&options, aq_test_world(), &engine))) {
            const aq_engine_info info = aq_engine_describe(engine);
            CU_ASSERT_TRUE(info.n_ctx_model == (i ? 8192 : 4096));
            CU_ASSERT_TRUE(info.window == (i ? 4096 : 0) && info.n_windowed_layer == (i ? 2 : 0));
        }
        aq_engine_close(engine);
    }
}

/* Learned positions end with their table: nothing can stretch them. */
static void learned_positions_do_not_stretch(void) {
    static const char *const names[] = {"opt", "gpt2"};
    for (int i = 0; i < 2; i++) {
        aq_known k;
        if (!aq_test_ok(aq_known_read(names[i], &k))) continue;
        const aq_engine_options good = {.model_path = k.folder, .n_thread = 1};
        aq_engine_options bad = good;
        bad.rope_freq_base = 20000;
        refuses(&bad, AQ_ERR_USAGE, "positions are learned");
        bad = good;
        bad.rope_scaling = AQ_SCALING_LINEAR;
        bad.rope_scale = 4;
        refuses(&bad, AQ_ERR_USAGE, "positions are learned");
        bad = good;
        bad.rope_scaling = AQ_SCALING_NONE;
        refuses(&bad, AQ_ERR_USAGE, "positions are learned");
        aq_engine *engine = NULL;
        if (aq_test_ok(aq_engine_open(&good, aq_test_world(), &engine))) {
            const aq_session_options options =
                aq_case_options(aq_engine_describe(engine).n_ctx_model + 1, 10);
            aq_session *session = NULL;
            aq_test_fails(aq_session_open(engine, &options, &session), AQ_ERR_LIMIT,
                          "the model was made for");
        }
        aq_engine_close(engine);
        aq_known_free(&k);
    }
}

/* A file that only the last rank misses: it is named on all, with the rank. */
static void one_rank_without_the_file_stops_all(void) {
    aq_engine_options options = {.model_path = aq_case_default()->model, .n_thread = 1};
    char text[64] = "cannot open /nowhere.gguf";
    if (n_rank() > 1) snprintf(text, sizeof text, "rank %d on ", n_rank() - 1);
    if (rank() == n_rank() - 1) options.model_path = "/nowhere.gguf";
    refuses(&options, AQ_ERR_IO, text);
    if (rank() == n_rank() - 1) options.model_path = aq_case_default()->model;
    options.projection_path = rank() == n_rank() - 1 ? "/nowhere.aqua" : NULL;
    refuses(&options, AQ_ERR_IO, n_rank() > 1 ? text : "/nowhere.aqua");
}

/* Another projection of the same model, from rank 0. */
static void share_other_projection(char path[AQ_CASE_PATH_BYTES]) {
    aq_projection p = {.pq = NULL};
    aq_status status = AQ_OK;
    path[0] = '\0';
    if (rank() == 0) {
        snprintf(path, AQ_CASE_PATH_BYTES, "%s/second.aqua", aq_test_temp_dir());
        status = aq_tiny_projection_make(aq_case_default()->model, 8, &p);
        if (status == AQ_OK) status = aq_projection_write(path, &p);
        aq_projection_free(&p);
    }
    aq_test_ok(aq_comm_agree(aq_test_world(), status));
    aq_test_ok(aq_comm_bcast(aq_test_world(), path, AQ_CASE_PATH_BYTES, 0));
}

/* Each file is good by itself; together they would give wrong answers. */
static void ranks_with_different_files_are_refused(void) {
    const aq_case *c = aq_case_default();
    const bool last = rank() == n_rank() - 1;
    char other_projection[AQ_CASE_PATH_BYTES];
    aq_case other;
    aq_tiny_model shape = aq_tiny_model_default();
    shape.seed = 2;
    aq_case_make(&shape, "seed2", &other);
    share_other_projection(other_projection);
    aq_engine_options options = {.model_path = last ? other.model : c->model, .n_thread = 1};
    if (n_rank() > 1) refuses(&options, AQ_ERR_MISMATCH, "another model than rank 0's");
    options.model_path = c->model;
    options.projection_path = last ? other_projection : c->projection;
    if (n_rank() > 1) refuses(&options, AQ_ERR_MISMATCH, "another projection than rank 0's");
    options.projection_path = last ? NULL : c->projection;
    if (n_rank() > 1) refuses(&options, AQ_ERR_MISMATCH, "another projection than rank 0's");
    options.projection_path = other.projection;
    refuses(&options, AQ_ERR_MISMATCH, "other model");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "facts are told", facts_are_told);
    CU_add_test(suite, "bad rope options are refused", bad_rope_options_are_refused);
    CU_add_test(suite, "scaling stretches the context", scaling_stretches_the_context);
    CU_add_test(suite, "divisors stay", divisors_stay);
    CU_add_test(suite, "stretched contexts keep windows", stretched_contexts_keep_windows);
    CU_add_test(suite, "learned positions do not stretch", learned_positions_do_not_stretch);
    CU_add_test(suite, "one rank without the file stops all", one_rank_without_the_file_stops_all);
    CU_add_test(suite, "ranks with different files are refused",
                ranks_with_different_files_are_refused);
}
