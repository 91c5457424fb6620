/* Caches, queries and weights made up for measuring kernels: the bytes that kernels read, without a
 * model.
 *
 * Keys and values are normally distributed, tokens independent of one another. So the scores of a
 * query are, too, and how many tokens hold the mass follows from the length of the query alone: no
 * two of them stand together, which makes gathering them as hard as it gets. A few tiles are made,
 * and repeated: what a kernel reads lies apart, and takes no time to make. */
#ifndef AQ_BENCH_SYNTHETIC_H
#define AQ_BENCH_SYNTHETIC_H

#include "kernels/backend.h"

typedef struct {
    int d_head, n_head, n_kv_head;
} aq_head_shape;

/* Some caches of one layer, of equal content, to be read in turns. */
typedef struct {
    aq_backend *be; /* borrowed; the memory is its */
    aq_head_shape shape;
    aq_kv_view view; /* of the first */
    int64_t n_tile;
    int64_t *tile_pos; /* [n_tile] backend memory */
    int n_copy;
    int64_t key_bytes, value_bytes, selector_bytes; /* of one cache */
} aq_made_cache;

/* Bytes of n_tile tiles with all KV heads. Local. */
int64_t aq_made_cache_bytes(const aq_kv_view *view, int64_t n_tile);

/* The view of such a cache: keys by token with codes for the selector, which are a quarter of the
 * columns of 4 bits, half of 2, a quarter of 1; else keys by column. No memory is behind it. Local.
 */
aq_kv_view aq_made_view(const aq_head_shape *shape, aq_kv_type type, bool selects);

/* Makes n_copy caches of n_tile full tiles. The caller closes it, also on failure. AQ_ERR_MEMORY.
 * Local. */
aq_status aq_made_cache_open(aq_backend *be, const aq_head_shape *shape, const aq_kv_view *view,
                             int64_t n_tile, int n_copy, aq_made_cache *out);
void aq_made_cache_close(aq_made_cache *cache);

/* The view of copy i. Local. */
aq_kv_view aq_made_cache_view(const aq_made_cache *cache, int i);

/* One query q[n_head, d_head] whose scores have the standard deviation `spread` over the tokens;
 * heads of a group share 0.8 of it and have 0.6 of their own. The same for the same shape. Local.
 */
void aq_made_query(const aq_head_shape *shape, double spread, float *q);

/* n bytes of stored weights of any type, whose numbers all are small and finite, n_copy times, in
 * memory of the backend. AQ_ERR_MEMORY. Local. */
aq_status aq_made_weights(aq_backend *be, uint8_t *bytes, int64_t n, int n_copy);

#endif
