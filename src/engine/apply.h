/* Operations of the backend on a model's weights, as the layers use them. For src/engine. */
#ifndef AQ_ENGINE_APPLY_H
#define AQ_ENGINE_APPLY_H

#include "src/engine/engine.h"

/* y[n, n_out] = x[n, n_in] W^T + bias, or y += ... if `accumulate`. Local. */
void aq_apply_weight(const aq_engine *engine, const aq_weight *w, const float *x, int64_t n,
                     float *y, bool accumulate);

/* The same, of a weight that may be this rank's rows of a matrix of n_out rows, for one token
 * (aq_shard_product). AQ_ERR_COMM. Collective over the ranks that share weights, if it is. */
aq_status aq_apply_shared(const aq_engine *engine, const aq_weight *w, int64_t n_out,
                          const float *x, int64_t n, float *y, bool accumulate,
                          aq_session_stats *stats);

/* The same weight as a part of a product of several (kernels/matmul_each.h). Local. */
aq_matmul_part aq_apply_part(const aq_weight *w, float *y);

/* y[n, width] = norm(x[n, width]) of the model's kind, or y += ...; y may be x. Local. */
void aq_apply_norm(const aq_engine *engine, const aq_norm_weight *norm, const float *x, int64_t n,
                   float *y, bool accumulate);

/* x[n, n_head, d_head] = its root-mean-square norm, over each head or over all heads of a token as
 * the model says. Local. */
void aq_apply_head_norm(const aq_engine *engine, const float *w, int64_t n, int n_head, float *x);

#endif
