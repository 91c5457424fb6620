/* A context that no model has seen: keys and values that are given go into the cache as a layer's
 * own would, tile by tile. To measure steps behind a length that would take too long to prefill.
 * For src/engine and bench. */
#ifndef AQ_ENGINE_FILL_H
#define AQ_ENGINE_FILL_H

#include "src/engine/session.h"

/* Rows of the host. */
typedef struct {
    const float *key;   /* [n_tok, n_kv_head, d_head] as the cache stores keys: projected, if the
                           session projects, of which it keeps as many columns as it stores */
    const float *value; /* [n_tok, n_kv_head, d_head] */
    int64_t n_tok;      /* a multiple of AQ_TILE */
} aq_fill_rows;

/* Makes the context of an empty session n tokens long: in every layer the token at position p has
 * key and value p mod n_tok of `rows`, kept by the rank that owns its tile. The last token has no
 * hidden row: aq_session_logits gives zeros until a token is appended. AQ_ERR_USAGE: the session is
 * not empty, has layers with a window or drops tokens; AQ_ERR_LIMIT: n tokens do not fit;
 * AQ_ERR_MEMORY. Collective. */
aq_status aq_session_fill(aq_session *session, const aq_fill_rows *rows, int64_t n);

#endif
