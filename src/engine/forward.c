#include "src/engine/forward.h"

#include "comm/heartbeat.h"
#include "src/base/clock.h"
#include "src/engine/apply.h"

/* step->x = the embedding of each token, and of its position if positions are learned. */
static void embed(const aq_session *session) {
    const aq_engine *engine = session->engine;
    const aq_model_config *config = &engine->config;
    const aq_weight *tables[] = {&engine->placed.embed, &engine->placed.pos_embed};
    const aq_step *step = &session->step;
    aq_backend *be = engine->be;
    aq_embed_args args = {.table = tables[0]->data,
                          .dtype = tables[0]->dtype,
                          .d_model = config->d_model,
                          .n_tok = step->n_tok,
                          .ids = aq_step_there(step, step->ids),
                          .scale = config->embed_scale,
                          .out = step->x};
    be->ops->embed(be, &args);
    if (!tables[1]->data) return;
    args.table = tables[1]->data;
    args.dtype = tables[1]->dtype;
    args.ids = aq_step_there(step, step->pos_row);
    args.scale = 1.0f;
    args.accumulate = true;
    be->ops->embed(be, &args);
}

static void fill_rope(const aq_session *session, const aq_rope_table *rope, float *table) {
    const aq_engine *engine = session->engine;
    const int64_t *pos = aq_step_there(&session->step, session->step.pos);
    engine->be->ops->rope_table(engine->be, &(aq_rope_table_args){.pos = pos,
                                                                  .inv_freq = rope->inv_freq,
                                                                  .scale = rope->attn_factor,
                                                                  .n_tok = session->step.n_tok,
                                                                  .n_rot = engine->config.n_rot,
                                                                  .table = table});
}

/* What all layers of the step share. */
static void prepare(const aq_session *session) {
    const aq_model_config *config = &session->engine->config;
    const aq_step *step = &session->step;
    embed(session);
    if (config->n_rot > 0) fill_rope(session, &session->rope, step->rope);
    if (config->two_ropes) fill_rope(session, &session->rope_local, step->rope_local);
}

/* Learned positions are rows of a table. */
static void place_in_table(const aq_session *session) {
    const aq_engine *engine = session->engine;
    const aq_step *step = &session->step;
    if (!engine->placed.pos_embed.data) return;
    for (int64_t t = 0; t < step->n_tok; t++)
        step->pos_row[t] = (int32_t)(step->pos[t] + engine->config.n_pos_offset);
}

/* A token's place in the rings is asked for on its owner alone: others may have no such tile. */
static void place_in_rings(const aq_session *session) {
    const aq_step *step = &session->step;
    const aq_plan *plan = &session->plan;
    if (session->engine->config.window == 0) return;
    for (int64_t t = 0; t < step->n_tok; t++)
        if (aq_plan_owner(plan, step->pos[t]) == plan->rank)
            step->ring_slot[t] = aq_kvcache_ring_slot(&session->cache, step->slot[t]);
}

aq_status aq_forward(aq_session *session, aq_attend_way way, const aq_hooks *hooks) {
    const int64_t start_ns = aq_clock_ns();
    place_in_table(session);
    place_in_rings(session);
    aq_step_send(session->engine->be, &session->step);
    prepare(session);
    aq_session_lap(&session->stats.other_ns, start_ns);
    const aq_phase phase = way == AQ_ATTEND_VISITING ? AQ_PHASE_PREFILL : AQ_PHASE_DECODE;
    for (int layer = 0; layer < session->engine->config.n_layer; layer++) {
        aq_heartbeat_note(phase, layer, session->n_tok);
        AQ_TRY(aq_layer_forward(session, layer, way, hooks));
    }
    aq_traffic_finish(session, way);
    return AQ_OK;
}

void aq_forward_norm(const aq_session *session, const float *x, int64_t n, float *out) {
    aq_apply_norm(session->engine, &session->engine->placed.output_norm, x, n, out, false);
}

aq_status aq_forward_check(const aq_session *session, const int32_t *ids, int64_t n) {
    if (n > session->options.n_ctx - session->n_tok)
        return aq_fail(AQ_ERR_LIMIT, "%lld more tokens do not fit: the context holds %lld of %lld",
                       (long long)n, (long long)session->n_tok, (long long)session->options.n_ctx);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= session->engine->config.n_vocab)
            return aq_fail(AQ_ERR_USAGE, "token %lld is id %d, outside the vocabulary of %d",
                           (long long)i, (int)ids[i], session->engine->config.n_vocab);
    return AQ_OK;
}
