/* kv_read: a tile comes back as the numbers that its blocks, or the open buffers, stand for. */
#include "kernels/kv_read.h"

#include <math.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/oracle_cache.h"
#include "tests/support/suite.h"

typedef struct {
    int n_kv_head, n_col, d_head;
    aq_kv_type key_type, value_type;
    aq_key_order order;
    int n_tile, n_open; /* tiles that are whole, and tokens of the one behind them */
} read_shape;

#define BY_COLUMN AQ_KEYS_BY_COLUMN
#define BY_TOKEN  AQ_KEYS_BY_TOKEN

static const read_shape shapes[] = {
    {3, 64, 64, AQ_KV_Q8, AQ_KV_Q8, BY_COLUMN, 2, 5},
    {3, 64, 64, AQ_KV_Q5M, AQ_KV_Q5M, BY_TOKEN, 2, 0},
    {1, 19, 24, AQ_KV_Q6, AQ_KV_Q5, BY_TOKEN, 1, 63},
    {2, 24, 19, AQ_KV_Q5, AQ_KV_Q6, BY_COLUMN, 3, 1},
    {1, 67, 35, AQ_KV_Q4, AQ_KV_Q4, BY_TOKEN, 2, 9},
    {2, 30, 3, AQ_KV_Q5M, AQ_KV_Q4, BY_COLUMN, 2, 0},
    {1, 256, 256, AQ_KV_Q8, AQ_KV_BF16, BY_TOKEN, 1, 2},
    {2, 20, 24, AQ_KV_F32, AQ_KV_Q8, BY_COLUMN, 1, 7},
    {2, 20, 24, AQ_KV_BF16, AQ_KV_F32, BY_TOKEN, 2, 0},
    {5, 33, 24, AQ_KV_F32, AQ_KV_BF16, BY_COLUMN, 2, 0},
    {2, 48, 80, AQ_KV_BF16, AQ_KV_BF16, BY_COLUMN, 1, 0},
    {3, 17, 40, AQ_KV_F32, AQ_KV_F32, BY_TOKEN, 1, 0},
};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

/* A cache filled by kv_append, whose own test vouches for it. */
static aq_kv_view open_cache(aq_backend *be, const read_shape *shape, uint64_t seed) {
    aq_kv_view kv = {.key_type = shape->key_type,
                     .value_type = shape->value_type,
                     .key_order = shape->order,
                     .n_kv_head = shape->n_kv_head,
                     .n_col = shape->n_col,
                     .d_head = shape->d_head,
                     .open_tile = shape->n_open > 0 ? shape->n_tile : -1};
    const int64_t n_tile = shape->n_tile + (shape->n_open > 0), n_head = kv.n_kv_head;
    const int64_t n_tok = (int64_t)shape->n_tile * AQ_TILE + shape->n_open;
    kv.keys = aq_test_alloc(be, (size_t)(n_tile * n_head * aq_cache_key_bytes(&kv)));
    kv.values = aq_test_alloc(be, (size_t)(n_tile * n_head * aq_cache_value_bytes(&kv)));
    if (aq_kv_has_open_tile(&kv)) {
        kv.open_keys = aq_test_alloc(be, (size_t)(n_head * AQ_TILE * kv.n_col) * sizeof(float));
        kv.open_values = aq_test_alloc(be, (size_t)(n_head * AQ_TILE * kv.d_head) * sizeof(float));
    }
    float *key = aq_test_alloc(be, (size_t)(n_tok * n_head * kv.n_col) * sizeof *key);
    float *value = aq_test_alloc(be, (size_t)(n_tok * n_head * kv.d_head) * sizeof *value);
    int64_t *slot = aq_test_alloc(be, (size_t)n_tok * sizeof *slot);
    aq_fill_normal(seed, n_tok * n_head * kv.n_col, 1.0f, key);
    aq_fill_normal(seed + 1000, n_tok * n_head * kv.d_head, 1.0f, value);
    for (int64_t t = 0; t < n_tok; t++)
        slot[t] = t;
    be->ops->kv_append(be, &(aq_kv_append_args){
                               .kv = kv, .key = key, .value = value, .slot = slot, .n_tok = n_tok});
    be->ops->release(be, key);
    be->ops->release(be, value);
    be->ops->release(be, slot);
    return kv;
}

static void close_cache(aq_backend *be, const aq_kv_view *kv) {
    be->ops->release(be, kv->keys);
    be->ops->release(be, kv->values);
    if (kv->open_keys) be->ops->release(be, kv->open_keys);
    if (kv->open_values) be->ops->release(be, kv->open_values);
}

