/* What the scores of a session are made of, from what its options ask for. */
#ifndef AQ_ENGINE_SCORE_H
#define AQ_ENGINE_SCORE_H

#include "src/aqua.h"
#include "src/engine/engine.h"

/* Scores of one layer. */
typedef struct {
    int n_col;     /* columns of a stored key */
    int n_dim;     /* columns that decide, listed for each query; n_col if all do */
    bool projects; /* queries and keys are projected */
    bool prunes;   /* columns that do not decide are made 0 in the query, as many as may be */
    bool selects;  /* tokens are chosen, by the selector */
    int n_page;    /* or, if not 0, as whole pages of so many */
} aq_score_shape;

/* The part of the check below that needs no projection. Local. */
aq_status aq_score_check_options(const aq_engine *engine, aq_session_options *options);

/* Fills in defaults and refuses what is out of range: AQ_ERR_USAGE names the option, AQ_ERR_LIMIT
 * the context. Local. */
aq_status aq_score_check(const aq_engine *engine, aq_session_options *options);

/* The scores of layers that see everything, of checked options; and of windowed layers. Local. */
aq_score_shape aq_score_full(const aq_session_options *options, int d_head);
aq_score_shape aq_score_windowed(int d_head);

/* What the statistics ask of a query's attention in one layer: the counts of attn_select, the
 * dimensions that decide, or the pruned query; its bytes. 0: nothing. Local. */
size_t aq_score_asked_bytes(const aq_score_shape *score, const aq_model_config *config);

/* The selector of a session that selects: of the options, else of the projection, else the default
 * of one that is yet to be made; without selecting none. Local. */
aq_code_layout aq_score_codes(const aq_engine *engine, const aq_session_options *options);

/* The cache of layers that see everything, of checked options, without memory. Local. */
aq_kv_view aq_score_view(const aq_engine *engine, const aq_session_options *options);

#endif
