#include "calib/calibrate.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calib/basis.h"
#include "src/engine/engine.h"

/* Long, because keys far into a context are what a projection is for. */
#define DEFAULT_CHUNK_TOK 8192
/* Chunks pass through the session in batches of this: small buffers, full speed. */
#define BATCH_TOK 512

static int64_t min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* How a text of n tokens is cut. */
typedef struct {
    int64_t n;         /* tokens of the text */
    int64_t n_use;     /* tokens of it that are used */
    int64_t n_chunk;   /* chunks */
    int64_t chunk_tok; /* text tokens of a chunk, the last may be shorter */
    int n_bos;         /* 1 if a BOS stands in front of each */
} cut;

static aq_status cut_text(const aq_model_config *config, int64_t n,
                          const aq_calibrate_options *options, cut *out) {
    const int64_t asked = options->n_chunk_tok > 0 ? options->n_chunk_tok : DEFAULT_CHUNK_TOK;
    const int64_t length = min(asked, config->n_ctx);
    if (length <= AQ_CALIBRATE_SINKS + 1)
        return aq_fail(AQ_ERR_USAGE, "calibration chunks of %lld tokens are too short; use %d",
                       (long long)length, DEFAULT_CHUNK_TOK);
    out->n = n;
    out->n_use = options->n_tok > 0 ? min(options->n_tok, n) : n;
    if (out->n_use < config->d_head + AQ_CALIBRATE_SINKS)
        return aq_fail(AQ_ERR_USAGE,
                       "a calibration text of %lld tokens is too short; give at least %d, better "
                       "4096",
                       (long long)out->n_use, config->d_head + AQ_CALIBRATE_SINKS);
    out->n_bos = options->bos >= 0;
    out->chunk_tok = length - out->n_bos;
    out->n_chunk = (out->n_use + out->chunk_tok - 1) / out->chunk_tok;
    return AQ_OK;
}

/* aq_hooks.tap: sums what this step's tokens have, sinks left out. */
static aq_status add_step(void *arg, int layer, const int64_t *pos, int64_t n_tok, const float *q,
                          const float *k) {
    aq_gram_add_from(arg, layer, AQ_CALIBRATE_SINKS, pos, n_tok, q, k);
    return AQ_OK;
}

int64_t aq_calibrate_chunk_begin(int64_t c, int64_t n_chunk, int64_t chunk_tok, int64_t n,
                                 int64_t n_use) {
    return c * chunk_tok + (int64_t)((double)(n - n_use) * (double)c / (double)n_chunk);
}

/* Runs chunk c of the text from an empty context. */
static aq_status run_chunk(aq_session *session, aq_gram *gram, const cut *cut, int64_t c,
                           const int32_t *ids, const int32_t *bos) {
    const aq_hooks hooks = {.arg = gram, .tap = add_step};
    const int64_t begin =
        aq_calibrate_chunk_begin(c, cut->n_chunk, cut->chunk_tok, cut->n, cut->n_use);
    const int64_t n = min(cut->chunk_tok, cut->n_use - c * cut->chunk_tok);
    aq_session_reset(session);
    if (cut->n_bos) AQ_TRY(aq_session_prefill(session, bos, 1, &hooks));
    return aq_session_prefill(session, ids + begin, n, &hooks);
}

/* This rank's chunks: rank, rank + n_rank, ... */
static aq_status run_share(aq_engine *engine, const aq_comm *comm, const cut *cut,
                           const int32_t *ids, const aq_calibrate_options *options, aq_gram *gram) {
    const int rank = aq_comm_rank(comm), n_rank = aq_comm_size(comm);
    const int64_t n_mine = (cut->n_chunk - rank + n_rank - 1) / n_rank;
    const int64_t n_ctx = cut->chunk_tok + cut->n_bos;
    const aq_session_options session_options = {.n_ctx = n_ctx,
                                                .n_batch = min(n_ctx, BATCH_TOK),
                                                .attn = AQ_ATTN_DENSE,
                                                .key_type = AQ_KV_F32,
                                                .value_type = AQ_KV_F32};
    aq_session *session = NULL;
    if (n_mine <= 0) return AQ_OK;
    AQ_TRY(aq_session_open(engine, &session_options, &session));
    aq_status status = AQ_OK;
    for (int64_t j = 0; status == AQ_OK && j < n_mine; j++) {
        status = run_chunk(session, gram, cut, rank + j * n_rank, ids, &options->bos);
        if (status == AQ_OK && options->progress) options->progress(options->arg, j + 1, n_mine);
    }
    aq_session_close(session);
    return status;
}

/* Everything before ranks have to meet. The gram is the caller's to close. */
static aq_status sum_local(aq_engine *engine, const aq_comm *comm, const int32_t *ids, int64_t n,
                           const aq_calibrate_options *options, aq_gram *gram) {
    const aq_model_config *config = &engine->config;
    aq_threads *team = NULL;
    cut cut = {.n = n};
    if (aq_comm_size(engine->comm) != 1)
        return aq_fail(AQ_ERR_USAGE, "calibration needs an engine of one rank on every rank");
    AQ_TRY(cut_text(config, n, options, &cut));
    AQ_TRY(aq_threads_open(engine->n_thread, &team));
    aq_status status = aq_gram_open(config->n_layer, config->n_head, config->n_kv_head,
                                    config->d_head, team, gram);
    if (status == AQ_OK) status = run_share(engine, comm, &cut, ids, options, gram);
    aq_threads_close(team);
    gram->team = NULL;
    return status;
}

