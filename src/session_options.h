/* What a session may be asked for. Part of src/aqua.h, which programs include. */
#ifndef AQ_SESSION_OPTIONS_H
#define AQ_SESSION_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/kv_type.h"

/* How attention scores are made. */
typedef enum {
    AQ_ATTN_DENSE, /* from all dimensions: exact */
    AQ_ATTN_AQUA,  /* from the dimensions that decide, in the calibrated basis (arXiv 2509.11155) */
    AQ_ATTN_SELECT /* low-bit codes of projected keys choose tokens, which get exact attention */
} aq_attn_mode;

/* Which dimensions of a projected query decide. */
typedef enum {
    AQ_RANK_MAGNITUDE, /* largest abs(q^): the paper's rule */
    AQ_RANK_ENERGY,    /* largest abs(q^) * sigma_k: expected share in the score */
    AQ_RANK_STATIC     /* the leading ones, the same for every query */
} aq_rank_by;

/* Zero means none, or the default named here. */
typedef struct {
    int64_t n_ctx;      /* tokens the session can hold; at most n_ctx_model */
    int64_t n_ctx_rope; /* context the rotary tables are made for, where that matters; 0: n_ctx */
    int64_t n_batch;    /* tokens of one prefill chunk, over all ranks; 0: 2048 */
    aq_attn_mode attn;
    /* aqua. What decides is chosen for each query and head by rank_by. */
    aq_rank_by rank_by;
    double k_ratio; /* share of d_head that decides, (0, 1]; 0: 0.75 */
    double k_tau;   /* if not 0, instead: the fewest columns that hold this share of the energy,
                       sum over columns of (what rank_by ranks)^2; (0, 1] */
    bool k_budget;  /* instead, by energy: the columns of as much energy as the projection says */
    double s_ratio; /* share of columns stored, (0, 1]; 0: 1 */
    aq_kv_type key_type, value_type; /* windowed layers store f32 if this is f32, else bf16 */

    double mass;          /* select: share of the softmax mass to attend to, (0, 1]; 0: 0.98 */
    int64_t n_sink;       /* select: first tokens of the text that are always attended to */
    int64_t n_recent;     /* select: and the newest before each query, itself included */
    bool group_mean;      /* select: a group's mean weight of a token counts, not the largest */
    bool dense_prefill;   /* select: tokens are selected in decode only */
    aq_code_layout codes; /* select: of the selector; empty: the projection's */
    int n_dynamic;        /* select: columns of them that a query reads; 0: the projection's */

    /* aqua, select. */
    bool hybrid; /* dense while the context is shorter than the projection's break-even */

    /* Keep this many tokens over all ranks, the newest half and those of largest accumulated
     * attention (src/engine/h2o.h), in layers that see everything; 0: all. Takes f32 and bf16, and
     * prefills 256 tokens at a time. */
    int64_t n_h2o;

    /* Compares with dense attention over the same cache in each step, for
     * aq_session_stats.mass_sum: a second pass. */
    bool measure_mass;
} aq_session_options;

#endif
