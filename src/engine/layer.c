/* One transformer layer, the same straight line for prefill and decode and for every family of
 * models: what a family has not, its weights have not. */
#include "src/base/clock.h"
#include "src/engine/apply.h"
#include "src/engine/session.h"

static void rotate(const aq_session *session, int layer, float *x, int n_head) {
    const aq_engine *engine = session->engine;
    const aq_step *step = &session->step;
    const bool windowed = aq_model_windowed(&engine->config, layer);
    if (engine->config.n_rot == 0) return;
    engine->be->ops->rope(engine->be,
                          &(aq_rope_args){.table = windowed ? step->rope_local : step->rope,
                                          .n_tok = step->n_tok,
                                          .n_head = n_head,
                                          .d_head = engine->config.d_head,
                                          .n_rot = engine->config.n_rot,
                                          .x = x});
}

/* step->q, k, v of rows h[n_tok, d_model]: normed and rotated where the model does so. */
static aq_status make_qkv(aq_session *session, int layer, const aq_layer_weights *w,
                          const float *h) {
    const aq_engine *engine = session->engine;
    const aq_step *step = &session->step;
    const int n_head = engine->config.n_head, n_kv_head = engine->config.n_kv_head;
    const int64_t d = engine->config.d_head;
    const aq_matmul_part parts[] = {aq_apply_part(&w->wq, step->q), aq_apply_part(&w->wk, step->k),
                                    aq_apply_part(&w->wv, step->v)};
    aq_session_stats *stats = &session->stats;
    AQ_TRY(aq_shard_product(
        engine,
        &(aq_matmul_each_args){
            .parts = parts, .n_part = 3, .n_in = w->wq.n_in, .n_tok = step->n_tok, .x = h},
        (int64_t[]){n_head * d, n_kv_head * d, n_kv_head * d}, stats));
    const int64_t now = aq_clock_ns();
    if (w->q_norm) aq_apply_head_norm(engine, w->q_norm, step->n_tok, n_head, step->q);
    if (w->k_norm) aq_apply_head_norm(engine, w->k_norm, step->n_tok, n_kv_head, step->k);
    rotate(session, layer, step->q, n_head);
    rotate(session, layer, step->k, n_kv_head);
    aq_session_lap(&stats->other_ns, now);
    return AQ_OK;
}

/* Leaves of each q^ as many dimensions as the session's rule says. */
static void prune(aq_session *session, const aq_score_shape *score, const float *weight) {
    const aq_engine *engine = session->engine;
    engine->be->ops->prune_dims(engine->be,
                                &(aq_prune_dims_args){.q = session->step.q_proj,
                                                      .weight = weight,
                                                      .tau = session->options.k_tau,
                                                      .least = engine->projection.k_energy,
                                                      .n_tok = session->step.n_tok,
                                                      .n_head = engine->config.n_head,
                                                      .n_kv_head = engine->config.n_kv_head,
                                                      .n_col = score->n_col,
                                                      .n_kept = session->n_kept});
    session->stats.n_pruned_row += session->step.n_tok * engine->config.n_head;
}

/* q^ = q P_q, k^ = k P_k, and the dimensions of each q^ that decide. */
static void project(aq_session *session, int layer, const aq_score_shape *score) {
    const aq_engine *engine = session->engine;
    const aq_step *step = &session->step;
    aq_backend *be = engine->be;
    const int n_head = engine->config.n_head, n_kv_head = engine->config.n_kv_head;
    const int d_head = engine->config.d_head;
    const int64_t at = (int64_t)layer * n_kv_head * d_head;
    aq_project_args args = {.x = step->q,
                            .p = engine->pq + at * d_head,
                            .n_tok = step->n_tok,
                            .n_head = n_head,
                            .n_kv_head = n_kv_head,
                            .d_head = d_head,
                            .n_col = score->n_col,
                            .y = step->q_proj};
    be->ops->project(be, &args);
    args.x = step->k;
    args.p = engine->pk + at * d_head;
    args.n_head = n_kv_head;
    args.y = step->k_proj;
    be->ops->project(be, &args);

    const int64_t weight_at = (int64_t)layer * n_kv_head * score->n_col;
    const float *weight = session->dim_weight ? session->dim_weight + weight_at : NULL;
    if (score->prunes) prune(session, score, weight);
    if (score->n_dim == score->n_col) return;
    be->ops->topk_dims(be, &(aq_topk_dims_args){.q = step->q_proj,
                                                .weight = weight,
                                                .n_tok = step->n_tok,
                                                .n_head = n_head,
                                                .n_kv_head = n_kv_head,
                                                .n_col = score->n_col,
                                                .n_dim = score->n_dim,
                                                .dims = step->dims});
}

