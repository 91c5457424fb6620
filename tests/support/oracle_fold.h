/* Scores of attn_select.h, exact ones and those by codes, for which it rounds the query: in double
 * precision and on their own (no code shared with kernels/). */
#ifndef AQ_TESTS_SUPPORT_ORACLE_FOLD_H
#define AQ_TESTS_SUPPORT_ORACLE_FOLD_H

#include <stdbool.h>

#include "kernels/kv_append.h"

/* A column of a tile: the middle of what its codes stand for; the query's value as it multiplies
 * what a code is beyond that; and by how much this may differ, where it lies between two whole
 * numbers and floats decide. */
typedef struct {
    double middle, rounded, off;
} aq_folded;

/* out[c] for the columns of a closed tile and KV head g with reads[c]; q[n_col]. Without `rounds`
 * as if q were not rounded. */
void aq_fold_query(const aq_kv_view *kv, int64_t tile, int g, const float *q, const bool *reads,
                   bool rounds, aq_folded *out);

/* A score, and the bound of its error. */
typedef struct {
    double a, allowed;
} aq_score;

/* Of key[n_col], and of what codes stand for, code[n_col], over the columns with reads[c]. */
aq_score aq_score_exactly(const float *q, const double *key, int n_col, double scale);
aq_score aq_score_by_codes(const float *q, const bool *reads, const aq_folded *folded,
                           const double *code, int n_col, double scale);

#endif
