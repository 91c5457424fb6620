#include "src/engine/session.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/engine/merge.h"

/* attn_select shares passes over the selector among more queries if it has more than it needs. */
#define SELECT_BYTES_PER_THREAD ((int64_t)4 << 20)

/* Tiles of room of a layer that drops tokens; 0 if none does. */
static int64_t slot_tiles(const aq_session *session) {
    const aq_session_options *options = &session->options;
    if (!session->shape.evicts) return 0;
    return aq_h2o_tiles(&session->plan, options->n_h2o, session->shape.n_q_max, options->n_ctx);
}

static int n_full_layer(const aq_session *session) {
    const aq_model_config *config = &session->engine->config;
    return config->n_layer - aq_layer_set_count(&config->windowed);
}

static int64_t select_bytes(const aq_session *session) {
    const aq_kv_view view = aq_score_view(session->engine, &session->options);
    const int n_thread = session->engine->n_thread, n_page = session->shape.score.n_page;
    const int n_head = session->engine->config.n_head;
    const int64_t n_tile = session->shape.evicts ? slot_tiles(session)
                                                 : aq_plan_tiles(&session->plan, session->plan.rank,
                                                                 session->options.n_ctx);
    if (n_page > 0) return aq_attn_pages_work(&view, n_head, n_thread, n_tile, n_page);
    const int64_t needed = aq_attn_select_work(&view, n_head, n_thread, n_tile);
    const int64_t wanted = n_thread * SELECT_BYTES_PER_THREAD;
    return needed > wanted ? needed : wanted;
}

static void make_shape(aq_session *session) {
    const aq_session_options *options = &session->options;
    const int64_t n_q = options->n_batch < options->n_ctx ? options->n_batch : options->n_ctx;
    const int64_t n_owned = aq_plan_most_owned(&session->plan, session->plan.rank, n_q);
    session->shape =
        (aq_step_shape){.n_tok_max = n_owned > 0 ? n_owned : 1, /* decode: every rank has one */
                        .n_q_max = n_q,
                        .score = aq_score_full(options, session->engine->config.d_head),
                        .evicts = options->n_h2o > 0,
                        .shares_mass = options->mass_exchange && options->mass < 1 &&
                                       options->attn == AQ_ATTN_SELECT && session->plan.n_rank > 1,
                        .wire_bf16 = options->wire_bf16,
                        .measures = options->measure_mass};
}

/* Whether the context is still so short that dense attention is faster. */
static bool is_short(const aq_session *session) {
    const int64_t *break_even = session->engine->projection.break_even;
    return session->options.hybrid &&
           session->step.end < break_even[session->options.attn == AQ_ATTN_SELECT];
}

aq_score_shape aq_session_score(const aq_session *session, int layer, aq_attend_way way) {
    const aq_model_config *config = &session->engine->config;
    aq_score_shape score = session->shape.score;
    if (aq_model_windowed(config, layer)) return aq_score_windowed(config->d_head);
    const bool dense = is_short(session);
    if (dense) score.n_dim = score.n_col;
    if (dense) score.prunes = false;
    if (dense || (session->options.dense_prefill && way == AQ_ATTEND_VISITING))
        score.selects = false;
    if (score.n_page > 0 && layer < session->options.n_dense_layer) score.selects = false;
    return score;
}

/* What a step exchanges must fit the messages of comm/coll.h. Asked here, where all ranks agree on
 * the answer: inside a step, one rank would refuse while others wait for it. */
static aq_status check_messages(const aq_session *session) {
    const aq_model_config *config = &session->engine->config;
    const aq_step_shape *shape = &session->shape;
    const aq_row_form query = aq_step_query_form(shape, &shape->score);
    const int64_t width = config->d_head + 2; /* of partial results: queries are seldom wider */
    const int64_t n_word = aq_row_words(&query) > width ? aq_row_words(&query) : width;
    const int64_t row_bytes = config->n_head * n_word * (int64_t)sizeof(uint32_t);
    const int64_t sent = shape->n_q_max * row_bytes;
    const int64_t received = session->plan.n_rank * shape->n_tok_max * row_bytes;
    const int64_t most = sent > received ? sent : received;
    if (session->plan.n_rank == 1 || most <= INT_MAX) return AQ_OK;
    return aq_fail(AQ_ERR_LIMIT,
                   "a batch of %lld tokens needs messages of %.1f GiB, over the limit of 2; use a "
                   "smaller one (-b)",
                   (long long)shape->n_q_max, (double)most / 1073741824.0);
}

