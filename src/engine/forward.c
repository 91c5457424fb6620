#include "src/engine/forward.h"

#include "src/base/clock.h"
#include "src/engine/apply.h"

/* step->x = the embedding of each token, and of its position if positions are learned. */
static void embed(const aq_session *session) {
    const aq_engine *engine = session->engine;
    const aq_model_config *config = &engine->config;
    const aq_weight *tables[] = {&engine->weights.embed, &engine->weights.pos_embed};
    const aq_step *step = &session->step;
    aq_backend *be = engine->be;
    aq_embed_args args = {.table = tables[0]->data,
                          .dtype = tables[0]->dtype,
                          .d_model = config->d_model,
                          .n_tok = step->n_tok,
                          .ids = step->ids,
                          .scale = config->embed_scale,
                          .out = step->x};
    be->ops->embed(be, &args);
    if (!tables[1]->data) return;
    for (int64_t t = 0; t < step->n_tok; t++)
        step->pos_row[t] = (int32_t)(step->pos[t] + config->n_pos_offset);
    args.table = tables[1]->data;
    args.dtype = tables[1]->dtype;
    args.ids = step->pos_row;
    args.scale = 1.0f;
    args.accumulate = true;
    be->ops->embed(be, &args);
}

static void fill_rope(const aq_session *session, const aq_rope_table *rope, float *table) {
    const aq_engine *engine = session->engine;
    engine->be->ops->rope_table(engine->be, &(aq_rope_table_args){.pos = session->step.pos,
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
    prepare(session);
    place_in_rings(session);
    aq_session_lap(&session->stats.other_ns, start_ns);
    for (int layer = 0; layer < session->engine->config.n_layer; layer++)
        AQ_TRY(aq_layer_forward(session, layer, way, hooks));
    return AQ_OK;
}

void aq_forward_norm(const aq_session *session, const float *x, int64_t n, float *out) {
    aq_apply_norm(session->engine, &session->engine->weights.output_norm, x, n, out, false);
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
