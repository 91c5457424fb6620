/* What attention reads of a cache, counted for each query and KV head as if it read for itself:
 * the figure that methods are compared by. Queries that go through a tile together share it. */
#include <string.h>

#include "src/engine/session.h"

/* Bytes of the cache that belong to one token and KV head, and to one tile and KV head. */
typedef struct {
    double key;      /* of a whole key, a token */
    double value;    /* a token */
    double selector; /* of the columns read, a token, their scales included; or of pages' bounds */
    double tile;     /* of the scales of keys by token, a tile */
} cache_bytes;

static cache_bytes bytes_of(const aq_kv_view *kv, int n_dynamic, int n_page) {
    const double n_selector = aq_code_layout_columns(&kv->codes);
    const double share = n_dynamic > 0 ? n_dynamic / n_selector : 1;
    const double key = (double)aq_kv_key_bytes(kv) / AQ_TILE;
    cache_bytes bytes = {.key = key,
                         .value = (double)aq_kv_value_bytes(kv) / AQ_TILE,
                         .selector = share * (double)aq_kv_selector_bytes(kv) / AQ_TILE};
    if (n_page > 0) bytes.selector = aq_attn_pages_summary_bytes(kv, n_page);
    if (!aq_kv_type_coded(kv->key_type)) return bytes;
    bytes.tile = 4.0 * kv->n_col;
    bytes.key -= bytes.tile / AQ_TILE;
    if (n_page > 0) bytes.tile = 0; /* the scales are among what the bounds are made from */
    return bytes;
}

/* Columns of KV head g that any query head of its group reads for token t. `asked`: the queries
 * where they are pruned, else the dimensions that decide; not used where all columns are read. */
static int count_columns(const aq_model_config *config, const aq_score_shape *score,
                         const void *asked, int64_t t, int g) {
    const int group = config->n_head / config->n_kv_head;
    const int64_t row = t * config->n_head + (int64_t)g * group;
    const float *q = asked;
    const int16_t *dims = asked;
    char read[AQ_PROJECTION_MAX_DIM];
    int n = 0;
    if (!score->prunes && score->n_dim == score->n_col) return score->n_col;
    memset(read, 0, (size_t)score->n_col);
    for (int64_t r = row; r < row + group; r++) {
        for (int j = 0; !score->prunes && j < score->n_dim; j++)
            read[dims[r * score->n_dim + j]] = 1;
        for (int c = 0; score->prunes && c < score->n_col; c++)
            read[c] |= q[r * score->n_col + c] != 0;
    }
    for (int c = 0; c < score->n_col; c++)
        n += read[c];
    return n;
}

static void add_selected(aq_session *session, const cache_bytes *bytes, int64_t n_gone,
                         const int32_t *counts) {
    const int64_t n = session->step.n_q * session->engine->config.n_kv_head;
    aq_session_stats *stats = &session->stats;
    for (int64_t i = 0; i < n; i++) {
        const int32_t *count = counts + 3 * i;
        stats->n_pair += count[0] + n_gone;
        stats->n_attended += count[1];
        stats->n_byte_moved +=
            (int64_t)(bytes->selector * count[0] + (bytes->key + bytes->value) * count[1] +
                      bytes->tile * count[2]);
    }
}

/* One layer, of what was asked for in it (aq_score_asked_bytes). */
static void add_layer(aq_session *session, int layer, const aq_score_shape *score,
                      const void *asked) {
    const aq_kv_view kv = aq_kvcache_layer(&session->cache, layer, session->step.end);
    const cache_bytes bytes = bytes_of(&kv, session->n_dynamic, score->selects ? score->n_page : 0);
    const aq_plan *plan = &session->plan;
    const int64_t n_gone = aq_evict_gone(session, layer);
    aq_session_stats *stats = &session->stats;
    if (score->selects) {
        add_selected(session, &bytes, n_gone, asked);
        return;
    }
    const double key = bytes.key + bytes.tile / AQ_TILE; /* all tokens of a tile share its scales */
    for (int64_t t = 0; t < session->step.n_q; t++) {
        const int64_t n_pair = aq_plan_tokens(plan, plan->rank, session->step.q_pos[t] + 1);
        const int64_t n_seen = n_pair - n_gone;
        for (int g = 0; g < kv.n_kv_head; g++) {
            const int n_read = count_columns(&session->engine->config, score, asked, t, g);
            const double share = (double)n_read / score->n_col;
            stats->n_pair += n_pair;
            stats->n_attended += n_seen;
            stats->n_byte_moved += (int64_t)((key * share + bytes.value) * (double)n_seen);
        }
    }
}

/* Bytes of what is asked for in a layer, over the step's queries. */
static size_t asked_bytes(const aq_session *session, const aq_score_shape *score) {
    return (size_t)session->step.n_q * aq_score_asked_bytes(score, &session->engine->config);
}

/* Whether the step's layers are counted at its end: where there is room to note what each asked
 * for, and no tokens are dropped meanwhile. */
static bool waits(const aq_session *session, const aq_score_shape *score) {
    const size_t bytes = asked_bytes(session, score);
    if (session->engine->be->host_memory || session->shape.evicts || bytes == 0) return false;
    return bytes * (size_t)session->engine->config.n_layer <= session->step.log.bytes;
}

void aq_traffic_add(aq_session *session, int layer, const aq_score_shape *score, const float *q,
                    const int16_t *dims) {
    const aq_step *step = &session->step;
    const size_t bytes = asked_bytes(session, score);
    const void *asked = score->selects  ? (const void *)step->counts
                        : score->prunes ? (const void *)q
                                        : (const void *)dims;
    aq_backend *be = session->engine->be;
    if (waits(session, score)) {
        be->ops->copy(be, step->log.there + (size_t)layer * bytes, asked, bytes);
        return;
    }
    if (bytes > 0 && !be->host_memory) {
        be->ops->download(be, step->log.host, asked, bytes);
        asked = step->log.host;
    }
    add_layer(session, layer, score, asked);
}

void aq_traffic_finish(aq_session *session, aq_attend_way way) {
    const aq_model_config *config = &session->engine->config;
    const aq_twin *log = &session->step.log;
    bool fetched = false;
    for (int layer = 0; layer < config->n_layer; layer++) {
        const aq_score_shape score = aq_session_score(session, layer, way);
        const size_t bytes = asked_bytes(session, &score);
        if (aq_model_windowed(config, layer) || !waits(session, &score)) continue;
        if (!fetched)
            aq_twin_pull(session->engine->be, log, log->host, bytes * (size_t)config->n_layer);
        fetched = true;
        add_layer(session, layer, &score, log->host + (size_t)layer * bytes);
    }
}
