/* The buffers of one step: a chunk of prefill or one decoded token. Allocated once per session for
 * the largest step, so that a step allocates nothing. */
#ifndef AQ_ENGINE_STEP_H
#define AQ_ENGINE_STEP_H

#include "src/engine/engine.h"
#include "src/engine/plan.h"
#include "src/engine/score.h"

/* Sizes that all buffers follow from. */
typedef struct {
    int64_t n_tok_max;    /* tokens one rank computes at most */
    int64_t n_q_max;      /* queries of all ranks at most */
    aq_score_shape score; /* of layers that see everything; the others are dense */
    int64_t select_bytes; /* working memory of attn_select; 0 without */
    bool evicts;          /* tokens are dropped: h2o.h */
    bool measures;        /* dense attention runs beside, for comparison */
} aq_step_shape;

typedef struct {
    int64_t begin, end; /* positions of the step's tokens, over all ranks */

    /* This rank's tokens. */
    int64_t n_tok;
    int32_t *ids;       /* [n_tok] */
    int64_t *pos;       /* [n_tok] */
    int64_t *slot;      /* [n_tok] in this rank's cache */
    int64_t *ring_slot; /* [n_tok] in the rings of windowed layers */
    int32_t *pos_row;   /* [n_tok] row of the table of learned positions */
    float *rope;        /* [n_tok, n_rot] cos and sin */
    float *rope_local;  /* the same for windowed layers; `rope` itself unless they differ */
    float *x;           /* [n_tok, d_model] residual stream */
    float *norm;        /* [n_tok, d_model] */
    float *q;           /* [n_tok, n_head, d_head] */
    float *k;           /* [n_tok, n_kv_head, d_head] */
    float *v;           /* [n_tok, n_kv_head, d_head] */
    float *q_proj;      /* [n_tok, n_head, n_col], if layers project */
    float *k_proj;      /* [n_tok, n_kv_head, n_col], if layers project */
    int16_t *dims;      /* [n_tok, n_head, n_dim] */
    float *mixed;       /* [n_tok, n_head, d_head] attention's result */
    float *out;         /* [n_tok, d_model] what is normed before it is added, if anything is */
    float *gate;        /* [n_tok, d_ff or d_expert] */
    float *up;          /* [n_tok, d_ff or d_expert] */

    /* Experts, if the model has some. */
    float *router;         /* [n_tok, n_expert] logits */
    int32_t *expert_ids;   /* [n_tok, n_expert_used] */
    float *expert_weights; /* [n_tok, n_expert_used] */
    int32_t *row_index;    /* [n_tok] tokens of one expert */
    float *row_scale;      /* [n_tok] what its result counts for in each */
    float *rows_in;        /* [n_tok, d_model] */
    float *rows_out;       /* [n_tok, d_model] */

    /* Queries of all ranks, packed in rank order, and what is exchanged for them. */
    int64_t n_q;
    int64_t *rank_tok; /* [n_rank] tokens each rank computes */
    int64_t *q_pos;    /* [n_q] */
    float *q_all;      /* [n_q, n_head, columns]; with one rank there is none */
    int16_t *dims_all; /* [n_q, n_head, n_dim]; with one rank there is none */
    float *part;       /* [n_q, n_head, d_head + 2] against this rank's shard */
    float *parts;      /* [n_rank, n_tok, n_head, d_head + 2] of this rank's queries */
    int64_t *send_bytes, *recv_bytes; /* [n_rank] */
    float *ml, *ml_all;              /* [n_tok, n_head, 2], [n_q, n_head, 2], if tokens are dropped:
                                        maximum and sum of the merged softmax */
    float *exact_part, *exact_parts; /* as part and parts, of dense attention, if it is measured */

    /* If tokens are selected. */
    void *select_work;
    int32_t *counts; /* [n_q, n_kv_head, 3] as attn_select gives them */

    void *memory; /* the block behind all of them */
    size_t memory_bytes;
} aq_step;

/* Allocates the buffers. The caller closes. AQ_ERR_MEMORY names the bytes. Local. */
aq_status aq_step_open(const aq_engine *engine, const aq_plan *plan, const aq_step_shape *shape,
                       aq_step *out);

/* Frees; a zeroed struct is allowed. Local. */
void aq_step_close(aq_backend *be, aq_step *step);

/* Deals the positions [begin, end) with their ids over ranks: each takes those whose tiles it owns.
 * Local. */
void aq_step_deal(aq_step *step, const aq_plan *plan, int64_t begin, int64_t end,
                  const int32_t *ids);

/* One token that every rank computes. Local. */
void aq_step_replicate(aq_step *step, const aq_plan *plan, int64_t pos, int32_t id);

#endif
