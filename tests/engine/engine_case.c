#include "tests/engine/engine_case.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/engine/device.h"
#include "src/model/projection_file.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"
#include "tests/support/tiny_projection.h"

static aq_status write_files(aq_case *c, const char *name) {
    aq_projection p;
    snprintf(c->model, sizeof c->model, "%s/%s.gguf", aq_test_temp_dir(), name);
    snprintf(c->projection, sizeof c->projection, "%s/%s.aqua", aq_test_temp_dir(), name);
    AQ_TRY(aq_tiny_model_write(c->model, &c->shape));
    aq_status status = aq_tiny_projection_make(c->model, 7, &p);
    if (status == AQ_OK) status = aq_projection_write(c->projection, &p);
    aq_projection_free(&p);
    return status;
}

void aq_case_make(const aq_tiny_model *shape, const char *name, aq_case *out) {
    aq_comm *world = aq_test_world();
    aq_status status = AQ_OK;
    memset(out, 0, sizeof *out);
    out->shape = *shape;
    if (aq_comm_rank(world) == 0) status = write_files(out, name);
    aq_test_ok(aq_comm_agree(world, status));
    aq_test_ok(aq_comm_bcast(world, out, sizeof *out, 0));
}

const aq_case *aq_case_default(void) {
    static aq_case made;
    const aq_tiny_model shape = aq_tiny_model_default();
    if (made.model[0] == '\0') aq_case_make(&shape, "model", &made);
    return &made;
}

void aq_case_ids(uint64_t seed, int64_t n, int32_t *ids) {
    aq_rng rng = {seed};
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)(aq_rng_next(&rng) % AQ_TINY_MIN_VOCAB);
}

void aq_case_projection(const char *model, char path[AQ_CASE_PATH_BYTES]) {
    static int n_made;
    aq_comm *world = aq_test_world();
    aq_projection p = {.pq = NULL};
    aq_status status = AQ_OK;
    memset(path, 0, AQ_CASE_PATH_BYTES);
    if (aq_comm_rank(world) == 0) {
        snprintf(path, AQ_CASE_PATH_BYTES, "%s/%d.aqua", aq_test_temp_dir(), n_made++);
        status = aq_tiny_projection_make(model, 3, &p);
        if (status == AQ_OK) status = aq_projection_write(path, &p);
        aq_projection_free(&p);
    }
    aq_test_ok(aq_comm_agree(world, status));
    aq_test_ok(aq_comm_bcast(world, path, AQ_CASE_PATH_BYTES, 0));
}

aq_engine *aq_case_engine(aq_comm *comm, const char *model, const char *projection) {
    aq_engine_options options = {.model_path = model, .projection_path = projection, .n_thread = 2};
    aq_engine *engine = NULL;
    aq_test_ok(aq_device_choose(getenv("AQUA_TEST_DEVICE"), comm, &options.device));
    aq_test_ok(aq_engine_open(&options, comm, &engine));
    return engine;
}

aq_session_options aq_case_options(int64_t n_ctx, int64_t n_batch) {
    return (aq_session_options){
        .n_ctx = n_ctx, .n_batch = n_batch, .key_type = AQ_KV_F32, .value_type = AQ_KV_F32};
}

aq_session *aq_case_session(aq_engine *engine, const aq_session_options *options) {
    aq_session *session = NULL;
    aq_test_ok(aq_session_open(engine, options, &session));
    return session;
}

typedef struct {
    aq_engine *engine;
    int64_t begin, n_vocab;
    float *logits;
    int64_t n_row;
} row_sink;

/* The rows this rank computed, to their places. */
static aq_status take_rows(void *arg, const int64_t *pos, const float *hidden, int64_t n_tok) {
    row_sink *sink = arg;
    const int64_t d_model = aq_engine_describe(sink->engine).d_model;
    for (int64_t t = 0; t < n_tok; t++)
        AQ_TRY(aq_engine_logits(sink->engine, hidden + t * d_model, 1,
                                sink->logits + (pos[t] - sink->begin) * sink->n_vocab));
    sink->n_row += n_tok;
    return AQ_OK;
}

/* Whoever computed the last token, every rank gives its logits. */
static void check_last(aq_session *session, const float *expected, int64_t n_vocab) {
    float *logits = aq_case_floats(n_vocab);
    aq_test_ok(aq_session_logits(session, logits));
    CU_ASSERT_EQUAL(aq_case_distance_f32(logits, expected, n_vocab), 0.0);
    free(logits);
}

void aq_case_prefill(aq_engine *engine, aq_comm *comm, aq_session *session, const int32_t *ids,
                     int64_t n, float *logits) {
    row_sink sink = {engine, aq_session_length(session), aq_engine_describe(engine).n_vocab, logits,
                     0};
    const aq_hooks hooks = {.arg = &sink, .rows = take_rows};
    const int64_t n_number = n * sink.n_vocab;
    double *sum = aq_case_doubles(n_number);
    memset(logits, 0, (size_t)n_number * sizeof *logits);
    aq_test_ok(aq_session_prefill(session, ids, n, &hooks));
    for (int64_t i = 0; i < n_number; i++)
        sum[i] = (double)logits[i];
    aq_test_ok(aq_comm_sum_f64(comm, sum, n_number)); /* one rank has the row: exact */
    aq_test_ok(aq_comm_sum_i64(comm, &sink.n_row, 1));
    CU_ASSERT_EQUAL(sink.n_row, n);
    for (int64_t i = 0; i < n_number; i++)
        logits[i] = (float)sum[i];
    free(sum);
    check_last(session, logits + (n - 1) * sink.n_vocab, sink.n_vocab);
}

void aq_case_decode(aq_engine *engine, aq_session *session, const int32_t *ids, int64_t n,
                    float *logits) {
    const int64_t n_vocab = aq_engine_describe(engine).n_vocab;
    for (int64_t i = 0; i < n; i++) {
        aq_test_ok(aq_session_decode(session, ids[i]));
        aq_test_ok(aq_session_logits(session, logits + i * n_vocab));
    }
}

double aq_case_distance(const float *y, const double *ref, int64_t n) {
    double most = 0, range = 0;
    for (int64_t i = 0; i < n; i++) {
        const double apart = fabs((double)y[i] - ref[i]);
        if (isnan(apart)) return INFINITY;
        most = fmax(most, apart);
        range = fmax(range, fabs(ref[i]));
    }
    return most / range;
}

double aq_case_distance_f32(const float *y, const float *ref, int64_t n) {
    double *wide = aq_case_doubles(n);
    for (int64_t i = 0; i < n; i++)
        wide[i] = (double)ref[i];
    const double distance = aq_case_distance(y, wide, n);
    free(wide);
    return distance;
}

static void *grab(int64_t n, size_t bytes) {
    void *memory = calloc((size_t)n + 1, bytes);
    if (memory) return memory;
    fprintf(stderr, "no memory for a test\n");
    exit(1);
}

float *aq_case_floats(int64_t n) {
    return grab(n, sizeof(float));
}

double *aq_case_doubles(int64_t n) {
    return grab(n, sizeof(double));
}
