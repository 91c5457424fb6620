/* attn_partial with so many rows that a device may round factors to bf16: against the formula in
 * double precision, to what such roundings can do to normal numbers. */
#include <math.h>
#include <string.h>

#include "kernels/attn_partial.h"
#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/oracle_cache.h"
#include "tests/support/suite.h"

/* Of an output, which is a mean of values of size 1 with weights that are wrong by 2 % at most. */
#define ALLOWED 0.03

typedef struct {
    int64_t n_q;
    int n_head, n_kv_head, d, n_dim;
    aq_kv_type key_type, value_type;
    aq_key_order order;
    int64_t n_tile;
    int n_open; /* tokens of the last tile, if it is open */
    int64_t window;
    bool slots;
} many_shape;

#define BY_COLUMN AQ_KEYS_BY_COLUMN
#define BY_TOKEN  AQ_KEYS_BY_TOKEN

static const many_shape shapes[] = {
    {70, 4, 2, 64, 0, AQ_KV_BF16, AQ_KV_BF16, BY_COLUMN, 7, 0, 0, false},
    {100, 8, 2, 128, 0, AQ_KV_BF16, AQ_KV_BF16, BY_COLUMN, 4, 0, 90, false},
    {40, 3, 1, 128, 96, AQ_KV_BF16, AQ_KV_BF16, BY_COLUMN, 5, 0, 0, false},
    {70, 2, 1, 64, 0, AQ_KV_BF16, AQ_KV_BF16, BY_TOKEN, 6, 0, 0, true},
    {90, 4, 2, 128, 0, AQ_KV_Q8, AQ_KV_Q8, BY_TOKEN, 5, 40, 0, false},
    {130, 2, 2, 128, 0, AQ_KV_Q8, AQ_KV_Q8, BY_COLUMN, 5, 63, 70, false},
    {70, 2, 1, 256, 0, AQ_KV_Q8, AQ_KV_BF16, BY_COLUMN, 3, 9, 0, false},
    {66, 1, 1, 64, 0, AQ_KV_Q5M, AQ_KV_Q4, BY_TOKEN, 3, 0, 0, false},
};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

/* For devices, which leave all tiles to one block of threads where there are so many rows. */
static const many_shape long_shapes[] = {
    {270, 128, 1, 64, 0, AQ_KV_BF16, AQ_KV_BF16, BY_COLUMN, 31, 0, 0, false},
    {135, 128, 1, 64, 0, AQ_KV_Q8, AQ_KV_Q8, BY_TOKEN, 24, 17, 900, false},
    {135, 128, 1, 128, 96, AQ_KV_BF16, AQ_KV_BF16, BY_TOKEN, 19, 0, 0, false},
    {135, 128, 1, 128, 0, AQ_KV_BF16, AQ_KV_BF16, BY_COLUMN, 20, 0, 0, true},
    {135, 128, 1, 128, 0, AQ_KV_Q8, AQ_KV_Q8, BY_COLUMN, 19, 40, 0, false},
    {68, 256, 2, 256, 0, AQ_KV_BF16, AQ_KV_Q8, BY_COLUMN, 9, 1, 0, false},
    {135, 128, 1, 256, 0, AQ_KV_BF16, AQ_KV_BF16, BY_TOKEN, 10, 0, 300, false},
};

#define N_LONG   ((int)(sizeof long_shapes / sizeof long_shapes[0]))
#define LONG_ROW 1009 /* between those that are looked at */

static int64_t tokens_of(const many_shape *shape) {
    return (shape->n_tile - (shape->n_open > 0)) * AQ_TILE + shape->n_open;
}

