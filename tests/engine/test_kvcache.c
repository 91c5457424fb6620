/* Room for the tiles of one rank: sizes, places, no overlap, refusals; and that the rings of
 * windowed layers keep every tile that is still seen. */
#include "src/engine/kvcache.h"

#include <stdio.h>
#include <string.h>

#include "tests/support/backend_poisoned.h"
#include "tests/support/suite.h"

enum { N_LAYER = 5, N_FULL = 3, N_KV_HEAD = 2, N_COL = 12, D_HEAD = 16, WINDOW = 100, STEP = 20 };

#define VIEW(columns)                                                                              \
    {                                                                                              \
        .key_type = AQ_KV_F32, .value_type = AQ_KV_BF16, .n_kv_head = N_KV_HEAD,                   \
        .n_col = (columns), .d_head = D_HEAD                                                       \
    }

/* Layers 1 and 3 see a window; they keep whole keys. */
static const aq_kvcache_shape shape = {.full = VIEW(N_COL),
                                       .windowed = VIEW(D_HEAD),
                                       .n_layer = N_LAYER,
                                       .windowed_layers = {{0xa}},
                                       .window = WINDOW,
                                       .n_step_max = STEP,
                                       .n_ctx = 450};

static const int64_t key_bytes[] = {N_KV_HEAD * N_COL * 64 * 4, N_KV_HEAD *D_HEAD * 64 * 4};
static const int64_t value_bytes = N_KV_HEAD * 64 * D_HEAD * 2;

/* A backend that watches its blocks. */
static aq_backend *open_backend(void) {
    aq_backend *cpu = NULL, *be = NULL;
    aq_test_ok(aq_backend_cpu_open(1, AQ_ISA_PORTABLE, &cpu));
    aq_test_ok(aq_backend_poisoned_open(cpu, &be));
    return be;
}

/* The caller closes it. */
static aq_plan open_plan(int n_rank, int rank, const int64_t *weights) {
    aq_plan plan;
    aq_test_ok(aq_plan_open(n_rank, rank, weights, &plan));
    return plan;
}

static void sizes_and_places(void) {
    aq_backend *be = open_backend();
    for (int n_rank = 1; n_rank <= 5; n_rank++)
        for (int rank = 0; rank < n_rank; rank++) {
            /* 119 tokens, the window and a step, touch at most 3 tiles. */
            static const int most[] = {3, 2, 1, 1, 1};
            aq_plan plan = open_plan(n_rank, rank, NULL);
            aq_kvcache cache;
            if (!aq_test_ok(aq_kvcache_open(be, &shape, &plan, &cache))) continue;
            /* 450 tokens are 8 tiles, dealt in turn. */
            CU_ASSERT_EQUAL(cache.n_tile, 8 / n_rank + (rank < 8 % n_rank));
            CU_ASSERT_EQUAL(cache.full.n_tile_max, cache.n_tile);
            CU_ASSERT_EQUAL(cache.windowed.n_tile_max, most[n_rank - 1]);
            CU_ASSERT_TRUE(cache.full.n_layer == N_FULL && cache.windowed.n_layer == 2);
            CU_ASSERT_EQUAL(cache.full.key_bytes, key_bytes[0]);
            CU_ASSERT_EQUAL(cache.windowed.key_bytes, key_bytes[1]);
            CU_ASSERT_EQUAL(cache.full.value_bytes, value_bytes);
            CU_ASSERT_EQUAL(cache.windowed.value_bytes, value_bytes);
            for (int64_t j = 0; j < cache.n_tile; j++)
                CU_ASSERT_EQUAL(cache.tile_pos[j], (rank + j * n_rank) * 64);
            aq_kvcache_close(&cache);
            aq_plan_close(&plan);
        }
    CU_ASSERT_EQUAL(aq_backend_poisoned_live(be), 0);
    be->ops->close(be);
}

