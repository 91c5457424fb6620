/* The beginning of a context: a fresh session, with the projection made from the text itself where
 * that is wanted. */
#ifndef AQ_LAUNCH_CONTEXT_H
#define AQ_LAUNCH_CONTEXT_H

#include "launch/program.h"

/* Whether a session makes its projection from its own text: asked for, or there is no other.
 * Local. */
bool aq_context_makes_projection(const aq_program *program, const aq_engine *engine,
                                 const aq_session_options *options);

/* Readies *session for the ids of a new text: NULL opens one, an open one is emptied. If the
 * options ask for a projection from the context, *session is opened anew and its first *n_done ids
 * are in it already; else *n_done = 0. hooks may be NULL. The caller closes *session, also after a
 * failure. Errors of aq_session_open, aq_session_prefill and calibration. Collective. */
aq_status aq_context_start(const aq_program *program, aq_engine *engine,
                           const aq_session_options *options, const int32_t *ids, int64_t n,
                           const aq_hooks *hooks, aq_session **session, int64_t *n_done);

#endif