static aq_kv_view open_cache(aq_backend *be, const many_shape *shape) {
    const int64_t n_tok = tokens_of(shape), n_head = shape->n_kv_head, d = shape->d;
    aq_kv_view kv = {.key_type = shape->key_type,
                     .value_type = shape->value_type,
                     .key_order = shape->order,
                     .n_kv_head = shape->n_kv_head,
                     .n_col = shape->d,
                     .d_head = shape->d,
                     .open_tile = shape->n_open > 0 ? shape->n_tile - 1 : -1};
    kv.keys = aq_test_alloc(be, (size_t)(shape->n_tile * n_head * aq_cache_key_bytes(&kv)));
    kv.values = aq_test_alloc(be, (size_t)(shape->n_tile * n_head * aq_cache_value_bytes(&kv)));
    if (aq_kv_has_open_tile(&kv)) {
        kv.open_keys = aq_test_alloc(be, (size_t)(n_head * d * AQ_TILE) * sizeof(float));
        kv.open_values = aq_test_alloc(be, (size_t)(n_head * d * AQ_TILE) * sizeof(float));
    }
    float *key = aq_test_alloc(be, (size_t)(n_tok * n_head * d) * sizeof *key);
    float *value = aq_test_alloc(be, (size_t)(n_tok * n_head * d) * sizeof *value);
    int64_t *slot = aq_test_alloc(be, (size_t)n_tok * sizeof *slot);
    aq_fill_normal(1, n_tok * n_head * d, 1.0f, key);
    aq_fill_normal(2, n_tok * n_head * d, 1.0f, value);
    for (int64_t t = 0; t < n_tok; t++)
        slot[t] = t;
    be->ops->kv_append(be, &(aq_kv_append_args){kv, key, value, slot, n_tok});
    be->ops->release(be, key);
    be->ops->release(be, value);
    be->ops->release(be, slot);
    return kv;
}

/* Queries are the last tokens; slots, if any, are in the reverse order, every fifth is free. */
static aq_attn_partial_args open_problem(aq_backend *be, const many_shape *shape) {
    const int64_t n_row = shape->n_q * shape->n_head, n_slot = shape->n_tile * AQ_TILE;
    float *q = aq_test_alloc(be, (size_t)(n_row * shape->d) * sizeof *q);
    int64_t *q_pos = aq_test_alloc(be, (size_t)shape->n_q * sizeof *q_pos);
    int64_t *tile_pos = aq_test_alloc(be, (size_t)shape->n_tile * sizeof *tile_pos);
    int64_t *slot_pos = shape->slots ? aq_test_alloc(be, (size_t)n_slot * sizeof *slot_pos) : NULL;
    int16_t *dims =
        shape->n_dim > 0 ? aq_test_alloc(be, (size_t)(n_row * shape->n_dim) * sizeof *dims) : NULL;
    aq_fill_normal(3, n_row * shape->d, 1.0f, q);
    for (int64_t t = 0; t < shape->n_q; t++)
        q_pos[t] = tokens_of(shape) - shape->n_q + t;
    for (int64_t i = 0; i < n_slot; i++) {
        if (i % AQ_TILE == 0) tile_pos[i / AQ_TILE] = slot_pos ? INT64_MAX : i;
        if (slot_pos) slot_pos[i] = i % 5 == 4 ? INT64_MAX : n_slot - 1 - i;
        if (slot_pos && slot_pos[i] < tile_pos[i / AQ_TILE]) tile_pos[i / AQ_TILE] = slot_pos[i];
    }
    for (int64_t i = 0; i < n_row * shape->n_dim; i++)
        dims[i] = (int16_t)(i % shape->n_dim + i / shape->n_dim % (shape->d - shape->n_dim));
    return (aq_attn_partial_args){
        .q = q,
        .dims = dims,
        .n_dim = shape->n_dim,
        .q_pos = q_pos,
        .n_q = shape->n_q,
        .n_head = shape->n_head,
        .scale = 1.0f / sqrtf((float)shape->d),
        .kv = open_cache(be, shape),
        .tile_pos = tile_pos,
        .n_tile = shape->n_tile,
        .slot_pos = slot_pos,
        .window = shape->window,
        .part = aq_test_alloc(be, (size_t)(n_row * (shape->d + 2)) * sizeof(float))};
}

