#include "src/engine/kvcache.h"

#include <stdlib.h>

static int64_t min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static aq_kv_pool measure_pool(const aq_kv_view *view, int n_layer, int64_t n_tile, bool by_slot) {
    aq_kv_pool pool = {.view = *view, .n_layer = n_layer, .n_tile_max = n_layer > 0 ? n_tile : 0};
    pool.key_bytes = view->n_kv_head * aq_kv_key_bytes(view);
    pool.value_bytes = view->n_kv_head * aq_kv_value_bytes(view);
    pool.selector_bytes = view->n_kv_head * aq_kv_selector_bytes(view);
    if (aq_kv_has_open_tile(view) && !by_slot && n_tile > 0) {
        pool.open_key_n = (int64_t)view->n_kv_head * AQ_TILE * view->n_col;
        pool.open_value_n = (int64_t)view->n_kv_head * AQ_TILE * view->d_head;
    }
    return pool;
}

/* Memory for n parts of `bytes` each, unless they have none. */
static aq_status alloc_parts(aq_backend *be, int64_t n, int64_t bytes, void **out) {
    return bytes > 0 ? be->ops->alloc(be, (size_t)(n * bytes), out) : AQ_OK;
}

static aq_status alloc_pool(aq_backend *be, aq_kv_pool *pool) {
    const int64_t tile_bytes = pool->key_bytes + pool->value_bytes + pool->selector_bytes;
    if (pool->n_layer == 0) return AQ_OK;
    /* A layer's tile is bounded by the model's shape; their number is whatever was asked for. */
    if (pool->n_tile_max > INT64_MAX / tile_bytes / pool->n_layer)
        return aq_fail(AQ_ERR_MEMORY, "a cache larger than memory can be");
    const int64_t n_tile = pool->n_layer * pool->n_tile_max, f = sizeof(float);
    AQ_TRY(alloc_parts(be, n_tile, pool->key_bytes, (void **)&pool->keys));
    AQ_TRY(alloc_parts(be, n_tile, pool->value_bytes, (void **)&pool->values));
    AQ_TRY(alloc_parts(be, n_tile, pool->selector_bytes, (void **)&pool->selector));
    AQ_TRY(alloc_parts(be, pool->n_layer, pool->open_key_n * f, (void **)&pool->open_keys));
    return alloc_parts(be, pool->n_layer, pool->open_value_n * f, (void **)&pool->open_values);
}

/* The directories come last: they are small where keys and values fit. */
static aq_status alloc_all(aq_kvcache *cache) {
    AQ_TRY(alloc_pool(cache->be, &cache->full));
    AQ_TRY(alloc_pool(cache->be, &cache->windowed));
    cache->place = calloc((size_t)cache->shape.n_layer, sizeof *cache->place);
    if (!cache->place) return aq_fail(AQ_ERR_MEMORY, "no memory for the cache's directory");
    const size_t bytes = (size_t)aq_kvcache_directory_bytes(cache);
    AQ_TRY(aq_twin_open(cache->be, bytes, &cache->directory));
    cache->tile_pos = (int64_t *)cache->directory.host;
    cache->tile_at = cache->tile_pos + cache->n_tile + 1;
    return AQ_OK;
}

static bool is_windowed(const aq_kvcache *cache, int layer) {
    return aq_layer_set_has(&cache->shape.windowed_layers, layer);
}

static void fill_directories(aq_kvcache *cache) {
    int n_full = 0, n_windowed = 0;
    for (int layer = 0; layer < cache->shape.n_layer; layer++)
        cache->place[layer] = is_windowed(cache, layer) ? n_windowed++ : n_full++;
    for (int64_t j = 0; j < cache->n_tile; j++) {
        cache->tile_pos[j] = aq_plan_tile_pos(&cache->plan, j);
        cache->tile_at[j] = cache->windowed.n_tile_max > 0 ? j % cache->windowed.n_tile_max : j;
    }
    aq_twin_push(cache->be, &cache->directory, cache->tile_pos, cache->directory.bytes);
}

static double mib(const aq_kv_pool *pool) {
    const int64_t tile_bytes = pool->key_bytes + pool->value_bytes + pool->selector_bytes;
    return (double)pool->n_layer * (double)pool->n_tile_max * (double)tile_bytes / 1048576.0;
}

/* Tokens of context whose part on this rank a cache of these pools, which has just been given up,
 * could have held. */
static int64_t tokens_that_fit(const aq_kvcache *cache, size_t room) {
    const aq_kv_pool *full = &cache->full, *windowed = &cache->windowed;
    const int64_t tile_bytes = full->key_bytes + full->value_bytes + full->selector_bytes;
    const double fixed = mib(windowed) * 1048576.0;
    const double n_tile = ((double)room - fixed) / ((double)full->n_layer * (double)tile_bytes);
    return n_tile > 0 ? aq_plan_tile_pos(&cache->plan, (int64_t)n_tile) : 0;
}

static aq_status refuse(aq_backend *be, const aq_kvcache *cache) {
    const size_t room = be->ops->room(be);
    const double asked = mib(&cache->full) + mib(&cache->windowed);
    if (room == 0 || cache->full.n_tile_max == 0)
        return aq_fail(AQ_ERR_MEMORY,
                       "no memory for %.1f MiB of cache; use more ranks or a shorter context (-c)",
                       asked);
    return aq_fail(AQ_ERR_MEMORY,
                   "no memory for %.1f MiB of cache: %.1f MiB are free, which hold about %lld "
                   "tokens; use more ranks or a shorter context (-c)",
                   asked, (double)room / 1048576.0, (long long)tokens_that_fit(cache, room));
}

