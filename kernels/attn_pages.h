/* Attention to whole pages, chosen by a bound of their scores: an evaluation baseline, to compare
 * attn_select with at equal bytes. A page is n_page consecutive tokens of a tile. For query t, KV
 * head g and the query heads h of its group, over the pages p held here of which t sees a token
 * (pos(s) <= q_pos[t]):
 *
 *   least[p, c] = min_{s in p} key[s, g, c],   most[p, c] = max_{s in p} key[s, g, c]
 *   u[p] = max_h sum_c max(q[t, h, c] least[p, c], q[t, h, c] most[p, c]),
 *          which no q key of the page is above
 *   C    = ceil(share * number of these pages) of them: those with a near token and the one that t
 *          does not see whole, however many they are; then those of largest u, of equals the first
 *   m = max_s a,  l = sum_s exp(a - m),  o[i] = sum_s exp(a - m) value[s, g, i],
 *   a[h, s] = scale * sum_c q[t, h, c] key[s, g, c],   s in a page of C and pos(s) <= q_pos[t]
 *
 * s is near if pos(s) < n_sink or pos(s) > q_pos[t] - n_recent. part as in attn_partial.h.
 *
 * least and most are made anew from the cache in each call: this tells what the rule loses, not how
 * fast it is. A cache that kept them would read aq_attn_pages_summary_bytes a token for u.
 *
 * The same bits for any number of threads. Sums in fp32. Tolerance: as attn_partial over C; C may
 * differ from the exact one in pages whose u is within rounding of the last one's.
 * Source: Quest, arXiv 2406.10774. */
#ifndef AQ_KERNELS_ATTN_PAGES_H
#define AQ_KERNELS_ATTN_PAGES_H

#include "kernels/kv_append.h"

typedef struct {
    const float *q;       /* [n_q, n_head, n_col] */
    const int64_t *q_pos; /* [n_q] position of each query in the whole text */
    int64_t n_q;
    int n_head; /* a multiple of kv.n_kv_head */
    float scale;
    aq_kv_view kv;           /* keys by token */
    const int64_t *tile_pos; /* [n_tile] first position of each tile held here, rising */
    int64_t n_tile;
    int n_page;   /* divides AQ_TILE */
    double share; /* of the pages, above 0 */
    int64_t n_sink, n_recent;
    void *work;  /* aq_attn_pages_work bytes, 64-byte aligned */
    float *part; /* [n_q, n_head, d_head + 2]: o, then m, then l */
    /* [n_q, n_kv_head, 3]: tokens seen here, of these attended to, and tiles that have one. */
    int32_t *counts;
} aq_attn_pages_args;

/* Bytes of `work` for n_thread threads on shards of n_tile tiles. Local. */
int64_t aq_attn_pages_work(const aq_kv_view *kv, int n_head, int n_thread, int64_t n_tile,
                           int n_page);

/* Bytes a token of what u is made from, where it is stored: least and most of each column as codes
 * of 8 bits, 2 n_col / n_page, with the low and step of the tile's columns (f16), which int8 keys
 * have anyway, 4 n_col / AQ_TILE. The least and most of int8 keys are so stored exactly. Local. */
double aq_attn_pages_summary_bytes(const aq_kv_view *kv, int n_page);

#endif
