/* kv_append: every token lands where the layout says, within half a step of codes, and nothing else
 * changes. */
#include "kernels/kv_append.h"

#include <math.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/oracle_cache.h"
#include "tests/support/suite.h"

#define BEFORE 0xb5 /* every byte of the blocks before the test */

/* Beyond those of the oracle: what a wrong kernel would have done. */
typedef enum { NO_BUG, CUT, EARLY } planted_bug;

typedef struct {
    int n_kv_head, n_col, d_head, n_tile;
    aq_kv_type key_type, value_type;
    aq_key_order order;
    aq_code_layout codes;
    /* Tokens of each call, up to the first 0; with `scattered` all in one call, at slots in no
     * order. */
    int64_t chunks[6];
    bool scattered;
} append_shape;

#define BY_COLUMN AQ_KEYS_BY_COLUMN
#define BY_TOKEN  AQ_KEYS_BY_TOKEN

static const append_shape shapes[] = {
    {3, 64, 64, 2, AQ_KV_BF16, AQ_KV_BF16, BY_COLUMN, {0}, {1}, true},
    {1, 16, 16, 1, AQ_KV_F32, AQ_KV_F32, BY_COLUMN, {0}, {0}, true},
    {1, 19, 24, 1, AQ_KV_F32, AQ_KV_BF16, BY_TOKEN, {0}, {7}, true},
    {2, 24, 24, 3, AQ_KV_BF16, AQ_KV_F32, BY_TOKEN, {0}, {64}, true},
    {3, 48, 80, 7, AQ_KV_F32, AQ_KV_F32, BY_COLUMN, {0}, {300}, true},
    {4, 96, 96, 3, AQ_KV_BF16, AQ_KV_BF16, BY_TOKEN, {0}, {130}, true},
    {3, 64, 64, 4, AQ_KV_Q8, AQ_KV_Q8, BY_COLUMN, {0}, {250}, false},
    {1, 16, 16, 2, AQ_KV_Q8, AQ_KV_Q8, BY_COLUMN, {0}, {0}, false},
    {2, 19, 24, 4, AQ_KV_Q6, AQ_KV_Q5, BY_TOKEN, {0}, {30, 33, 1, 100, 28, 40}, false},
    {2, 24, 19, 4, AQ_KV_Q5, AQ_KV_Q6, BY_COLUMN, {0}, {64, 1, 1, 126}, false},
    {1, 67, 35, 3, AQ_KV_Q4, AQ_KV_Q4, BY_TOKEN, {0}, {63, 1, 70, 58}, false},
    {1, 64, 64, 3, AQ_KV_Q5M, AQ_KV_Q5M, BY_TOKEN, {0}, {130, 61}, false},
    {2, 30, 3, 3, AQ_KV_Q5M, AQ_KV_Q5M, BY_COLUMN, {0}, {130, 62}, false},
    {1, 256, 256, 2, AQ_KV_Q8, AQ_KV_Q4, BY_TOKEN, {0}, {70}, false},
    {3,
     64,
     64,
     4,
     AQ_KV_BF16,
     AQ_KV_BF16,
     BY_TOKEN,
     {3, {{16, 4}, {32, 2}, {16, 1}}},
     {100, 100, 50},
     false},
    {2,
     24,
     24,
     3,
     AQ_KV_F32,
     AQ_KV_Q8,
     BY_TOKEN,
     {4, {{3, 8}, {5, 5}, {7, 3}, {9, 6}}},
     {190},
     false},
    {1, 20, 16, 3, AQ_KV_Q8, AQ_KV_F32, BY_COLUMN, {2, {{5, 2}, {9, 1}}}, {64, 64, 64}, false},
};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

/* A cache, and every token written to it so far. */
typedef struct {
    aq_kv_view kv;
    int64_t n_tile, n_tok;
    float *key, *value;
    int64_t *slot;
} append_case;

static void *marked(aq_backend *be, int64_t bytes) {
    void *memory = aq_test_alloc(be, (size_t)bytes);
    memset(memory, BEFORE, (size_t)bytes);
    return memory;
}

/* Numbers as columns of keys are: each of its own mean and spread, some equal in all tokens, some
 * far from 0, some within one side of it. */
