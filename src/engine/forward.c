#include "src/engine/forward.h"

#include "src/base/clock.h"

aq_status aq_forward(aq_session *session, aq_attend_way way, const aq_hooks *hooks) {
    const aq_engine *engine = session->engine;
    const aq_weight *embed = &engine->weights.embed;
    aq_backend *be = engine->be;
    aq_step *step = &session->step;
    int64_t now = aq_clock_ns();

    be->ops->embed(be, &(aq_embed_args){.table = embed->data,
                                        .dtype = embed->dtype,
                                        .d_model = engine->config.d_model,
                                        .n_tok = step->n_tok,
                                        .ids = step->ids,
                                        .scale = 1.0f,
                                        .out = step->x});
    be->ops->rope_table(be, &(aq_rope_table_args){.pos = step->pos,
                                                  .inv_freq = engine->inv_freq,
                                                  .scale = engine->rope_attn_factor,
                                                  .n_tok = step->n_tok,
                                                  .n_rot = engine->config.n_rot,
                                                  .table = step->rope});
    aq_session_lap(&session->stats.other_ns, now);
    for (int layer = 0; layer < engine->config.n_layer; layer++)
        AQ_TRY(aq_layer_forward(session, layer, way, hooks));
    return AQ_OK;
}

void aq_forward_norm(const aq_session *session, const float *x, int64_t n, float *out) {
    const aq_engine *engine = session->engine;
    engine->be->ops->rmsnorm(engine->be, &(aq_rmsnorm_args){.x = x,
                                                            .w = engine->weights.output_norm,
                                                            .eps = engine->config.norm_eps,
                                                            .n_tok = n,
                                                            .d_model = engine->config.d_model,
                                                            .y = out});
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
