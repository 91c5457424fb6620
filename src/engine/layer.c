/* One transformer layer, the same straight line for prefill and decode. */
#include "src/base/clock.h"
#include "src/engine/session.h"

static void multiply(aq_backend *be, const aq_weight *w, const float *x, int64_t n_tok, float *y,
                     bool accumulate) {
    be->ops->matmul(be, &(aq_matmul_args){.w = w->data,
                                          .dtype = w->dtype,
                                          .n_out = w->n_out,
                                          .n_in = w->n_in,
                                          .n_tok = n_tok,
                                          .x = x,
                                          .y = y,
                                          .accumulate = accumulate});
}

static void normalise(const aq_engine *engine, const float *x, const float *w, int64_t n_tok,
                      float *y) {
    engine->be->ops->rmsnorm(engine->be, &(aq_rmsnorm_args){.x = x,
                                                            .w = w,
                                                            .eps = engine->config.norm_eps,
                                                            .n_tok = n_tok,
                                                            .d_model = engine->config.d_model,
                                                            .y = y});
}

static void rotate(const aq_engine *engine, const aq_step *step, float *x, int n_head) {
    engine->be->ops->rope(engine->be, &(aq_rope_args){.table = step->rope,
                                                      .n_tok = step->n_tok,
                                                      .n_head = n_head,
                                                      .d_head = engine->config.d_head,
                                                      .n_rot = engine->config.n_rot,
                                                      .x = x});
}

/* q^ = q P_q, k^ = k P_k, and the dimensions of each q^ that decide. */
static void project(const aq_session *session, int layer) {
    const aq_engine *engine = session->engine;
    const aq_step *step = &session->step;
    const aq_step_shape *shape = &session->shape;
    aq_backend *be = engine->be;
    const int n_head = engine->config.n_head, n_kv_head = engine->config.n_kv_head;
    const int d_head = engine->config.d_head;
    const int64_t at = (int64_t)layer * n_kv_head * d_head;
    aq_project_args args = {.x = step->q,
                            .p = engine->projection.pq + at * d_head,
                            .n_tok = step->n_tok,
                            .n_head = n_head,
                            .n_kv_head = n_kv_head,
                            .d_head = d_head,
                            .n_col = shape->n_col,
                            .y = step->q_proj};
    be->ops->project(be, &args);
    args.x = step->k;
    args.p = engine->projection.pk + at * d_head;
    args.n_head = n_kv_head;
    args.y = step->k_proj;
    be->ops->project(be, &args);

    if (shape->n_dim == shape->n_col) return;
    const int64_t weight_at = (int64_t)layer * n_kv_head * shape->n_col;
    const float *weight = session->dim_weight;
    be->ops->topk_dims(be, &(aq_topk_dims_args){.q = step->q_proj,
                                                .weight = weight ? weight + weight_at : NULL,
                                                .n_tok = step->n_tok,
                                                .n_head = n_head,
                                                .n_kv_head = n_kv_head,
                                                .n_col = shape->n_col,
                                                .n_dim = shape->n_dim,
                                                .dims = step->dims});
}

aq_status aq_layer_forward(aq_session *session, int layer, aq_attend_way way,
                           const aq_hooks *hooks) {
    aq_engine *engine = session->engine;
    aq_backend *be = engine->be;
    aq_step *step = &session->step;
    aq_session_stats *stats = &session->stats;
    const aq_model_config *config = &engine->config;
    const aq_layer_weights *w = &engine->weights.layers[layer];
    const int64_t n_tok = step->n_tok;
    int64_t now = aq_clock_ns();

    normalise(engine, step->x, w->attn_norm, n_tok, step->norm);
    now = aq_session_lap(&stats->other_ns, now);
    multiply(be, &w->wq, step->norm, n_tok, step->q, false);
    multiply(be, &w->wk, step->norm, n_tok, step->k, false);
    multiply(be, &w->wv, step->norm, n_tok, step->v, false);
    now = aq_session_lap(&stats->matmul_ns, now);
    rotate(engine, step, step->q, config->n_head);
    rotate(engine, step, step->k, config->n_kv_head);
    if (hooks && hooks->tap)
        AQ_TRY(hooks->tap(hooks->arg, layer, step->pos, n_tok, step->q, step->k));
    now = aq_session_lap(&stats->other_ns, now);
    if (session->shape.projects) project(session, layer);
    now = aq_session_lap(&stats->project_ns, now);

    /* A replicated token is everyone's to compute and its tile owner's to keep. */
    const bool keeps = way == AQ_ATTEND_VISITING ||
                       aq_plan_owner(&session->plan, step->pos[0]) == session->plan.rank;
    if (keeps)
        be->ops->kv_append(be, &(aq_kv_append_args){.kv = aq_kvcache_layer(&session->cache, layer),
                                                    .key = step->k_proj,
                                                    .value = step->v,
                                                    .slot = step->slot,
                                                    .n_tok = n_tok});
    aq_session_lap(&stats->other_ns, now);
    AQ_TRY(aq_attend(session, layer, way));

    now = aq_clock_ns();
    multiply(be, &w->wo, step->mixed, n_tok, step->x, true);
    now = aq_session_lap(&stats->matmul_ns, now);
    normalise(engine, step->x, w->ffn_norm, n_tok, step->norm);
    now = aq_session_lap(&stats->other_ns, now);
    multiply(be, &w->w_gate, step->norm, n_tok, step->gate, false);
    multiply(be, &w->w_up, step->norm, n_tok, step->up, false);
    now = aq_session_lap(&stats->matmul_ns, now);
    be->ops->activate(be, &(aq_activate_args){.kind = AQ_ACTIVATE_SILU,
                                              .x = step->gate,
                                              .up = step->up,
                                              .n = n_tok * config->d_ff,
                                              .y = step->gate});
    now = aq_session_lap(&stats->other_ns, now);
    multiply(be, &w->w_down, step->gate, n_tok, step->x, true);
    aq_session_lap(&stats->matmul_ns, now);
    return AQ_OK;
}
