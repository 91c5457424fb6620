/* kv_append: every token lands where the layout says, rounded to nearest even, and nothing else
 * changes. */
#include "kernels/kv_append.h"

#include <math.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

typedef enum { NO_BUG, KEYS_TOKEN_MAJOR, CUT } planted_bug;

static const struct {
    int64_t n_tok;
    int n_kv_head, n_col, d_head, n_tile;
    aq_kv_type key_type, value_type;
} shapes[] = {
    {1, 3, 64, 64, 2, AQ_KV_BF16, AQ_KV_BF16}, {0, 1, 16, 16, 1, AQ_KV_F32, AQ_KV_F32},
    {7, 1, 19, 24, 1, AQ_KV_F32, AQ_KV_BF16},  {64, 2, 24, 24, 3, AQ_KV_BF16, AQ_KV_F32},
    {300, 3, 48, 80, 7, AQ_KV_F32, AQ_KV_F32}, {130, 4, 96, 96, 3, AQ_KV_BF16, AQ_KV_BF16}};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

/* What an element holds before the test: a number that no token brings. */
static float before(int64_t i) {
    return -1000.0f - (float)(i % 50);
}

static double element(const void *tensor, aq_kv_type dtype, int64_t i) {
    if (dtype == AQ_KV_BF16) return (double)aq_bf16_to_f32(((const uint16_t *)tensor)[i]);
    return (double)((const float *)tensor)[i];
}

static void set_element(void *tensor, aq_kv_type dtype, int64_t i, float value) {
    if (dtype == AQ_KV_BF16)
        ((uint16_t *)tensor)[i] = aq_f32_to_bf16(value);
    else
        ((float *)tensor)[i] = value;
}

/* x as the tensor holds it. bf16 keeps 8 significant bits: rint of the scaled number, which rounds
 * ties to even. */
static double stored(float x, aq_kv_type dtype, planted_bug bug) {
    if (dtype == AQ_KV_F32 || x == 0.0f) return (double)x;
    int exponent;
    const double fraction = frexp((double)x, &exponent) * 256.0;
    return ldexp(bug == CUT ? trunc(fraction) : rint(fraction), exponent - 8);
}

/* The expected tensors in double precision: `before`, then every token by the layout. */
static void reference(const aq_kv_append_args *a, int64_t n_tile, planted_bug bug, double *keys,
                      double *values) {
    const aq_kv_view *kv = &a->kv;
    for (int64_t i = 0; i < n_tile * kv->n_kv_head * kv->n_col * AQ_TILE; i++)
        keys[i] = stored(before(i), kv->key_type, NO_BUG);
    for (int64_t i = 0; i < n_tile * kv->n_kv_head * kv->d_head * AQ_TILE; i++)
        values[i] = stored(before(i), kv->value_type, NO_BUG);
    for (int64_t t = 0; t < a->n_tok; t++)
        for (int64_t g = 0; g < kv->n_kv_head; g++) {
            const int64_t tile = a->slot[t] / AQ_TILE * kv->n_kv_head + g;
            const int64_t slot = a->slot[t] % AQ_TILE;
            for (int64_t c = 0; c < kv->n_col; c++) {
                const int64_t dim_major = (tile * kv->n_col + c) * AQ_TILE + slot;
                const int64_t token_major = (tile * AQ_TILE + slot) * kv->n_col + c;
                keys[bug == KEYS_TOKEN_MAJOR ? token_major : dim_major] =
                    stored(a->key[(t * kv->n_kv_head + g) * kv->n_col + c], kv->key_type, bug);
            }
            for (int64_t i = 0; i < kv->d_head; i++)
                values[(tile * AQ_TILE + slot) * kv->d_head + i] =
                    stored(a->value[(t * kv->n_kv_head + g) * kv->d_head + i], kv->value_type, bug);
        }
}

static int64_t count_wrong(aq_backend *be, const aq_kv_append_args *a, int64_t n_tile,
                           planted_bug bug) {
    const int64_t n_key = n_tile * a->kv.n_kv_head * a->kv.n_col * AQ_TILE;
    const int64_t n_value = n_tile * a->kv.n_kv_head * a->kv.d_head * AQ_TILE;
    double *keys = aq_test_alloc(be, (size_t)n_key * sizeof *keys);
    double *values = aq_test_alloc(be, (size_t)n_value * sizeof *values);
    reference(a, n_tile, bug, keys, values);
    int64_t n_wrong = 0;
    for (int64_t i = 0; i < n_key; i++)
        n_wrong += element(a->kv.keys, a->kv.key_type, i) != keys[i];
    for (int64_t i = 0; i < n_value; i++)
        n_wrong += element(a->kv.values, a->kv.value_type, i) != values[i];
    be->ops->release(be, keys);
    be->ops->release(be, values);
    return n_wrong;
}