aq_status aq_calibrate_sums(aq_engine *engine, aq_comm *comm, const int32_t *ids, int64_t n,
                            const aq_calibrate_options *options, aq_gram *out) {
    *out = (aq_gram){.data = NULL};
    aq_status status = aq_comm_agree(comm, sum_local(engine, comm, ids, n, options, out));
    if (status == AQ_OK) status = aq_comm_sum_f64(comm, out->data, out->n);
    if (status != AQ_OK) aq_gram_close(out);
    return status;
}

void aq_calibrate_sign(const aq_engine *engine, const char *domain, aq_projection *out) {
    memcpy(out->fingerprint, engine->weights.fingerprint, AQ_FINGERPRINT_BYTES);
    snprintf(out->domain, sizeof out->domain, "%s", domain ? domain : "");
}

aq_status aq_calibrate(aq_engine *engine, aq_comm *comm, const int32_t *ids, int64_t n,
                       const aq_calibrate_options *options, aq_projection *out) {
    aq_gram gram;
    memset(out, 0, sizeof *out);
    AQ_TRY(aq_calibrate_sums(engine, comm, ids, n, options, &gram));
    const aq_status status = aq_calibrate_solve_joined(comm, &gram, options->basis, out);
    if (status == AQ_OK) aq_calibrate_sign(engine, options->domain, out);
    aq_gram_close(&gram);
    return status;
}

/* Solves the problems dealt to this rank. */
static aq_status solve_share(const aq_comm *comm, const aq_gram *gram, aq_projection *p) {
    const int64_t d = gram->d_head, n_problem = (int64_t)gram->n_layer * gram->n_kv_head;
    openblas_set_num_threads(1); /* problems are small, and every rank solves some */
    for (int64_t i = aq_comm_rank(comm); i < n_problem; i += aq_comm_size(comm)) {
        const aq_gram_sums s = aq_gram_get(gram, i);
        const aq_status status =
            aq_basis_solve(p->basis, gram->d_head, s.gk, s.gq, s.sk, s.n_tok, p->pq + i * d * d,
                           p->pk + i * d * d, p->sigma + i * d, p->spectrum + i * d);
        if (status != AQ_OK)
            return aq_fail(status, "calibration of layer %d, KV head %d: %s",
                           (int)(i / gram->n_kv_head), (int)(i % gram->n_kv_head), aq_error_text());
    }
    return AQ_OK;
}

/* Every rank gets every problem's results from the rank that solved it. Collective. */
static aq_status share_results(aq_comm *comm, aq_projection *p) {
    const int64_t d = p->d_head, n_problem = (int64_t)p->n_layer * p->n_kv_head;
    const size_t matrix_bytes = (size_t)(d * d) * sizeof(float);
    const size_t vector_bytes = (size_t)d * sizeof(float);
    for (int64_t i = 0; i < n_problem; i++) {
        const int root = (int)(i % aq_comm_size(comm));
        AQ_TRY(aq_comm_bcast(comm, p->pq + i * d * d, matrix_bytes, root));
        AQ_TRY(aq_comm_bcast(comm, p->pk + i * d * d, matrix_bytes, root));
        AQ_TRY(aq_comm_bcast(comm, p->sigma + i * d, vector_bytes, root));
        AQ_TRY(aq_comm_bcast(comm, p->spectrum + i * d, vector_bytes, root));
    }
    return AQ_OK;
}

aq_status aq_calibrate_solve_joined(aq_comm *comm, const aq_gram *gram, aq_basis basis,
                                    aq_projection *out) {
    memset(out, 0, sizeof *out);
    out->basis = basis;
    out->n_layer = gram->n_layer;
    out->n_kv_head = gram->n_kv_head;
    out->d_head = gram->d_head;
    out->n_tok_calib = aq_gram_get(gram, 0).n_tok;
    aq_status status = aq_comm_agree(comm, aq_projection_alloc(out));
    if (status == AQ_OK) status = aq_comm_agree(comm, solve_share(comm, gram, out));
    if (status == AQ_OK) status = share_results(comm, out);
    if (status == AQ_OK) return AQ_OK;
    aq_projection_free(out);
    memset(out, 0, sizeof *out);
    return status;
}

aq_status aq_calibrate_solve(aq_comm *comm, aq_gram *gram, aq_basis basis, aq_projection *out) {
    memset(out, 0, sizeof *out);
    AQ_TRY(aq_comm_sum_f64(comm, gram->data, gram->n));
    return aq_calibrate_solve_joined(comm, gram, basis, out);
}

aq_status aq_calibrate_save(aq_comm *comm, const char *path, const aq_projection *p) {
    const aq_status status = aq_comm_rank(comm) == 0 ? aq_projection_write(path, p) : AQ_OK;
    return aq_comm_agree(comm, status);
}