/* What a text takes: every tile in full layers, those there is room for in windowed ones. */
static void bytes_are_told(void) {
    aq_backend *be = open_backend();
    for (int rank = 0; rank < 2; rank++) {
        aq_plan plan = open_plan(2, rank, NULL);
        aq_kvcache cache;
        if (!aq_test_ok(aq_kvcache_open(be, &shape, &plan, &cache))) break;
        for (int64_t n_tok = 0; n_tok <= 450; n_tok++) {
            const int64_t n_tile = ((n_tok + 63) / 64 + 1 - rank) / 2;
            const int64_t n_ring = n_tile < 2 ? n_tile : 2;
            const aq_kv_bytes held = aq_kvcache_held(&cache, n_tok);
            CU_ASSERT_EQUAL(held.keys, N_FULL * n_tile * key_bytes[0] + 2 * n_ring * key_bytes[1]);
            CU_ASSERT_EQUAL(held.values, (N_FULL * n_tile + 2 * n_ring) * value_bytes);
        }
        const aq_kv_bytes all = aq_kvcache_capacity(&cache), held = aq_kvcache_held(&cache, 450);
        CU_ASSERT_TRUE(all.keys == held.keys && all.values == held.values);
        aq_kvcache_close(&cache);
        aq_plan_close(&plan);
    }
    be->ops->close(be);
}

static int64_t count_bytes(const char *memory, int64_t n, char value) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += memory[i] == value;
    return count;
}

static const aq_kv_pool *pool_of(const aq_kvcache *cache, int layer) {
    return layer == 1 || layer == 3 ? &cache->windowed : &cache->full;
}

/* Zeroed at first; every layer filled to its last byte leaves the others and the surroundings
 * alone. */
static void layers_do_not_overlap(void) {
    aq_backend *be = open_backend();
    aq_plan plan = open_plan(2, 1, NULL);
    aq_kvcache cache;
    if (!aq_test_ok(aq_kvcache_open(be, &shape, &plan, &cache))) return;
    for (int layer = 0; layer < N_LAYER; layer++) {
        const aq_kv_pool *pool = pool_of(&cache, layer);
        const aq_kv_view view = aq_kvcache_layer(&cache, layer, 0);
        const int64_t n_key = pool->n_tile_max * pool->key_bytes;
        const int64_t n_value = pool->n_tile_max * pool->value_bytes;
        CU_ASSERT_TRUE(view.n_col == (pool == &cache.full ? N_COL : D_HEAD));
        CU_ASSERT_TRUE(view.d_head == D_HEAD && view.n_kv_head == N_KV_HEAD &&
                       view.key_type == AQ_KV_F32 && view.value_type == AQ_KV_BF16);
        CU_ASSERT_EQUAL(count_bytes(view.keys, n_key, 0), n_key);
        CU_ASSERT_EQUAL(count_bytes(view.values, n_value, 0), n_value);
        memset(view.keys, 'a' + layer, (size_t)n_key);
        memset(view.values, 'k' + layer, (size_t)n_value);
    }
    for (int layer = 0; layer < N_LAYER; layer++) {
        const aq_kv_pool *pool = pool_of(&cache, layer);
        const aq_kv_view view = aq_kvcache_layer(&cache, layer, 0);
        const int64_t n_key = pool->n_tile_max * pool->key_bytes;
        const int64_t n_value = pool->n_tile_max * pool->value_bytes;
        CU_ASSERT_EQUAL(count_bytes(view.keys, n_key, (char)('a' + layer)), n_key);
        CU_ASSERT_EQUAL(count_bytes(view.values, n_value, (char)('k' + layer)), n_value);
    }
    CU_ASSERT_TRUE(aq_backend_poisoned_intact(be));
    /* planted: one byte too far */
    cache.windowed.values[2 * cache.windowed.n_tile_max * value_bytes] = 1;
    CU_ASSERT_FALSE(aq_backend_poisoned_intact(be));
    aq_kvcache_close(&cache);
    aq_plan_close(&plan);
    be->ops->close(be);
}

/* A text of fewer tiles than ranks, where the last has none; and a rank whose share is 0, however
 * long the text: no error, and nothing held. */
