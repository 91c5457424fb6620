#include "src/engine/apply.h"

aq_matmul_part aq_apply_part(const aq_weight *w, float *y) {
    return (aq_matmul_part){
        .w = w->data, .dtype = w->dtype, .n_out = w->n_out, .b = w->bias, .y = y};
}

void aq_apply_weight(const aq_engine *engine, const aq_weight *w, const float *x, int64_t n,
                     float *y, bool accumulate) {
    aq_matmul_part part = aq_apply_part(w, y);
    part.accumulate = accumulate;
    engine->be->ops->matmul_each(
        engine->be,
        &(aq_matmul_each_args){.parts = &part, .n_part = 1, .n_in = w->n_in, .n_tok = n, .x = x});
}

aq_status aq_apply_shared(const aq_engine *engine, const aq_weight *w, int64_t n_out,
                          const float *x, int64_t n, float *y, bool accumulate,
                          aq_session_stats *stats) {
    aq_matmul_part part = aq_apply_part(w, y);
    part.accumulate = accumulate;
    return aq_shard_product(
        engine,
        &(aq_matmul_each_args){.parts = &part, .n_part = 1, .n_in = w->n_in, .n_tok = n, .x = x},
        &n_out, stats);
}

void aq_apply_norm(const aq_engine *engine, const aq_norm_weight *norm, const float *x, int64_t n,
                   float *y, bool accumulate) {
    aq_backend *be = engine->be;
    const aq_model_config *config = &engine->config;
    if (config->norm == AQ_NORM_LAYER)
        be->ops->layernorm(be, &(aq_layernorm_args){.x = x,
                                                    .w = norm->w,
                                                    .b = norm->b,
                                                    .eps = config->norm_eps,
                                                    .n_tok = n,
                                                    .d_model = config->d_model,
                                                    .y = y,
                                                    .accumulate = accumulate});
    else
        be->ops->rmsnorm(be, &(aq_rmsnorm_args){.x = x,
                                                .w = norm->w,
                                                .eps = config->norm_eps,
                                                .n_tok = n,
                                                .d_model = config->d_model,
                                                .y = y,
                                                .accumulate = accumulate});
}

void aq_apply_head_norm(const aq_engine *engine, const float *w, int64_t n, int n_head, float *x) {
    const aq_model_config *config = &engine->config;
    const bool each = config->qk_norm_per_head;
    engine->be->ops->rmsnorm(
        engine->be,
        &(aq_rmsnorm_args){.x = x,
                           .w = w,
                           .eps = config->norm_eps,
                           .n_tok = each ? n * n_head : n,
                           .d_model = each ? config->d_head : (int64_t)n_head * config->d_head,
                           .y = x});
}
