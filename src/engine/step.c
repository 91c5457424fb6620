#include "src/engine/step.h"

#include <stdlib.h>

#include "src/base/arena.h"

/* The two blocks that buffers are carved from. */
typedef struct {
    aq_arena there, host;
    bool shared; /* the backend's memory is the host's: twins are one */
} carver;

static void *floats(aq_arena *arena, int64_t rows, int64_t columns) {
    return aq_arena_carve(arena, (size_t)(rows * columns), sizeof(float));
}

static void *int64s(aq_arena *arena, int64_t n) {
    return aq_arena_carve(arena, (size_t)n, sizeof(int64_t));
}

static void *int32s(aq_arena *arena, int64_t n) {
    return aq_arena_carve(arena, (size_t)n, sizeof(int32_t));
}

static aq_twin twin(carver *c, size_t bytes) {
    char *there = aq_arena_carve(&c->there, bytes, 1);
    char *host = c->shared ? there : aq_arena_carve(&c->host, bytes, 1);
    return (aq_twin){host, there, bytes};
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

aq_row_form aq_step_query_form(const aq_step_shape *shape, const aq_score_shape *score) {
    return (aq_row_form){.n_col = score->n_col, .n_dim = score->n_dim, .bf16 = shape->wire_bf16};
}

aq_row_form aq_step_part_form(const aq_step_shape *shape, const aq_model_config *config) {
    return (aq_row_form){
        .n_col = config->d_head, .n_dim = config->d_head, .n_exact = 2, .bf16 = shape->wire_bf16};
}

bool aq_step_packs(const aq_row_form *form) {
    return form->bf16 || form->n_dim < form->n_col;
}

/* Packs what the host says of n_tok tokens and n_q queries; returns the bytes. Over no memory it
 * counts them. */
static size_t pack_tokens(aq_step *step, int64_t n_tok, int64_t n_q) {
    aq_arena arena = aq_arena_over(step->tokens.host, step->tokens.bytes);
    step->ids = int32s(&arena, n_tok);
    step->pos = int64s(&arena, n_tok);
    step->slot = int64s(&arena, n_tok);
    step->ring_slot = int64s(&arena, n_tok);
    step->pos_row = int32s(&arena, n_tok);
    step->q_pos = int64s(&arena, n_q);
    return arena.used;
}

static void carve_tokens(aq_step *step, aq_arena *arena, const aq_engine *engine, int64_t n_tok,
                         const aq_score_shape *score) {
    const aq_model_config *config = &engine->config;
    const int64_t q_width = (int64_t)config->n_head * config->d_head;
    const int64_t kv_width = (int64_t)config->n_kv_head * config->d_head;
    const int64_t d_inner = max(config->d_ff, config->n_expert > 0 ? config->d_expert : 0);
    const int n_col = score->projects ? score->n_col : 0;
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

static void carve_experts(aq_step *step, carver *c, const aq_model_config *config, int64_t n_tok) {
    const int64_t n_used = n_tok * config->n_expert_used;
    step->router = floats(&c->there, n_tok, config->n_expert);
    step->rows_in = floats(&c->there, n_tok, config->d_model);
    step->rows_out = floats(&c->there, n_tok, config->d_model);
    step->expert_first = int64s(&c->host, config->n_expert + 1);
    aq_arena arena = aq_arena_measure();
    for (int pass = 0; pass < 2; pass++) {
        step->expert_ids = int32s(&arena, n_used);
        step->expert_weights = floats(&arena, n_used, 1);
        step->row_index = int32s(&arena, n_used);
        step->row_scale = floats(&arena, n_used, 1);
        if (pass == 1) return;
        step->routes = twin(c, arena.used);
        arena = aq_arena_over(step->routes.host, step->routes.bytes);
    }
}

/* Words of n tokens' packed rows; 0 where they travel as they lie. */
static int64_t packed_words(const aq_model_config *config, const aq_row_form *form, int64_t n) {
    return aq_step_packs(form) ? n * config->n_head * aq_row_words(form) : 0;
}

/* The same of n tokens' queries in the widest form: layers with a window, and --hybrid in a short
 * context, send all columns. */
static int64_t query_words(const aq_model_config *config, const aq_step_shape *shape, int64_t n) {
    const aq_score_shape all = aq_score_windowed(config->d_head);
    const aq_row_form form = aq_step_query_form(shape, &shape->score);
    const aq_row_form all_form = aq_step_query_form(shape, &all);
    return max(packed_words(config, &form, n), packed_words(config, &all_form, n));
}

static void *words(aq_arena *arena, int64_t n) {
    return n > 0 ? aq_arena_carve(arena, (size_t)n, sizeof(uint32_t)) : NULL;
}

static void carve_wire(aq_step *step, aq_arena *arena, const aq_model_config *config, int n_rank,
                       const aq_step_shape *shape) {
    const aq_row_form part = aq_step_part_form(shape, config);
    const int64_t n_tok = shape->n_tok_max, n_q = shape->n_q_max;
    step->wire_out =
        words(arena, max(query_words(config, shape, n_tok), packed_words(config, &part, n_q)));
    step->wire_in = words(
        arena, max(query_words(config, shape, n_q), packed_words(config, &part, n_rank * n_tok)));
}

static void carve_parts(aq_step *step, aq_arena *arena, const aq_engine *engine, int n_rank,
                        const aq_step_shape *shape) {
    const aq_model_config *config = &engine->config;
    const aq_score_shape *score = &shape->score;
    const int64_t n_tok = shape->n_tok_max;
    const int64_t part_width = (int64_t)config->n_head * (config->d_head + 2);
    const int64_t dims_width = score->n_dim < score->n_col ? config->n_head * score->n_dim : 0;
    step->dims = aq_arena_carve(arena, (size_t)(n_tok * dims_width), sizeof *step->dims);
    step->part = floats(arena, shape->n_q_max, part_width);
    step->select_work = aq_arena_carve(arena, (size_t)shape->select_bytes, 1);
    step->counts = int32s(arena, score->selects ? 3 * shape->n_q_max * config->n_kv_head : 0);
    const int64_t ml_width = shape->evicts || shape->shares_mass ? 2 * config->n_head : 0;
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
    carve_wire(step, arena, config, n_rank, shape);
    step->ml_all = floats(arena, shape->n_q_max, ml_width);
    step->exact_parts = floats(arena, shape->measures ? n_rank * n_tok : 0, part_width);
}

/* Partial results are the widest rows that go to other ranks, but for queries whose mask takes more
 * than it saves; hooks take rows of d_model too. */
static void carve_stages(aq_step *step, carver *c, const aq_engine *engine, int n_rank,
                         const aq_step_shape *shape) {
    const aq_model_config *config = &engine->config;
    const int64_t part_width = (int64_t)config->n_head * (config->d_head + 2);
    const int64_t n_part = max(shape->n_q_max, n_rank * shape->n_tok_max);
    const int64_t n_sent = max(n_part * part_width, query_words(config, shape, shape->n_q_max));
    const int64_t n = max(n_sent, max(shape->n_tok_max, 1) * config->d_model);
    step->log = twin(c, aq_score_asked_bytes(&shape->score, config) *
                            (size_t)max(config->n_layer, shape->n_q_max));
    step->stage_bytes = (size_t)n * sizeof(float);
    for (int i = 0; i < 2; i++)
        step->stage[i] = floats(&c->host, n, 1);
}

static void carve(aq_step *step, carver *c, const aq_engine *engine, int n_rank,
                  const aq_step_shape *shape) {
    const int64_t n_tok = shape->n_tok_max;
    step->tokens = (aq_twin){NULL, NULL, 0};
    step->tokens = twin(c, pack_tokens(step, n_tok, shape->n_q_max));
    carve_tokens(step, &c->there, engine, n_tok, &shape->score);
    if (engine->config.n_expert > 0) carve_experts(step, c, &engine->config, n_tok);
    carve_parts(step, &c->there, engine, n_rank, shape);
    step->rank_tok = int64s(&c->host, n_rank);
    step->send_bytes = int64s(&c->host, n_rank);
    step->recv_bytes = int64s(&c->host, n_rank);
    if (!c->shared) carve_stages(step, c, engine, n_rank, shape);
}

/* Over no memory: the sizes of both blocks. */
static carver measure(const aq_engine *engine, const aq_plan *plan, const aq_step_shape *shape) {
    carver c = {aq_arena_measure(), aq_arena_measure(), engine->be->host_memory};
    aq_step step = {0};
    carve(&step, &c, engine, plan->n_rank, shape);
    return c;
}

int64_t aq_step_bytes(const aq_engine *engine, const aq_plan *plan, const aq_step_shape *shape) {
    const carver c = measure(engine, plan, shape);
    return (int64_t)(c.there.used + c.host.used);
}

aq_status aq_step_open(const aq_engine *engine, const aq_plan *plan, const aq_step_shape *shape,
                       aq_step *out) {
    aq_backend *be = engine->be;
    carver c = measure(engine, plan, shape);
    const size_t bytes = c.there.used, host_bytes = c.host.used;
    *out = (aq_step){.memory_bytes = bytes};
    aq_status status = be->ops->alloc(be, bytes, &out->memory);
    if (status == AQ_OK) out->host_memory = calloc(host_bytes / AQ_ARENA_ALIGN, AQ_ARENA_ALIGN);
    if (status != AQ_OK || !out->host_memory)
        return aq_fail(AQ_ERR_MEMORY,
                       "no memory for %.1f MiB of step buffers; use a smaller "
                       "batch (-b)",
                       (double)(bytes + host_bytes) / 1048576.0);
    c.there = aq_arena_over(out->memory, bytes);
    c.host = aq_arena_over(out->host_memory, host_bytes);
    carve(out, &c, engine, plan->n_rank, shape);
    return AQ_OK;
}

void aq_step_close(aq_backend *be, aq_step *step) {
    if (step->memory) be->ops->release(be, step->memory);
    free(step->host_memory);
    *step = (aq_step){0};
}

static void begin(aq_step *step, int64_t begin, int64_t end, int64_t n_tok) {
    step->begin = begin;
    step->end = end;
    step->n_tok = n_tok;
    step->n_q = end - begin;
    step->token_bytes = pack_tokens(step, n_tok, step->n_q);
}

void aq_step_deal(aq_step *step, const aq_plan *plan, int64_t first, int64_t end,
                  const int32_t *ids) {
    begin(step, first, end, aq_plan_owned(plan, plan->rank, first, end, NULL));
    int64_t n_q = 0;
    for (int r = 0; r < plan->n_rank; r++) {
        step->rank_tok[r] = aq_plan_owned(plan, r, first, end, step->q_pos + n_q);
        n_q += step->rank_tok[r];
    }
    aq_plan_owned(plan, plan->rank, first, end, step->pos);
    for (int64_t t = 0; t < step->n_tok; t++) {
        step->ids[t] = ids[step->pos[t] - first];
        step->slot[t] = aq_plan_slot(plan, step->pos[t]);
    }
}

void aq_step_replicate(aq_step *step, const aq_plan *plan, int64_t pos, int32_t id) {
    begin(step, pos, pos + 1, 1);
    step->ids[0] = id;
    step->pos[0] = pos;
    step->q_pos[0] = pos;
    step->slot[0] = aq_plan_slot(plan, pos);
}

void aq_step_send(aq_backend *be, const aq_step *step) {
    aq_twin_push(be, &step->tokens, step->tokens.host, step->token_bytes);
}

const void *aq_step_fetch(aq_backend *be, const aq_step *step, int which, const void *rows,
                          int64_t bytes) {
    if (be->host_memory) return rows;
    be->ops->download(be, step->stage[which], rows, (size_t)bytes);
    return step->stage[which];
}