static void fill_numbers(aq_rng *rng, int64_t n_tok, int64_t n_row, int width, float *x) {
    for (int64_t i = 0; i < n_tok * n_row * width; i++) {
        const int64_t c = i % width;
        const double z = aq_rng_normal(rng);
        x[i] = (float)(c % 7 == 3   ? 0.1 * z + 40.0
                       : c % 7 == 5 ? -2.5
                       : c % 7 == 6 ? fabs(z)
                                    : z * exp2((double)(c % 9) - 4.0));
    }
}

/* Distinct slots in a random order: a shuffle of all slots of the tiles. */
static void deal_slots(aq_rng *rng, int64_t n_slot, int64_t *slot) {
    for (int64_t i = n_slot - 1; i > 0; i--) {
        const int64_t j = (int64_t)(aq_rng_uniform(rng) * (double)(i + 1));
        const int64_t other = slot[j];
        slot[j] = slot[i];
        slot[i] = other;
    }
}

static append_case open_case(aq_backend *be, const append_shape *shape, uint64_t seed) {
    aq_kv_view kv = {.key_type = shape->key_type,
                     .value_type = shape->value_type,
                     .key_order = shape->order,
                     .codes = shape->codes,
                     .n_kv_head = shape->n_kv_head,
                     .n_col = shape->n_col,
                     .d_head = shape->d_head,
                     .open_tile = -1};
    const int64_t n_block = (int64_t)shape->n_tile * kv.n_kv_head;
    const int64_t n_slot = (int64_t)shape->n_tile * AQ_TILE, n_open = kv.n_kv_head * AQ_TILE;
    kv.keys = marked(be, n_block * aq_cache_key_bytes(&kv));
    kv.values = marked(be, n_block * aq_cache_value_bytes(&kv));
    if (kv.codes.n_segment > 0) kv.selector = marked(be, n_block * aq_cache_selector_bytes(&kv));
    if (!shape->scattered) {
        kv.open_keys = marked(be, n_open * kv.n_col * (int64_t)sizeof(float));
        kv.open_values = marked(be, n_open * kv.d_head * (int64_t)sizeof(float));
    }
    append_case c = {.kv = kv, .n_tile = shape->n_tile};
    c.key = aq_test_alloc(be, (size_t)(n_slot * kv.n_kv_head * kv.n_col) * sizeof *c.key);
    c.value = aq_test_alloc(be, (size_t)(n_slot * kv.n_kv_head * kv.d_head) * sizeof *c.value);
    c.slot = aq_test_alloc(be, (size_t)n_slot * sizeof *c.slot);
    aq_rng rng = {seed};
    fill_numbers(&rng, n_slot, kv.n_kv_head, kv.n_col, c.key);
    fill_numbers(&rng, n_slot, kv.n_kv_head, kv.d_head, c.value);
    c.value[0] = 1.0f + 1.0f / 256; /* ties of bf16: down to 1, up to 1 + 4/256 */
    c.value[1] = 1.0f + 3.0f / 256;
    for (int64_t i = 0; i < n_slot; i++)
        c.slot[i] = i;
    if (shape->scattered) deal_slots(&rng, n_slot, c.slot);
    return c;
}

static void close_case(aq_backend *be, append_case *c) {
    be->ops->release(be, c->kv.keys);
    be->ops->release(be, c->kv.values);
    if (c->kv.selector) be->ops->release(be, c->kv.selector);
    if (c->kv.open_keys) be->ops->release(be, c->kv.open_keys);
    if (c->kv.open_values) be->ops->release(be, c->kv.open_values);
    be->ops->release(be, c->key);
    be->ops->release(be, c->value);
    be->ops->release(be, c->slot);
}

static void append(aq_backend *be, append_case *c, int64_t n) {
    const int64_t from = c->n_tok * c->kv.n_kv_head;
    be->ops->kv_append(be, &(aq_kv_append_args){.kv = c->kv,
                                                .key = c->key + from * c->kv.n_col,
                                                .value = c->value + from * c->kv.d_head,
                                                .slot = c->slot + c->n_tok,
                                                .n_tok = n});
    c->n_tok += n;
    if (c->kv.open_keys) c->kv.open_tile = c->n_tok % AQ_TILE == 0 ? -1 : c->n_tok / AQ_TILE;
}

/* x as a number of the type. bf16 keeps 8 significant bits: rint of the scaled number, which rounds
 * ties to even. */
static double rounded(float x, aq_kv_type type, planted_bug bug) {
    if (type != AQ_KV_BF16 || x == 0.0f) return (double)x;
    int exponent;
    const double fraction = frexp((double)x, &exponent) * 256.0;
    return ldexp(bug == CUT ? trunc(fraction) : rint(fraction), exponent - 8);
}

