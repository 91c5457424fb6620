/* Prefill: the text goes through in chunks. A chunk's tokens are dealt over ranks by the owners of
 * their tiles, so that each rank computes the tokens whose keys and values it keeps. */
#include "src/engine/forward.h"

static int64_t min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The last token's owner has its row; everyone gets it. */
static aq_status share_last_row(aq_session *session) {
    const aq_step *step = &session->step;
    const int64_t width = session->engine->config.d_model;
    const int owner = aq_plan_owner(&session->plan, session->n_tok - 1);
    if (owner == session->plan.rank)
        aq_forward_norm(session, step->x + (step->n_tok - 1) * width, 1, session->hidden);
    if (session->plan.n_rank == 1) return AQ_OK;
    return aq_exchange_bcast(session, session->hidden, width * (int64_t)sizeof(float), owner);
}

static aq_status give_rows(aq_session *session, const aq_hooks *hooks) {
    const aq_step *step = &session->step;
    const int64_t bytes = step->n_tok * session->engine->config.d_model * (int64_t)sizeof(float);
    aq_forward_norm(session, step->x, step->n_tok, step->norm);
    const float *rows = aq_step_fetch(session->engine->be, step, 0, step->norm, bytes);
    return hooks->rows(hooks->arg, step->pos, rows, step->n_tok);
}

aq_status aq_session_prefill(aq_session *session, const int32_t *ids, int64_t n,
                             const aq_hooks *hooks) {
    aq_backend *be = session->engine->be;
    AQ_TRY(aq_forward_check(session, ids, n));
    for (int64_t done = 0; done < n;) {
        const int64_t n_chunk = min(session->shape.n_q_max, n - done);
        const int64_t begin = session->n_tok;
        aq_step_deal(&session->step, &session->plan, begin, begin + n_chunk, ids + done);
        AQ_TRY(aq_forward(session, AQ_ATTEND_VISITING, hooks));
        AQ_TRY(be->ops->sync(be));
        session->n_tok += n_chunk;
        done += n_chunk;
        if (hooks && hooks->rows) AQ_TRY(give_rows(session, hooks));
        if (hooks && hooks->progress) AQ_TRY(hooks->progress(hooks->arg, done, n));
    }
    return n > 0 ? share_last_row(session) : AQ_OK;
}
