#include "src/engine/kvcache.h"

#include <stdlib.h>

aq_status aq_kvcache_open(aq_backend *be, const aq_kv_view *shape, int n_layer, const aq_plan *plan,
                          int64_t n_ctx, aq_kvcache *out) {
    const int64_t n_tile = aq_plan_tiles(plan, plan->rank, n_ctx);
    const int64_t n_slot = (int64_t)shape->n_kv_head * AQ_TILE;
    *out = (aq_kvcache){.be = be, .shape = *shape, .n_tile_max = n_tile, .n_layer = n_layer};
    out->key_bytes = aq_dtype_row_bytes(shape->key_dtype, n_slot * shape->n_col);
    out->value_bytes = aq_dtype_row_bytes(shape->value_dtype, n_slot * shape->d_head);

    out->tile_pos = calloc((size_t)n_tile + 1, sizeof *out->tile_pos);
    if (!out->tile_pos) return aq_fail(AQ_ERR_MEMORY, "no memory for the cache's directory");
    for (int64_t j = 0; j < n_tile; j++)
        out->tile_pos[j] = aq_plan_tile_pos(plan, j);

    const int64_t key_bytes = n_layer * n_tile * out->key_bytes;
    const int64_t value_bytes = n_layer * n_tile * out->value_bytes;
    if (be->ops->alloc(be, (size_t)key_bytes, (void **)&out->keys) != AQ_OK ||
        be->ops->alloc(be, (size_t)value_bytes, (void **)&out->values) != AQ_OK) {
        aq_kvcache_close(out);
        return aq_fail(AQ_ERR_MEMORY,
                       "no memory for %.1f MiB of cache; use more ranks or a shorter context (-c)",
                       (double)(key_bytes + value_bytes) / 1048576.0);
    }
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