static void a_rank_may_have_no_tile(void) {
    static const int64_t none_for_last[] = {2, 1, 0};
    aq_backend *be = open_backend();
    for (int i = 0; i < 2; i++) {
        aq_plan plan = open_plan(3, 2, i == 0 ? NULL : none_for_last);
        aq_kvcache_shape coded = shape;
        aq_kvcache cache;
        coded.n_ctx = i == 0 ? 128 : 100000;
        coded.full.key_type = AQ_KV_Q8; /* has open tiles */
        if (aq_test_ok(aq_kvcache_open(be, &coded, &plan, &cache))) {
            const int64_t end = coded.n_ctx;
            CU_ASSERT_TRUE(cache.n_tile == 0 && cache.windowed.n_tile_max == 0);
            CU_ASSERT_PTR_NOT_NULL(aq_kvcache_layer(&cache, N_LAYER - 1, 0).keys);
            CU_ASSERT_EQUAL(aq_kvcache_layer(&cache, 0, end - 7).open_tile, -1);
            CU_ASSERT_EQUAL(aq_kvcache_tiles(&cache, 0, end - 1, end).n, 0);
            CU_ASSERT_EQUAL(aq_kvcache_tiles(&cache, 1, end - 1, end).n, 0);
            CU_ASSERT_EQUAL(aq_kvcache_capacity(&cache).keys, 0);
            CU_ASSERT_EQUAL(aq_kvcache_open_bytes(&cache), 0);
            aq_kvcache_close(&cache);
        }
        aq_plan_close(&plan);
    }
    be->ops->close(be);
}

static int64_t n_until_refusal;
static const aq_backend_ops *real_ops;
static size_t room_told;

static size_t tell_room(aq_backend *be) {
    (void)be;
    return room_told;
}

static aq_status alloc_or_refuse(aq_backend *be, size_t bytes, void **out) {
    if (n_until_refusal-- > 0) return real_ops->alloc(be, bytes, out);
    *out = NULL;
    return aq_fail(AQ_ERR_MEMORY, "no memory for %zu bytes", bytes);
}

/* The bytes are named, nothing stays allocated, whichever block was refused. */
static void refused_memory_is_named(void) {
    aq_backend *be = open_backend();
    aq_backend_ops refusing = *be->ops;
    aq_plan plan = open_plan(1, 0, NULL);
    aq_kvcache_shape large = shape;
    aq_kvcache cache;
    large.n_ctx = 8192;
    real_ops = be->ops;
    refusing.alloc = alloc_or_refuse;
    refusing.room = tell_room;
    be->ops = &refusing;
    for (int64_t n = 0; n < 5; n++) {
        n_until_refusal = n;
        room_told = 0;
        /* 128 tiles of 6144 + 4096 bytes in 3 layers, 3 of 8192 + 4096 in 2: 4005888 bytes. */
        aq_test_fails(aq_kvcache_open(be, &large, &plan, &cache), AQ_ERR_MEMORY,
                      "no memory for 3.8 MiB of cache; use more ranks or a shorter context (-c)");
        CU_ASSERT_EQUAL(aq_backend_poisoned_live(be), 0);
        CU_ASSERT_TRUE(!cache.full.keys && !cache.windowed.keys && !cache.tile_pos);
        aq_kvcache_close(&cache);
        n_until_refusal = n;
        room_told = (size_t)2 << 20; /* less two rings of 36864 bytes: 65 tiles of 3 * 10240 */
        aq_test_fails(aq_kvcache_open(be, &large, &plan, &cache), AQ_ERR_MEMORY,
                      "no memory for 3.8 MiB of cache: 2.0 MiB are free, which hold about 4160 "
                      "tokens; use more ranks or a shorter context (-c)");
        aq_kvcache_close(&cache);
    }
    be->ops = real_ops;
    be->ops->close(be);
    aq_plan_close(&plan);
}

