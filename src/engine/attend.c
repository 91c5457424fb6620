/* Attention over the tiles of all ranks. Keys and values never move: compressed queries go to the
 * shards, partial results (o, m, l) come back and are merged in rank order. */
#include "src/base/clock.h"
#include "src/engine/session.h"

/* step->part = the queries of the step against this rank's tiles. */
static void attend_shard(const aq_session *session, int layer, const float *q,
                         const int16_t *dims) {
    const aq_engine *engine = session->engine;
    const aq_step *step = &session->step;
    const aq_score_shape score = aq_session_score(session, layer);
    const aq_kv_tiles tiles = aq_kvcache_tiles(&session->cache, layer, step->begin, step->end);
    const bool windowed = aq_model_windowed(&engine->config, layer);
    engine->be->ops->attn_partial(
        engine->be, &(aq_attn_partial_args){.q = q,
                                            .dims = score.n_dim < score.n_col ? dims : NULL,
                                            .n_dim = score.n_dim,
                                            .q_pos = step->q_pos,
                                            .n_q = step->n_q,
                                            .n_head = engine->config.n_head,
                                            .scale = engine->config.attn_scale,
                                            .kv = aq_kvcache_layer(&session->cache, layer),
                                            .tile_pos = tiles.pos,
                                            .tile_at = tiles.at,
                                            .n_tile = tiles.n,
                                            .window = windowed ? engine->config.window : 0,
                                            .part = step->part});
}

/* Bytes of one token's partial results: (o, m, l) of every head. */
static int64_t part_bytes(const aq_session *session) {
    const aq_model_config *config = &session->engine->config;
    return (int64_t)config->n_head * (config->d_head + 2) * (int64_t)sizeof(float);
}

/* Brings the queries of all ranks here: q_all, dims_all. */
static aq_status gather_queries(aq_session *session, const float *q, const aq_score_shape *score) {
    aq_step *step = &session->step;
    const int n_head = session->engine->config.n_head;
    const int64_t q_bytes = (int64_t)n_head * score->n_col * (int64_t)sizeof(float);
    const int64_t dims_bytes = (int64_t)n_head * score->n_dim * (int64_t)sizeof(int16_t);
    for (int r = 0; r < session->plan.n_rank; r++)
        step->send_bytes[r] = step->rank_tok[r] * q_bytes;
    AQ_TRY(aq_coll_allgatherv(session->coll, q, step->send_bytes, step->q_all));
    if (score->n_dim == score->n_col) return AQ_OK;
    for (int r = 0; r < session->plan.n_rank; r++)
        step->send_bytes[r] = step->rank_tok[r] * dims_bytes;
    return aq_coll_allgatherv(session->coll, step->dims, step->send_bytes, step->dims_all);
}

/* Sends each rank the partial results of its own queries and receives this rank's from all. */
static aq_status return_parts(aq_session *session) {
    aq_step *step = &session->step;
    const int64_t row_bytes = part_bytes(session);
    for (int r = 0; r < session->plan.n_rank; r++) {
        step->send_bytes[r] = step->rank_tok[r] * row_bytes;
        step->recv_bytes[r] = step->n_tok * row_bytes;
    }
    return aq_coll_alltoallv(session->coll, step->part, step->send_bytes, step->parts,
                             step->recv_bytes);
}

/* The one exchange of a decoded token: everyone's partial results to everyone. */
static aq_status gather_parts(aq_session *session) {
    return aq_coll_allgather(session->coll, session->step.part, part_bytes(session),
                             session->step.parts);
}

aq_status aq_attend(aq_session *session, int layer, aq_attend_way way) {
    aq_step *step = &session->step;
    aq_session_stats *stats = &session->stats;
    aq_backend *be = session->engine->be;
    const aq_model_config *config = &session->engine->config;
    const aq_score_shape score = aq_session_score(session, layer);
    const float *q = score.projects ? step->q_proj : step->q;
    const bool alone = session->plan.n_rank == 1;
    const bool visiting = way == AQ_ATTEND_VISITING;
    int64_t now = aq_clock_ns();

    if (!alone && visiting) AQ_TRY(gather_queries(session, q, &score));
    now = aq_session_lap(&stats->exchange_ns, now);
    if (!alone && visiting)
        attend_shard(session, layer, step->q_all, step->dims_all);
    else
        attend_shard(session, layer, q, step->dims);
    now = aq_session_lap(&stats->attend_ns, now);
    if (!alone) AQ_TRY(visiting ? return_parts(session) : gather_parts(session));
    now = aq_session_lap(&stats->exchange_ns, now);
    be->ops->attn_merge(be, &(aq_attn_merge_args){.parts = step->parts,
                                                  .n_part = session->plan.n_rank,
                                                  .n_row = step->n_tok * config->n_head,
                                                  .d_head = config->d_head,
                                                  .out = step->mixed});
    aq_session_lap(&stats->attend_ns, now);
    return AQ_OK;
}