/* Whether columns are ranked with sigma as their weight. */
static bool weighs_columns(const aq_session *session) {
    const aq_score_shape *score = &session->shape.score;
    if (score->selects) return session->n_dynamic > 0;
    return session->options.rank_by == AQ_RANK_ENERGY &&
           (score->prunes || score->n_dim < score->n_col);
}

/* Bytes of sigma of all stored columns; 0 if they are not ranked with it. */
static int64_t dim_weight_bytes(const aq_session *session) {
    const aq_model_config *config = &session->engine->config;
    const int64_t n_row = (int64_t)config->n_layer * config->n_kv_head;
    return weighs_columns(session) ? n_row * session->shape.score.n_col * (int64_t)sizeof(float)
                                   : 0;
}

/* The stored columns' sigma, packed for the kernels that rank by energy. */
static aq_status open_dim_weight(aq_session *session) {
    const aq_model_config *config = &session->engine->config;
    aq_backend *be = session->engine->be;
    const int64_t n_row = (int64_t)config->n_layer * config->n_kv_head;
    const int n_col = session->shape.score.n_col;
    const size_t bytes = (size_t)dim_weight_bytes(session);
    if (bytes == 0) return AQ_OK;
    float *packed = malloc(bytes);
    if (!packed) return aq_fail(AQ_ERR_MEMORY, "no memory for %zu bytes of weights", bytes);
    for (int64_t row = 0; row < n_row; row++)
        memcpy(packed + row * n_col, session->engine->projection.sigma + row * config->d_head,
               (size_t)n_col * sizeof(float));
    const aq_status status = aq_twin_place(be, packed, bytes, (void **)&session->dim_weight);
    free(packed);
    return status;
}

static aq_status open_rope(aq_backend *be, const aq_rope_config *config, int n_rot,
                           const float *divisors, aq_rope_table *out) {
    const size_t bytes = (size_t)n_rot / 2 * sizeof *out->inv_freq;
    float *inv_freq = malloc(bytes + 1);
    if (!inv_freq) return aq_fail(AQ_ERR_MEMORY, "no memory for %zu bytes of a table", bytes);
    if (bytes > 0) aq_model_rope(config, n_rot, divisors, inv_freq, &out->attn_factor);
    const aq_status status = aq_twin_place(be, inv_freq, bytes, (void **)&out->inv_freq);
    free(inv_freq);
    return status;
}

static aq_status open_ropes(aq_session *session) {
    const aq_engine *engine = session->engine;
    const aq_model_config *config = &engine->config;
    const float *divisors =
        aq_model_rope_divisors(config, &engine->weights, session->options.n_ctx_rope);
    AQ_TRY(open_rope(engine->be, &config->rope, config->n_rot, divisors, &session->rope));
    if (!config->two_ropes) return AQ_OK;
    return open_rope(engine->be, &config->rope_local, config->n_rot, NULL, &session->rope_local);
}

/* Rings of windowed layers are small and are overwritten token by token: they hold numbers. */
static aq_kv_type windowed_type(aq_kv_type type) {
    return type == AQ_KV_F32 ? AQ_KV_F32 : AQ_KV_BF16;
}

static aq_kvcache_shape cache_shape(const aq_session *session) {
    const aq_model_config *config = &session->engine->config;
    const aq_session_options *options = &session->options;
    const aq_kv_view windowed = {.key_type = windowed_type(options->key_type),
                                 .value_type = windowed_type(options->value_type),
                                 .n_kv_head = config->n_kv_head,
                                 .n_col = config->d_head,
                                 .d_head = config->d_head};
    return (aq_kvcache_shape){.full = aq_score_view(session->engine, options),
                              .windowed = windowed,
                              .n_layer = config->n_layer,
                              .windowed_layers = config->windowed,
                              .window = config->window,
                              .n_step_max = session->shape.n_q_max,
                              .n_ctx = options->n_ctx,
                              .by_slot = session->shape.evicts,
                              .n_slot_tile = slot_tiles(session)};
}