/* Writes the step's keys and values into the tiles of this rank. A replicated token is everyone's
 * to compute and its tile owner's to keep. */
static void keep(const aq_session *session, int layer, aq_attend_way way, const float *key) {
    const aq_step *step = &session->step;
    aq_backend *be = session->engine->be;
    const bool windowed = aq_model_windowed(&session->engine->config, layer);
    if (way == AQ_ATTEND_REPLICATED &&
        aq_plan_owner(&session->plan, step->pos[0]) != session->plan.rank)
        return;
    if (aq_session_evicts(session, layer)) {
        aq_evict_append(session, layer, key);
        return;
    }
    const int64_t *slot = windowed ? step->ring_slot : step->slot;
    be->ops->kv_append(
        be, &(aq_kv_append_args){.kv = aq_kvcache_layer(&session->cache, layer, step->end),
                                 .key = key,
                                 .value = step->v,
                                 .slot = aq_step_there(step, slot),
                                 .n_tok = step->n_tok});
}

/* norm(x), or x itself if the model has no such norm. */
static const float *normed(const aq_session *session, const aq_norm_weight *norm) {
    const aq_step *step = &session->step;
    if (!norm->w) return step->x;
    aq_apply_norm(session->engine, norm, step->x, step->n_tok, step->norm, false);
    return step->norm;
}

static aq_status give_tap(const aq_session *session, int layer, const aq_hooks *hooks) {
    const aq_model_config *config = &session->engine->config;
    const aq_step *step = &session->step;
    const int64_t bytes = step->n_tok * config->d_head * (int64_t)sizeof(float);
    aq_backend *be = session->engine->be;
    const float *q = aq_step_fetch(be, step, 0, step->q, config->n_head * bytes);
    const float *k = aq_step_fetch(be, step, 1, step->k, config->n_kv_head * bytes);
    return hooks->tap(hooks->arg, layer, step->pos, step->n_tok, q, k);
}

/* *out = the layer's weights: with a token that every rank has its share of them, else all. */
static aq_status take_weights(aq_session *session, int layer, aq_attend_way way,
                              const aq_layer_weights **out) {
    aq_session_stats *stats = &session->stats;
    const int64_t start_ns = aq_clock_ns();
    *out = &session->engine->placed.layers[layer];
    if (way == AQ_ATTEND_VISITING) AQ_TRY(aq_shard_gather(session->engine, layer, out));
    aq_session_lap(&stats->exchange_ns, start_ns);
    return AQ_OK;
}

aq_status aq_layer_forward(aq_session *session, int layer, aq_attend_way way,
                           const aq_hooks *hooks) {
    const aq_engine *engine = session->engine;
    const aq_layer_weights *w = NULL;
    const aq_score_shape score = aq_session_score(session, layer, way);
    const bool parallel = engine->config.parallel_residual;
    const aq_step *step = &session->step;
    const int64_t n_tok = step->n_tok;
    aq_session_stats *stats = &session->stats;

    AQ_TRY(take_weights(session, layer, way, &w));
    int64_t now = aq_clock_ns();
    const float *h = normed(session, &w->attn_norm);
    aq_session_lap(&stats->other_ns, now);
    AQ_TRY(make_qkv(session, layer, w, h));
    if (hooks && hooks->tap) AQ_TRY(give_tap(session, layer, hooks));
    now = aq_clock_ns();
    if (score.projects) project(session, layer, &score);
    now = aq_session_lap(&stats->project_ns, now);
    keep(session, layer, way, score.projects ? step->k_proj : step->k);
    aq_session_lap(&stats->other_ns, now);
    AQ_TRY(aq_attend(session, layer, way));

    if (parallel) h = normed(session, &w->ffn_norm); /* of x before attention is added */
    const bool normed_out = w->attn_post_norm.w != NULL;
    AQ_TRY(aq_apply_shared(engine, &w->wo, engine->config.d_model, step->mixed, n_tok,
                           normed_out ? step->out : step->x, !normed_out, stats));
    now = aq_clock_ns();
    if (normed_out) aq_apply_norm(engine, &w->attn_post_norm, step->out, n_tok, step->x, true);
    if (!parallel) h = normed(session, &w->ffn_norm);
    aq_session_lap(&stats->other_ns, now);
    return aq_ffn_forward(session, layer, w, h);
}
