/* Gram sums of queries and keys: all that calibration needs to know of a text.
 *
 * A problem is one KV head of one layer, number layer * n_kv_head + head. Its sums, in fp64:
 *     G_k = sum k k^T,   G_q = sum of q q^T over the group's query heads,   s_k = sum k,   n tokens
 * over the tokens given to aq_gram_add. The sums of all problems are one flat array, so that one
 * all-reduce over it joins the ranks. Source: KQ-SVD and design note, docs/method.md. */
#ifndef AQ_CALIB_GRAM_H
#define AQ_CALIB_GRAM_H

#include <stdint.h>

#include "src/base/status.h"
#include "src/base/threads.h"

typedef struct {
    int n_layer;
    int n_head;
    int n_kv_head;
    int d_head;
    double *data;     /* [n_layer * n_kv_head][2 d^2 + d + 1]: all sums, nothing else */
    int64_t n;        /* doubles in data */
    double *block;    /* working memory of the threads */
    aq_threads *team; /* borrowed; NULL: the calling thread alone */
} aq_gram;

/* The sums of one problem, inside aq_gram.data. Of the symmetric matrices only the entries i <= j
 * are summed; the others stay 0. */
typedef struct {
    const double *gk; /* [d, d] */
    const double *gq; /* [d, d] */
    const double *sk; /* [d] */
    int64_t n_tok;
} aq_gram_sums;

/* Allocates zeroed sums; n_kv_head must divide n_head. The team, which may be NULL, must outlive
 * them. The caller closes *out. AQ_ERR_USAGE, AQ_ERR_MEMORY (names the bytes). Local. */
aq_status aq_gram_open(int n_layer, int n_head, int n_kv_head, int d_head, aq_threads *team,
                       aq_gram *out);

/* Frees the sums; a zeroed struct is allowed. Local. */
void aq_gram_close(aq_gram *gram);

/* Adds n_tok tokens of one layer, after rope: q [n_tok, n_head, d_head], k [n_tok, n_kv_head,
 * d_head]. Every entry is summed by one thread in token order: the same bits for any number of
 * threads. n_tok 0 is allowed. Allocates nothing. Local. */
void aq_gram_add(aq_gram *gram, int layer, const float *q, const float *k, int64_t n_tok);

/* The same of those tokens of a step that stand at position `first` or further on; pos[n_tok]
 * rises. Local. */
void aq_gram_add_from(aq_gram *gram, int layer, int64_t first, const int64_t *pos, int64_t n_tok,
                      const float *q, const float *k);

/* The sums of problem i = layer * n_kv_head + head; they belong to the gram. Local. */
aq_gram_sums aq_gram_get(const aq_gram *gram, int64_t i);

#endif
