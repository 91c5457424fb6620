/* What a benchmark of a made model (src/model/synth.h) takes in place of what it has not: ids in
 * place of a text, a projection in place of a calibration, and a context that was never prefilled.
 *
 * Keys and values of that context are normally distributed, independent of one another, 4096 of
 * them again and again; the keys are so long that the scores of a query have a standard deviation
 * which leaves the mass to a chosen share of the tokens. The queries of such a model are normal
 * with variance 1 in each dimension, and those of the heads of a group are independent. */
#ifndef AQ_BENCH_MADE_MODEL_H
#define AQ_BENCH_MADE_MODEL_H

#include "src/engine/fill.h"

/* ids[n], uniform over the vocabulary; the same for the same model. Errors of opening it. Local. */
aq_status aq_made_ids(const char *model, int64_t n, int32_t *ids);

/* Gives the engine the projection that changes nothing: P_q = P_k = I, sigma 1. Errors of
 * aq_engine_set_projection, AQ_ERR_MEMORY. Collective. */
aq_status aq_made_projection(aq_engine *engine);

/* *spread = the standard deviation s of normal scores with which the tokens that n_head independent
 * queries need are the share `needed` of n_tok tokens in the mean, where a query needs the fewest
 * whose exp(score) hold the share `mass` of the sum. Found by drawing scores: the largest of so few
 * tokens are smaller than the normal distribution's tail, in which most of the mass would be.
 * AQ_ERR_MEMORY. Local. */
aq_status aq_made_spread(double mass, double needed, int n_head, int64_t n_tok, double *spread);

typedef struct {
    aq_fill_rows rows;
    float *memory; /* of both */
} aq_made_context;

/* Rows for aq_session_fill, the same on every rank. The caller closes it. AQ_ERR_MEMORY. Local. */
aq_status aq_made_context_open(const aq_engine *engine, double mass, double needed,
                               aq_made_context *out);
void aq_made_context_close(aq_made_context *context);

#endif
