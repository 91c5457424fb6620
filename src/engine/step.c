#include "src/engine/step.h"

#include "src/base/arena.h"

static void *floats(aq_arena *arena, int64_t rows, int64_t columns) {
    return aq_arena_carve(arena, (size_t)(rows * columns), sizeof(float));
}

static void *int64s(aq_arena *arena, int64_t n) {
    return aq_arena_carve(arena, (size_t)n, sizeof(int64_t));
}

static void *int32s(aq_arena *arena, int64_t n) {
    return aq_arena_carve(arena, (size_t)n, sizeof(int32_t));
}

static int64_t max(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* Whether any layer norms what it adds. */
static bool has_post_norms(const aq_engine *engine) {
    for (int i = 0; i < engine->config.n_layer; i++)
        if (engine->weights.layers[i].attn_post_norm.w || engine->weights.layers[i].ffn_post_norm.w)
            return true;
    return false;
}

static void carve_tokens(aq_step *step, aq_arena *arena, const aq_engine *engine, int64_t n_tok,
                         const aq_score_shape *score) {
    const aq_model_config *config = &engine->config;
    const int64_t q_width = (int64_t)config->n_head * config->d_head;
    const int64_t kv_width = (int64_t)config->n_kv_head * config->d_head;
    const int64_t d_inner = max(config->d_ff, config->n_expert > 0 ? config->d_expert : 0);
    const int n_col = score->projects ? score->n_col : 0;
    step->ids = int32s(arena, n_tok);
    step->pos = int64s(arena, n_tok);
    step->slot = int64s(arena, n_tok);
    step->ring_slot = int64s(arena, n_tok);
    step->pos_row = int32s(arena, n_tok);
    step->rope = floats(arena, n_tok, config->n_rot);
    step->rope_local = config->two_ropes ? floats(arena, n_tok, config->n_rot) : step->rope;
    step->x = floats(arena, n_tok, config->d_model);
    step->norm = floats(arena, n_tok, config->d_model);
    step->q = floats(arena, n_tok, q_width);
    step->k = floats(arena, n_tok, kv_width);
    step->v = floats(arena, n_tok, kv_width);
    step->q_proj = floats(arena, n_tok, (int64_t)config->n_head * n_col);
    step->k_proj = floats(arena, n_tok, (int64_t)config->n_kv_head * n_col);
    step->mixed = floats(arena, n_tok, q_width);
    step->out = floats(arena, n_tok, has_post_norms(engine) ? config->d_model : 0);
    step->gate = floats(arena, n_tok, d_inner);
    step->up = floats(arena, n_tok, d_inner);
}

static void carve_experts(aq_step *step, aq_arena *arena, const aq_model_config *config,
                          int64_t n_tok) {
    step->router = floats(arena, n_tok, config->n_expert);
    step->expert_ids = int32s(arena, n_tok * config->n_expert_used);
    step->expert_weights = floats(arena, n_tok, config->n_expert_used);
    step->row_index = int32s(arena, n_tok);
    step->row_scale = floats(arena, n_tok, 1);
    step->rows_in = floats(arena, n_tok, config->d_model);
    step->rows_out = floats(arena, n_tok, config->d_model);
}

static void carve(aq_step *step, aq_arena *arena, const aq_engine *engine, int n_rank,
                  const aq_step_shape *shape) {
    const aq_model_config *config = &engine->config;
    const aq_score_shape *score = &shape->score;
    const int64_t n_tok = shape->n_tok_max;
    const int64_t part_width = (int64_t)config->n_head * (config->d_head + 2);
    const int64_t dims_width = score->n_dim < score->n_col ? config->n_head * score->n_dim : 0;

    carve_tokens(step, arena, engine, n_tok, score);
    if (config->n_expert > 0) carve_experts(step, arena, config, n_tok);
    step->dims = aq_arena_carve(arena, (size_t)(n_tok * dims_width), sizeof *step->dims);
    step->rank_tok = int64s(arena, n_rank);
    step->q_pos = int64s(arena, shape->n_q_max);
    step->part = floats(arena, shape->n_q_max, part_width);
    step->send_bytes = int64s(arena, n_rank);
    step->recv_bytes = int64s(arena, n_rank);
    step->select_work = aq_arena_carve(arena, (size_t)shape->select_bytes, 1);
    step->counts = int32s(arena, score->selects ? 3 * shape->n_q_max * config->n_kv_head : 0);
    const int64_t ml_width = shape->evicts ? 2 * config->n_head : 0;
    step->ml = floats(arena, n_tok, ml_width);
    const int64_t n_measured = shape->measures ? shape->n_q_max : 0;
    step->exact_part = floats(arena, n_measured, part_width);
    if (n_rank == 1) { /* this rank's queries are all there are */
        step->parts = step->part;
        step->exact_parts = step->exact_part;
        step->ml_all = step->ml;
        return;
    }
    const int n_col = config->window > 0 ? config->d_head : score->n_col;
    step->q_all = floats(arena, shape->n_q_max, (int64_t)config->n_head * n_col);
    step->dims_all =
        aq_arena_carve(arena, (size_t)(shape->n_q_max * dims_width), sizeof *step->dims_all);
    step->parts = floats(arena, n_rank * n_tok, part_width);
    step->ml_all = floats(arena, shape->n_q_max, ml_width);
    step->exact_parts = floats(arena, shape->measures ? n_rank * n_tok : 0, part_width);
}

aq_status aq_step_open(const aq_engine *engine, const aq_plan *plan, const aq_step_shape *shape,
                       aq_step *out) {
    aq_backend *be = engine->be;
    aq_arena arena = aq_arena_measure();
    *out = (aq_step){0};
    carve(out, &arena, engine, plan->n_rank, shape);
    const size_t bytes = arena.used;
    *out = (aq_step){.memory_bytes = bytes};
    if (be->ops->alloc(be, bytes, &out->memory) != AQ_OK)
        return aq_fail(AQ_ERR_MEMORY,
                       "no memory for %.1f MiB of step buffers; use a smaller "
                       "batch (-b)",
                       (double)bytes / 1048576.0);
    arena = aq_arena_over(out->memory, bytes);
    carve(out, &arena, engine, plan->n_rank, shape);
    return AQ_OK;
}

void aq_step_close(aq_backend *be, aq_step *step) {
    if (step->memory) be->ops->release(be, step->memory);
    *step = (aq_step){0};
}

void aq_step_deal(aq_step *step, const aq_plan *plan, int64_t begin, int64_t end,
                  const int32_t *ids) {
    step->begin = begin;
    step->end = end;
    step->n_q = 0;
    for (int r = 0; r < plan->n_rank; r++) {
        step->rank_tok[r] = aq_plan_owned(plan, r, begin, end, step->q_pos + step->n_q);
        step->n_q += step->rank_tok[r];
    }
    step->n_tok = aq_plan_owned(plan, plan->rank, begin, end, step->pos);
    for (int64_t t = 0; t < step->n_tok; t++) {
        step->ids[t] = ids[step->pos[t] - begin];
        step->slot[t] = aq_plan_slot(plan, step->pos[t]);
    }
}

void aq_step_replicate(aq_step *step, const aq_plan *plan, int64_t pos, int32_t id) {
    step->begin = pos;
    step->end = pos + 1;
    step->n_tok = 1;
    step->n_q = 1;
    step->ids[0] = id;
    step->pos[0] = pos;
    step->q_pos[0] = pos;
    step->slot[0] = aq_plan_slot(plan, pos);
}
