#include "src/engine/session.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"

#define DEFAULT_N_BATCH 2048
#define MAX_N_BATCH     (1 << 20) /* the sizes of a step then fit int64_t, whatever the model */
#define DEFAULT_K_RATIO 0.75

static aq_status check_options(const aq_engine *engine, aq_session_options *options) {
    if (options->n_batch == 0) options->n_batch = DEFAULT_N_BATCH;
    if (options->k_ratio == 0) options->k_ratio = DEFAULT_K_RATIO;
    if (options->s_ratio == 0) options->s_ratio = 1.0;
    if (options->n_ctx < 1) return aq_fail(AQ_ERR_USAGE, "a context needs at least one token (-c)");
    if (options->n_ctx > engine->config.n_ctx)
        return aq_fail(AQ_ERR_LIMIT,
                       "the context needs %lld tokens, the model was made for %lld; shorten it or "
                       "stretch it with --rope-scaling",
                       (long long)options->n_ctx, (long long)engine->config.n_ctx);
    if (options->n_batch < 1 || options->n_batch > MAX_N_BATCH)
        return aq_fail(AQ_ERR_USAGE, "the batch (-b) must be 1 to %d tokens", MAX_N_BATCH);
    if (!(options->k_ratio > 0 && options->k_ratio <= 1))
        return aq_fail(AQ_ERR_USAGE, "--k-ratio must be above 0 and at most 1");
    if (!(options->s_ratio > 0 && options->s_ratio <= 1))
        return aq_fail(AQ_ERR_USAGE, "--s-ratio must be above 0 and at most 1");
    if ((unsigned)options->key_type >= AQ_KV_TYPES || (unsigned)options->value_type >= AQ_KV_TYPES)
        return aq_fail(AQ_ERR_USAGE, "a cache type (-ctk, -ctv) is unknown");
    if (options->attn == AQ_ATTN_AQUA && !engine->projection.pq)
        return aq_fail(AQ_ERR_USAGE, "--attn aqua needs a projection; make one with aqua-dist "
                                     "calibrate, or name it with --projection");
    return AQ_OK;
}

static int columns(double ratio, int d_head) {
    const int n = (int)lround(ratio * d_head);
    return n < 1 ? 1 : n;
}

static aq_score_shape make_score(const aq_session_options *options, int d_head) {
    aq_score_shape score = {.n_col = d_head, .n_dim = d_head};
    if (options->attn == AQ_ATTN_DENSE) return score;
    score.projects = true;
    score.n_col = columns(options->s_ratio, d_head);
    score.n_dim = columns(options->k_ratio, d_head);
    /* Columns that no query ever reads are not stored either. */
    if (options->rank_by == AQ_RANK_STATIC && score.n_dim < score.n_col) score.n_col = score.n_dim;
    if (score.n_dim > score.n_col) score.n_dim = score.n_col;
    return score;
}

static aq_step_shape make_shape(const aq_session *session) {
    const aq_session_options *options = &session->options;
    const int64_t n_q = options->n_batch < options->n_ctx ? options->n_batch : options->n_ctx;
    return (aq_step_shape){.n_tok_max = aq_plan_most_owned(&session->plan, n_q),
                           .n_q_max = n_q,
                           .score = make_score(options, session->engine->config.d_head)};
}

aq_score_shape aq_session_score(const aq_session *session, int layer) {
    const aq_model_config *config = &session->engine->config;
    if (!aq_model_windowed(config, layer)) return session->shape.score;
    return (aq_score_shape){.n_col = config->d_head, .n_dim = config->d_head};
}

/* What a step exchanges must fit the messages of comm/coll.h. Asked here, where all ranks agree on
 * the answer: inside a step, one rank would refuse while others wait for it. */
static aq_status check_messages(const aq_session *session) {
    const aq_model_config *config = &session->engine->config;
    const aq_step_shape *shape = &session->shape;
    const int64_t row_bytes = (int64_t)config->n_head * (config->d_head + 2) * sizeof(float);
    const int64_t sent = shape->n_q_max * row_bytes; /* queries are narrower */
    const int64_t received = session->plan.n_rank * shape->n_tok_max * row_bytes;
    const int64_t most = sent > received ? sent : received;
    if (session->plan.n_rank == 1 || most <= INT_MAX) return AQ_OK;
    return aq_fail(AQ_ERR_LIMIT,
                   "a batch of %lld tokens needs messages of %.1f GiB, over the limit of 2; use a "
                   "smaller one (-b)",
                   (long long)shape->n_q_max, (double)most / 1073741824.0);
}