/* Bytes past what 64 bits count must not wrap around to a small block. */
static void impossible_sizes_are_refused(void) {
    static const int64_t contexts[] = {(int64_t)1 << 48, (int64_t)1 << 56, (int64_t)1 << 60};
    aq_backend *be = open_backend();
    aq_plan plan = open_plan(1, 0, NULL);
    aq_kvcache_shape huge = shape;
    aq_kvcache cache;
    huge.n_layer = AQ_MAX_LAYER;
    for (int i = 0; i < 6; i++) {
        huge.n_ctx = contexts[i % 3];
        huge.window = i < 3 ? WINDOW : huge.n_ctx - 1; /* all that there is */
        aq_test_fails(aq_kvcache_open(be, &huge, &plan, &cache), AQ_ERR_MEMORY, "MiB of cache");
        CU_ASSERT_EQUAL(aq_backend_poisoned_live(be), 0);
    }
    be->ops->close(be);
    aq_plan_close(&plan);
}

/* Places in the ring of a rank. */
typedef struct {
    aq_kvcache cache;
    int64_t holds[64]; /* [n_tile_max] first position of the tile that was written last, or -1 */
} ring;

/* Writes positions [begin, end) in order, as a step does before its queries ask. */
static void write_step(ring *r, int64_t begin, int64_t end, int64_t off) {
    for (int64_t pos = begin; pos < end; pos++) {
        if (aq_plan_owner(&r->cache.plan, pos) != r->cache.plan.rank) continue;
        const int64_t slot = aq_plan_slot(&r->cache.plan, pos);
        const int64_t at = aq_kvcache_ring_slot(&r->cache, slot);
        CU_ASSERT_EQUAL(at % 64, pos % 64);
        r->holds[at / 64] = pos / 64 * 64 + off;
    }
}

/* Whether the tiles told for [begin, end) are the ones that a look at each query and key finds, in
 * order, and lie untouched where they are told to. */
static bool tiles_hold(const ring *r, int64_t begin, int64_t end) {
    const aq_plan *plan = &r->cache.plan;
    const aq_kv_tiles tiles = aq_kvcache_tiles(&r->cache, 1, begin, end);
    int64_t n = 0;
    for (int64_t first = 0; first < end; first += 64) {
        bool seen = false; /* by the query that looks back furthest, or by a later one */
        for (int64_t pos = first; pos < first + 64 && pos < end; pos++)
            seen = seen || pos > begin - r->cache.shape.window;
        if (!seen || aq_plan_owner(plan, first) != plan->rank) continue;
        if (n >= tiles.n || tiles.pos[n] != first) return false;
        if (r->holds[tiles.at[n++]] != first) return false;
    }
    return n == tiles.n;
}

/* A text of n_ctx tokens in steps of changing lengths up to n_step. */
static bool walk(ring *r, int64_t n_ctx, int64_t n_step, int64_t off) {
    bool good = true;
    for (int i = 0; i < 64; i++)
        r->holds[i] = -1;
    for (int64_t begin = 0, i = 0; begin < n_ctx; i++) {
        const int64_t n = i % 3 == 2 ? n_step / 2 + 1 : n_step;
        const int64_t end = begin + n < n_ctx ? begin + n : n_ctx;
        write_step(r, begin, end, off);
        good = good && tiles_hold(r, begin, end);
        begin = end;
    }
    return good;
}

static const int64_t windows[] = {1, 2, 17, 63, 64, 65, 128, 129, 500};
static const int64_t steps[] = {1, 7, 64, 65, 200, 333};

/* One window, step, and number of ranks, on one of them. Returns whether a ring that is one tile
 * smaller is rejected: it may do where the steps never begin at the worst place. */
