/* Attention over the tiles of all ranks. Keys and values never move: compressed queries go to the
 * shards, partial results (o, m, l) come back and are merged in rank order. */
#include <math.h>

#include "src/base/clock.h"
#include "src/engine/session.h"

/* What makes the scores of the step's queries over this rank's tiles; part is not set. */
static aq_attn_partial_args score_args(const aq_session *session, int layer,
                                       const aq_score_shape *score, const float *q,
                                       const int16_t *dims) {
    const aq_model_config *config = &session->engine->config;
    const aq_step *step = &session->step;
    const aq_kv_tiles tiles = aq_session_tiles(session, layer);
    return (aq_attn_partial_args){.q = q,
                                  .dims = score->n_dim < score->n_col ? dims : NULL,
                                  .n_dim = score->n_dim,
                                  .q_pos = aq_step_there(step, step->q_pos),
                                  .n_q = step->n_q,
                                  .n_head = config->n_head,
                                  .scale = config->attn_scale,
                                  .kv = aq_kvcache_layer(&session->cache, layer, step->end),
                                  .tile_pos = tiles.pos,
                                  .tile_at = tiles.at,
                                  .n_tile = tiles.n,
                                  .slot_pos = tiles.slot_pos,
                                  .window = aq_model_windowed(config, layer) ? config->window : 0};
}

/* part = the queries of the step against all tokens of this rank's tiles. */
static void attend_all(const aq_session *session, const aq_attn_partial_args *scores, float *part) {
    aq_attn_partial_args args = *scores;
    args.part = part;
    session->engine->be->ops->attn_partial(session->engine->be, &args);
}

/* Tells all ranks the mass that each has by the scores that are to choose. */
static aq_status share_mass(aq_session *session, aq_attend_way way, aq_attn_select_args *args,
                            int64_t *now) {
    aq_backend *be = session->engine->be;
    float *totals = session->step.part; /* which is not made yet */
    be->ops->select_totals(be, &(aq_select_totals_args){*args, totals});
    *now = aq_session_lap(&session->stats.attend_ns, *now);
    AQ_TRY(aq_wire_totals(session, way, totals, &args->ml_all));
    *now = aq_session_lap(&session->stats.exchange_ns, *now);
    return AQ_OK;
}

/* step->part = the queries of the step against the tokens that the selector chooses. *now: when the
 * lap of the time spent here began. */
static aq_status attend_selected(aq_session *session, int layer, aq_attend_way way, const float *q,
                                 int64_t *now) {
    const aq_engine *engine = session->engine;
    const aq_session_options *options = &session->options;
    const aq_step *step = &session->step;
    const aq_kv_tiles tiles = aq_session_tiles(session, layer);
    const int64_t row = (int64_t)layer * engine->config.n_kv_head * engine->config.d_head;
    int64_t phase_ns[2] = {0, 0};
    aq_attn_select_args args = {.q = q,
                                .q_pos = aq_step_there(step, step->q_pos),
                                .n_q = step->n_q,
                                .n_head = engine->config.n_head,
                                .scale = engine->config.attn_scale,
                                .kv = aq_kvcache_layer(&session->cache, layer, step->end),
                                .tile_pos = tiles.pos,
                                .n_tile = tiles.n,
                                .slot_pos = tiles.slot_pos,
                                .mass = options->mass,
                                .group_mean = options->group_mean,
                                .n_sink = options->n_sink,
                                .n_recent = options->n_recent,
                                .n_dynamic = session->n_dynamic,
                                .weight = session->n_dynamic > 0 ? session->dim_weight + row : NULL,
                                .n_shard = session->plan.n_rank,
                                .work = step->select_work,
                                .work_bytes = session->shape.select_bytes,
                                .part = step->part,
                                .counts = step->counts,
                                .phase_ns = phase_ns};
    if (session->shape.shares_mass) AQ_TRY(share_mass(session, way, &args, now));
    engine->be->ops->attn_select(engine->be, &args);
    session->stats.scan_ns += phase_ns[0];
    session->stats.choose_ns += phase_ns[1];
    return AQ_OK;
}