/* The stored columns' sigma, packed for the kernel that ranks by energy. */
static aq_status open_dim_weight(aq_session *session) {
    const aq_model_config *config = &session->engine->config;
    aq_backend *be = session->engine->be;
    const int64_t n_row = (int64_t)config->n_layer * config->n_kv_head;
    const int n_col = session->shape.score.n_col;
    if (session->shape.score.n_dim == n_col || session->options.rank_by != AQ_RANK_ENERGY)
        return AQ_OK;
    AQ_TRY(
        be->ops->alloc(be, (size_t)(n_row * n_col) * sizeof(float), (void **)&session->dim_weight));
    for (int64_t row = 0; row < n_row; row++)
        memcpy(session->dim_weight + row * n_col,
               session->engine->projection.sigma + row * config->d_head,
               (size_t)n_col * sizeof(float));
    return AQ_OK;
}

static aq_status open_rope(aq_backend *be, const aq_rope_config *config, int n_rot,
                           const float *divisors, aq_rope_table *out) {
    const size_t n = (size_t)n_rot / 2;
    AQ_TRY(be->ops->alloc(be, n * sizeof *out->inv_freq, (void **)&out->inv_freq));
    if (n > 0) aq_model_rope(config, n_rot, divisors, out->inv_freq, &out->attn_factor);
    return AQ_OK;
}

static aq_status open_ropes(aq_session *session) {
    const aq_engine *engine = session->engine;
    const aq_model_config *config = &engine->config;
    const float *divisors =
        aq_model_rope_divisors(config, &engine->weights, session->options.n_ctx);
    AQ_TRY(open_rope(engine->be, &config->rope, config->n_rot, divisors, &session->rope));
    if (!config->two_ropes) return AQ_OK;
    return open_rope(engine->be, &config->rope_local, config->n_rot, NULL, &session->rope_local);
}

static aq_status open_cache(aq_session *session) {
    const aq_model_config *config = &session->engine->config;
    const aq_kv_view dense = {.key_type = session->options.key_type,
                              .value_type = session->options.value_type,
                              .n_kv_head = config->n_kv_head,
                              .n_col = config->d_head,
                              .d_head = config->d_head};
    aq_kvcache_shape shape = {.full = dense,
                              .windowed = dense,
                              .n_layer = config->n_layer,
                              .windowed_layers = config->windowed,
                              .window = config->window,
                              .n_step_max = session->shape.n_q_max,
                              .n_ctx = session->options.n_ctx};
    shape.full.n_col = session->shape.score.n_col;
    return aq_kvcache_open(session->engine->be, &shape, &session->plan, &session->cache);
}

static aq_status open_local(aq_session *session) {
    aq_engine *engine = session->engine;
    AQ_TRY(check_options(engine, &session->options));
    session->shape = make_shape(session);
    AQ_TRY(check_messages(session));
    AQ_TRY(open_cache(session));
    AQ_TRY(aq_step_open(engine, &session->plan, &session->shape, &session->step));
    AQ_TRY(open_ropes(session));
    AQ_TRY(open_dim_weight(session));
    return engine->be->ops->alloc(engine->be, (size_t)engine->config.d_model * sizeof(float),
                                  (void **)&session->hidden);
}

aq_status aq_session_open(aq_engine *engine, const aq_session_options *options, aq_session **out) {
    *out = NULL;
    aq_session *session = calloc(1, sizeof *session);
    aq_status status = AQ_OK;
    if (session) {
        session->engine = engine;
        session->plan = (aq_plan){aq_comm_size(engine->comm), aq_comm_rank(engine->comm)};
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
    *out = session;
    return AQ_OK;
}

void aq_session_close(aq_session *session) {
    if (!session) return;
    aq_backend *be = session->engine->be;
    aq_coll_close(session->coll);
    aq_step_close(be, &session->step);
    aq_kvcache_close(&session->cache);
    void *const blocks[] = {session->dim_weight, session->hidden, session->rope.inv_freq,
                            session->rope_local.inv_freq};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        if (blocks[i]) be->ops->release(be, blocks[i]);
    free(session);
}

void aq_session_reset(aq_session *session) {
    session->n_tok = 0;
}

int64_t aq_session_length(const aq_session *session) {
    return session->n_tok;
}

aq_status aq_session_logits(aq_session *session, float *logits) {
    if (session->n_tok == 0)
        return aq_fail(AQ_ERR_USAGE, "an empty context has no next token; give a prompt");
    aq_engine_logits(session->engine, session->hidden, 1, logits);
    return AQ_OK;
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
    stats.key_bytes = held.keys;
    stats.value_bytes = held.values;
    stats.key_capacity = capacity.keys;
    stats.value_capacity = capacity.values;
    stats.step_bytes = (int64_t)session->step.memory_bytes;
    stats.n_tok_owned = aq_plan_tokens(plan, plan->rank, session->n_tok);
    stats.sent_bytes = aq_coll_bytes_sent(session->coll);
    stats.n_exchange = aq_coll_call_count(session->coll);
    return stats;
}
