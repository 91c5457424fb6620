/* The collectives of comm/coll.h on backend memory: as they are where it is the host's, else by way
 * of the step's stages. */
#include "src/engine/session.h"

static int64_t sum(const int64_t *bytes, int n) {
    int64_t all = 0;
    for (int r = 0; r < n; r++)
        all += bytes[r];
    return all;
}

/* What came from other ranks goes to where it is wanted. */
static void deliver(aq_session *session, void *to, int64_t bytes) {
    aq_backend *be = session->engine->be;
    be->ops->upload(be, to, session->step.stage[1], (size_t)bytes);
}

aq_status aq_exchange_allgather(aq_session *session, const void *mine, int64_t bytes, void *all) {
    aq_backend *be = session->engine->be;
    const aq_step *step = &session->step;
    if (be->host_memory) return aq_coll_allgather(session->coll, mine, bytes, all);
    mine = aq_step_fetch(be, step, 0, mine, bytes);
    AQ_TRY(aq_coll_allgather(session->coll, mine, bytes, step->stage[1]));
    deliver(session, all, session->plan.n_rank * bytes);
    return AQ_OK;
}

aq_status aq_exchange_allgatherv(aq_session *session, const void *mine, const int64_t *bytes,
                                 void *all) {
    aq_backend *be = session->engine->be;
    const aq_step *step = &session->step;
    if (be->host_memory) return aq_coll_allgatherv(session->coll, mine, bytes, all);
    mine = aq_step_fetch(be, step, 0, mine, bytes[session->plan.rank]);
    AQ_TRY(aq_coll_allgatherv(session->coll, mine, bytes, step->stage[1]));
    deliver(session, all, sum(bytes, session->plan.n_rank));
    return AQ_OK;
}

aq_status aq_exchange_alltoallv(aq_session *session, const void *send, const int64_t *send_bytes,
                                void *recv, const int64_t *recv_bytes) {
    aq_backend *be = session->engine->be;
    const aq_step *step = &session->step;
    const int n_rank = session->plan.n_rank;
    if (be->host_memory)
        return aq_coll_alltoallv(session->coll, send, send_bytes, recv, recv_bytes);
    send = aq_step_fetch(be, step, 0, send, sum(send_bytes, n_rank));
    AQ_TRY(aq_coll_alltoallv(session->coll, send, send_bytes, step->stage[1], recv_bytes));
    deliver(session, recv, sum(recv_bytes, n_rank));
    return AQ_OK;
}

aq_status aq_exchange_join(aq_session *session, void *rows, int64_t n, int64_t row_bytes,
                           aq_coll_join join) {
    aq_backend *be = session->engine->be;
    const aq_step *step = &session->step;
    if (be->host_memory) return aq_coll_join_rows(session->coll, rows, n, row_bytes, join);
    be->ops->download(be, step->stage[1], rows, (size_t)(n * row_bytes));
    AQ_TRY(aq_coll_join_rows(session->coll, step->stage[1], n, row_bytes, join));
    deliver(session, rows, n * row_bytes);
    return AQ_OK;
}

aq_status aq_exchange_bcast(aq_session *session, void *data, int64_t bytes, int root) {
    aq_backend *be = session->engine->be;
    const aq_step *step = &session->step;
    if (be->host_memory) return aq_coll_bcast(session->coll, data, bytes, root);
    if (root == session->plan.rank) be->ops->download(be, step->stage[1], data, (size_t)bytes);
    AQ_TRY(aq_coll_bcast(session->coll, step->stage[1], bytes, root));
    if (root != session->plan.rank) deliver(session, data, bytes);
    return AQ_OK;
}
