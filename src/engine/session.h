/* What a session is made of, and the parts of a step. For src/engine; programs use src/aqua.h. */
#ifndef AQ_ENGINE_SESSION_H
#define AQ_ENGINE_SESSION_H

#include "comm/coll.h"
#include "src/aqua.h"
#include "src/engine/engine.h"
#include "src/engine/h2o.h"
#include "src/engine/kvcache.h"
#include "src/engine/plan.h"
#include "src/engine/step.h"

/* Rotary frequencies and what cos and sin are multiplied with. */
typedef struct {
    float *inv_freq; /* [n_rot / 2] */
    float attn_factor;
} aq_rope_table;

struct aq_session {
    aq_engine *engine; /* borrowed */
    aq_plan plan;
    aq_coll *coll;
    aq_session_options options; /* defaults filled in */
    aq_step_shape shape;
    aq_kvcache cache;
    aq_h2o h2o; /* directories of the layers that drop tokens, if the session does */
    aq_step step;
    aq_rope_table rope, rope_local; /* of layers that see everything, and of windowed ones */
    float *dim_weight; /* [n_layer, n_kv_head, n_col] sigma where columns are ranked with it */
    int n_dynamic;     /* columns of the selector that a query reads; 0: all */
    bool is_open;      /* counted by the engine */
    float *hidden;     /* [d_model] normed row of the last token, the same on every rank */
    int64_t n_tok;     /* tokens in the context */
    aq_session_stats stats;
};

/* How the queries of the current step reach the tiles of all ranks. */
typedef enum {
    AQ_ATTEND_VISITING,  /* each rank has its own tokens: their queries visit every shard */
    AQ_ATTEND_REPLICATED /* every rank has the same token: each asks its own shard */
} aq_attend_way;

/* One transformer layer on the tokens of session->step: x is changed in place, k and v are appended
 * to the cache. Failures come from communication or the tap. Collective. */
aq_status aq_layer_forward(aq_session *session, int layer, aq_attend_way way,
                           const aq_hooks *hooks);

/* x += W_down act(...): the feed-forward of a layer, dense or experts, on rows input[n_tok,
 * d_model], normed before it is added if the model does so. Local. */
void aq_ffn_forward(aq_session *session, int layer, const float *input);

/* What the scores of a layer are made of in the current step. Local. */
aq_score_shape aq_session_score(const aq_session *session, int layer, aq_attend_way way);

/* Adds to the statistics what attn_partial or attn_select read for the step's queries, which were
 * q, the dims of which decided, or all. Local. */
void aq_traffic_add(aq_session *session, int layer, const aq_score_shape *score, const float *q,
                    const int16_t *dims);

/* Whether a layer drops tokens. Local. */
bool aq_session_evicts(const aq_session *session, int layer);

/* The tiles of a layer that the step's queries may see. Local. */
aq_kv_tiles aq_session_tiles(const aq_session *session, int layer);

/* Tokens of the text that this rank has dropped in a layer, before it drops those of the step.
 * Local. */
int64_t aq_evict_gone(const aq_session *session, int layer);

/* In a layer that drops tokens, in place of kv_append: gives the step's tokens free slots and
 * writes them there. Local. */
void aq_evict_append(const aq_session *session, int layer, const float *key);

/* And after its attention, `scores` of which were merged with step->ml: adds up what each token has
 * got, and drops tokens. Collective. */
aq_status aq_evict_after(aq_session *session, int layer, aq_attend_way way,
                         const aq_attn_partial_args *scores);

/* step->mixed = attention of this rank's queries over the tiles of all ranks, merged in rank order.
 * Collective. */
aq_status aq_attend(aq_session *session, int layer, aq_attend_way way);

/* Adds the time since `since_ns` to *bucket_ns and returns the time now. Local. */
int64_t aq_session_lap(int64_t *bucket_ns, int64_t since_ns);

#endif
