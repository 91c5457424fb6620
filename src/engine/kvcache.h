/* The key/value cache of one session on one rank: for every layer the tiles this rank owns.
 *
 * Layers that see everything keep every tile. Layers that see a window keep a ring of the newest
 * ones: tile j lies at place j mod n_tile_max, where it takes the memory of a tile that no query
 * can see any more. */
#ifndef AQ_ENGINE_KVCACHE_H
#define AQ_ENGINE_KVCACHE_H

#include "kernels/backend.h"
#include "src/engine/plan.h"
#include "src/engine/twin.h"
#include "src/model/model_config.h"

/* What is kept, before there is memory for it. */
typedef struct {
    aq_kv_view full;     /* layers that see everything: sizes and types; keys and values unset */
    aq_kv_view windowed; /* layers that see a window */
    int n_layer;
    aq_layer_set windowed_layers;
    int64_t window;     /* tokens that a query of a windowed layer sees, itself included */
    int64_t n_step_max; /* tokens of one step, over all ranks */
    int64_t n_ctx;
    /* Layers that see everything are filled slot by slot (h2o.h), in n_slot_tile tiles of room,
     * none of them open. */
    bool by_slot;
    int64_t n_slot_tile;
} aq_kvcache_shape;

/* Layers of one kind. */
typedef struct {
    aq_kv_view view; /* keys and values unset */
    int n_layer;
    int64_t n_tile_max; /* tiles that a layer has room for on this rank */
    int64_t key_bytes, value_bytes, selector_bytes; /* of one tile in one layer */
    char *keys;                                     /* [n_layer, n_tile_max, key_bytes] */
    char *values;                                   /* [n_layer, n_tile_max, value_bytes] */
    char *selector;                                 /* [n_layer, n_tile_max, selector_bytes] */
    /* The open tile of each layer, if the view needs one; else NULL. */
    int64_t open_key_n, open_value_n; /* floats of one layer */
    float *open_keys;                 /* [n_layer, open_key_n] */
    float *open_values;               /* [n_layer, open_value_n] */
} aq_kv_pool;

typedef struct {
    aq_backend *be; /* borrowed; the memory is its */
    aq_plan plan;   /* a copy: its owner must outlive the cache */
    aq_kvcache_shape shape;
    aq_kv_pool full, windowed;
    int *place;        /* [n_layer] of a layer among those of its kind; host memory, as all below */
    int64_t n_tile;    /* this rank's tiles of n_ctx tokens */
    int64_t *tile_pos; /* [n_tile] first position of each */
    int64_t *tile_at;  /* [n_tile] its place in the ring of a windowed layer */
    aq_twin directory; /* tile_pos and tile_at, whole from the beginning */
} aq_kvcache;

/* The sizes of such a cache, without memory: for aq_kvcache_capacity, aq_kvcache_open_bytes and
 * aq_kvcache_directory_bytes alone. It is not closed. Local. */
void aq_kvcache_measure(const aq_kvcache_shape *shape, const aq_plan *plan, aq_kvcache *out);

/* Allocates room for this rank's tiles. The caller closes it. AQ_ERR_MEMORY names the bytes asked
 * for and, if the backend knows its room, the tokens that would fit. Local. */
aq_status aq_kvcache_open(aq_backend *be, const aq_kvcache_shape *shape, const aq_plan *plan,
                          aq_kvcache *out);

/* Frees; a zeroed struct is allowed. Local. */
void aq_kvcache_close(aq_kvcache *cache);

/* The view of one layer that the kernels take, when the context ends before position `end`. Local.
 */
aq_kv_view aq_kvcache_layer(const aq_kvcache *cache, int layer, int64_t end);

/* Tiles of a layer, in rising order of position. As attn_partial takes them, once the pointers are
 * those of the backend (aq_session_tiles). */
typedef struct {
    const int64_t *pos; /* [n] */
    const int64_t *at;  /* [n], or NULL: tile j at place j */
    int64_t n;
    const int64_t *slot_pos; /* [n, AQ_TILE] by place where slots have positions; else NULL */
} aq_kv_tiles;

/* The tiles that queries at positions `first` .. end - 1 may see, unless the layer is filled slot
 * by slot; on the host. Local. */
aq_kv_tiles aq_kvcache_tiles(const aq_kvcache *cache, int layer, int64_t first, int64_t end);

/* Where a slot of the plan (aq_plan_slot) lies in the rings of windowed layers. Local. */
int64_t aq_kvcache_ring_slot(const aq_kvcache *cache, int64_t slot);

/* Bytes of the tiles that hold n_tok tokens, and of all there is room for; open tiles are apart.
 * Local. */
typedef struct {
    int64_t keys, values, selector;
} aq_kv_bytes;

aq_kv_bytes aq_kvcache_held(const aq_kvcache *cache, int64_t n_tok);
aq_kv_bytes aq_kvcache_capacity(const aq_kvcache *cache);
int64_t aq_kvcache_open_bytes(const aq_kvcache *cache);

/* Bytes of the directory of tiles. Local. */
int64_t aq_kvcache_directory_bytes(const aq_kvcache *cache);

#endif
