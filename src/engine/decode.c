/* Decode: every rank computes the new token; the owner of its tile keeps the key and value; each
 * layer exchanges once. */
#include "src/engine/forward.h"

aq_status aq_session_decode(aq_session *session, int32_t id) {
    aq_backend *be = session->engine->be;
    AQ_TRY(aq_forward_check(session, &id, 1));
    aq_step_replicate(&session->step, &session->plan, session->n_tok, id);
    AQ_TRY(aq_forward(session, AQ_ATTEND_REPLICATED, NULL));
    session->n_tok++;
    aq_forward_norm(session, session->step.x, 1, session->hidden);
    return be->ops->sync(be);
}
