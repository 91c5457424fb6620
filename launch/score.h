/* Sums over scored tokens: negative log-likelihood, and against a dense baseline KL divergence and
 * agreement of the first choice. */
#ifndef AQ_LAUNCH_SCORE_H
#define AQ_LAUNCH_SCORE_H

#include <stdbool.h>

#include "launch/rows.h"

#define AQ_SCORE_ROWS 32 /* rows whose logits are made in one product */

typedef struct {
    aq_engine *engine; /* borrowed */
    int64_t d_model, n_vocab;
    int64_t n_row;    /* rows waiting for their logits */
    float *hidden[2]; /* [AQ_SCORE_ROWS, d_model]: asked for, baseline (NULL without one) */
    float *logits[2]; /* [AQ_SCORE_ROWS, n_vocab] */
    int32_t next[AQ_SCORE_ROWS];
    /* Sums over tokens, in nats. hit: how often the text's token is the first choice. */
    double n, nll, nll_squared, nll_dense, kl, same, hit;
} aq_score;

/* Buffers; the caller closes. AQ_ERR_MEMORY. Local. */
aq_status aq_score_open(aq_engine *engine, bool has_baseline, aq_score *out);
void aq_score_close(aq_score *score);

/* Sets the sums to 0. Local. */
void aq_score_reset(aq_score *score);

/* Adds the rows of a context of n ids (and the baseline's of the same positions, or NULL), each
 * scored against the id that follows it; the last id's row has none. AQ_ERR_NUMERIC if logits are
 * not finite. Local. */
aq_status aq_score_rows(aq_score *score, const aq_rows *rows, const aq_rows *baseline,
                        const int32_t *ids, int64_t n);

/* Sums over ranks. Collective. */
aq_status aq_score_sum(aq_score *score, aq_comm *comm);

/* ppl = exp(mean nll), its standard error by the delta method, and the means against the baseline:
 * kl = mean sum_v p_dense(v) (ln p_dense(v) - ln p(v)), top1 = share of equal first choices.
 * Without a baseline ppl_dense = ppl, kl = 0, top1 = 1. */
typedef struct {
    int64_t n;
    double ppl, ppl_error, ppl_dense, kl, top1;
} aq_score_result;

aq_score_result aq_score_result_of(const aq_score *score);

#endif
