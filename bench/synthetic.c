#include "bench/synthetic.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"

#define MADE_TILES 16 /* that differ */

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

int64_t aq_made_cache_bytes(const aq_kv_view *view, int64_t n_tile) {
    return n_tile * view->n_kv_head *
           (aq_kv_key_bytes(view) + aq_kv_value_bytes(view) + aq_kv_selector_bytes(view));
}

aq_kv_view aq_made_view(const aq_head_shape *shape, aq_kv_type type, bool selects) {
    const int d = shape->d_head;
    aq_kv_view view = {.key_type = type,
                       .value_type = type,
                       .key_order = selects ? AQ_KEYS_BY_TOKEN : AQ_KEYS_BY_COLUMN,
                       .n_kv_head = shape->n_kv_head,
                       .n_col = d,
                       .d_head = d,
                       .open_tile = -1};
    if (selects) view.codes = (aq_code_layout){3, {{d / 4, 4}, {d / 2, 2}, {d / 4, 1}}};
    return view;
}

static void fill_normal(aq_rng *rng, float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)aq_rng_normal(rng);
}

/* Memory of the backend that holds a copy of host[bytes]; NULL if there is none. */
static void *put(aq_backend *be, const void *host, int64_t bytes) {
    void *memory = NULL;
    if (be->ops->alloc(be, (size_t)bytes, &memory) == AQ_OK)
        be->ops->upload(be, memory, host, (size_t)bytes);
    return memory;
}

/* n_tok tokens of normal keys and values to slots 0, 1, ... of the first cache. */
static aq_status append(const aq_made_cache *cache, const float *key, const float *value,
                        const int64_t *slot, int64_t n_tok) {
    const int64_t bytes = n_tok * cache->view.n_kv_head * cache->view.d_head * (int64_t)sizeof *key;
    aq_backend *be = cache->be;
    void *const memory[] = {put(be, key, bytes), put(be, value, bytes),
                            put(be, slot, n_tok * (int64_t)sizeof *slot)};
    aq_status status = AQ_OK;
    if (memory[0] && memory[1] && memory[2]) {
        be->ops->kv_append(be, &(aq_kv_append_args){.kv = cache->view,
                                                    .key = memory[0],
                                                    .value = memory[1],
                                                    .slot = memory[2],
                                                    .n_tok = n_tok});
        status = be->ops->sync(be);
    } else {
        status = aq_fail(AQ_ERR_MEMORY, "no memory to make a cache from");
    }
    for (int i = 0; i < 3; i++)
        if (memory[i]) be->ops->release(be, memory[i]);
    return status;
}

/* Writes the first n_tile tiles of the first cache. */
static aq_status make_tiles(const aq_made_cache *cache, int64_t n_tile) {
    const int64_t n_tok = n_tile * AQ_TILE;
    const int64_t n = n_tok * cache->view.n_kv_head * cache->view.d_head;
    aq_rng rng = {1};
    aq_status status = AQ_OK;
    float *key = malloc((size_t)n * sizeof *key), *value = malloc((size_t)n * sizeof *value);
    int64_t *slot = malloc((size_t)n_tok * sizeof *slot);
    if (key && value && slot) {
        fill_normal(&rng, key, n);
        fill_normal(&rng, value, n);
        for (int64_t t = 0; t < n_tok; t++)
            slot[t] = t;
        status = append(cache, key, value, slot, n_tok);
    } else {
        status = aq_fail(AQ_ERR_MEMORY, "no memory to make a cache from");
    }
    free(key);
    free(value);
    free(slot);
    return status;
}

/* Repeats the first `made` of `bytes` bytes of backend memory. */
static void repeat(aq_backend *be, char *memory, int64_t made, int64_t bytes) {
    for (int64_t at = made; at < bytes; at *= 2)
        be->ops->copy(be, memory + at, memory, (size_t)smaller(at, bytes - at));
}

/* tile_pos = 0, AQ_TILE, ... */
static aq_status place_tiles(const aq_made_cache *cache) {
    const size_t bytes = (size_t)cache->n_tile * sizeof(int64_t);
    int64_t *tile_pos = malloc(bytes);
    if (!tile_pos) return aq_fail(AQ_ERR_MEMORY, "no memory for %zu bytes", bytes);
    for (int64_t j = 0; j < cache->n_tile; j++)
        tile_pos[j] = j * AQ_TILE;
    cache->be->ops->upload(cache->be, cache->tile_pos, tile_pos, bytes);
    free(tile_pos);
    return AQ_OK;
}

