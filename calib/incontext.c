#include "calib/incontext.h"

#include <string.h>

#include "calib/calibrate.h"
#include "src/engine/session.h"

/* What the dense part's hooks need: the sums, who else watches, and what rotates tokens on. */
typedef struct {
    aq_engine *engine;
    aq_gram *gram;
    int64_t n_skip; /* first positions that are not counted */
    const aq_hooks *outer;
    bool failed;              /* inside the dense part */
    const float *inv_freq;    /* [n_rot / 2] */
    int64_t n_dense, n_shift; /* token p is rotated on by (p mod n_shift) n_dense positions */
    int64_t *shift;           /* [n_tok_max] */
    float *table;             /* [n_tok_max, n_rot] */
    float *q, *k;             /* [n_tok_max] rows as the tap has them */
} watch;

static void rotate(const watch *w, int n_head, int64_t n_tok, float *x) {
    aq_backend *be = w->engine->be;
    be->ops->rope(be, &(aq_rope_args){.table = w->table,
                                      .n_tok = n_tok,
                                      .n_head = n_head,
                                      .d_head = w->gram->d_head,
                                      .n_rot = w->engine->config.n_rot,
                                      .x = x});
}

/* Copies of a step's queries and keys, as they would be all over the context: the further on, the
 * further rotated, both alike. */
static void spread(const watch *w, const int64_t *pos, int64_t n_tok, const float *q,
                   const float *k) {
    aq_backend *be = w->engine->be;
    const aq_gram *gram = w->gram;
    const size_t row = (size_t)(n_tok * gram->d_head) * sizeof(float);
    for (int64_t t = 0; t < n_tok; t++)
        w->shift[t] = pos[t] % w->n_shift * w->n_dense;
    be->ops->rope_table(be, &(aq_rope_table_args){.pos = w->shift,
                                                  .inv_freq = w->inv_freq,
                                                  .scale = 1.0f,
                                                  .n_tok = n_tok,
                                                  .n_rot = w->engine->config.n_rot,
                                                  .table = w->table});
    memcpy(w->q, q, row * (size_t)gram->n_head);
    memcpy(w->k, k, row * (size_t)gram->n_kv_head);
    rotate(w, gram->n_head, n_tok, w->q);
    rotate(w, gram->n_kv_head, n_tok, w->k);
}

static aq_status sum_layer(void *arg, int layer, const int64_t *pos, int64_t n_tok, const float *q,
                           const float *k) {
    const watch *w = arg;
    const aq_gram *gram = w->gram;
    int64_t skip = 0;
    while (skip < n_tok && pos[skip] < w->n_skip)
        skip++;
    if (w->table) {
        spread(w, pos, n_tok, q, k);
        q = w->q;
        k = w->k;
    }
    aq_gram_add(w->gram, layer, q + skip * gram->n_head * gram->d_head,
                k + skip * gram->n_kv_head * gram->d_head, n_tok - skip);
    return AQ_OK;
}

/* Memory for rotated copies, if the context is longer than what is calibrated on and positions are
 * rotary. */
static aq_status open_spread(watch *w, const aq_session *staging, int64_t n_ctx) {
    const aq_model_config *config = &w->engine->config;
    const size_t n = (size_t)staging->shape.n_tok_max, f = sizeof(float);
    aq_backend *be = w->engine->be;
    w->n_dense = staging->options.n_ctx;
    w->n_shift = (n_ctx + w->n_dense - 1) / w->n_dense;
    w->inv_freq = staging->rope.inv_freq;
    if (w->n_shift <= 1 || config->n_rot == 0) return AQ_OK;
    const size_t d = (size_t)config->d_head;
    AQ_TRY(be->ops->alloc(be, n * sizeof *w->shift, (void **)&w->shift));
    AQ_TRY(be->ops->alloc(be, n * (size_t)config->n_head * d * f, (void **)&w->q));
    AQ_TRY(be->ops->alloc(be, n * (size_t)config->n_kv_head * d * f, (void **)&w->k));
    return be->ops->alloc(be, n * (size_t)config->n_rot * f, (void **)&w->table);
}

static void close_spread(watch *w) {
    void *const blocks[] = {w->shift, w->q, w->k, w->table};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        if (blocks[i]) w->engine->be->ops->release(w->engine->be, blocks[i]);
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

static aq_session_options dense_options(const aq_session_options *asked, int64_t n_ctx) {
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
    watch w = {.engine = engine, .gram = &gram, .outer = outer};
    if (n > AQ_CALIBRATE_SINKS) w.n_skip = AQ_CALIBRATE_SINKS;
    if (basis == AQ_BASIS_KQ && n - w.n_skip < engine->config.d_head) basis = AQ_BASIS_JOINT;
    aq_status status = open_gram(engine, &team, &gram);
    if (status == AQ_OK) status = open_spread(&w, staging, n_ctx);
    status = aq_comm_agree(comm, status);
    if (status == AQ_OK) status = run_dense(staging, ids, n, &w);
    if (status == AQ_OK) status = set_projection(engine, comm, &gram, basis);
    *alone = w.failed;
    close_spread(&w);
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
    const aq_session_options dense = dense_options(options, n_dense);
    AQ_TRY(aq_session_open(engine, &dense, &staging));
    aq_status status =
        calibrate(engine, comm, basis, ids, n_dense, hooks, options->n_ctx, staging, &failed);
    if (status == AQ_OK) status = take_over(engine, options, staging, out);
    aq_session_close(staging);
    if (alone) *alone = failed;
    if (status == AQ_OK) *n_done = n_dense;
    return status;
}