/* The same for whole pages. */
static void attend_pages(aq_session *session, int layer, const float *q) {
    const aq_engine *engine = session->engine;
    const aq_session_options *options = &session->options;
    const aq_step *step = &session->step;
    const aq_kv_tiles tiles = aq_session_tiles(session, layer);
    engine->be->ops->attn_pages(
        engine->be, &(aq_attn_pages_args){.q = q,
                                          .q_pos = aq_step_there(step, step->q_pos),
                                          .n_q = step->n_q,
                                          .n_head = engine->config.n_head,
                                          .scale = engine->config.attn_scale,
                                          .kv = aq_kvcache_layer(&session->cache, layer, step->end),
                                          .tile_pos = tiles.pos,
                                          .n_tile = tiles.n,
                                          .n_page = session->shape.score.n_page,
                                          .share = options->page_share,
                                          .n_sink = options->n_sink,
                                          .n_recent = options->n_recent,
                                          .work = step->select_work,
                                          .part = step->part,
                                          .counts = step->counts});
}

/* Bytes of one token's partial results: (o, m, l) of every head. */
static int64_t part_bytes(const aq_session *session) {
    const aq_model_config *config = &session->engine->config;
    return (int64_t)config->n_head * (config->d_head + 2) * (int64_t)sizeof(float);
}

/* ln sum_s exp(a[s]) over all shards of one row of the partial results of n_row rows. */
static double log_sum(const aq_session *session, const float *parts, int64_t row, int64_t n_row) {
    const int d_head = session->engine->config.d_head;
    const int n_rank = session->plan.n_rank;
    double m = -INFINITY, l = 0;
    for (int r = 0; r < n_rank; r++) {
        const float *ml = parts + (r * n_row + row) * (d_head + 2) + d_head;
        if ((double)ml[0] > m) m = (double)ml[0];
    }
    for (int r = 0; r < n_rank; r++) {
        const float *ml = parts + (r * n_row + row) * (d_head + 2) + d_head;
        if (ml[1] > 0) l += (double)ml[1] * exp((double)ml[0] - m);
    }
    return m + log(l);
}

/* Dense attention over the same cache beside that of the step: how much of its mass the chosen
 * tokens hold. Takes the parts of all ranks, which were not sent everywhere yet if each merged some
 * of them. */
static aq_status measure_mass(aq_session *session, aq_attend_way way,
                              const aq_attn_partial_args *scores) {
    const aq_step *step = &session->step;
    const int64_t n_row = step->n_tok * session->engine->config.n_head;
    attend_all(session, scores, step->exact_part);
    if (way == AQ_ATTEND_REPLICATED && session->options.merge != AQ_MERGE_ALLGATHER)
        AQ_TRY(aq_wire_parts(session, way, step->part, step->parts));
    AQ_TRY(aq_wire_parts(session, way, step->exact_part, step->exact_parts));
    const int64_t bytes = session->plan.n_rank * step->n_tok * part_bytes(session);
    const float *parts = aq_step_fetch(session->engine->be, step, 0, step->parts, bytes);
    const float *exact = aq_step_fetch(session->engine->be, step, 1, step->exact_parts, bytes);
    for (int64_t row = 0; row < n_row; row++)
        session->stats.mass_sum +=
            exp(log_sum(session, parts, row, n_row) - log_sum(session, exact, row, n_row));
    session->stats.n_mass += n_row;
    return AQ_OK;
}

aq_status aq_attend(aq_session *session, int layer, aq_attend_way way) {
    aq_step *step = &session->step;
    aq_session_stats *stats = &session->stats;
    const aq_model_config *config = &session->engine->config;
    const aq_score_shape score = aq_session_score(session, layer, way);
    const bool gathers = session->plan.n_rank > 1 && way == AQ_ATTEND_VISITING;
    const bool evicts = aq_session_evicts(session, layer);
    const float *q = score.projects ? step->q_proj : step->q;
    const int16_t *dims = step->dims;
    int64_t now = aq_clock_ns();

    if (gathers) {
        AQ_TRY(aq_wire_queries(session, &score, q));
        q = step->q_all;
        dims = step->dims_all;
    }
    now = aq_session_lap(&stats->exchange_ns, now);
    const aq_attn_partial_args scores = score_args(session, layer, &score, q, dims);
    if (score.selects && score.n_page > 0)
        attend_pages(session, layer, q);
    else if (score.selects)
        AQ_TRY(attend_selected(session, layer, way, q, &now));
    else
        attend_all(session, &scores, step->part);
    now = aq_session_lap(&stats->attend_ns, now);
    if (!aq_model_windowed(config, layer)) aq_traffic_add(session, layer, &score, q, dims);
    now = aq_session_lap(&stats->other_ns, now);
    AQ_TRY(aq_merge_parts(session, way, evicts, &now));
    if (score.selects && session->options.measure_mass) AQ_TRY(measure_mass(session, way, &scores));
    if (evicts) AQ_TRY(aq_evict_after(session, layer, way, &scores));
    aq_session_lap(&stats->merge_ns, now);
    return AQ_OK;
}