static bool check_ring(aq_backend *be, const aq_plan *plan, int64_t window, int64_t n_step) {
    aq_kvcache_shape s = shape;
    ring r;
    s.windowed_layers.bits[0] = 3; /* no layer sees everything */
    s.n_layer = 2;
    s.window = window;
    s.n_step_max = n_step;
    s.n_ctx = 1500;
    bool rejected = false;
    if (!aq_test_ok(aq_kvcache_open(be, &s, plan, &r.cache))) return false;
    const int64_t n_room = r.cache.windowed.n_tile_max;
    CU_ASSERT_TRUE(walk(&r, s.n_ctx, n_step, 0));
    /* planted: another tile is there */
    CU_ASSERT_TRUE(r.cache.n_tile == 0 || !walk(&r, s.n_ctx, n_step, 64));
    for (int64_t j = 0; j < r.cache.n_tile && n_room > 1; j++)
        r.cache.tile_at[j] = j % (n_room - 1);
    rejected = !walk(&r, s.n_ctx, n_step, 0);
    aq_kvcache_close(&r.cache);
    s.n_ctx = 150000; /* the ring is as large */
    if (!aq_test_ok(aq_kvcache_open(be, &s, plan, &r.cache))) return false;
    CU_ASSERT_EQUAL(r.cache.windowed.n_tile_max,
                    aq_plan_most_tiles(plan, plan->rank, window + n_step - 1));
    CU_ASSERT_TRUE(n_room <= r.cache.windowed.n_tile_max);
    aq_kvcache_close(&r.cache);
    return rejected;
}

/* All windows and steps on each rank; returns how many rings reject one tile less. */
static int check_rings(aq_backend *be, int n_rank, const int64_t *weights) {
    int n_rejected = 0;
    for (int rank = 0; rank < n_rank; rank++) {
        aq_plan plan = open_plan(n_rank, rank, weights);
        for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++)
            for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
                n_rejected += check_ring(be, &plan, windows[w], steps[i]);
        aq_plan_close(&plan);
    }
    return n_rejected;
}

static void rings_keep_what_is_seen(void) {
    static const int64_t uneven[][4] = {{3, 1, 0, 0}, {5, 1, 1, 2}, {1, 0, 2, 0}};
    aq_backend *be = NULL;
    int n_rejected = 0, n_uneven = 0;
    if (!aq_test_ok(aq_backend_cpu_open(1, AQ_ISA_PORTABLE, &be))) return;
    for (int n_rank = 1; n_rank <= 5; n_rank++)
        n_rejected += check_rings(be, n_rank, NULL);
    for (int i = 0; i < 3; i++)
        n_uneven += check_rings(be, 4, uneven[i]);
    printf("  of 810 rings, %d reject one tile less, of 648 uneven ones %d\n", n_rejected,
           n_uneven);
    CU_ASSERT_TRUE(n_rejected > 300 && n_uneven > 100);
    be->ops->close(be);
}

/* Layers that see everything: every tile with a token, each at its own place. */
static void full_layers_keep_all(void) {
    aq_backend *be = open_backend();
    aq_plan plan = open_plan(3, 1, NULL);
    aq_kvcache cache;
    if (!aq_test_ok(aq_kvcache_open(be, &shape, &plan, &cache))) return;
    for (int64_t end = 1; end <= 450; end++) {
        const aq_kv_tiles tiles = aq_kvcache_tiles(&cache, 2, end - 1, end);
        CU_ASSERT_PTR_NULL(tiles.at);
        CU_ASSERT_EQUAL(tiles.n, aq_plan_tiles(&plan, 1, end));
        CU_ASSERT_TRUE(tiles.n == 0 || tiles.pos[0] == 64);
    }
    aq_kvcache_close(&cache);
    aq_plan_close(&plan);
    be->ops->close(be);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "sizes and places", sizes_and_places);
    CU_add_test(suite, "bytes are told", bytes_are_told);
    CU_add_test(suite, "layers do not overlap", layers_do_not_overlap);
    CU_add_test(suite, "a rank may have no tile", a_rank_may_have_no_tile);
    CU_add_test(suite, "refused memory is named", refused_memory_is_named);
    CU_add_test(suite, "impossible sizes are refused", impossible_sizes_are_refused);
    CU_add_test(suite, "rings keep what is seen", rings_keep_what_is_seen);
    CU_add_test(suite, "full layers keep all", full_layers_keep_all);
}