static aq_status open_cache(aq_session *session) {
    const aq_kvcache_shape shape = cache_shape(session);
    return aq_kvcache_open(session->engine->be, &shape, &session->plan, &session->cache);
}

static aq_status check_h2o(const aq_session *session) {
    const aq_plan *plan = &session->plan;
    const int weight = aq_plan_weight(plan, plan->rank);
    const int64_t least = (int64_t)AQ_H2O_LEAST * plan->n_period;
    if (!session->shape.evicts || weight == 0) return AQ_OK;
    if (session->options.n_h2o >= (least + weight - 1) / weight) return AQ_OK;
    return aq_fail(AQ_ERR_USAGE, "--h2o must keep at least %d tokens on each of %d ranks",
                   AQ_H2O_LEAST, plan->n_rank);
}

static aq_status open_h2o(aq_session *session) {
    const aq_session_options *options = &session->options;
    if (!session->shape.evicts) return AQ_OK;
    return aq_h2o_open(session->engine->be, &session->plan, n_full_layer(session), options->n_h2o,
                       session->shape.n_q_max, options->n_ctx, &session->h2o);
}

/* Checks the options, and fills in what all sizes follow from. */
static aq_status set_sizes(aq_session *session) {
    const aq_engine *engine = session->engine;
    const bool own_codes = session->options.codes.n_segment > 0;
    const int n_dynamic = session->options.n_dynamic;
    if (session->options.attn != AQ_ATTN_PAGES)
        session->n_dynamic = n_dynamic > 0 || own_codes ? n_dynamic : engine->projection.n_dynamic;
    make_shape(session);
    AQ_TRY(check_messages(session));
    AQ_TRY(check_h2o(session));
    if (session->shape.score.selects) session->shape.select_bytes = select_bytes(session);
    return AQ_OK;
}

aq_status aq_session_measure(aq_engine *engine, const aq_plan *plan,
                             const aq_session_options *options, aq_session_bytes *out) {
    const aq_model_config *config = &engine->config;
    aq_session session = {.engine = engine, .plan = *plan, .options = *options};
    if (engine->projection.pq)
        AQ_TRY(aq_score_check(engine, &session.options));
    else
        AQ_TRY(aq_score_check_options(engine, &session.options));
    AQ_TRY(set_sizes(&session));
    const aq_kvcache_shape shape = cache_shape(&session);
    aq_kvcache_measure(&shape, plan, &session.cache);
    *out = (aq_session_bytes){.cache = aq_kvcache_capacity(&session.cache),
                              .open_tile = aq_kvcache_open_bytes(&session.cache),
                              .step = aq_step_bytes(engine, plan, &session.shape)};
    out->other =
        aq_kvcache_directory_bytes(&session.cache) + dim_weight_bytes(&session) +
        (config->d_model + (1 + config->two_ropes) * config->n_rot / 2) * (int64_t)sizeof(float);
    if (session.shape.evicts)
        out->other += aq_h2o_bytes(plan, n_full_layer(&session), session.options.n_h2o,
                                   session.shape.n_q_max, session.options.n_ctx);
    return AQ_OK;
}

static aq_status open_local(aq_session *session) {
    aq_engine *engine = session->engine;
    AQ_TRY(aq_score_check(engine, &session->options));
    session->options.merge = aq_merge_of(engine, session->options.merge);
    AQ_TRY(set_sizes(session));
    AQ_TRY(open_h2o(session));
    AQ_TRY(open_cache(session));
    AQ_TRY(aq_step_open(engine, &session->plan, &session->shape, &session->step));
    AQ_TRY(open_ropes(session));
    AQ_TRY(open_dim_weight(session));
    if (session->shape.score.prunes)
        AQ_TRY(
            engine->be->ops->alloc(engine->be, sizeof *session->n_kept, (void **)&session->n_kept));
    return engine->be->ops->alloc(engine->be, (size_t)engine->config.d_model * sizeof(float),
                                  (void **)&session->hidden);
}