static aq_status allocate(aq_made_cache *cache) {
    const aq_backend_ops *ops = cache->be->ops;
    aq_kv_view *view = &cache->view;
    const size_t n_copy = (size_t)cache->n_copy, n_tile = (size_t)cache->n_tile;
    const size_t open_bytes =
        (size_t)view->n_kv_head * AQ_TILE * (size_t)view->d_head * sizeof(float);
    AQ_TRY(ops->alloc(cache->be, n_copy * (size_t)cache->key_bytes, &view->keys));
    AQ_TRY(ops->alloc(cache->be, n_copy * (size_t)cache->value_bytes, &view->values));
    if (cache->selector_bytes > 0)
        AQ_TRY(ops->alloc(cache->be, n_copy * (size_t)cache->selector_bytes, &view->selector));
    AQ_TRY(ops->alloc(cache->be, open_bytes, (void **)&view->open_keys));
    AQ_TRY(ops->alloc(cache->be, open_bytes, (void **)&view->open_values));
    return ops->alloc(cache->be, n_tile * sizeof(int64_t), (void **)&cache->tile_pos);
}

aq_status aq_made_cache_open(aq_backend *be, const aq_head_shape *shape, const aq_kv_view *view,
                             int64_t n_tile, int n_copy, aq_made_cache *out) {
    const int64_t n_block = n_tile * view->n_kv_head, n_made = smaller(n_tile, MADE_TILES);
    *out = (aq_made_cache){.be = be,
                           .shape = *shape,
                           .view = *view,
                           .n_tile = n_tile,
                           .n_copy = n_copy,
                           .key_bytes = n_block * aq_kv_key_bytes(view),
                           .value_bytes = n_block * aq_kv_value_bytes(view),
                           .selector_bytes = n_block * aq_kv_selector_bytes(view)};
    AQ_TRY(allocate(out));
    AQ_TRY(make_tiles(out, n_made));
    AQ_TRY(place_tiles(out));
    const int64_t sizes[] = {out->key_bytes, out->value_bytes, out->selector_bytes};
    void *const blocks[] = {out->view.keys, out->view.values, out->view.selector};
    for (int i = 0; i < 3; i++) {
        if (!blocks[i]) continue;
        repeat(be, blocks[i], sizes[i] / n_tile * n_made, sizes[i]);
        repeat(be, blocks[i], sizes[i], sizes[i] * n_copy);
    }
    return be->ops->sync(be);
}

void aq_made_cache_close(aq_made_cache *cache) {
    void *const blocks[] = {cache->view.keys,      cache->view.values,      cache->view.selector,
                            cache->view.open_keys, cache->view.open_values, cache->tile_pos};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        if (blocks[i]) cache->be->ops->release(cache->be, blocks[i]);
    *cache = (aq_made_cache){0};
}

aq_kv_view aq_made_cache_view(const aq_made_cache *cache, int i) {
    aq_kv_view view = cache->view;
    view.keys = (char *)view.keys + i * cache->key_bytes;
    view.values = (char *)view.values + i * cache->value_bytes;
    if (view.selector) view.selector = (char *)view.selector + i * cache->selector_bytes;
    return view;
}

void aq_made_query(const aq_head_shape *shape, double spread, float *q) {
    const int group = shape->n_head / shape->n_kv_head;
    aq_rng rng = {2};
    for (int h = 0; h < shape->n_head; h++) {
        aq_rng common = {3 + (uint64_t)(h / group)};
        for (int c = 0; c < shape->d_head; c++) {
            const double direction = 0.8 * aq_rng_normal(&common) + 0.6 * aq_rng_normal(&rng);
            q[h * shape->d_head + c] = (float)(spread * direction);
        }
    }
}

/* Every two bytes are an f16 of 0.008 to 0.12, or a bf16 of 1e-19 to 1e-10, as every four are an
 * f32; and every byte is a code. */
aq_status aq_made_weights(aq_backend *be, uint8_t *bytes, int64_t n, int n_copy) {
    aq_rng rng = {4};
    const int64_t n_made = smaller(n, 1 << 20);
    uint8_t *made = malloc((size_t)n_made);
    if (!made) return aq_fail(AQ_ERR_MEMORY, "no memory for %lld bytes", (long long)n_made);
    for (int64_t i = 0; i < n_made; i++)
        made[i] = (uint8_t)(0x20 | (aq_rng_next(&rng) & 0x0f));
    be->ops->upload(be, bytes, made, (size_t)n_made);
    free(made);
    repeat(be, (char *)bytes, n_made, n);
    repeat(be, (char *)bytes, n, n * n_copy);
    return be->ops->sync(be);
}
