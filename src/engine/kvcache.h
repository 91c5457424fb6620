/* The key/value cache of one session on one rank: for every layer the tiles this rank owns. */
#ifndef AQ_ENGINE_KVCACHE_H
#define AQ_ENGINE_KVCACHE_H

#include "kernels/backend.h"
#include "src/engine/plan.h"

typedef struct {
    aq_backend *be;      /* borrowed; the memory is its */
    aq_kv_view shape;    /* sizes and types; keys and values unset */
    int64_t n_tile_max;  /* tiles this rank can hold */
    int64_t key_bytes;   /* of one tile in one layer */
    int64_t value_bytes; /* of one tile in one layer */
    int n_layer;
    int64_t *tile_pos; /* [n_tile_max] first position of each local tile; host memory */
    char *keys;        /* [n_layer, n_tile_max, key_bytes] */
    char *values;      /* [n_layer, n_tile_max, value_bytes] */
} aq_kvcache;

/* Allocates room for this rank's tiles of n_ctx tokens. `shape` gives sizes and types. The caller
 * closes it. AQ_ERR_MEMORY names the bytes asked for. Local. */
aq_status aq_kvcache_open(aq_backend *be, const aq_kv_view *shape, int n_layer, const aq_plan *plan,
                          int64_t n_ctx, aq_kvcache *out);

/* Frees; a zeroed struct is allowed. Local. */
void aq_kvcache_close(aq_kvcache *cache);

/* The view of one layer that the kernels take. Local. */
aq_kv_view aq_kvcache_layer(const aq_kvcache *cache, int layer);

#endif
