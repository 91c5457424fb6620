/* Partial attention: a block of queries meets the tiles of one rank. For query t, query head h, KV
 * head g = h / (n_head / n_kv_head), over the tokens s held here that it sees: those with
 * pos(s) <= q_pos[t] and, if there is a window, pos(s) > q_pos[t] - window. pos(s) is
 * tile_pos + place in the tile, or slot_pos where that is given:
 *
 *   a[s] = scale * sum_{c in D} q[t, h, c] key[s, g, c],   D = dims[t, h, :] or all n_col columns
 *   m = max_s a[s],  l = sum_s exp(a[s] - m),  o[i] = sum_s exp(a[s] - m) value[s, g, i]
 *
 * o is not divided by l. No visible token: m = -inf, l = 0, o = 0, which attn_merge takes as
 * neutral. Keys and values are finite, but for tiles that no query sees, which are not read. A
 * score beyond the range of fp32 is not caught: it gives infinities or NaN.
 *
 * Sums in fp32. The same bits for the same number of threads. Tolerance: scores are reductions of
 * length n_col and enter the weights as a relative error; o and l are reductions over the tokens;
 * weights below 2e-38 count as 0. A device may round queries, keys, values and weights to bf16
 * where a KV head has 64 rows (query, head) or more, its heads are as wide as tensor cores take,
 * and keys and values are not f32: then each factor has a relative error of 2^-8. Source: Milakov
 * and Gimelshein 2018, arXiv 1805.02867 (online softmax); Dao et al. 2022, arXiv 2205.14135; chosen
 * dimensions as in AQUA, arXiv 2509.11155. */
#ifndef AQ_KERNELS_ATTN_PARTIAL_H
#define AQ_KERNELS_ATTN_PARTIAL_H

#include <stdint.h>

#include "kernels/kv_append.h"

typedef struct {
    const float *q;       /* [n_q, n_head, n_col] */
    const int16_t *dims;  /* [n_q, n_head, n_dim] rising columns, or NULL for all; NULL with keys
                             by token */
    int n_dim;            /* used with dims only */
    const int64_t *q_pos; /* [n_q] position of each query in the whole text */
    int64_t n_q;
    int n_head; /* a multiple of kv.n_kv_head */
    float scale;
    aq_kv_view kv;
    const int64_t *tile_pos; /* [n_tile] first position of each tile held here, rising */
    const int64_t *tile_at;  /* [n_tile] where in kv each tile is stored, or NULL: tile j at j */
    int64_t n_tile;
    const int64_t *slot_pos; /* [places, AQ_TILE] position of the token in each slot, INT64_MAX if
                                there is none; NULL: consecutive. With slot_pos, no window, and
                                tile_pos is at most the least position of its tile */
    int64_t window;          /* tokens a query sees, itself included; 0: all up to itself */
    float *part;             /* [n_q, n_head, d_head + 2]: o, then m, then l */
} aq_attn_partial_args;

#endif
