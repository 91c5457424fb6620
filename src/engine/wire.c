/* What attention sends between ranks: queries to the shards, partial results back. They travel as
 * they lie, or as packed rows (kernels/packed_rows.h): of a query the columns that decide, and all
 * in bf16 if the session asks for it. What a rank sends to itself takes the same way, so that all
 * ranks work with the same bits. */
#include "src/engine/session.h"

static int64_t form_bytes(const aq_session *session, const aq_row_form *form) {
    return session->engine->config.n_head * aq_row_words(form) * (int64_t)sizeof(uint32_t);
}

/* step->wire_out = n_tok tokens' rows x. */
static void pack(const aq_session *session, const aq_row_form *form, const float *x,
                 const int16_t *dims, int64_t n_tok) {
    aq_backend *be = session->engine->be;
    be->ops->pack_rows(be, &(aq_pack_rows_args){.form = *form,
                                                .x = x,
                                                .dims = dims,
                                                .n_row = n_tok * session->engine->config.n_head,
                                                .packed = session->step.wire_out});
}

/* x, dims = n_row rows of step->wire_in. */
static void unpack(const aq_session *session, const aq_row_form *form, int64_t n_row, float *x,
                   int16_t *dims) {
    aq_backend *be = session->engine->be;
    be->ops->unpack_rows(
        be,
        &(aq_unpack_rows_args){
            .form = *form, .packed = session->step.wire_in, .n_row = n_row, .x = x, .dims = dims});
}

/* Adds to the statistics what this rank sends in a layer of prefill: its queries, in that form, to
 * all others, and the partial results of the others' queries. */
static void count_sent(aq_session *session, const aq_row_form *query) {
    const aq_step *step = &session->step;
    const aq_model_config *config = &session->engine->config;
    const aq_row_form part = aq_step_part_form(&session->shape, config);
    const int64_t number_bytes = config->n_head * (int64_t)sizeof(float);
    const int64_t n_query = (session->plan.n_rank - 1) * step->n_tok;
    const int64_t n_part = step->n_q - step->n_tok;
    aq_session_stats *stats = &session->stats;
    stats->query_bytes += n_query * form_bytes(session, query);
    stats->part_bytes += n_part * form_bytes(session, &part);
    stats->full_query_bytes += n_query * number_bytes * config->d_head;
    stats->full_part_bytes += n_part * number_bytes * (config->d_head + 2);
}

aq_status aq_wire_queries(aq_session *session, const aq_score_shape *score, const float *q) {
    aq_step *step = &session->step;
    const aq_row_form form = aq_step_query_form(&session->shape, score);
    const bool packs = aq_step_packs(&form);
    const int64_t row_bytes = form_bytes(session, &form);
    for (int r = 0; r < session->plan.n_rank; r++)
        step->send_bytes[r] = step->rank_tok[r] * row_bytes;
    if (packs) pack(session, &form, q, step->dims, step->n_tok);
    AQ_TRY(aq_exchange_allgatherv(session, packs ? step->wire_out : q, step->send_bytes,
                                  packs ? step->wire_in : step->q_all));
    if (packs)
        unpack(session, &form, step->n_q * session->engine->config.n_head, step->q_all,
               step->dims_all);
    count_sent(session, &form);
    return AQ_OK;
}

/* Each rank is sent what is of its queries, or, of a replicated token, everyone is sent all: the
 * one exchange of decode. */
static aq_status exchange_parts(aq_session *session, aq_attend_way way, int64_t row_bytes,
                                const void *send, void *recv) {
    aq_step *step = &session->step;
    if (way == AQ_ATTEND_REPLICATED) return aq_exchange_allgather(session, send, row_bytes, recv);
    for (int r = 0; r < session->plan.n_rank; r++) {
        step->send_bytes[r] = step->rank_tok[r] * row_bytes;
        step->recv_bytes[r] = step->n_tok * row_bytes;
    }
    return aq_exchange_alltoallv(session, send, step->send_bytes, recv, step->recv_bytes);
}

aq_status aq_wire_parts(aq_session *session, aq_attend_way way, const float *part, float *parts) {
    aq_step *step = &session->step;
    const aq_row_form form = aq_step_part_form(&session->shape, &session->engine->config);
    const bool packs = aq_step_packs(&form);
    if (session->plan.n_rank == 1) return AQ_OK;
    if (packs) pack(session, &form, part, NULL, step->n_q);
    AQ_TRY(exchange_parts(session, way, form_bytes(session, &form), packs ? step->wire_out : part,
                          packs ? step->wire_in : parts));
    const int64_t n_row = session->plan.n_rank * step->n_tok * session->engine->config.n_head;
    if (packs) unpack(session, &form, n_row, parts, NULL);
    return AQ_OK;
}

aq_status aq_wire_heads(aq_session *session, const float *part, float *parts) {
    aq_step *step = &session->step;
    const aq_plan *plan = &session->plan;
    const aq_row_form form = aq_step_part_form(&session->shape, &session->engine->config);
    const bool packs = aq_step_packs(&form);
    const int n_head = session->engine->config.n_head;
    const int64_t head_bytes = form_bytes(session, &form) / n_head;
    const int64_t n_mine = aq_share_count(n_head, plan->n_rank, plan->rank);
    for (int r = 0; r < plan->n_rank; r++) {
        step->send_bytes[r] = aq_share_count(n_head, plan->n_rank, r) * head_bytes;
        step->recv_bytes[r] = n_mine * head_bytes;
    }
    if (packs) pack(session, &form, part, NULL, 1);
    AQ_TRY(aq_exchange_alltoallv(session, packs ? step->wire_out : part, step->send_bytes,
                                 packs ? step->wire_in : parts, step->recv_bytes));
    if (packs) unpack(session, &form, plan->n_rank * n_mine, parts, NULL);
    return AQ_OK;
}

aq_status aq_wire_ml(aq_session *session) {
    aq_step *step = &session->step;
    const int64_t row_bytes = 2 * session->engine->config.n_head * (int64_t)sizeof(float);
    for (int r = 0; r < session->plan.n_rank; r++)
        step->send_bytes[r] = step->rank_tok[r] * row_bytes;
    return aq_exchange_allgatherv(session, step->ml, step->send_bytes, step->ml_all);
}

/* They take the way of partial results without o, by the memory of these, which are made later. */
aq_status aq_wire_totals(aq_session *session, aq_attend_way way, const float *totals,
                         const float **all) {
    const aq_step *step = &session->step;
    aq_backend *be = session->engine->be;
    const int n_head = session->engine->config.n_head;
    const int64_t row_bytes = 2 * n_head * (int64_t)sizeof(float);
    AQ_TRY(exchange_parts(session, way, row_bytes, totals, step->parts));
    be->ops->attn_merge(be, &(aq_attn_merge_args){.parts = step->parts,
                                                  .n_part = session->plan.n_rank,
                                                  .n_row = step->n_tok * n_head,
                                                  .out = step->mixed,
                                                  .ml = step->ml});
    *all = way == AQ_ATTEND_VISITING ? step->ml_all : step->ml;
    return way == AQ_ATTEND_VISITING ? aq_wire_ml(session) : AQ_OK;
}