/* One tile as read, against the formats. */
static void check_tile(const aq_kv_read_args *a, aq_cache_bug bug, aq_bound *bound) {
    const aq_kv_view *kv = &a->kv;
    for (int s = 0; s < a->n_tok; s++)
        for (int g = 0; g < kv->n_kv_head; g++) {
            const int64_t row = (int64_t)s * kv->n_kv_head + g;
            for (int c = 0; c < kv->n_col; c++) {
                const double ref = aq_cache_key(kv, a->tile, g, s, c, bug);
                const bool coded = aq_kv_type_coded(kv->key_type) && a->tile != kv->open_tile;
                aq_bound_element(bound, a->key[row * kv->n_col + c], ref, coded ? 2.0 : 0.0,
                                 ldexp(1.0, -140));
            }
            for (int i = 0; i < kv->d_head; i++) {
                const double ref = aq_cache_value(kv, a->tile, g, s, i, bug);
                const bool coded = aq_kv_type_coded(kv->value_type) && a->tile != kv->open_tile;
                aq_bound_element(bound, a->value[row * kv->d_head + i], ref, coded ? 2.0 : 0.0,
                                 ldexp(1.0, -140));
            }
        }
}

static const struct {
    aq_cache_bug bug;
    const char *name;
} plants[] = {{AQ_CACHE_PLANES, "planes of codes in the wrong order"},
              {AQ_CACHE_PAIRS, "neighbours in one byte"},
              {AQ_CACHE_NEIGHBOUR, "the step of the neighbour"},
              {AQ_CACHE_ZERO, "no zero point"},
              {AQ_CACHE_CLOSED, "the open tile forgotten"},
              {AQ_CACHE_ORDER, "the other order of keys"}};

#define N_PLANT ((int)(sizeof plants / sizeof plants[0]))

static void check_shape(const aq_test_backend *on, const read_shape *shape, uint64_t seed,
                        aq_bound *right, aq_bound planted[N_PLANT]) {
    const aq_kv_view kv = open_cache(on->be, shape, seed);
    const int64_t n = (int64_t)AQ_TILE * kv.n_kv_head;
    aq_kv_read_args args = {.kv = kv,
                            .key = aq_test_alloc(on->be, (size_t)(n * kv.n_col) * sizeof(float)),
                            .value =
                                aq_test_alloc(on->be, (size_t)(n * kv.d_head) * sizeof(float))};
    for (args.tile = 0; args.tile < shape->n_tile + (shape->n_open > 0); args.tile++) {
        args.n_tok = args.tile == shape->n_tile ? shape->n_open : AQ_TILE - args.tile % 2 * 11;
        memset(args.key, 0xff, (size_t)(n * kv.n_col) * sizeof(float));
        memset(args.value, 0xff, (size_t)(n * kv.d_head) * sizeof(float));
        on->be->ops->kv_read(on->be, &args);
        check_tile(&args, AQ_CACHE_RIGHT, right);
        /* What lies behind the tokens asked for is not written. */
        for (int64_t i = args.n_tok * kv.n_kv_head * kv.n_col; i < n * kv.n_col; i++)
            if (!isnan(args.key[i])) CU_FAIL("a key too many");
        for (int64_t i = args.n_tok * kv.n_kv_head * kv.d_head; i < n * kv.d_head; i++)
            if (!isnan(args.value[i])) CU_FAIL("a value too many");
        for (int b = 0; b < N_PLANT && on->n_thread == 1 && on->isa == AQ_ISA_PORTABLE; b++)
            check_tile(&args, plants[b].bug, &planted[b]);
    }
    on->be->ops->release(on->be, args.key);
    on->be->ops->release(on->be, args.value);
    close_cache(on->be, &kv);
}

static void contract(const aq_test_backend *on, void *arg) {
    (void)arg;
    aq_bound right = {0}, planted[N_PLANT] = {{0}};
    for (int i = 0; i < N_SHAPE; i++)
        check_shape(on, &shapes[i], 1 + (uint64_t)i, &right, planted);
    aq_bound_expect(&right, "kv_read");
    for (int b = 0; b < N_PLANT && planted[b].n_check > 0; b++)
        aq_bound_expect_rejects(&planted[b], plants[b].name);
}

static void tiles_come_back_as_they_are_stored(void) {
    aq_each_backend(contract, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "tiles come back as they are stored", tiles_come_back_as_they_are_stored);
}
