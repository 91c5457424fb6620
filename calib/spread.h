/* Gram sums of a short text for a longer context. Queries and keys are rotated by their positions,
 * and a projection is to serve all positions of a context: so token p of n calibrated on is summed
 * as it would be at p + (p mod n_shift) n, n_shift = ceil(n_ctx / n), query and key alike, with
 * which neighbours stand all over the context. Scores of a token with itself do not change.
 *
 * All functions are Local. */
#ifndef AQ_CALIB_SPREAD_H
#define AQ_CALIB_SPREAD_H

#include "calib/gram.h"
#include "src/aqua.h"
#include "src/engine/twin.h"

typedef struct {
    aq_engine *engine;     /* borrowed, as are the sums and the frequencies */
    aq_gram *gram;         /* what is summed into */
    int64_t n_skip;        /* first positions that are not counted */
    int64_t n, n_shift;    /* as above */
    const float *inv_freq; /* [n_rot / 2] in backend memory */
    float *table;          /* [n_tok_max, n_rot] there; NULL: positions stay as they are */
    aq_twin shift;         /* int64_t [n_tok_max] */
    aq_twin q, k;          /* [n_tok_max] rows as aq_hooks.tap has them */
} aq_spread;

/* For the steps of `session`, whose n_ctx is the n above, and a context of n_ctx tokens; positions
 * stay as they are if it is not longer, or not rotary. Engine, session and sums must outlive it;
 * the caller closes it, also on failure. AQ_ERR_MEMORY. */
aq_status aq_spread_open(aq_engine *engine, const aq_session *session, int64_t n_ctx,
                         int64_t n_skip, aq_gram *gram, aq_spread *out);

/* Frees; a zeroed struct is allowed. */
void aq_spread_close(aq_spread *spread);

/* Adds a step of one layer, which aq_hooks.tap gives. */
void aq_spread_add(const aq_spread *spread, int layer, const int64_t *pos, int64_t n_tok,
                   const float *q, const float *k);

#endif
