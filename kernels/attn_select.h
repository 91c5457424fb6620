/* Selecting attention: a query looks at low-bit codes of all tokens of a shard, and exactly at the
 * few that hold the mass. For query t, KV head g and the query heads h of its group, over the
 * tokens s held here with pos(s) <= q_pos[t]:
 *
 *   a[h, s] = scale * sum_c q[t, h, c] key[s, g, c]       over all n_col columns
 *   z[h, s] = scale * sum_c q[t, h, c] code(s, g, c)      over the columns of the selector, or of
 *             these the n_dynamic with the largest weight[g, c] sum_h abs(q[t, h, c]), q being
 *             rounded as said below
 *           = a[h, s] if s is near or in the open tile
 *   w[h, s] = exp(z[h, s]) / sum_s exp(z[h, s])
 *   w[s]    = max_h w[h, s] / sum_s max_h w[h, s], or the mean over h
 *   C       = near tokens, and of the others the smallest set {s : w[s] >= x} with which
 *             sum_{s in C} w[s] >= mass
 *   m = max_s a,  l = sum_s exp(a - m),  o[i] = sum_s exp(a - m) value[s, g, i],   s in C
 *
 * All sums over s are over this shard. Shards of one text choose better where each knows the
 * others' softmax, ml_all: M[h], L[h] = maximum, and sum of exp(z[h, s] - M[h]), over all n_shard
 * of them, merged (attn_merge.h) from what select_totals gives of each. Then
 *
 *   w[h, s] = exp(z[h, s] - M[h]) / L[h],   f = mean over h of sum_s w[h, s]
 *
 * and of the sum U of w[s] = max_h w[h, s], or the mean, at most (1 - mass) p U / f is left out, p
 * the share of the tokens seen that are here: (tokens seen here) / (q_pos[t] + 1), with slot_pos 1
 * / n_shard. U / f is about the sum over all shards, and what weighs little is about as much among
 * as many tokens everywhere. So with f = p it is as if the shard did not know; one with less of the
 * softmax than of the tokens may leave out more of it, or all.
 *
 * s is near if pos(s) < n_sink or pos(s) > q_pos[t] - n_recent. code(s, g, c) is what the codes of
 * the selector stand for (kv_append.h). part as in attn_partial.h.
 *
 * To choose by codes, the query is held to a byte a column. With the steps of a tile and KV head,
 *   f[h, c] = q[t, h, c] step[c] u[c],  u = 1.5958 / 16, 0.151, 1 / 4 for 1, 2 and 4 bits, else 1
 * is rounded to the nearest whole number of F[h] / 127, F[h] = max_c abs(f[h, c]) over the columns
 * that are read; where code(s, g, c) is the middle of what a column's codes stand for, q counts in
 * full. So z is off by at most
 *   E = scale F[h] / 254 sum_c half[c],  half = 8, 10, 30 for 1, 2 and 4 bits, else (2^bits - 1) /
 * 2 and most often by a tenth of that, which is some hundredth of the variance that the codes have.
 * exp in w has a relative error of up to 2^-17.
 *
 * x is found without sorting, to within a factor 2^(1/128): C holds the mass, and leaving out its
 * tokens with w < 2^(1/128) x would lose it. mass >= 1: C is all tokens. No visible token: the
 * neutral part, 0 attended.
 *
 * The same bits for the same number of threads and bytes of `work`. Sums in fp32. Tolerance: as
 * attn_partial over C, and weights exp(a - m) below 2e-38 count as 0; C may differ from the exact
 * one in tokens whose w is within rounding of x.
 * Source: Loki, arXiv 2406.02542 (scores of a projection choose); Twilight, arXiv 2502.02770 (top-p
 * found by search); bits along the columns: docs/method.md. */
#ifndef AQ_KERNELS_ATTN_SELECT_H
#define AQ_KERNELS_ATTN_SELECT_H

#include <stdint.h>

#include "kernels/kv_append.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const float *q;       /* [n_q, n_head, n_col] projected */
    const int64_t *q_pos; /* [n_q] position of each query in the whole text */
    int64_t n_q;
    int n_head; /* a multiple of kv.n_kv_head */
    float scale;
    aq_kv_view kv;           /* with a selector, keys by token */
    const int64_t *tile_pos; /* [n_tile] first position of each tile held here, rising */
    int64_t n_tile;
    const int64_t
        *slot_pos; /* as in attn_partial.h: tile_pos then need not rise, tiles are closed */
    double mass;   /* of the softmax, above 0 */
    bool group_mean;
    int64_t n_sink, n_recent;
    int n_dynamic;       /* 0: all columns of the selector */
    const float *weight; /* [n_kv_head, n_col], for n_dynamic */
    const float *ml_all; /* [n_q, n_head, 2] M, then L; or NULL */
    int n_shard;         /* with ml_all and slot_pos */
    void *work;          /* working memory, see below */
    int64_t work_bytes;
    float *part; /* [n_q, n_head, d_head + 2]: o, then m, then l */
    /* [n_q, n_kv_head, 3]: tokens seen here, of these attended to, and tiles that have one of
     * these; or NULL. */
    int32_t *counts;
    /* [2] of the host, or NULL: nanoseconds that making z, and finding x, took are added. Only
     * where the team shares one query, as in decode: with many queries each member is somewhere
     * else; and not by a backend that works behind the caller. */
    int64_t *phase_ns;
} aq_attn_select_args;

/* select_totals: m[h] = max_s z[h, s] and l[h] = sum_s exp(z[h, s] - m[h]) over this shard, as
 * attn_select makes them; -inf and 0 if no token is visible. */
typedef struct {
    aq_attn_select_args select; /* as it will be asked for; its results and ml_all are not used */
    float *ml;                  /* [n_q, n_head, 2] m, then l */
} aq_select_totals_args;

/* Bytes of `work` with which all of n_thread threads can work on shards of n_tile tiles. Less is
 * not enough; more lets several queries share a pass over the codes. Local. */
int64_t aq_attn_select_work(const aq_kv_view *kv, int n_head, int n_thread, int64_t n_tile);

#ifdef __cplusplus
}
#endif
#endif