/* Checks a stored number: exactly, or within half a step. The kernel's arithmetic is fp32: a code
 * may be the other one where x lies between two, by so much as the difference is rounded. */
static void check_number(aq_bound *bound, double y, float x, double step, aq_kv_type type,
                         bool open, planted_bug bug) {
    const double ref = open ? (double)x : rounded(x, type, bug);
    const double allowed = step * (0.5 + 1e-5) + fabs((double)x) * ldexp(1.0, -24);
    aq_bound_element(bound, (float)(y - ref), 0.0, 0.0, step > 0.0 ? allowed : ldexp(1.0, -140));
}

/* Every token written, as attention has to see it, against what was written. */
static void check_tokens(const append_case *c, aq_cache_bug bug, planted_bug cut, aq_bound *bound) {
    const aq_kv_view *kv = &c->kv;
    for (int64_t t = 0; t < c->n_tok; t++)
        for (int g = 0; g < kv->n_kv_head; g++) {
            const int64_t tile = c->slot[t] / AQ_TILE, row = t * kv->n_kv_head + g;
            const int s = (int)(c->slot[t] % AQ_TILE);
            const bool open = tile == kv->open_tile;
            for (int i = 0; i < kv->n_col; i++)
                check_number(
                    bound, aq_cache_key(kv, tile, g, s, i, bug), c->key[row * kv->n_col + i],
                    open ? 0.0 : aq_cache_key_step(kv, tile, g, i), kv->key_type, open, cut);
            for (int i = 0; i < kv->d_head; i++)
                check_number(
                    bound, aq_cache_value(kv, tile, g, s, i, bug), c->value[row * kv->d_head + i],
                    open ? 0.0 : aq_cache_value_step(kv, tile, g, s), kv->value_type, open, cut);
        }
}

/* What n numbers, `stride` apart, are like. */
typedef struct {
    double mean, sd, low, high;
} number_facts;

static number_facts facts_of(const float *x, int64_t n, int64_t stride) {
    number_facts f = {.low = INFINITY, .high = -INFINITY};
    for (int64_t i = 0; i < n; i++) {
        const double z = (double)x[i * stride];
        f.mean += z / (double)n;
        f.low = fmin(f.low, z);
        f.high = fmax(f.high, z);
    }
    for (int64_t i = 0; i < n; i++)
        f.sd += pow((double)x[i * stride] - f.mean, 2.0) / (double)n;
    f.sd = sqrt(f.sd);
    return f;
}

/* Column i of a whole tile. */
static number_facts column_facts(const append_case *c, int64_t tile, int g, int i) {
    const int64_t stride = (int64_t)c->kv.n_kv_head * c->kv.n_col;
    return facts_of(c->key + tile * AQ_TILE * stride + (int64_t)g * c->kv.n_col + i, AQ_TILE,
                    stride);
}

/* Steps of keys and values of every whole tile: no larger than the range needs, but for roundings
 * of step and, for keys, low to f16. */
static void check_steps(const append_case *c, aq_bound *bound) {
    static const int fewest_bits[AQ_KV_TYPES] = {
        [AQ_KV_Q8] = 8, [AQ_KV_Q6] = 6, [AQ_KV_Q5] = 5, [AQ_KV_Q5M] = 4, [AQ_KV_Q4] = 4};
    const aq_kv_view *kv = &c->kv;
    const double key_top = exp2(fewest_bits[kv->key_type]) - 1.0;
    const double value_top = exp2(fewest_bits[kv->value_type]) - 1.0;
    const double tiny = ldexp(1.0, -24);
    for (int64_t tile = 0; tile < c->n_tok / AQ_TILE; tile++)
        for (int g = 0; g < kv->n_kv_head; g++) {
            for (int i = 0; i < kv->n_col && aq_kv_type_coded(kv->key_type); i++) {
                const number_facts f = column_facts(c, tile, g, i);
                const double range = f.high - f.low + ldexp(fabs(f.low), -10) + tiny;
                aq_bound_element(bound, (float)aq_cache_key_step(kv, tile, g, i), 0.0, 0.0,
                                 range / key_top * (1.0 + ldexp(1.0, -10)) + tiny);
            }
            for (int s = 0; s < AQ_TILE && aq_kv_type_coded(kv->value_type); s++) {
                const int64_t row = (tile * AQ_TILE + s) * kv->n_kv_head + g;
                const number_facts f = facts_of(c->value + row * kv->d_head, kv->d_head, 1);
                const double range = fmax(f.high, 0.0) - fmin(f.low, 0.0);
                aq_bound_element(bound, (float)aq_cache_value_step(kv, tile, g, s), 0.0, 0.0,
                                 range / value_top * (1.0 + ldexp(1.0, -10)) + tiny);
            }
        }
}

