#include "launch/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

aq_status aq_score_open(aq_engine *engine, bool has_baseline, aq_score *out) {
    const aq_engine_info info = aq_engine_describe(engine);
    *out = (aq_score){.engine = engine, .d_model = info.d_model, .n_vocab = info.n_vocab};
    for (int i = 0; i <= (int)has_baseline; i++) {
        out->hidden[i] = malloc((size_t)(AQ_SCORE_ROWS * out->d_model) * sizeof(float));
        out->logits[i] = malloc((size_t)(AQ_SCORE_ROWS * out->n_vocab) * sizeof(float));
        if (!out->hidden[i] || !out->logits[i])
            return aq_fail(AQ_ERR_MEMORY, "no memory for the logits to be scored");
    }
    return AQ_OK;
}

void aq_score_close(aq_score *score) {
    for (int i = 0; i < 2; i++) {
        free(score->hidden[i]);
        free(score->logits[i]);
    }
}

/* ln sum_v exp(logits[v]), and the place of the largest. */
static double log_sum_exp(const float *logits, int64_t n, int64_t *first) {
    int64_t best = 0;
    for (int64_t v = 1; v < n; v++)
        if (logits[v] > logits[best]) best = v;
    double sum = 0;
    for (int64_t v = 0; v < n; v++)
        sum += (double)expf(logits[v] - logits[best]);
    *first = best;
    return (double)logits[best] + log(sum);
}

static aq_status score_row(aq_score *score, int64_t row) {
    const int64_t n = score->n_vocab;
    const float *logits = score->logits[0] + row * n;
    int64_t first = 0, first_dense = 0;
    const double lse = log_sum_exp(logits, n, &first);
    const double nll = lse - (double)logits[score->next[row]];
    if (!isfinite(nll)) return aq_fail(AQ_ERR_NUMERIC, "the logits are not finite");
    score->n += 1;
    score->nll += nll;
    score->nll_squared += nll * nll;
    score->hit += first == score->next[row];
    if (!score->logits[1]) return AQ_OK;

    const float *dense = score->logits[1] + row * n;
    const double lse_dense = log_sum_exp(dense, n, &first_dense);
    double kl = 0;
    for (int64_t v = 0; v < n; v++) {
        const float log_p = (float)((double)dense[v] - lse_dense);
        const double log_ratio = (double)log_p - ((double)logits[v] - lse);
        kl += (double)expf(log_p) * log_ratio;
    }
    score->kl += kl;
    score->nll_dense += lse_dense - (double)dense[score->next[row]];
    score->same += first == first_dense;
    return AQ_OK;
}

/* Scores the rows still waiting. */
static aq_status flush(aq_score *score) {
    const int64_t n_row = score->n_row;
    score->n_row = 0;
    if (n_row == 0) return AQ_OK;
    for (int i = 0; i < 2; i++)
        if (score->hidden[i])
            AQ_TRY(aq_engine_logits(score->engine, score->hidden[i], n_row, score->logits[i]));
    for (int64_t row = 0; row < n_row; row++)
        AQ_TRY(score_row(score, row));
    return AQ_OK;
}

/* Adds one token: hidden[d_model] (and the baseline's) and the id that follows in the text. */
static aq_status add(aq_score *score, const float *hidden, const float *baseline, int32_t next) {
    const size_t row_bytes = (size_t)score->d_model * sizeof(float);
    const int64_t at = score->n_row * score->d_model;
    memcpy(score->hidden[0] + at, hidden, row_bytes);
    if (score->hidden[1]) memcpy(score->hidden[1] + at, baseline, row_bytes);
    score->next[score->n_row++] = next;
    return score->n_row == AQ_SCORE_ROWS ? flush(score) : AQ_OK;
}

void aq_score_reset(aq_score *score) {
    score->n = score->nll = score->nll_squared = score->nll_dense = 0;
    score->kl = score->same = score->hit = 0;
}

aq_status aq_score_rows(aq_score *score, const aq_rows *rows, const aq_rows *baseline,
                        const int32_t *ids, int64_t n) {
    for (int64_t i = 0; i < rows->n; i++) {
        const int64_t pos = rows->pos[i], at = i * rows->d_model;
        if (pos + 1 < n)
            AQ_TRY(add(score, rows->hidden + at, baseline ? baseline->hidden + at : NULL,
                       ids[pos + 1]));
    }
    return flush(score);
}

aq_status aq_score_sum(aq_score *score, aq_comm *comm) {
    double sums[7] = {score->n,  score->nll,  score->nll_squared, score->nll_dense,
                      score->kl, score->same, score->hit};
    AQ_TRY(aq_comm_sum_f64(comm, sums, 7));
    score->n = sums[0];
    score->nll = sums[1];
    score->nll_squared = sums[2];
    score->nll_dense = sums[3];
    score->kl = sums[4];
    score->same = sums[5];
    score->hit = sums[6];
    return AQ_OK;
}

aq_score_result aq_score_result_of(const aq_score *score) {
    const double n = score->n > 0 ? score->n : 1;
    const double mean = score->nll / n;
    const double variance = fmax(score->nll_squared / n - mean * mean, 0);
    aq_score_result result = {.n = (int64_t)score->n, .ppl = exp(mean), .top1 = 1};
    result.ppl_error = result.ppl * sqrt(variance / fmax(n - 1, 1));
    result.ppl_dense = result.ppl;
    if (!score->logits[1]) return result;
    result.ppl_dense = exp(score->nll_dense / n);
    result.kl = score->kl / n;
    result.top1 = score->same / n;
    return result;
}
