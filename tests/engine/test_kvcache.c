/* Room for the tiles of one rank: sizes, places, no overlap, and refusals. */
#include "src/engine/kvcache.h"

#include <string.h>

#include "tests/support/backend_poisoned.h"
#include "tests/support/suite.h"

enum { N_LAYER = 3, N_KV_HEAD = 2, N_COL = 12, D_HEAD = 16 };

static const aq_kv_view shape = {.key_dtype = AQ_F32,
                                 .value_dtype = AQ_BF16,
                                 .n_kv_head = N_KV_HEAD,
                                 .n_col = N_COL,
                                 .d_head = D_HEAD};

/* A backend that watches its blocks. */
static aq_backend *open_backend(void) {
    aq_backend *cpu = NULL, *be = NULL;
    aq_test_ok(aq_backend_cpu_open(1, AQ_ISA_PORTABLE, &cpu));
    aq_test_ok(aq_backend_poisoned_open(cpu, &be));
    return be;
}

static void sizes_and_places(void) {
    aq_backend *be = open_backend();
    for (int n_rank = 1; n_rank <= 5; n_rank++)
        for (int rank = 0; rank < n_rank; rank++) {
            const aq_plan plan = {n_rank, rank};
            aq_kvcache cache;
            if (!aq_test_ok(aq_kvcache_open(be, &shape, N_LAYER, &plan, 450, &cache))) continue;
            /* 450 tokens are 8 tiles, dealt in turn. */
            CU_ASSERT_EQUAL(cache.n_tile_max, 8 / n_rank + (rank < 8 % n_rank));
            CU_ASSERT_EQUAL(cache.key_bytes, N_KV_HEAD * N_COL * 64 * 4);
            CU_ASSERT_EQUAL(cache.value_bytes, N_KV_HEAD * 64 * D_HEAD * 2);
            for (int64_t j = 0; j < cache.n_tile_max; j++)
                CU_ASSERT_EQUAL(cache.tile_pos[j], (rank + j * n_rank) * 64);
            aq_kvcache_close(&cache);
        }
    CU_ASSERT_EQUAL(aq_backend_poisoned_live(be), 0);
    be->ops->close(be);
}

static int64_t count_bytes(const char *memory, int64_t n, char value) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += memory[i] == value;
    return count;
}

/* Zeroed at first; every layer filled to its last byte leaves the others and the surroundings
 * alone. */
static void layers_do_not_overlap(void) {
    aq_backend *be = open_backend();
    const aq_plan plan = {2, 1};
    aq_kvcache cache;
    if (!aq_test_ok(aq_kvcache_open(be, &shape, N_LAYER, &plan, 450, &cache))) return;
    const int64_t n_key = cache.n_tile_max * cache.key_bytes;
    const int64_t n_value = cache.n_tile_max * cache.value_bytes;
    CU_ASSERT_EQUAL(count_bytes(cache.keys, N_LAYER * n_key, 0), N_LAYER * n_key);
    CU_ASSERT_EQUAL(count_bytes(cache.values, N_LAYER * n_value, 0), N_LAYER * n_value);
    for (int layer = 0; layer < N_LAYER; layer++) {
        const aq_kv_view view = aq_kvcache_layer(&cache, layer);
        CU_ASSERT_TRUE(view.n_col == N_COL && view.d_head == D_HEAD &&
                       view.n_kv_head == N_KV_HEAD && view.key_dtype == AQ_F32 &&
                       view.value_dtype == AQ_BF16);
        memset(view.keys, 'a' + layer, (size_t)n_key);
        memset(view.values, 'k' + layer, (size_t)n_value);
    }
    for (int layer = 0; layer < N_LAYER; layer++) {
        const aq_kv_view view = aq_kvcache_layer(&cache, layer);
        CU_ASSERT_EQUAL(count_bytes(view.keys, n_key, (char)('a' + layer)), n_key);
        CU_ASSERT_EQUAL(count_bytes(view.values, n_value, (char)('k' + layer)), n_value);
    }
    CU_ASSERT_TRUE(aq_backend_poisoned_intact(be));
    ((char *)cache.values)[N_LAYER * n_value] = 1; /* planted: one byte too far */
    CU_ASSERT_FALSE(aq_backend_poisoned_intact(be));
    aq_kvcache_close(&cache);
    be->ops->close(be);
}

/* A text of fewer tiles than ranks: the last rank has none, and that is no error. */
static void a_rank_may_have_no_tile(void) {
    aq_backend *be = open_backend();
    const aq_plan plan = {3, 2};
    aq_kvcache cache;
    if (aq_test_ok(aq_kvcache_open(be, &shape, N_LAYER, &plan, 128, &cache))) {
        CU_ASSERT_EQUAL(cache.n_tile_max, 0);
        CU_ASSERT_PTR_NOT_NULL(aq_kvcache_layer(&cache, N_LAYER - 1).keys);
        aq_kvcache_close(&cache);
    }
    be->ops->close(be);
}

static int64_t n_until_refusal;
static const aq_backend_ops *real_ops;

static aq_status alloc_or_refuse(aq_backend *be, size_t bytes, void **out) {
    if (n_until_refusal-- > 0) return real_ops->alloc(be, bytes, out);
    *out = NULL;
    return aq_fail(AQ_ERR_MEMORY, "no memory for %zu bytes", bytes);
}

/* The bytes are named, nothing stays allocated, whichever block was refused. */
static void refused_memory_is_named(void) {
    aq_backend *be = open_backend();
    aq_backend_ops refusing = *be->ops;
    const aq_plan plan = {1, 0};
    aq_kvcache cache;
    real_ops = be->ops;
    refusing.alloc = alloc_or_refuse;
    be->ops = &refusing;
    for (int64_t n = 0; n < 2; n++) {
        n_until_refusal = n;
        /* 128 tiles of 6144 + 4096 bytes in 3 layers. */
        aq_test_fails(aq_kvcache_open(be, &shape, N_LAYER, &plan, 8192, &cache), AQ_ERR_MEMORY,
                      "no memory for 3.8 MiB of cache; use more ranks or a shorter context (-c)");
        CU_ASSERT_EQUAL(aq_backend_poisoned_live(be), 0);
        CU_ASSERT_PTR_NULL(cache.keys);
        CU_ASSERT_PTR_NULL(cache.tile_pos);
        aq_kvcache_close(&cache);
    }
    be->ops = real_ops;
    be->ops->close(be);
}

/* Bytes past what 64 bits count must not wrap around to a small block. */
static void impossible_sizes_are_refused(void) {
    static const int64_t contexts[] = {(int64_t)1 << 48, (int64_t)1 << 56, (int64_t)1 << 60};
    aq_backend *be = open_backend();
    const aq_plan plan = {1, 0};
    aq_kvcache cache;
    for (int i = 0; i < 3; i++) {
        aq_test_fails(aq_kvcache_open(be, &shape, 1 << 12, &plan, contexts[i], &cache),
                      AQ_ERR_MEMORY, "MiB of cache");
        CU_ASSERT_EQUAL(aq_backend_poisoned_live(be), 0);
    }
    be->ops->close(be);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "sizes and places", sizes_and_places);
    CU_add_test(suite, "layers do not overlap", layers_do_not_overlap);
    CU_add_test(suite, "a rank may have no tile", a_rank_may_have_no_tile);
    CU_add_test(suite, "refused memory is named", refused_memory_is_named);
    CU_add_test(suite, "impossible sizes are refused", impossible_sizes_are_refused);
}
