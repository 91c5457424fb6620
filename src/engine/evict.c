/* Dropping tokens in a layer, as h2o.h says: before attention the step's tokens take free slots;
 * after it each rank adds the step's attention to its tokens and drops what is over its share.
 *
 * Shares of attention are exact over all ranks: in decode every rank has merged all partial
 * results; in prefill the owner of a query has, and tells the others its maximum and sum.
 *
 * The host decides what goes: where backend memory is not its own, each layer of each step waits
 * for the sums, and directories are sent whole. */
#include "src/engine/session.h"

bool aq_session_evicts(const aq_session *session, int layer) {
    return session->shape.evicts && !aq_model_windowed(&session->engine->config, layer);
}

static aq_h2o_layer directory_of(const aq_session *session, int layer) {
    return aq_h2o_at(&session->h2o, session->cache.place[layer]);
}

aq_kv_tiles aq_session_tiles(const aq_session *session, int layer) {
    const aq_step *step = &session->step;
    const aq_h2o *h2o = &session->h2o;
    if (!aq_session_evicts(session, layer)) {
        const aq_twin *twin = &session->cache.directory;
        aq_kv_tiles tiles = aq_kvcache_tiles(&session->cache, layer, step->begin, step->end);
        tiles.pos = aq_twin_there(twin, tiles.pos);
        if (tiles.at) tiles.at = aq_twin_there(twin, tiles.at);
        return tiles;
    }
    const aq_h2o_layer directory = directory_of(session, layer);
    return (aq_kv_tiles){.pos = aq_twin_there(&h2o->tile_pos_twin, directory.tile_pos),
                         .n = aq_h2o_used(&directory),
                         .slot_pos = aq_twin_there(&h2o->slot_pos_twin, directory.slot_pos)};
}

int64_t aq_evict_gone(const aq_session *session, int layer) {
    const aq_plan *plan = &session->plan;
    if (!aq_session_evicts(session, layer)) return 0;
    const aq_h2o_layer directory = directory_of(session, layer);
    return aq_plan_tokens(plan, plan->rank, session->step.end) - aq_h2o_held(&directory);
}

/* The places of n rising slots, each once; returns their number. */
static int64_t list_tiles(const int64_t *slot, int64_t n, int64_t *tile) {
    int64_t n_tile = 0;
    for (int64_t t = 0; t < n; t++)
        if (n_tile == 0 || tile[n_tile - 1] != slot[t] / AQ_TILE)
            tile[n_tile++] = slot[t] / AQ_TILE;
    return n_tile;
}

void aq_evict_append(const aq_session *session, int layer, const float *key) {
    const aq_step *step = &session->step;
    const aq_h2o *h2o = &session->h2o;
    const aq_h2o_layer directory = directory_of(session, layer);
    const aq_kv_view view = aq_kvcache_layer(&session->cache, layer, step->end);
    aq_kv_view numbers = view;
    aq_backend *be = session->engine->be;
    numbers.codes = (aq_code_layout){0}; /* keys and values alone, one by one */
    aq_h2o_place(&directory, step->pos, step->n_tok, h2o->slot);
    aq_h2o_push_places(h2o, &directory);
    aq_twin_push(be, &h2o->slot_twin, h2o->slot, (size_t)step->n_tok * sizeof *h2o->slot);
    be->ops->kv_append(be, &(aq_kv_append_args){.kv = numbers,
                                                .key = key,
                                                .value = step->v,
                                                .slot = aq_twin_there(&h2o->slot_twin, h2o->slot),
                                                .n_tok = step->n_tok});
    if (view.codes.n_segment == 0) return;
    const int64_t n_tile = list_tiles(h2o->slot, step->n_tok, h2o->work);
    aq_twin_push(be, &h2o->work_twin, h2o->work, (size_t)n_tile * sizeof *h2o->work);
    be->ops->code_selector(
        be,
        &(aq_code_selector_args){.kv = view,
                                 .slot_pos = aq_twin_there(&h2o->slot_pos_twin, directory.slot_pos),
                                 .tile = aq_twin_there(&h2o->work_twin, h2o->work),
                                 .n_tile = n_tile});
}

aq_status aq_evict_after(aq_session *session, int layer, aq_attend_way way,
                         const aq_attn_partial_args *scores) {
    const aq_h2o *h2o = &session->h2o;
    const aq_h2o_layer directory = directory_of(session, layer);
    const bool gathers = session->plan.n_rank > 1 && way == AQ_ATTEND_VISITING;
    aq_backend *be = session->engine->be;
    if (gathers) AQ_TRY(aq_wire_ml(session));
    be->ops->attn_mass(be,
                       &(aq_attn_mass_args){.scores = *scores,
                                            .ml = gathers ? session->step.ml_all : session->step.ml,
                                            .acc = aq_twin_there(&h2o->acc_twin, directory.acc)});
    aq_h2o_pull_acc(h2o, &directory);
    if (aq_h2o_evict(&directory, h2o->n_keep, session->step.end - h2o->n_recent, h2o->work) == 0)
        return AQ_OK;
    aq_h2o_push_places(h2o, &directory);
    aq_h2o_push_acc(h2o, &directory);
    return AQ_OK;
}
