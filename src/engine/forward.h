/* The ends of a step that prefill and decode share. For src/engine. */
#ifndef AQ_ENGINE_FORWARD_H
#define AQ_ENGINE_FORWARD_H

#include "src/engine/session.h"

/* Embedding and all layers on the tokens of session->step: afterwards step->x holds the residual
 * stream after the last layer. Collective. */
aq_status aq_forward(aq_session *session, aq_attend_way way, const aq_hooks *hooks);

/* out[n, d_model] = the output norm of rows x[n, d_model]. Local. */
void aq_forward_norm(const aq_session *session, const float *x, int64_t n, float *out);

/* AQ_ERR_LIMIT if n more tokens do not fit, AQ_ERR_USAGE if an id lies outside the vocabulary. The
 * same on every rank for the same arguments. Local. */
aq_status aq_forward_check(const aq_session *session, const int32_t *ids, int64_t n);

#endif
