/* The buffers of one step: a chunk of prefill or one decoded token. Allocated once per session for
 * the largest step, so that a step allocates nothing. All are backend memory but those that are
 * said to be the host's. */
#ifndef AQ_ENGINE_STEP_H
#define AQ_ENGINE_STEP_H

#include "src/engine/engine.h"
#include "src/engine/plan.h"
#include "src/engine/score.h"
#include "src/engine/twin.h"

/* Sizes that all buffers follow from. */
typedef struct {
    int64_t n_tok_max;    /* tokens one rank computes at most */
    int64_t n_q_max;      /* queries of all ranks at most */
    aq_score_shape score; /* of layers that see everything; the others are dense */
    int64_t select_bytes; /* working memory of attn_select; 0 without */
    bool evicts;          /* tokens are dropped: h2o.h */
    bool shares_mass;     /* ranks choose tokens by the mass of all: mass_exchange */
    bool wire_bf16;       /* as in aq_session_options */
    bool measures;        /* dense attention runs beside, for comparison */
} aq_step_shape;

typedef struct {
    int64_t begin, end; /* positions of the step's tokens, over all ranks */

    /* This rank's tokens, on the host. For kernels they are packed and sent once a step:
     * aq_step_there says where they are then. */
    int64_t n_tok;
    int32_t *ids;       /* [n_tok] */
    int64_t *pos;       /* [n_tok] */
    int64_t *slot;      /* [n_tok] in this rank's cache */
    int64_t *ring_slot; /* [n_tok] in the rings of windowed layers */
    int32_t *pos_row;   /* [n_tok] row of the table of learned positions */
    int64_t *q_pos;     /* [n_q] of the queries of all ranks */
    aq_twin tokens;     /* all six */
    size_t token_bytes; /* of them in this step */

    float *rope;       /* [n_tok, n_rot] cos and sin */
    float *rope_local; /* the same for windowed layers; `rope` itself unless they differ */
    float *x;          /* [n_tok, d_model] residual stream */
    float *norm;       /* [n_tok, d_model] */
    float *q;          /* [n_tok, n_head, d_head] */
    float *k;          /* [n_tok, n_kv_head, d_head] */
    float *v;          /* [n_tok, n_kv_head, d_head] */
    float *q_proj;     /* [n_tok, n_head, n_col], if layers project */
    float *k_proj;     /* [n_tok, n_kv_head, n_col], if layers project */
    int16_t *dims;     /* [n_tok, n_head, n_dim] */
    float *mixed;      /* [n_tok, n_head, d_head] attention's result */
    float *out;        /* [n_tok, d_model] what is normed before it is added, if anything is */
    float *gate;       /* [n_tok, d_ff or d_expert] */
    float *up;         /* [n_tok, d_ff or d_expert] */

    /* Experts, if the model has some. */
    float *router;   /* [n_tok, n_expert] logits */
    float *rows_in;  /* [n_tok, d_model] */
    float *rows_out; /* [n_tok, d_model] */
    /* On the host, their twins in `routes`: the backend chooses experts, the host lists for each
     * its tokens. The ids, then the scales, are one block each. */
    int32_t *expert_ids;   /* [n_tok, n_expert_used] */
    float *expert_weights; /* [n_tok, n_expert_used] */
    int32_t *row_index;    /* [n_tok * n_expert_used] tokens of one expert after the other */
    float *row_scale;      /* [n_tok * n_expert_used] what its result counts for in each */
    int64_t *expert_first; /* [n_expert + 1] of the host: where those of each expert begin */
    aq_twin routes;

    /* Queries of all ranks, packed in rank order, and what is exchanged for them. */
    int64_t n_q;
    int64_t *rank_tok; /* [n_rank] of the host: tokens each rank computes */
    float *q_all;      /* [n_q, n_head, columns]; with one rank there is none */
    int16_t *dims_all; /* [n_q, n_head, n_dim]; with one rank there is none */
    float *part;       /* [n_q, n_head, d_head + 2] against this rank's shard */
    float *parts;      /* [n_rank, n_tok, n_head, d_head + 2] of this rank's queries */
    /* Queries or partial results as packed rows, on their way; NULL if none are packed. */
    void *wire_out, *wire_in;
    int64_t *send_bytes, *recv_bytes; /* [n_rank] of the host */
    float *ml, *ml_all;               /* [n_tok, n_head, 2], [n_q, n_head, 2], if tokens are dropped
                                         or mass is shared: maximum and sum of the merged softmax */
    float *exact_part, *exact_parts;  /* as part and parts, of dense attention, if it is measured */

    /* If tokens are selected. */
    void *select_work;
    int32_t *counts; /* [n_q, n_kv_head, 3] as attn_select gives them */

    /* Where backend memory is not the host's. What layers tell of what they read (traffic.c) is
     * kept in `log` until the step ends; stages hold rows that come from or go to other ranks, the
     * hooks or the statistics. */
    aq_twin log;
    char *stage[2]; /* [stage_bytes] of the host */
    size_t stage_bytes;

    void *memory;      /* the block behind all of them in backend memory */
    void *host_memory; /* and of the host */
    size_t memory_bytes;
} aq_step;

/* How a head's query of these scores travels between ranks, and a partial result of it: o, then m
 * and l; and whether that is a packed row, not the numbers as they lie. Local. */
aq_row_form aq_step_query_form(const aq_step_shape *shape, const aq_score_shape *score);
aq_row_form aq_step_part_form(const aq_step_shape *shape, const aq_model_config *config);
bool aq_step_packs(const aq_row_form *form);

/* Where in backend memory that lies which the host has at one of ids .. q_pos. Local. */
static inline void *aq_step_there(const aq_step *step, const void *tokens) {
    return aq_twin_there(&step->tokens, tokens);
}

/* Bytes of these buffers, of both kinds of memory together. Local. */
int64_t aq_step_bytes(const aq_engine *engine, const aq_plan *plan, const aq_step_shape *shape);

/* Allocates the buffers. The caller closes. AQ_ERR_MEMORY names the bytes. Local. */
aq_status aq_step_open(const aq_engine *engine, const aq_plan *plan, const aq_step_shape *shape,
                       aq_step *out);

/* Frees; a zeroed struct is allowed. Local. */
void aq_step_close(aq_backend *be, aq_step *step);

/* Deals the positions [begin, end) with their ids over ranks: each takes those whose tiles it owns.
 * Local. */
void aq_step_deal(aq_step *step, const aq_plan *plan, int64_t begin, int64_t end,
                  const int32_t *ids);

/* Gives the backend what the host says of the step's tokens. Local. */
void aq_step_send(aq_backend *be, const aq_step *step);

/* rows[bytes] of backend memory where the host can read them until stage `which` is used again.
 * Waits. Local. */
const void *aq_step_fetch(aq_backend *be, const aq_step *step, int which, const void *rows,
                          int64_t bytes);

/* One token that every rank computes. Local. */
void aq_step_replicate(aq_step *step, const aq_plan *plan, int64_t pos, int32_t id);

#endif
