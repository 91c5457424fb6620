/* code_selector: the same codes as kv_append makes of a whole tile of the same keys. */
#include "kernels/code_selector.h"

#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/oracle_cache.h"
#include "tests/support/suite.h"

typedef enum { NO_BUG, FREE_SLOTS_COUNT } planted_bug;

enum { N_PLACE = 5, D_HEAD = 16 };

static const struct {
    int n_kv_head, n_col;
    aq_kv_type key_type;
    const char *codes;
} shapes[] = {{1, 16, AQ_KV_F32, "16x4"},
              {3, 64, AQ_KV_BF16, "16x4,32x2,16x1"},
              {2, 19, AQ_KV_BF16, "5x8,3x3"},
              {4, 128, AQ_KV_F32, "64x2"}};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

/* Place 0 is full, 1 and 3 partly, 2 has one token, 4 none. */
static void fill_slots(aq_rng *rng, int64_t *slot_pos) {
    static const double free_share[N_PLACE] = {0.0, 0.4, 2.0, 0.7, 2.0};
    for (int64_t i = 0; i < N_PLACE * AQ_TILE; i++)
        slot_pos[i] = aq_rng_uniform(rng) < free_share[i / AQ_TILE] ? INT64_MAX : 7 * i;
    slot_pos[2 * AQ_TILE + 9] = 3;
}

/* Normal keys; where there is no token, numbers that would widen every range. */
static void fill_keys(const aq_kv_view *kv, const int64_t *slot_pos, aq_rng *rng) {
    const int64_t n_slot = (int64_t)N_PLACE * kv->n_kv_head * AQ_TILE;
    for (int64_t i = 0; i < n_slot * kv->n_col; i++) {
        const int64_t slot = i / kv->n_col, tile = slot / AQ_TILE / kv->n_kv_head;
        const bool there = slot_pos[tile * AQ_TILE + slot % AQ_TILE] != INT64_MAX;
        aq_cache_set(kv->keys, kv->key_type, i, (float)aq_rng_normal(rng) * (there ? 1.0f : 50.0f));
    }
}

/* One tile, written by kv_append, with the keys that tile `tile` of kv stands for. */
static void append_like(aq_backend *be, const aq_kv_view *kv, int64_t tile, const int64_t *slot_pos,
                        planted_bug bug, const aq_kv_view *one) {
    const int64_t n_row = (int64_t)AQ_TILE * kv->n_kv_head;
    float *key = aq_test_alloc(be, (size_t)(n_row * kv->n_col) * sizeof *key);
    float *value = aq_test_alloc(be, (size_t)(n_row * D_HEAD) * sizeof *value);
    int64_t *slot = aq_test_alloc(be, AQ_TILE * sizeof *slot);
    int first = 0;
    while (slot_pos[tile * AQ_TILE + first] == INT64_MAX)
        first++;
    for (int s = 0; s < AQ_TILE; s++) {
        const bool there = slot_pos[tile * AQ_TILE + s] != INT64_MAX || bug == FREE_SLOTS_COUNT;
        slot[s] = s;
        for (int g = 0; g < kv->n_kv_head; g++)
            for (int c = 0; c < kv->n_col; c++)
                key[((int64_t)s * kv->n_kv_head + g) * kv->n_col + c] =
                    (float)aq_cache_key(kv, tile, g, there ? s : first, c, AQ_CACHE_RIGHT);
    }
    be->ops->kv_append(be,
                       &(aq_kv_append_args){
                           .kv = *one, .key = key, .value = value, .slot = slot, .n_tok = AQ_TILE});
    be->ops->release(be, key);
    be->ops->release(be, value);
    be->ops->release(be, slot);
}

/* A cache of n_place tiles like `kv`, with the open tile that kv_append needs. */
static aq_kv_view alloc_cache(aq_backend *be, const aq_kv_view *kv, int64_t n_place) {
    aq_kv_view out = *kv;
    const size_t n = (size_t)n_place * (size_t)kv->n_kv_head;
    const size_t n_open = (size_t)kv->n_kv_head * AQ_TILE;
    out.keys = aq_test_alloc(be, n * (size_t)aq_kv_key_bytes(kv));
    out.values = aq_test_alloc(be, n * (size_t)aq_kv_value_bytes(kv));
    out.selector = aq_test_alloc(be, n * (size_t)aq_kv_selector_bytes(kv));
    out.open_keys = aq_test_alloc(be, n_open * (size_t)kv->n_col * sizeof(float));
    out.open_values = aq_test_alloc(be, n_open * D_HEAD * sizeof(float));
    return out;
}

static void release_cache(aq_backend *be, const aq_kv_view *kv) {
    void *const blocks[] = {kv->keys, kv->values, kv->selector, kv->open_keys, kv->open_values};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        be->ops->release(be, blocks[i]);
}

/* Codes places 3, 1, 2, 4, and leaves place 0 alone. Returns how many of the first three differ
 * from what kv_append makes. */
static int count_unlike(aq_backend *be, int shape, planted_bug bug) {
    static const int64_t tiles[] = {3, 1, 2, 4};
    aq_kv_view view = {.key_type = shapes[shape].key_type,
                       .value_type = AQ_KV_F32,
                       .key_order = AQ_KEYS_BY_TOKEN,
                       .n_kv_head = shapes[shape].n_kv_head,
                       .n_col = shapes[shape].n_col,
                       .d_head = D_HEAD,
                       .open_tile = -1};
    aq_test_ok(aq_code_layout_parse(shapes[shape].codes, &view.codes));
    const aq_kv_view kv = alloc_cache(be, &view, N_PLACE), one = alloc_cache(be, &view, 1);
    int64_t *slot_pos = aq_test_alloc(be, N_PLACE * AQ_TILE * sizeof *slot_pos);
    int64_t *tile = aq_test_alloc(be, sizeof tiles);
    const size_t bytes = (size_t)kv.n_kv_head * (size_t)aq_kv_selector_bytes(&kv);
    aq_rng rng = {(uint64_t)shape + 1};
    int n = 0;
    fill_slots(&rng, slot_pos);
    fill_keys(&kv, slot_pos, &rng);
    memcpy(tile, tiles, sizeof tiles);
    memset(kv.selector, 0x5a, N_PLACE * bytes);
    be->ops->code_selector(
        be, &(aq_code_selector_args){.kv = kv, .slot_pos = slot_pos, .tile = tile, .n_tile = 4});
    for (int i = 0; i < 3; i++) {
        append_like(be, &kv, tiles[i], slot_pos, bug, &one);
        const char *codes = (const char *)kv.selector + (size_t)tiles[i] * bytes;
        n += memcmp(codes, one.selector, bytes) != 0;
    }
    for (int place = 0; place < N_PLACE; place += 4)
        for (size_t i = 0; i < bytes; i++)
            CU_ASSERT_EQUAL(((const char *)kv.selector)[(size_t)place * bytes + i], 0x5a);
    release_cache(be, &kv);
    release_cache(be, &one);
    be->ops->release(be, slot_pos);
    be->ops->release(be, tile);
    return n;
}

static void contract(const aq_test_backend *on, void *arg) {
    (void)arg;
    for (int shape = 0; shape < N_SHAPE; shape++) {
        CU_ASSERT_EQUAL(count_unlike(on->be, shape, NO_BUG), 0);
        CU_ASSERT_EQUAL(count_unlike(on->be, shape, FREE_SLOTS_COUNT), 3);
    }
}

static void codes_are_those_of_kv_append(void) {
    aq_each_backend(contract, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "codes are those of kv_append", codes_are_those_of_kv_append);
}