static void close_problem(aq_backend *be, const aq_attn_partial_args *a) {
    void *const memory[] = {
        (void *)a->q, (void *)a->dims, (void *)a->q_pos, (void *)a->tile_pos, (void *)a->slot_pos,
        a->kv.keys,   a->kv.values,    a->kv.open_keys,  a->kv.open_values,   a->part};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        if (memory[i]) be->ops->release(be, memory[i]);
}

/* Score of a token, 0 in *sees if it is not seen; `later` queries see one token more. */
static double score_of(const aq_attn_partial_args *a, int64_t row, int64_t i, bool later,
                       bool *sees) {
    const int64_t pos = a->slot_pos ? a->slot_pos[i] : i;
    const int64_t here = a->q_pos[row / a->n_head] + later;
    const int g = (int)(row % a->n_head / (a->n_head / a->kv.n_kv_head));
    const int n = a->dims ? a->n_dim : a->kv.n_col;
    double sum = 0.0;
    *sees = pos <= here && (a->window == 0 || pos > here - a->window);
    for (int j = 0; j < n && *sees; j++) {
        const int c = a->dims ? a->dims[row * n + j] : j;
        sum += (double)a->q[row * a->kv.n_col + c] *
               aq_cache_key(&a->kv, i / AQ_TILE, g, (int)(i % AQ_TILE), c, AQ_CACHE_RIGHT);
    }
    return (double)a->scale * sum;
}

/* o / l, and m + log l, of one row. */
static void check_row(const aq_attn_partial_args *a, int64_t row, int64_t n_tok, bool later,
                      aq_bound *bound) {
    const int d = a->kv.d_head, g = (int)(row % a->n_head / (a->n_head / a->kv.n_kv_head));
    const float *part = a->part + row * (d + 2);
    double o[256] = {0}, l = 0.0;
    for (int64_t i = 0; i < n_tok; i++) {
        bool sees;
        const double w = exp(score_of(a, row, i, later, &sees));
        if (!sees) continue;
        l += w;
        for (int c = 0; c < d; c++)
            o[c] +=
                w * aq_cache_value(&a->kv, i / AQ_TILE, g, (int)(i % AQ_TILE), c, AQ_CACHE_RIGHT);
    }
    aq_bound_element(bound, part[d] + logf(part[d + 1]), log(l), 0.0, ALLOWED);
    for (int c = 0; c < d; c++)
        aq_bound_element(bound, part[c] / part[d + 1], o[c] / l, 0.0, ALLOWED);
}

/* Looks at every `apart`-th row. */
static void check_shape(const aq_test_backend *on, const many_shape *shape, int64_t apart,
                        aq_bound *right, aq_bound *later) {
    const aq_attn_partial_args args = open_problem(on->be, shape);
    on->be->ops->attn_partial(on->be, &args);
    for (int64_t row = 0; row < args.n_q * args.n_head; row += apart) {
        check_row(&args, row, tokens_of(shape), false, right);
        if (later && row < 14) check_row(&args, row, tokens_of(shape), true, later);
    }
    close_problem(on->be, &args);
}

static void contract(const aq_test_backend *on, void *arg) {
    const bool plants = on->isa == AQ_ISA_PORTABLE && on->n_thread == 1;
    aq_bound right = {0}, later = {0};
    (void)arg;
    for (int i = 0; i < N_SHAPE; i++)
        check_shape(on, &shapes[i], 7, &right, plants ? &later : NULL);
    for (int i = 0; i < N_LONG && aq_test_device(on); i++)
        check_shape(on, &long_shapes[i], LONG_ROW, &right, NULL);
    aq_bound_expect(&right, "attn_partial of many queries");
    if (plants) aq_bound_expect_rejects(&later, "a query that does not see the next token");
}

static void many_queries_are_near_the_formula(void) {
    aq_each_backend(contract, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "many queries are near the formula", many_queries_are_near_the_formula);
}
