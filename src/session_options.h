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
    AQ_ATTN_SELECT, /* low-bit codes of projected keys choose tokens, which get exact attention */
    AQ_ATTN_PAGES   /* bounds of scores choose pages, to compare select with; on the CPU alone */
} aq_attn_mode;

/* Which dimensions of a projected query decide. */
typedef enum {
    AQ_RANK_MAGNITUDE, /* largest abs(q^): the paper's rule */
    AQ_RANK_ENERGY,    /* largest abs(q^) * sigma_k: expected share in the score */
    AQ_RANK_STATIC     /* the leading ones, the same for every query */
} aq_rank_by;

/* How a decoded token's partial results become one on every rank (docs/method.md). */
typedef enum {
    AQ_MERGE_ALLGATHER, /* each rank is sent all, and merges them in rank order */
    AQ_MERGE_ALLTOALL,  /* each merges those of its share of the heads, in rank order, and sends
                           what comes of it to all: the same bits */
    AQ_MERGE_TREE,      /* MPI's reduction merges them two by two, in fp32: other bits than those of
                           the ways above, and another MPI may have others again */
    AQ_MERGE_AUTO       /* the first, or the second where aq_merge_choose has found it faster */
} aq_merge_way;

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
    int64_t n_sink;       /* select, pages: first tokens of the text, always attended to */
    int64_t n_recent;     /* select, pages: and the newest before each query, itself included */
    bool mass_exchange;   /* select: ranks tell each other the mass of their tokens before they
                             choose,   one more exchange a layer; on the CPU alone */
    bool group_mean;      /* select: a group's mean weight of a token counts, not the largest */
    bool dense_prefill;   /* select, pages: tokens are selected in decode only */
    aq_code_layout codes; /* select: of the selector; empty: the projection's */
    int n_dynamic;        /* select: columns of them that a query reads; 0: the projection's */

    int64_t n_page;    /* pages: tokens of a page, which divide AQ_TILE; 0: 16 */
    double page_share; /* pages: share of the visible pages to attend to, of a rank its own pages;
                          (0, 1]; 0: 0.25 */
    int64_t n_dense_layer; /* pages: so many first layers stay dense */

    /* aqua, select. */
    bool hybrid; /* dense while the context is shorter than the projection's break-even */

    /* Keep this many tokens over all ranks, the newest half and those of largest accumulated
     * attention (src/engine/h2o.h), in layers that see everything; 0: all. Takes f32 and bf16, and
     * prefills 256 tokens at a time. */
    int64_t n_h2o;

    /* Queries and partial results go between ranks rounded to bf16, but for the m and l of these,
     * and every rank works with what is rounded, its own too; else in fp32. */
    bool wire_bf16;

    aq_merge_way merge; /* of decoded tokens; AQ_MERGE_TREE without wire_bf16 */

    /* Compares with dense attention over the same cache in each step, for
     * aq_session_stats.mass_sum: a second pass. */
    bool measure_mass;
} aq_session_options;

#endif