void aq_kvcache_measure(const aq_kvcache_shape *shape, const aq_plan *plan, aq_kvcache *out) {
    const int n_windowed = aq_layer_set_count(&shape->windowed_layers);
    *out = (aq_kvcache){.plan = *plan, .shape = *shape};
    out->n_tile = aq_plan_tiles(plan, plan->rank, shape->n_ctx);
    out->full = measure_pool(&shape->full, shape->n_layer - n_windowed,
                             shape->by_slot ? shape->n_slot_tile : out->n_tile, shape->by_slot);
    /* The first query of a step looks back furthest, and the step's last token is already there. */
    const int64_t n_kept = min(shape->window, shape->n_ctx) - 1 + shape->n_step_max;
    out->windowed =
        measure_pool(&shape->windowed, n_windowed,
                     min(out->n_tile, aq_plan_most_tiles(plan, plan->rank, n_kept)), false);
}

aq_status aq_kvcache_open(aq_backend *be, const aq_kvcache_shape *shape, const aq_plan *plan,
                          aq_kvcache *out) {
    aq_kvcache_measure(shape, plan, out);
    out->be = be;
    if (alloc_all(out) != AQ_OK) {
        const aq_kvcache asked = *out;
        aq_kvcache_close(out);
        return refuse(be, &asked);
    }
    fill_directories(out);
    return AQ_OK;
}

static void free_pool(aq_backend *be, aq_kv_pool *pool) {
    void *const blocks[] = {pool->keys, pool->values, pool->selector, pool->open_keys,
                            pool->open_values};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        if (blocks[i]) be->ops->release(be, blocks[i]);
}

void aq_kvcache_close(aq_kvcache *cache) {
    free_pool(cache->be, &cache->full);
    free_pool(cache->be, &cache->windowed);
    free(cache->place);
    if (cache->be) aq_twin_close(cache->be, &cache->directory);
    *cache = (aq_kvcache){0};
}

aq_kv_view aq_kvcache_layer(const aq_kvcache *cache, int layer, int64_t end) {
    const aq_kv_pool *pool = is_windowed(cache, layer) ? &cache->windowed : &cache->full;
    const int64_t n_tile = cache->place[layer] * pool->n_tile_max;
    aq_kv_view view = pool->view;
    view.keys = pool->keys + n_tile * pool->key_bytes;
    view.values = pool->values + n_tile * pool->value_bytes;
    view.open_tile = -1;
    if (pool->selector) view.selector = pool->selector + n_tile * pool->selector_bytes;
    if (!pool->open_keys) return view;
    view.open_keys = pool->open_keys + cache->place[layer] * pool->open_key_n;
    view.open_values = pool->open_values + cache->place[layer] * pool->open_value_n;
    view.open_tile = aq_plan_open_tile(&cache->plan, end);
    return view;
}

aq_kv_tiles aq_kvcache_tiles(const aq_kvcache *cache, int layer, int64_t first, int64_t end) {
    const aq_plan *plan = &cache->plan;
    aq_kv_tiles tiles = {.pos = cache->tile_pos, .n = aq_plan_tiles(plan, plan->rank, end)};
    if (!is_windowed(cache, layer)) return tiles;
    const int64_t oldest = first - cache->shape.window + 1;
    const int64_t gone =
        oldest <= 0 ? 0 : aq_plan_tiles(plan, plan->rank, oldest / AQ_TILE * AQ_TILE);
    tiles.pos += gone;
    tiles.at = cache->tile_at + gone;
    tiles.n -= gone;
    return tiles;
}

int64_t aq_kvcache_ring_slot(const aq_kvcache *cache, int64_t slot) {
    return cache->tile_at[slot / AQ_TILE] * AQ_TILE + slot % AQ_TILE;
}

/* Bytes of up to n_tile tiles in every layer. */
static aq_kv_bytes count(const aq_kvcache *cache, int64_t n_tile) {
    const aq_kv_pool *pools[] = {&cache->full, &cache->windowed};
    aq_kv_bytes bytes = {0, 0, 0};
    for (int i = 0; i < 2; i++) {
        const int64_t n = pools[i]->n_layer * min(n_tile, pools[i]->n_tile_max);
        bytes.keys += n * pools[i]->key_bytes;
        bytes.values += n * pools[i]->value_bytes;
        bytes.selector += n * pools[i]->selector_bytes;
    }
    return bytes;
}

aq_kv_bytes aq_kvcache_held(const aq_kvcache *cache, int64_t n_tok) {
    return count(cache, aq_plan_tiles(&cache->plan, cache->plan.rank, n_tok));
}

aq_kv_bytes aq_kvcache_capacity(const aq_kvcache *cache) {
    return count(cache, cache->n_tile);
}

int64_t aq_kvcache_open_bytes(const aq_kvcache *cache) {
    const aq_kv_pool *pool = &cache->full; /* rings have none */
    return pool->n_layer * (pool->open_key_n + pool->open_value_n) * (int64_t)sizeof(float);
}

int64_t aq_kvcache_directory_bytes(const aq_kvcache *cache) {
    return 2 * (cache->n_tile + 1) * (int64_t)sizeof *cache->tile_pos;
}
