/* The feed-forward of a layer: one for all tokens, or experts that a router chooses for each. */
#include <string.h>

#include "src/engine/apply.h"
#include "src/engine/session.h"

_Static_assert((int)AQ_ACT_SILU == AQ_ACTIVATE_SILU && (int)AQ_ACT_GELU == AQ_ACTIVATE_GELU &&
                   (int)AQ_ACT_GELU_TANH == AQ_ACTIVATE_GELU_TANH &&
                   (int)AQ_ACT_RELU == AQ_ACTIVATE_RELU,
               "the model's activations are the backend's");

/* y (+)= W_down (act(W_gate x) * W_up x), or W_down act(W_up x) without a gate. */
static aq_status feed(aq_session *session, const aq_ffn_weights *w, int64_t d_ff, const float *x,
                      int64_t n, float *y, bool accumulate) {
    const aq_engine *engine = session->engine;
    const aq_step *step = &session->step;
    aq_session_stats *stats = &session->stats;
    const bool gated = w->w_gate.data != NULL;
    aq_matmul_part parts[2];
    int n_part = 0;
    if (gated) parts[n_part++] = aq_apply_part(&w->w_gate, step->gate);
    parts[n_part++] = aq_apply_part(&w->w_up, gated ? step->up : step->gate);
    AQ_TRY(aq_shard_product(
        engine,
        &(aq_matmul_each_args){.parts = parts,
                               .n_part = n_part,
                               .n_in = w->w_up.n_in,
                               .n_tok = n,
                               .x = x,
                               .activated = true,
                               .activation = (aq_activate_kind)engine->config.activation},
        (int64_t[]){d_ff, d_ff}, stats));
    return aq_apply_shared(engine, &w->w_down, engine->config.d_model, step->gate, n, y, accumulate,
                           stats);
}

/* Lists for each expert the tokens that use it, in order, and what it counts for in each: those of
 * expert e begin at expert_first[e]. */
static void list_tokens(const aq_step *step, const aq_model_config *config) {
    const int64_t n = step->n_tok * config->n_expert_used;
    int64_t *first = step->expert_first;
    memset(first, 0, ((size_t)config->n_expert + 1) * sizeof *first);
    for (int64_t i = 0; i < n; i++)
        first[step->expert_ids[i] + 1]++;
    for (int e = 0; e < config->n_expert; e++)
        first[e + 1] += first[e];
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = first[step->expert_ids[i]]++;
        step->row_index[at] = (int32_t)(i / config->n_expert_used);
        step->row_scale[at] = step->expert_weights[i];
    }
    memmove(first + 1, first, (size_t)config->n_expert * sizeof *first);
    first[0] = 0;
}

/* Which experts each token uses: chosen by the backend, listed here. */
static void choose_experts(aq_session *session, const aq_layer_weights *w, const float *x) {
    const aq_engine *engine = session->engine;
    const aq_model_config *config = &engine->config;
    const aq_step *step = &session->step;
    const aq_twin *routes = &step->routes;
    const size_t n = (size_t)(step->n_tok * config->n_expert_used);
    aq_backend *be = engine->be;
    aq_apply_weight(engine, &w->router, x, step->n_tok, step->router, false);
    be->ops->route(be, &(aq_route_args){.logits = step->router,
                                        .n_tok = step->n_tok,
                                        .n_expert = config->n_expert,
                                        .n_used = config->n_expert_used,
                                        .renormalise = config->expert_renormalise,
                                        .ids = aq_twin_there(routes, step->expert_ids),
                                        .weight = aq_twin_there(routes, step->expert_weights)});
    aq_twin_pull(be, routes, step->expert_ids, n * sizeof *step->expert_ids);
    aq_twin_pull(be, routes, step->expert_weights, n * sizeof *step->expert_weights);
    list_tokens(step, config);
    aq_twin_push(be, routes, step->row_index, n * sizeof *step->row_index);
    aq_twin_push(be, routes, step->row_scale, n * sizeof *step->row_scale);
}

/* y += sum over the experts of each token. Expert by expert, so that each is read once. */
static aq_status feed_experts(aq_session *session, const aq_layer_weights *w, const float *x,
                              float *y) {
    const aq_engine *engine = session->engine;
    const aq_model_config *config = &engine->config;
    const aq_step *step = &session->step;
    aq_backend *be = engine->be;
    choose_experts(session, w, x);
    for (int expert = 0; expert < config->n_expert; expert++) {
        const int64_t first = step->expert_first[expert];
        const int64_t n = step->expert_first[expert + 1] - first;
        const int32_t *index = aq_twin_there(&step->routes, step->row_index + first);
        const float *scale = aq_twin_there(&step->routes, step->row_scale + first);
        if (n == 0) continue;
        be->ops->gather_rows(be, &(aq_gather_rows_args){.x = x,
                                                        .index = index,
                                                        .n_row = n,
                                                        .width = config->d_model,
                                                        .out = step->rows_in});
        AQ_TRY(feed(session, &w->experts[expert], config->d_expert, step->rows_in, n,
                    step->rows_out, false));
        be->ops->scatter_add_rows(be, &(aq_scatter_add_rows_args){.x = step->rows_out,
                                                                  .index = index,
                                                                  .scale = scale,
                                                                  .n_row = n,
                                                                  .width = config->d_model,
                                                                  .y = y});
    }
    return AQ_OK;
}

aq_status aq_ffn_forward(aq_session *session, int layer, const aq_layer_weights *w,
                         const float *input) {
    const aq_engine *engine = session->engine;
    const aq_step *step = &session->step;
    const size_t bytes = (size_t)(step->n_tok * engine->config.d_model) * sizeof(float);
    const bool normed = w->ffn_post_norm.w != NULL;
    aq_backend *be = engine->be;
    float *y = normed ? step->out : step->x;
    if (!aq_model_has_experts(&engine->config, layer)) {
        AQ_TRY(feed(session, &w->ffn, engine->config.d_ff, input, step->n_tok, y, !normed));
    } else {
        if (normed) be->ops->clear(be, y, bytes);
        AQ_TRY(feed_experts(session, w, input, y));
    }
    if (normed) aq_apply_norm(engine, &w->ffn_post_norm, y, step->n_tok, step->x, true);
    return AQ_OK;
}
