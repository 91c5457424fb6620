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
    float *inv_freq; /* [n_rot / 2] in backend memory */
    float attn_factor;
} aq_rope_table;

struct aq_session {
    aq_engine *engine; /* borrowed */
    aq_plan plan;      /* a copy of the engine's */
    aq_coll *coll;
    aq_session_options options; /* defaults filled in */
    aq_step_shape shape;
    aq_kvcache cache;
    aq_h2o h2o; /* directories of the layers that drop tokens, if the session does */
    aq_step step;
    aq_rope_table rope, rope_local; /* of layers that see everything, and of windowed ones */
    /* In backend memory. */
    float *dim_weight; /* [n_layer, n_kv_head, n_col] sigma where columns are ranked with it */
    float *hidden;     /* [d_model] normed row of the last token, the same on every rank */
    int64_t *n_kept;   /* [1] columns that prune_dims has kept, where it is used */
    int n_dynamic;     /* columns of the selector that a query reads; 0: all */
    bool is_open;      /* counted by the engine */
    int64_t n_tok;     /* tokens in the context */
    aq_session_stats stats;
};

/* Bytes of memory that a session takes on one rank, whatever their kind. */
typedef struct {
    aq_kv_bytes cache; /* for n_ctx tokens */
    int64_t open_tile;
    int64_t step;
    int64_t other; /* directories, rotary tables, weights of columns, the last row */
} aq_session_bytes;

/* What aq_session_open would allocate on rank plan->rank of plan->n_rank, without allocating it.
 * An engine that has no projection yet is measured as if it had one with the default selector.
 * Errors as aq_session_open, but AQ_ERR_MEMORY. Local. */
aq_status aq_session_measure(aq_engine *engine, const aq_plan *plan,
                             const aq_session_options *options, aq_session_bytes *out);

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
 * d_model], normed before it is added if the model does so; `w` is the layer's weights as
 * aq_shard_product takes them. AQ_ERR_COMM. Collective over the ranks that share weights. */
aq_status aq_ffn_forward(aq_session *session, int layer, const aq_layer_weights *w,
                         const float *input);

/* What the scores of a layer are made of in the current step. Local. */
aq_score_shape aq_session_score(const aq_session *session, int layer, aq_attend_way way);

/* Adds to the statistics what attn_partial or attn_select read for the step's queries, which were
 * q, the dims of which decided, or all. Where that lies in memory of the backend alone, steps of
 * few queries only note it, and the second function, at their end, fetches it for all layers at
 * once. Local. */
void aq_traffic_add(aq_session *session, int layer, const aq_score_shape *score, const float *q,
                    const int16_t *dims);
void aq_traffic_finish(aq_session *session, aq_attend_way way);

/* Whether a layer drops tokens. Local. */
bool aq_session_evicts(const aq_session *session, int layer);

/* The tiles of a layer that the step's queries may see, in backend memory. Local. */
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

/* As the functions of comm/coll.h of these names, on backend memory; the step's stages may be used.
 * Collective. */
aq_status aq_exchange_allgather(aq_session *session, const void *mine, int64_t bytes, void *all);
aq_status aq_exchange_allgatherv(aq_session *session, const void *mine, const int64_t *bytes,
                                 void *all);
aq_status aq_exchange_alltoallv(aq_session *session, const void *send, const int64_t *send_bytes,
                                void *recv, const int64_t *recv_bytes);
aq_status aq_exchange_join(aq_session *session, void *rows, int64_t n, int64_t row_bytes,
                           aq_coll_join join);
aq_status aq_exchange_bcast(aq_session *session, void *data, int64_t bytes, int root);

/* step->q_all and dims_all = the queries of the step's tokens of all ranks, of which this rank has
 * q and step->dims, as attn_partial takes them: columns that did not decide are 0. Collective. */
aq_status aq_wire_queries(aq_session *session, const aq_score_shape *score, const float *q);

/* parts[n_rank, n_tok, n_head, d_head + 2] = the partial results of this rank's own queries from
 * all ranks, of which this one has part[n_q, n_head, d_head + 2]; with one rank they are one.
 * Collective. */
aq_status aq_wire_parts(aq_session *session, aq_attend_way way, const float *part, float *parts);

/* parts[n_rank, heads of this rank, d_head + 2] = the partial results of its share of the heads
 * (aq_share_first) from all ranks, of a replicated token, of which this one has part[n_head,
 * d_head + 2]. Collective. */
aq_status aq_wire_heads(aq_session *session, const float *part, float *parts);

/* step->mixed = the step's step->part merged over all ranks, as options.merge says, in prefill in
 * rank order; step->ml too if the layer drops tokens. Uses step->parts, which holds the partial
 * results of all ranks only after AQ_MERGE_ALLGATHER. Times since *now are added to exchange_ns and
 * merge_ns. Collective. */
aq_status aq_merge_parts(aq_session *session, aq_attend_way way, bool evicts, int64_t *now);

/* step->ml_all = step->ml of the step's tokens of all ranks. Collective. */
aq_status aq_wire_ml(aq_session *session);

/* *all [n_q, n_head, 2] = maximum and sum over all ranks of softmaxes of the step's queries, of
 * which this rank's tokens have totals[n_q, n_head, 2]. Uses step->parts and ml. Collective. */
aq_status aq_wire_totals(aq_session *session, aq_attend_way way, const float *totals,
                         const float **all);

/* step->mixed = attention of this rank's queries over the tiles of all ranks, merged in rank order.
 * Collective. */
aq_status aq_attend(aq_session *session, int layer, aq_attend_way way);

/* Adds the time since `since_ns` to *bucket_ns and returns the time now. Local. */
int64_t aq_session_lap(int64_t *bucket_ns, int64_t since_ns);

#endif
