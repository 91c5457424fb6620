/* A session takes over the tokens of a dense one: tile by tile, keys are read back, projected, and
 * stored as this session stores keys. Tiles stay on the rank that owns them. */
#include "src/engine/session.h"

/* One tile as rows in backend memory. */
typedef struct {
    float *key;   /* [AQ_TILE, n_kv_head, d_head] */
    float *value; /* [AQ_TILE, n_kv_head, d_head] */
    float *projected;
    aq_twin slot; /* int64_t [AQ_TILE] */
} tile_rows;

static aq_status open_rows(aq_session *session, tile_rows *rows) {
    const aq_model_config *config = &session->engine->config;
    aq_backend *be = session->engine->be;
    const size_t n = (size_t)AQ_TILE * (size_t)config->n_kv_head * (size_t)config->d_head;
    AQ_TRY(be->ops->alloc(be, n * sizeof(float), (void **)&rows->key));
    AQ_TRY(be->ops->alloc(be, n * sizeof(float), (void **)&rows->value));
    AQ_TRY(be->ops->alloc(be, n * sizeof(float), (void **)&rows->projected));
    return aq_twin_open(be, AQ_TILE * sizeof(int64_t), &rows->slot);
}

static void close_rows(aq_session *session, tile_rows *rows) {
    aq_backend *be = session->engine->be;
    void *const blocks[] = {rows->key, rows->value, rows->projected};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        if (blocks[i]) be->ops->release(be, blocks[i]);
    aq_twin_close(be, &rows->slot);
}

/* The n tokens from position pos on, which are one tile at place `at` of `from`. */
static void recode_tile(aq_session *session, const aq_session *from, int layer, int64_t pos,
                        int64_t at, const tile_rows *rows) {
    const aq_engine *engine = session->engine;
    const aq_model_config *config = &engine->config;
    const aq_score_shape *score = &session->shape.score;
    const bool windowed = aq_model_windowed(config, layer);
    const int64_t left = from->n_tok - pos, n = left < AQ_TILE ? left : AQ_TILE;
    aq_backend *be = engine->be;
    be->ops->kv_read(be,
                     &(aq_kv_read_args){.kv = aq_kvcache_layer(&from->cache, layer, from->n_tok),
                                        .tile = at,
                                        .n_tok = n,
                                        .key = rows->key,
                                        .value = rows->value});
    const bool projects = score->projects && !windowed;
    const int64_t row = (int64_t)layer * config->n_kv_head * config->d_head;
    if (projects)
        be->ops->project(be, &(aq_project_args){.x = rows->key,
                                                .p = engine->pk + row * config->d_head,
                                                .n_tok = n,
                                                .n_head = config->n_kv_head,
                                                .n_kv_head = config->n_kv_head,
                                                .d_head = config->d_head,
                                                .n_col = score->n_col,
                                                .y = rows->projected});
    int64_t *slots = (int64_t *)rows->slot.host;
    for (int64_t t = 0; t < n; t++) {
        const int64_t slot = aq_plan_slot(&session->plan, pos + t);
        slots[t] = windowed ? aq_kvcache_ring_slot(&session->cache, slot) : slot;
    }
    aq_twin_push(be, &rows->slot, slots, (size_t)n * sizeof *slots);
    be->ops->kv_append(
        be, &(aq_kv_append_args){.kv = aq_kvcache_layer(&session->cache, layer, from->n_tok),
                                 .key = projects ? rows->projected : rows->key,
                                 .value = rows->value,
                                 .slot = aq_twin_there(&rows->slot, slots),
                                 .n_tok = n});
}

static void recode_layer(aq_session *session, const aq_session *from, int layer,
                         const tile_rows *rows) {
    const aq_kv_tiles tiles = aq_kvcache_tiles(&from->cache, layer, from->n_tok, from->n_tok);
    for (int64_t j = 0; j < tiles.n; j++)
        recode_tile(session, from, layer, tiles.pos[j], tiles.at ? tiles.at[j] : j, rows);
}

static aq_status check(const aq_session *session, const aq_session *from) {
    if (session->engine != from->engine || from->shape.score.projects || session->n_tok > 0)
        return aq_fail(AQ_ERR_USAGE, "only an empty session can take over the tokens of another, "
                                     "which must be dense and of the same engine");
    if (session->shape.evicts || from->shape.evicts)
        return aq_fail(AQ_ERR_USAGE, "a session that drops tokens (--h2o) cannot take over the "
                                     "tokens of another; make a projection file first (calibrate)");
    if (from->n_tok > session->options.n_ctx)
        return aq_fail(AQ_ERR_LIMIT, "%lld tokens to take over do not fit a context of %lld",
                       (long long)from->n_tok, (long long)session->options.n_ctx);
    return AQ_OK;
}

static aq_status recode(aq_session *session, const aq_session *from) {
    tile_rows rows = {.key = NULL};
    AQ_TRY(check(session, from));
    const aq_status status = open_rows(session, &rows);
    for (int layer = 0; status == AQ_OK && layer < session->engine->config.n_layer; layer++)
        recode_layer(session, from, layer, &rows);
    close_rows(session, &rows);
    return status == AQ_OK ? session->engine->be->ops->sync(session->engine->be) : status;
}

aq_status aq_session_recode(aq_session *session, const aq_session *from) {
    aq_backend *be = session->engine->be;
    AQ_TRY(aq_comm_agree(session->engine->comm, recode(session, from)));
    be->ops->copy(be, session->hidden, from->hidden,
                  (size_t)session->engine->config.d_model * sizeof *session->hidden);
    session->n_tok = from->n_tok;
    return AQ_OK;
}