aq_status aq_session_open(aq_engine *engine, const aq_session_options *options, aq_session **out) {
    *out = NULL;
    aq_session *session = calloc(1, sizeof *session);
    aq_status status = AQ_OK;
    if (session) {
        session->engine = engine;
        session->plan = engine->plan;
        session->options = *options;
        status = open_local(session);
    } else {
        status = aq_fail(AQ_ERR_MEMORY, "no memory for a session");
    }
    status = aq_comm_agree(engine->comm, status);
    if (status == AQ_OK) status = aq_coll_open(engine->comm, &session->coll);
    if (status != AQ_OK) {
        aq_session_close(session);
        return status;
    }
    session->engine->n_projecting += session->shape.score.projects;
    session->engine->n_session++;
    session->is_open = true;
    *out = session;
    return AQ_OK;
}

void aq_session_close(aq_session *session) {
    if (!session) return;
    aq_backend *be = session->engine->be;
    if (session->is_open) {
        session->engine->n_projecting -= session->shape.score.projects;
        session->engine->n_session--;
    }
    aq_coll_close(session->coll);
    aq_step_close(be, &session->step);
    aq_kvcache_close(&session->cache);
    aq_h2o_close(&session->h2o);
    void *const blocks[] = {session->dim_weight, session->hidden, session->n_kept,
                            session->rope.inv_freq, session->rope_local.inv_freq};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        if (blocks[i]) be->ops->release(be, blocks[i]);
    free(session);
}

void aq_session_reset(aq_session *session) {
    session->n_tok = 0;
    aq_h2o_reset(&session->h2o);
}

int64_t aq_session_length(const aq_session *session) {
    return session->n_tok;
}

aq_status aq_session_logits(aq_session *session, float *logits) {
    if (session->n_tok == 0)
        return aq_fail(AQ_ERR_USAGE, "an empty context has no next token; give a prompt");
    if (session->engine->shard.share.n > 1)
        return aq_shard_logits(session->engine, session->hidden, logits);
    return logits ? aq_engine_logits_of(session->engine, session->hidden, 1, logits) : AQ_OK;
}

int64_t aq_session_lap(int64_t *bucket_ns, int64_t since_ns) {
    const int64_t now_ns = aq_clock_ns();
    *bucket_ns += now_ns - since_ns;
    return now_ns;
}

aq_session_stats aq_session_describe(const aq_session *session) {
    const aq_plan *plan = &session->plan;
    const aq_kv_bytes held = aq_kvcache_held(&session->cache, session->n_tok);
    const aq_kv_bytes capacity = aq_kvcache_capacity(&session->cache);
    aq_session_stats stats = session->stats;
    aq_backend *be = session->engine->be;
    if (session->n_kept)
        be->ops->download(be, &stats.n_kept_dim, session->n_kept, sizeof stats.n_kept_dim);
    stats.key_bytes = held.keys;
    stats.value_bytes = held.values;
    stats.selector_bytes = held.selector;
    stats.key_capacity = capacity.keys;
    stats.value_capacity = capacity.values;
    stats.selector_capacity = capacity.selector;
    stats.open_bytes = aq_kvcache_open_bytes(&session->cache);
    const aq_kv_view *view = &session->cache.full.view;
    stats.token_key_bytes = (double)aq_kv_key_bytes(view) / AQ_TILE;
    stats.token_value_bytes = (double)aq_kv_value_bytes(view) / AQ_TILE;
    stats.token_selector_bytes = (double)aq_kv_selector_bytes(view) / AQ_TILE;
    stats.step_bytes = (int64_t)session->step.memory_bytes;
    stats.split = aq_plan_weight(plan, plan->rank);
    stats.n_tok_owned = aq_plan_tokens(plan, plan->rank, session->n_tok);
    if (session->h2o.n_layer > 0) { /* all layers that drop hold as many */
        const aq_h2o_layer first = aq_h2o_at(&session->h2o, 0);
        stats.n_tok_owned = aq_h2o_held(&first);
    }
    stats.sent_bytes = aq_coll_bytes_sent(session->coll);
    stats.n_exchange = aq_coll_call_count(session->coll);
    stats.shared_bytes = aq_shard_bytes_sent(&session->engine->shard);
    stats.n_share = aq_shard_call_count(&session->engine->shard);
    return stats;
}
