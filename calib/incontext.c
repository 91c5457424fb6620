#include "calib/incontext.h"

#include "calib/calibrate.h"
#include "calib/spread.h"
#include "src/engine/session.h"

/* What the dense part's hooks need: who sums and who else watches. */
typedef struct {
    const aq_spread *spread;
    const aq_hooks *outer;
    bool failed; /* inside the dense part */
} watch;

static aq_status sum_layer(void *arg, int layer, const int64_t *pos, int64_t n_tok, const float *q,
                           const float *k) {
    const watch *w = arg;
    aq_spread_add(w->spread, layer, pos, n_tok, q, k);
    return AQ_OK;
}

static aq_status pass_progress(void *arg, int64_t n_done, int64_t n_all) {
    const watch *w = arg;
    return w->outer->progress(w->outer->arg, n_done, n_all);
}

static aq_status pass_rows(void *arg, const int64_t *pos, const float *hidden, int64_t n_tok) {
    const watch *w = arg;
    return w->outer->rows(w->outer->arg, pos, hidden, n_tok);
}

static aq_kv_type dense_type(aq_kv_type asked) {
    return asked == AQ_KV_F32 ? AQ_KV_F32 : AQ_KV_BF16;
}

aq_session_options aq_incontext_dense(const aq_session_options *asked, int64_t n_ctx) {
    return (aq_session_options){.n_ctx = n_ctx,
                                .n_ctx_rope = asked->n_ctx,
                                .n_batch = asked->n_batch,
                                .attn = AQ_ATTN_DENSE,
                                .key_type = dense_type(asked->key_type),
                                .value_type = dense_type(asked->value_type)};
}

/* Runs the ids through the dense session and sums what they ask and hold. */
static aq_status run_dense(aq_session *staging, const int32_t *ids, int64_t n, watch *w) {
    aq_hooks hooks = {.arg = w, .tap = sum_layer};
    if (w->outer && w->outer->progress) hooks.progress = pass_progress;
    if (w->outer && w->outer->rows) hooks.rows = pass_rows;
    const aq_status status = aq_session_prefill(staging, ids, n, &hooks);
    w->failed = status != AQ_OK;
    return status;
}

/* The engine's projection from the sums. Collective. */
static aq_status set_projection(aq_engine *engine, aq_comm *comm, aq_gram *gram, aq_basis basis) {
    aq_projection projection;
    AQ_TRY(aq_calibrate_solve(comm, gram, basis, &projection));
    aq_calibrate_sign(engine, "the context itself", &projection);
    const aq_status status = aq_engine_set_projection(engine, &projection);
    aq_projection_free(&projection);
    return status;
}

/* The asked session with the tokens of the dense one in it. Collective. */
static aq_status take_over(aq_engine *engine, const aq_session_options *options,
                           const aq_session *staging, aq_session **out) {
    AQ_TRY(aq_session_open(engine, options, out));
    const aq_status status = aq_session_recode(*out, staging);
    if (status == AQ_OK) return AQ_OK;
    aq_session_close(*out);
    *out = NULL;
    return status;
}

static aq_status open_gram(const aq_engine *engine, aq_threads **team, aq_gram *gram) {
    const aq_model_config *config = &engine->config;
    AQ_TRY(aq_threads_open(engine->n_thread, team));
    return aq_gram_open(config->n_layer, config->n_head, config->n_kv_head, config->d_head, *team,
                        gram);
}

static aq_status calibrate(aq_engine *engine, aq_comm *comm, aq_basis basis, const int32_t *ids,
                           int64_t n, const aq_hooks *outer, int64_t n_ctx, aq_session *staging,
                           bool *alone) {
    aq_gram gram = {.data = NULL};
    aq_threads *team = NULL;
    aq_spread spread = {.table = NULL};
    watch w = {.spread = &spread, .outer = outer};
    const int64_t n_skip = n > AQ_CALIBRATE_SINKS ? AQ_CALIBRATE_SINKS : 0;
    if (basis == AQ_BASIS_KQ && n - n_skip < engine->config.d_head) basis = AQ_BASIS_JOINT;
    aq_status status = open_gram(engine, &team, &gram);
    if (status == AQ_OK) status = aq_spread_open(engine, staging, n_ctx, n_skip, &gram, &spread);
    status = aq_comm_agree(comm, status);
    if (status == AQ_OK) status = run_dense(staging, ids, n, &w);
    if (status == AQ_OK) status = set_projection(engine, comm, &gram, basis);
    *alone = w.failed;
    aq_spread_close(&spread);
    aq_gram_close(&gram);
    aq_threads_close(team);
    return status;
}

/* What the asked session would refuse after the dense part, or could not do with a projection that
 * is made on the way. The same on all ranks. */
static aq_status check(const aq_engine *engine, const aq_session_options *asked) {
    aq_session_options options = *asked;
    const char *needs = asked->n_h2o > 0 ? "--h2o" : asked->hybrid ? "--hybrid" : NULL;
    if (needs)
        return aq_fail(AQ_ERR_USAGE,
                       "%s needs a projection file: make one with aqua-dist calibrate", needs);
    return aq_score_check_options(engine, &options);
}

aq_status aq_incontext_open(aq_engine *engine, aq_comm *comm, const aq_session_options *options,
                            aq_basis basis, const int32_t *ids, int64_t n, const aq_hooks *hooks,
                            aq_session **out, int64_t *n_done, bool *alone) {
    const int64_t n_dense = n < AQ_INCONTEXT_TOKENS ? n : AQ_INCONTEXT_TOKENS;
    aq_session *staging = NULL;
    bool failed = false;
    *out = NULL;
    *n_done = 0;
    if (n < 1) return aq_fail(AQ_ERR_USAGE, "there is no context to calibrate on; give a prompt");
    AQ_TRY(check(engine, options));
    if (n_dense > options->n_ctx)
        return aq_fail(AQ_ERR_LIMIT, "%lld tokens do not fit a context of %lld", (long long)n,
                       (long long)options->n_ctx);
    const aq_session_options dense = aq_incontext_dense(options, n_dense);
    AQ_TRY(aq_session_open(engine, &dense, &staging));
    aq_status status =
        calibrate(engine, comm, basis, ids, n_dense, hooks, options->n_ctx, staging, &failed);
    if (status == AQ_OK) status = take_over(engine, options, staging, out);
    aq_session_close(staging);
    if (alone) *alone = failed;
    if (status == AQ_OK) *n_done = n_dense;
    return status;
}
