/* The feed-forward of a layer: one for all tokens, or experts that a router chooses for each. */
#include <string.h>

#include "src/base/clock.h"
#include "src/engine/apply.h"
#include "src/engine/session.h"

_Static_assert((int)AQ_ACT_SILU == AQ_ACTIVATE_SILU && (int)AQ_ACT_GELU == AQ_ACTIVATE_GELU &&
                   (int)AQ_ACT_GELU_TANH == AQ_ACTIVATE_GELU_TANH &&
                   (int)AQ_ACT_RELU == AQ_ACTIVATE_RELU,
               "the model's activations are the backend's");

/* y (+)= W_down (act(W_gate x) * W_up x), or W_down act(W_up x) without a gate. */
static void feed(aq_session *session, const aq_ffn_weights *w, const float *x, int64_t n, float *y,
                 bool accumulate) {
    const aq_engine *engine = session->engine;
    const aq_step *step = &session->step;
    const bool gated = w->w_gate.data != NULL;
    aq_matmul_part parts[2];
    int n_part = 0;
    if (gated) parts[n_part++] = aq_apply_part(&w->w_gate, step->gate);
    parts[n_part++] = aq_apply_part(&w->w_up, gated ? step->up : step->gate);
    const int64_t start_ns = aq_clock_ns();
    engine->be->ops->matmul_each(
        engine->be,
        &(aq_matmul_each_args){.parts = parts,
                               .n_part = n_part,
                               .n_in = w->w_up.n_in,
                               .n_tok = n,
                               .x = x,
                               .activated = true,
                               .activation = (aq_activate_kind)engine->config.activation});
    aq_apply_weight(engine, &w->w_down, step->gate, n, y, accumulate);
    aq_session_lap(&session->stats.matmul_ns, start_ns);
}

/* The tokens that use an expert, in order, and what it counts for in each. */
static int64_t collect(const aq_step *step, int n_used, int expert) {
    int64_t n = 0;
    for (int64_t i = 0; i < step->n_tok * n_used; i++) {
        if (step->expert_ids[i] != expert) continue;
        step->row_index[n] = (int32_t)(i / n_used);
        step->row_scale[n++] = step->expert_weights[i];
    }
    return n;
}

/* y += sum over the experts of each token. Expert by expert, so that each is read once. */
static void feed_experts(aq_session *session, const aq_layer_weights *w, const float *x, float *y) {
    const aq_engine *engine = session->engine;
    const aq_model_config *config = &engine->config;
    const aq_step *step = &session->step;
    aq_backend *be = engine->be;
    aq_apply_weight(engine, &w->router, x, step->n_tok, step->router, false);
    be->ops->route(be, &(aq_route_args){.logits = step->router,
                                        .n_tok = step->n_tok,
                                        .n_expert = config->n_expert,
                                        .n_used = config->n_expert_used,
                                        .renormalise = config->expert_renormalise,
                                        .ids = step->expert_ids,
                                        .weight = step->expert_weights});
    for (int expert = 0; expert < config->n_expert; expert++) {
        const int64_t n = collect(step, config->n_expert_used, expert);
        if (n == 0) continue;
        be->ops->gather_rows(be, &(aq_gather_rows_args){.x = x,
                                                        .index = step->row_index,
                                                        .n_row = n,
                                                        .width = config->d_model,
                                                        .out = step->rows_in});
        feed(session, &w->experts[expert], step->rows_in, n, step->rows_out, false);
        be->ops->scatter_add_rows(be, &(aq_scatter_add_rows_args){.x = step->rows_out,
                                                                  .index = step->row_index,
                                                                  .scale = step->row_scale,
                                                                  .n_row = n,
                                                                  .width = config->d_model,
                                                                  .y = y});
    }
}

void aq_ffn_forward(aq_session *session, int layer, const float *input) {
    const aq_engine *engine = session->engine;
    const aq_layer_weights *w = &engine->weights.layers[layer];
    const aq_step *step = &session->step;
    const size_t bytes = (size_t)(step->n_tok * engine->config.d_model) * sizeof(float);
    const bool normed = w->ffn_post_norm.w != NULL;
    float *y = normed ? step->out : step->x;
    if (!aq_model_has_experts(&engine->config, layer)) {
        feed(session, &w->ffn, input, step->n_tok, y, !normed);
    } else {
        if (normed) memset(y, 0, bytes);
        feed_experts(session, w, input, y);
    }
    if (normed) aq_apply_norm(engine, &w->ffn_post_norm, y, step->n_tok, step->x, true);
}