/* The most that a column's codes may be off, root mean square. The plain rules are never better
 * (test_code_column tells how much worse): half a step of the range over the codes, steps an eighth
 * apart and with room for a base rounded to f16; the deviation itself for 1 and 2 bits. */
static double selector_room(const number_facts *f, int bits) {
    const double range = f->high - f->low, far = ldexp(fabs(f->mean) + range, -10);
    const double most = bits <= 2 ? 0.8 * f->sd : (range / ((1 << bits) - 1) + far) * 1.126 / 2;
    return most + ldexp(fabs(f->mean), -11) * 1.01 + ldexp(1.0, -24);
}

/* The selector of every whole tile. */
static void check_selector(const append_case *c, aq_cache_bug bug, aq_bound *bound) {
    const aq_kv_view *kv = &c->kv;
    const int n = aq_code_layout_columns(&kv->codes);
    for (int64_t at = 0; at < c->n_tok / AQ_TILE * kv->n_kv_head * n; at++) {
        const int i = (int)(at % n), g = (int)(at / n % kv->n_kv_head);
        const int64_t tile = at / n / kv->n_kv_head;
        const number_facts f = column_facts(c, tile, g, i);
        double square = 0.0;
        for (int s = 0; s < AQ_TILE; s++) {
            const int64_t t = tile * AQ_TILE + s;
            const double x = (double)c->key[(t * kv->n_kv_head + g) * kv->n_col + i];
            square += pow(aq_cache_selector(kv, tile, g, s, i, bug) - x, 2.0) / AQ_TILE;
        }
        aq_bound_element(bound, (float)sqrt(square), 0.0, 0.0,
                         selector_room(&f, aq_code_layout_bits_at(&kv->codes, i)));
    }
}

/* Whether the blocks of places that no token was written to are as before. */
static bool rest_untouched(const append_case *c, int64_t first_tile) {
    const aq_kv_view *kv = &c->kv;
    const void *tensors[] = {kv->keys, kv->values, kv->selector};
    const int64_t bytes[] = {aq_cache_key_bytes(kv), aq_cache_value_bytes(kv),
                             aq_cache_selector_bytes(kv)};
    for (int i = 0; i < 3; i++)
        for (int64_t at = first_tile * kv->n_kv_head * bytes[i];
             at < c->n_tile * kv->n_kv_head * bytes[i]; at++)
            if (((const uint8_t *)tensors[i])[at] != BEFORE) return false;
    return true;
}

/* Whether every slot without a token still holds what it held, in caches of numbers. */
static bool slots_untouched(const append_case *c) {
    const aq_kv_view *kv = &c->kv;
    for (int64_t t = c->n_tok; t < c->n_tile * AQ_TILE; t++)
        for (int g = 0; g < kv->n_kv_head; g++) {
            uint32_t mark;
            memset(&mark, BEFORE, sizeof mark);
            float f32;
            memcpy(&f32, &mark, sizeof f32);
            const double key =
                kv->key_type == AQ_KV_F32 ? (double)f32 : (double)aq_bf16_to_f32((uint16_t)mark);
            const double value =
                kv->value_type == AQ_KV_F32 ? (double)f32 : (double)aq_bf16_to_f32((uint16_t)mark);
            const int64_t tile = c->slot[t] / AQ_TILE;
            const int s = (int)(c->slot[t] % AQ_TILE);
            for (int i = 0; i < kv->n_col; i++)
                if (aq_cache_key(kv, tile, g, s, i, AQ_CACHE_RIGHT) != key) return false;
            for (int i = 0; i < kv->d_head; i++)
                if (aq_cache_value(kv, tile, g, s, i, AQ_CACHE_RIGHT) != value) return false;
        }
    return true;
}

typedef struct {
    bool plant; /* whether bugs are planted: once is enough, the check is the same everywhere */
    aq_bound right, steps, selector, cut, early;
    aq_bound planted[AQ_CACHE_BUGS], planted_selector[AQ_CACHE_BUGS];
} append_bounds;

