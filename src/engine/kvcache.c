#include "src/engine/kvcache.h"

#include <stdlib.h>

/* Keys, values, and last the directory: it is small where they fit. */
static aq_status alloc_tiles(aq_kvcache *cache) {
    aq_backend *be = cache->be;
    const int64_t wider =
        cache->key_bytes > cache->value_bytes ? cache->key_bytes : cache->value_bytes;
    /* A layer's tile is bounded by the model's shape; their number is whatever was asked for. */
    if (cache->n_tile_max > INT64_MAX / wider / cache->n_layer)
        return aq_fail(AQ_ERR_MEMORY, "a cache larger than memory can be");
    const int64_t n_tile = cache->n_layer * cache->n_tile_max;
    AQ_TRY(be->ops->alloc(be, (size_t)(n_tile * cache->key_bytes), (void **)&cache->keys));
    AQ_TRY(be->ops->alloc(be, (size_t)(n_tile * cache->value_bytes), (void **)&cache->values));
    cache->tile_pos = calloc((size_t)cache->n_tile_max + 1, sizeof *cache->tile_pos);
    return cache->tile_pos ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for the cache's directory");
}

aq_status aq_kvcache_open(aq_backend *be, const aq_kv_view *shape, int n_layer, const aq_plan *plan,
                          int64_t n_ctx, aq_kvcache *out) {
    const int64_t n_tile = aq_plan_tiles(plan, plan->rank, n_ctx);
    const int64_t n_slot = (int64_t)shape->n_kv_head * AQ_TILE;
    *out = (aq_kvcache){.be = be, .shape = *shape, .n_tile_max = n_tile, .n_layer = n_layer};
    out->key_bytes = aq_dtype_row_bytes(shape->key_dtype, n_slot * shape->n_col);
    out->value_bytes = aq_dtype_row_bytes(shape->value_dtype, n_slot * shape->d_head);

    if (alloc_tiles(out) != AQ_OK) {
        const double bytes =
            (double)n_layer * (double)n_tile * ((double)out->key_bytes + (double)out->value_bytes);
        aq_kvcache_close(out);
        return aq_fail(AQ_ERR_MEMORY,
                       "no memory for %.1f MiB of cache; use more ranks or a shorter context (-c)",
                       bytes / 1048576.0);
    }
    for (int64_t j = 0; j < n_tile; j++)
        out->tile_pos[j] = aq_plan_tile_pos(plan, j);
    return AQ_OK;
}

void aq_kvcache_close(aq_kvcache *cache) {
    if (cache->keys) cache->be->ops->release(cache->be, cache->keys);
    if (cache->values) cache->be->ops->release(cache->be, cache->values);
    free(cache->tile_pos);
    *cache = (aq_kvcache){0};
}

aq_kv_view aq_kvcache_layer(const aq_kvcache *cache, int layer) {
    aq_kv_view view = cache->shape;
    view.keys = cache->keys + layer * cache->n_tile_max * cache->key_bytes;
    view.values = cache->values + layer * cache->n_tile_max * cache->value_bytes;
    return view;
}