/* Distinct slots in a random order: a shuffle of all slots of the tiles. */
static void deal_slots(uint64_t seed, int64_t n_slot, int64_t *slot) {
    aq_rng rng = {seed};
    for (int64_t i = 0; i < n_slot; i++)
        slot[i] = i;
    for (int64_t i = n_slot - 1; i > 0; i--) {
        const int64_t j = (int64_t)(aq_rng_uniform(&rng) * (double)(i + 1));
        const int64_t other = slot[j];
        slot[j] = slot[i];
        slot[i] = other;
    }
}

static void check_shape(aq_backend *be, int s) {
    aq_kv_view kv = {.key_type = shapes[s].key_type,
                     .value_type = shapes[s].value_type,
                     .n_kv_head = shapes[s].n_kv_head,
                     .n_col = shapes[s].n_col,
                     .d_head = shapes[s].d_head};
    const int64_t n_slot = (int64_t)shapes[s].n_tile * AQ_TILE;
    const int64_t n_key = n_slot * kv.n_kv_head * kv.n_col;
    const int64_t n_value = n_slot * kv.n_kv_head * kv.d_head;
    const int64_t n_new_key = shapes[s].n_tok * kv.n_kv_head * kv.n_col;
    const int64_t n_new_value = shapes[s].n_tok * kv.n_kv_head * kv.d_head;
    kv.keys = aq_test_alloc(be, (size_t)aq_dtype_row_bytes(aq_kv_type_dtype(kv.key_type), n_key));
    kv.values =
        aq_test_alloc(be, (size_t)aq_dtype_row_bytes(aq_kv_type_dtype(kv.value_type), n_value));
    float *key = aq_test_alloc(be, (size_t)n_new_key * sizeof *key);
    float *value = aq_test_alloc(be, (size_t)n_new_value * sizeof *value);
    int64_t *slot = aq_test_alloc(be, (size_t)n_slot * sizeof *slot);
    for (int64_t i = 0; i < n_key; i++)
        set_element(kv.keys, kv.key_type, i, before(i));
    for (int64_t i = 0; i < n_value; i++)
        set_element(kv.values, kv.value_type, i, before(i));
    aq_fill_normal(1 + (uint64_t)s, n_new_key, 1.0f, key);
    aq_fill_normal(50 + (uint64_t)s, n_new_value, 1.0f, value);
    if (n_new_value > 1) {
        value[0] = 1.0f + 1.0f / 256; /* ties: down to 1, up to 1 + 4/256 */
        value[1] = 1.0f + 3.0f / 256;
    }
    deal_slots(90 + (uint64_t)s, n_slot, slot);
    const aq_kv_append_args args = {
        .kv = kv, .key = key, .value = value, .slot = slot, .n_tok = shapes[s].n_tok};
    be->ops->kv_append(be, &args);
    CU_ASSERT_EQUAL(count_wrong(be, &args, shapes[s].n_tile, NO_BUG), 0);
    if (args.n_tok > 0)
        CU_ASSERT_TRUE(count_wrong(be, &args, shapes[s].n_tile, KEYS_TOKEN_MAJOR) > 0);
    if (args.n_tok > 0 && kv.value_type == AQ_KV_BF16)
        CU_ASSERT_TRUE(count_wrong(be, &args, shapes[s].n_tile, CUT) > 0);
    be->ops->release(be, kv.keys);
    be->ops->release(be, kv.values);
    be->ops->release(be, key);
    be->ops->release(be, value);
    be->ops->release(be, slot);
}

static void contract(const aq_test_backend *on, void *arg) {
    (void)arg;
    for (int s = 0; s < N_SHAPE; s++)
        check_shape(on->be, s);
}

static void tokens_land_where_the_layout_says(void) {
    aq_each_backend(contract, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "tokens land where the layout says", tokens_land_where_the_layout_says);
}