static void check_case(const append_case *c, append_bounds *bounds) {
    check_tokens(c, AQ_CACHE_RIGHT, NO_BUG, &bounds->right);
    check_steps(c, &bounds->steps);
    if (c->kv.codes.n_segment > 0) check_selector(c, AQ_CACHE_RIGHT, &bounds->selector);
    if (!bounds->plant) return;
    check_tokens(c, AQ_CACHE_RIGHT, CUT, &bounds->cut);
    for (aq_cache_bug bug = AQ_CACHE_PLANES; bug <= AQ_CACHE_ORDER; bug++)
        check_tokens(c, bug, NO_BUG, &bounds->planted[bug]);
    for (aq_cache_bug bug = AQ_CACHE_PLANES; bug < AQ_CACHE_BUGS && c->kv.selector; bug++)
        check_selector(c, bug, &bounds->planted_selector[bug]);
}

/* The plant: a tile that is coded a token before its last. Its last token is then that of before.
 */
static void check_early(aq_backend *be, append_case *c, aq_bound *bound) {
    const int64_t last = (AQ_TILE - 1) * c->kv.n_kv_head * c->kv.n_col;
    const float kept = c->key[last];
    c->key[last] = kept + 1e6f;
    c->n_tok = 0;
    append(be, c, AQ_TILE);
    c->key[last] = kept;
    check_tokens(c, AQ_CACHE_RIGHT, NO_BUG, bound);
}

static void check_shape(aq_backend *be, const append_shape *shape, uint64_t seed,
                        append_bounds *bounds) {
    append_case c = open_case(be, shape, seed);
    for (int i = 0; i < 6 && shape->chunks[i] > 0; i++) {
        append(be, &c, shape->chunks[i]);
        check_case(&c, bounds);
        CU_ASSERT_TRUE(shape->scattered ? slots_untouched(&c)
                                        : rest_untouched(&c, c.n_tok / AQ_TILE));
    }
    if (c.n_tok == 0) {
        append(be, &c, 0);
        CU_ASSERT_TRUE(rest_untouched(&c, 0));
    }
    if (bounds->plant && !shape->scattered && c.n_tok >= AQ_TILE)
        check_early(be, &c, &bounds->early);
    close_case(be, &c);
}

static const struct {
    aq_cache_bug bug;
    bool of_selector, of_selector_only;
    const char *name;
} plants[] = {{AQ_CACHE_PLANES, true, false, "planes of codes in the wrong order"},
              {AQ_CACHE_PAIRS, true, false, "neighbours in one byte"},
              {AQ_CACHE_NEIGHBOUR, true, false, "the step of the neighbour"},
              {AQ_CACHE_ZERO, false, false, "no zero point"},
              {AQ_CACHE_CLOSED, false, false, "the open tile forgotten"},
              {AQ_CACHE_ORDER, false, false, "the other order of keys"},
              {AQ_CACHE_LEVELS, true, true, "even levels for 2 bits"},
              {AQ_CACHE_STEP8, true, true, "steps that are powers of 2"}};

#define N_PLANT ((int)(sizeof plants / sizeof plants[0]))

static void contract(const aq_test_backend *on, void *arg) {
    (void)arg;
    append_bounds bounds = {.plant = on->isa == AQ_ISA_PORTABLE && on->n_thread == 1};
    for (int i = 0; i < N_SHAPE; i++)
        check_shape(on->be, &shapes[i], 1 + (uint64_t)i, &bounds);
    aq_bound_expect(&bounds.right, "kv_append");
    aq_bound_expect(&bounds.steps, "steps of codes");
    aq_bound_expect(&bounds.selector, "codes of a selector");
    if (!bounds.plant) return;
    aq_bound_expect_rejects(&bounds.cut, "bf16 cut instead of rounded");
    aq_bound_expect_rejects(&bounds.early, "a tile coded before its last token");
    for (int i = 0; i < N_PLANT; i++) {
        if (!plants[i].of_selector_only)
            aq_bound_expect_rejects(&bounds.planted[plants[i].bug], plants[i].name);
        if (plants[i].of_selector)
            aq_bound_expect_rejects(&bounds.planted_selector[plants[i].bug], plants[i].name);
    }
}

static void tokens_land_where_the_layout_says(void) {
    aq_each_backend(contract, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "tokens land where the layout says", tokens_land_where_the_layout_says);
}
