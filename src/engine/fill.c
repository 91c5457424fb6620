/* The deal of tiles to ranks repeats after a period of the plan, the rows after some tiles. So this
 * rank's tiles of a cycle, which is a period for each tile of the rows, hold the same rows in every
 * cycle: they are brought together once, and appended cycle by cycle. */
#include "src/engine/fill.h"

#include <stdlib.h>
#include <string.h>

/* This rank's part of a cycle. */
typedef struct {
    int64_t n_cycle;    /* tokens of a cycle, over all ranks */
    int64_t n_tok;      /* of them this rank's */
    float *key, *value; /* [n_tok, n_kv_head, n_col], [n_tok, n_kv_head, d_head]; backend memory */
    aq_twin slot;       /* int64_t [n_tok] */
} cycle;

static aq_status check(const aq_session *session, const aq_fill_rows *rows, int64_t n) {
    if (session->n_tok > 0)
        return aq_fail(AQ_ERR_USAGE, "only an empty session can be filled; reset it first");
    if (session->engine->config.window > 0 || session->shape.evicts)
        return aq_fail(AQ_ERR_USAGE, "a session whose layers see a window, or that drops tokens "
                                     "(--h2o), cannot be filled");
    if (rows->n_tok <= 0 || rows->n_tok % AQ_TILE != 0)
        return aq_fail(AQ_ERR_USAGE,
                       "a context is filled with whole tiles of %d rows, not with "
                       "%lld rows",
                       AQ_TILE, (long long)rows->n_tok);
    if (n > session->options.n_ctx)
        return aq_fail(AQ_ERR_LIMIT, "%lld tokens to fill in do not fit a context of %lld",
                       (long long)n, (long long)session->options.n_ctx);
    return AQ_OK;
}

/* to[n_tok, n_kv_head, n_col] = the leading columns of the rows of this rank's tiles of a cycle. */
static void gather(const aq_session *session, const float *from, int64_t n_row, int64_t n_tok,
                   int n_col, float *to) {
    const aq_model_config *config = &session->engine->config;
    const int64_t n_head = config->n_kv_head, d_head = config->d_head;
    for (int64_t t = 0; t < n_tok; t++) {
        const int64_t pos = aq_plan_tile_pos(&session->plan, t / AQ_TILE) + t % AQ_TILE;
        for (int64_t g = 0; g < n_head; g++)
            memcpy(to + (t * n_head + g) * n_col, from + (pos % n_row * n_head + g) * d_head,
                   (size_t)n_col * sizeof *to);
    }
}

/* *out = the rows gathered in backend memory. */
static aq_status place_rows(const aq_session *session, const float *from, int64_t n_row,
                            int64_t n_tok, int n_col, float **out) {
    const size_t n = (size_t)n_tok * (size_t)session->engine->config.n_kv_head * (size_t)n_col;
    float *rows = malloc(n * sizeof *rows);
    if (!rows) return aq_fail(AQ_ERR_MEMORY, "no memory for %zu bytes of rows", n * sizeof *rows);
    gather(session, from, n_row, n_tok, n_col, rows);
    const aq_status status =
        aq_twin_place(session->engine->be, rows, n * sizeof *rows, (void **)out);
    free(rows);
    return status;
}

static aq_status open_cycle(const aq_session *session, const aq_fill_rows *rows, cycle *out) {
    const aq_plan *plan = &session->plan;
    out->n_cycle = plan->n_period * rows->n_tok;
    out->n_tok = aq_plan_weight(plan, plan->rank) * rows->n_tok;
    if (out->n_tok == 0) return AQ_OK;
    AQ_TRY(place_rows(session, rows->key, rows->n_tok, out->n_tok, session->shape.score.n_col,
                      &out->key));
    AQ_TRY(place_rows(session, rows->value, rows->n_tok, out->n_tok, session->engine->config.d_head,
                      &out->value));
    return aq_twin_open(session->engine->be, (size_t)out->n_tok * sizeof(int64_t), &out->slot);
}

static void close_cycle(const aq_session *session, cycle *part) {
    aq_backend *be = session->engine->be;
    if (part->key) be->ops->release(be, part->key);
    if (part->value) be->ops->release(be, part->value);
    aq_twin_close(be, &part->slot);
}

/* Appends this rank's tokens of the cycle that begins at position `begin`, of n in all. */
static void append(aq_session *session, const cycle *part, int64_t begin, int64_t n) {
    const aq_plan *plan = &session->plan;
    const int64_t end = n - begin < part->n_cycle ? n : begin + part->n_cycle;
    const int64_t first = aq_plan_tokens(plan, plan->rank, begin);
    const int64_t n_tok = aq_plan_tokens(plan, plan->rank, end) - first;
    aq_backend *be = session->engine->be;
    int64_t *slots = (int64_t *)(void *)part->slot.host;
    if (n_tok == 0) return;
    for (int64_t t = 0; t < n_tok; t++)
        slots[t] = first + t;
    aq_twin_push(be, &part->slot, slots, (size_t)n_tok * sizeof *slots);
    for (int layer = 0; layer < session->engine->config.n_layer; layer++)
        be->ops->kv_append(be,
                           &(aq_kv_append_args){.kv = aq_kvcache_layer(&session->cache, layer, end),
                                                .key = part->key,
                                                .value = part->value,
                                                .slot = aq_twin_there(&part->slot, slots),
                                                .n_tok = n_tok});
}

static aq_status fill(aq_session *session, const aq_fill_rows *rows, int64_t n) {
    cycle part = {.n_tok = 0};
    AQ_TRY(check(session, rows, n));
    aq_status status = open_cycle(session, rows, &part);
    for (int64_t begin = 0; status == AQ_OK && begin < n; begin += part.n_cycle)
        append(session, &part, begin, n);
    if (status == AQ_OK) status = session->engine->be->ops->sync(session->engine->be);
    close_cycle(session, &part);
    return status;
}

aq_status aq_session_fill(aq_session *session, const aq_fill_rows *rows, int64_t n) {
    aq_backend *be = session->engine->be;
    AQ_TRY(aq_comm_agree(session->engine->comm, fill(session, rows, n)));
    be->ops->clear(be, session->hidden,
                   (size_t)session->engine->config.d_model * sizeof *session->hidden);
    session->n_tok = n;
    return AQ_OK;
}
