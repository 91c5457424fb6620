/* attn_partial: against the formula in double precision; whole and windowed, from places in any
 * order, and cut over ranks and merged. */
#include "kernels/attn_partial.h"

#include <math.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/oracle_cache.h"
#include "tests/support/oracle_partial.h"
#include "tests/support/suite.h"

/* Where the queries stand. LAST: they are the newest tokens. EDGES: at and around the ends of tiles
 * and before the first, in no order. BEFORE: before every tile. */
typedef enum { LAST, EDGES, BEFORE } query_places;

/* INTEGERS: scores are exact in fp32, and large: no error of a score enters the tolerance. */
typedef enum { NORMAL, INTEGERS } data_kind;

typedef struct {
    int64_t n_q;
    int n_head, n_kv_head, d_head, n_col, n_dim; /* n_dim 0: dims NULL */
    aq_kv_type key_type, value_type;
    int64_t n_tile, gap; /* tiles held; every gap-th tile of the text is held */
    query_places places;
    data_kind data;
    int64_t window;
    bool ring; /* tiles are stored in places of no order, with others between them */
} attn_shape;

static const attn_shape shapes[] = {
    {1, 9, 3, 64, 64, 0, AQ_KV_BF16, AQ_KV_BF16, 37, 1, LAST, NORMAL, 0, false},
    {1, 9, 3, 64, 64, 48, AQ_KV_BF16, AQ_KV_BF16, 37, 1, LAST, NORMAL, 0, false},
    {1, 4, 1, 24, 24, 0, AQ_KV_F32, AQ_KV_F32, 50, 1, LAST, NORMAL, 0, false},
    {8, 6, 2, 24, 19, 0, AQ_KV_F32, AQ_KV_BF16, 5, 3, EDGES, NORMAL, 0, false},
    {8, 6, 2, 24, 19, 7, AQ_KV_BF16, AQ_KV_F32, 5, 3, EDGES, NORMAL, 0, false},
    {5, 4, 4, 80, 80, 60, AQ_KV_F32, AQ_KV_F32, 3, 1, LAST, NORMAL, 0, false},
    {3, 5, 1, 96, 96, 0, AQ_KV_BF16, AQ_KV_BF16, 4, 2, EDGES, NORMAL, 0, false},
    {2, 2, 2, 256, 200, 64, AQ_KV_BF16, AQ_KV_BF16, 3, 1, LAST, NORMAL, 0, false},
    {4, 6, 2, 16, 16, 0, AQ_KV_F32, AQ_KV_F32, 3, 2, BEFORE, NORMAL, 0, false},
    {3, 6, 2, 16, 16, 4, AQ_KV_F32, AQ_KV_F32, 0, 1, LAST, NORMAL, 0, false},
    {0, 6, 2, 16, 16, 0, AQ_KV_F32, AQ_KV_F32, 2, 1, LAST, NORMAL, 0, false},
    {200, 6, 2, 16, 16, 0, AQ_KV_BF16, AQ_KV_BF16, 5, 1, LAST, NORMAL, 0, false},
    {200, 6, 2, 16, 16, 9, AQ_KV_BF16, AQ_KV_BF16, 5, 2, EDGES, NORMAL, 0, false},
    {70, 3, 1, 24, 24, 0, AQ_KV_F32, AQ_KV_F32, 4, 2, EDGES, NORMAL, 0, false},
    {1, 130, 1, 16, 16, 0, AQ_KV_BF16, AQ_KV_BF16, 6, 1, LAST, NORMAL, 0, false},
    {1, 3, 1, 40, 40, 0, AQ_KV_F32, AQ_KV_F32, 9, 1, LAST, INTEGERS, 0, false},
    {90, 2, 1, 32, 32, 20, AQ_KV_BF16, AQ_KV_BF16, 6, 1, LAST, INTEGERS, 0, false},
    {1, 9, 3, 64, 64, 0, AQ_KV_BF16, AQ_KV_BF16, 37, 1, LAST, NORMAL, 1000, true},
    {1, 9, 3, 64, 64, 48, AQ_KV_BF16, AQ_KV_BF16, 6, 1, LAST, NORMAL, 1, false},
    {1, 4, 1, 24, 24, 0, AQ_KV_F32, AQ_KV_F32, 7, 1, LAST, NORMAL, 70, false},
    {8, 6, 2, 24, 19, 7, AQ_KV_BF16, AQ_KV_F32, 5, 3, EDGES, NORMAL, 5, true},
    {8, 6, 2, 24, 19, 0, AQ_KV_F32, AQ_KV_BF16, 5, 1, EDGES, NORMAL, 64, true},
    {8, 6, 2, 24, 24, 0, AQ_KV_F32, AQ_KV_F32, 5, 1, EDGES, NORMAL, 70, false},
    {4, 6, 2, 16, 16, 0, AQ_KV_F32, AQ_KV_F32, 3, 2, BEFORE, NORMAL, 5, true},
    {3, 6, 2, 16, 16, 4, AQ_KV_F32, AQ_KV_F32, 5, 1, EDGES, NORMAL, 0, true},
    {200, 6, 2, 16, 16, 0, AQ_KV_BF16, AQ_KV_BF16, 9, 1, LAST, NORMAL, 70, true},
    {200, 6, 2, 16, 16, 9, AQ_KV_BF16, AQ_KV_BF16, 6, 1, LAST, NORMAL, 64, false},
    {200, 6, 2, 16, 16, 0, AQ_KV_F32, AQ_KV_F32, 5, 1, LAST, NORMAL, 5, true},
    {200, 6, 2, 16, 16, 0, AQ_KV_F32, AQ_KV_F32, 5, 1, EDGES, NORMAL, 1, true},
    {300, 4, 1, 16, 16, 0, AQ_KV_BF16, AQ_KV_BF16, 21, 1, LAST, NORMAL, 1000, false},
    {90, 2, 1, 32, 32, 20, AQ_KV_BF16, AQ_KV_BF16, 6, 1, LAST, INTEGERS, 70, true},
    {1, 8, 2, 128, 128, 0, AQ_KV_BF16, AQ_KV_BF16, 37, 1, LAST, NORMAL, 0, false},
    {2, 8, 2, 128, 128, 40, AQ_KV_BF16, AQ_KV_BF16, 9, 2, EDGES, NORMAL, 0, true},
    {2, 7, 1, 128, 100, 0, AQ_KV_BF16, AQ_KV_BF16, 5, 1, LAST, NORMAL, 70, false},
    {1, 6, 1, 256, 256, 0, AQ_KV_BF16, AQ_KV_BF16, 7, 1, LAST, INTEGERS, 0, false},
    {1, 6, 1, 128, 128, 0, AQ_KV_F32, AQ_KV_F32, 9, 1, LAST, NORMAL, 0, true},
    {2, 4, 2, 64, 64, 40, AQ_KV_F32, AQ_KV_F32, 5, 2, EDGES, NORMAL, 70, false},
};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

/* Places of a ring that hold no tile. */
#define N_SPARE 3

static int64_t n_place(const attn_shape *shape) {
    return shape->n_tile + (shape->ring ? N_SPARE : 0);
}

static float make_number(data_kind kind, aq_rng *rng) {
    if (kind == NORMAL) return (float)aq_rng_normal(rng);
    return (float)((int)(aq_rng_uniform(rng) * 65.0) - 32);
}

static int64_t place_query(const attn_shape *shape, int64_t t, aq_rng *rng) {
    static const int64_t edges[] = {-1, 0, 1, AQ_TILE - 2, AQ_TILE - 1, AQ_TILE, AQ_TILE + 1};
    const int64_t held = (int64_t)(aq_rng_uniform(rng) * (double)shape->n_tile);
    if (shape->places == BEFORE) return t;
    if (shape->places == EDGES) return (1 + held * shape->gap) * AQ_TILE + edges[t % 7];
    return (1 + shape->n_tile * shape->gap) * AQ_TILE - 5 - shape->n_q + t;
}

/* Puts the tiles of a ring in its places, from the second place on and then backwards. */
static int64_t *make_ring(aq_backend *be, const attn_shape *shape) {
    int64_t *tile_at = aq_test_alloc(be, (size_t)shape->n_tile * sizeof *tile_at);
    for (int64_t tile = 0; tile < shape->n_tile; tile++)
        tile_at[tile] = (n_place(shape) + 1 - tile) % n_place(shape);
    return tile_at;
}

/* What must not be read at all: NaN in every place. */
static void poison_cache(const aq_kv_view *kv, int64_t n_place) {
    const int64_t n_slot = n_place * kv->n_kv_head * AQ_TILE;
    memset(kv->keys, 0xff,
           (size_t)aq_dtype_row_bytes(aq_kv_type_dtype(kv->key_type), n_slot * kv->n_col));
    memset(kv->values, 0xff,
           (size_t)aq_dtype_row_bytes(aq_kv_type_dtype(kv->value_type), n_slot * kv->d_head));
}

/* Fills the tiles. Tokens after the last query and before the first window hold what must not be
 * seen: large numbers; a tile that no query sees stays poisoned, as do places without a tile. */
static void fill_cache(aq_attn_partial_args *a, data_kind data, aq_rng *rng) {
    const aq_kv_view *kv = &a->kv;
    int64_t first = INT64_MAX, last = -1;
    for (int64_t t = 0; t < a->n_q; t++) {
        if (a->q_pos[t] < first) first = a->q_pos[t];
        if (a->q_pos[t] > last) last = a->q_pos[t];
    }
    first = a->window > 0 && a->n_q > 0 ? first - a->window + 1 : 0;
    for (int64_t tile = 0; tile < a->n_tile; tile++) {
        if (a->tile_pos[tile] > last || a->tile_pos[tile] + AQ_TILE <= first) continue;
        for (int64_t g = 0; g < kv->n_kv_head; g++)
            for (int64_t s = 0; s < AQ_TILE; s++) {
                const int64_t pos = a->tile_pos[tile] + s;
                const bool unseen = pos > last || pos < first;
                const int64_t at = aq_partial_place(a, tile) * kv->n_kv_head + g;
                for (int64_t c = 0; c < kv->n_col; c++)
                    aq_cache_set(kv->keys, kv->key_type, (at * kv->n_col + c) * AQ_TILE + s,
                                 unseen ? 1e25f : make_number(data, rng));
                for (int64_t i = 0; i < kv->d_head; i++)
                    aq_cache_set(kv->values, kv->value_type, (at * AQ_TILE + s) * kv->d_head + i,
                                 unseen ? 1e25f : make_number(NORMAL, rng));
            }
    }
}

/* A problem of the shape, in memory of the backend; close_problem releases it. */
static aq_attn_partial_args open_problem(aq_backend *be, const attn_shape *shape) {
    const int64_t n_slot = n_place(shape) * shape->n_kv_head * AQ_TILE;
    const int64_t n_row = shape->n_q * shape->n_head;
    float *q = aq_test_alloc(be, (size_t)(n_row * shape->n_col) * sizeof *q);
    int64_t *q_pos = aq_test_alloc(be, (size_t)shape->n_q * sizeof *q_pos);
    int64_t *tile_pos = aq_test_alloc(be, (size_t)shape->n_tile * sizeof *tile_pos);
    int16_t *dims = NULL;
    aq_rng rng = {(uint64_t)(shape->n_q * 1000 + shape->d_head * 10 + shape->n_dim)};
    for (int64_t i = 0; i < n_row * shape->n_col; i++)
        q[i] = make_number(shape->data, &rng);
    for (int64_t t = 0; t < shape->n_q; t++)
        q_pos[t] = place_query(shape, t, &rng);
    for (int64_t tile = 0; tile < shape->n_tile; tile++)
        tile_pos[tile] = (1 + tile * shape->gap) * AQ_TILE;
    if (shape->n_dim > 0) {
        dims = aq_test_alloc(be, (size_t)(n_row * shape->n_dim) * sizeof *dims);
        be->ops->topk_dims(be, &(aq_topk_dims_args){.q = q,
                                                    .n_tok = shape->n_q,
                                                    .n_head = shape->n_head,
                                                    .n_kv_head = shape->n_kv_head,
                                                    .n_col = shape->n_col,
                                                    .n_dim = shape->n_dim,
                                                    .dims = dims});
    }
    aq_attn_partial_args args = {
        .q = q,
        .dims = dims,
        .n_dim = shape->n_dim,
        .q_pos = q_pos,
        .n_q = shape->n_q,
        .n_head = shape->n_head,
        .scale = shape->data == INTEGERS ? 0.125f : 1.0f / sqrtf((float)shape->d_head),
        .kv = {.keys =
                   aq_test_alloc(be, (size_t)aq_dtype_row_bytes(aq_kv_type_dtype(shape->key_type),
                                                                n_slot * shape->n_col)),
               .values =
                   aq_test_alloc(be, (size_t)aq_dtype_row_bytes(aq_kv_type_dtype(shape->value_type),
                                                                n_slot * shape->d_head)),
               .key_type = shape->key_type,
               .value_type = shape->value_type,
               .n_kv_head = shape->n_kv_head,
               .n_col = shape->n_col,
               .d_head = shape->d_head},
        .tile_pos = tile_pos,
        .tile_at = shape->ring ? make_ring(be, shape) : NULL,
        .n_tile = shape->n_tile,
        .window = shape->window,
        .part = aq_test_alloc(be, (size_t)(n_row * (shape->d_head + 2)) * sizeof(float))};
    poison_cache(&args.kv, n_place(shape));
    fill_cache(&args, shape->data, &rng);
    return args;
}

static void close_problem(aq_backend *be, const aq_attn_partial_args *a) {
    be->ops->release(be, (void *)a->q);
    if (a->dims) be->ops->release(be, (void *)a->dims);
    be->ops->release(be, (void *)a->q_pos);
    be->ops->release(be, (void *)a->tile_pos);
    if (a->tile_at) be->ops->release(be, (void *)a->tile_at);
    be->ops->release(be, a->kv.keys);
    be->ops->release(be, a->kv.values);
    be->ops->release(be, a->part);
}

/* Runs the problem twice: the same bits. */
static void expect_same_bits(aq_backend *be, const aq_attn_partial_args *a) {
    const size_t bytes = (size_t)(a->n_q * a->n_head * (a->kv.d_head + 2)) * sizeof(float);
    aq_attn_partial_args again = *a;
    again.part = aq_test_alloc(be, bytes);
    be->ops->attn_partial(be, &again);
    CU_ASSERT_EQUAL(memcmp(again.part, a->part, bytes), 0);
    be->ops->release(be, again.part);
}

static const struct {
    aq_partial_bug bug;
    const char *name;
} plants[] = {{AQ_PARTIAL_LOW, "a query that does not see itself"},
              {AQ_PARTIAL_HIGH, "a query that sees the next token"},
              {AQ_PARTIAL_WIDE, "a window of one token more"},
              {AQ_PARTIAL_NARROW, "a window of one token less"},
              {AQ_PARTIAL_PLACE, "tile j read at place j of a ring"},
              {AQ_PARTIAL_NO_RESCALE, "o not rescaled when the maximum rises"},
              {AQ_PARTIAL_DIMS, "two columns swapped"},
              {AQ_PARTIAL_HEAD, "the tiles of another KV head"}};

#define N_PLANT ((int)(sizeof plants / sizeof plants[0]))

static void contract(const aq_test_backend *on, void *arg) {
    (void)arg;
    aq_bound bound = {0}, planted[N_PLANT] = {{0}};
    const bool plant = on->isa == AQ_ISA_PORTABLE && on->n_thread == 1;
    for (int i = 0; i < N_SHAPE; i++) {
        const bool exact = shapes[i].data == INTEGERS;
        const aq_attn_partial_args args = open_problem(on->be, &shapes[i]);
        on->be->ops->attn_partial(on->be, &args);
        aq_partial_check(on->be, &args, exact, AQ_PARTIAL_RIGHT, &bound);
        expect_same_bits(on->be, &args);
        for (int b = 0; b < N_PLANT && plant && shapes[i].n_q <= 8; b++)
            aq_partial_check(on->be, &args, exact, plants[b].bug, &planted[b]);
        close_problem(on->be, &args);
    }
    aq_bound_expect(&bound, "attn_partial");
    for (int b = 0; b < N_PLANT && plant; b++)
        aq_bound_expect_rejects(&planted[b], plants[b].name);
}

static void parts_match_the_formula(void) {
    aq_each_backend(contract, NULL);
}

/* Copies tile `from` of one cache to tile `to` of another. */
static void copy_tile(const aq_kv_view *to_kv, int64_t to, const aq_kv_view *from_kv,
                      int64_t from) {
    const int64_t n = (int64_t)to_kv->n_kv_head * AQ_TILE;
    const size_t key_bytes =
        (size_t)aq_dtype_row_bytes(aq_kv_type_dtype(to_kv->key_type), n * to_kv->n_col);
    const size_t value_bytes =
        (size_t)aq_dtype_row_bytes(aq_kv_type_dtype(to_kv->value_type), n * to_kv->d_head);
    memcpy((char *)to_kv->keys + (size_t)to * key_bytes,
           (const char *)from_kv->keys + (size_t)from * key_bytes, key_bytes);
    memcpy((char *)to_kv->values + (size_t)to * value_bytes,
           (const char *)from_kv->values + (size_t)from * value_bytes, value_bytes);
}

/* The part of rank r of n_rank, which holds every n_rank-th tile, into `part`. */
static void run_rank(aq_backend *be, const aq_attn_partial_args *whole, int r, int n_rank,
                     float *part) {
    aq_attn_partial_args args = *whole;
    const int64_t n_slot = whole->n_tile * whole->kv.n_kv_head * AQ_TILE;
    int64_t *tile_pos = aq_test_alloc(be, (size_t)whole->n_tile * sizeof *tile_pos);
    args.kv.keys = aq_test_alloc(
        be, (size_t)aq_dtype_row_bytes(aq_kv_type_dtype(args.kv.key_type), n_slot * args.kv.n_col));
    args.kv.values =
        aq_test_alloc(be, (size_t)aq_dtype_row_bytes(aq_kv_type_dtype(args.kv.value_type),
                                                     n_slot * args.kv.d_head));
    args.tile_pos = tile_pos;
    args.tile_at = NULL;
    args.part = part;
    args.n_tile = 0;
    for (int64_t tile = r; tile < whole->n_tile; tile += n_rank) {
        tile_pos[args.n_tile] = whole->tile_pos[tile];
        copy_tile(&args.kv, args.n_tile++, &whole->kv, aq_partial_place(whole, tile));
    }
    be->ops->attn_partial(be, &args);
    be->ops->release(be, tile_pos);
    be->ops->release(be, args.kv.keys);
    be->ops->release(be, args.kv.values);
}

/* The merged result of n_rank ranks against o / l of the reference over all tiles. */
static void check_split(aq_backend *be, const aq_attn_partial_args *a, int n_rank, bool exact,
                        aq_bound *bound) {
    const int64_t n_row = a->n_q * a->n_head, n_part = n_row * (a->kv.d_head + 2);
    float *parts = aq_test_alloc(be, (size_t)(n_rank * n_part) * sizeof *parts);
    float *out = aq_test_alloc(be, (size_t)(n_row * a->kv.d_head) * sizeof *out);
    aq_partial_score *scores = aq_test_alloc(be, (size_t)(a->n_tile * AQ_TILE) * sizeof *scores);
    for (int r = 0; r < n_rank; r++)
        run_rank(be, a, r, n_rank, parts + r * n_part);
    be->ops->attn_merge(
        be,
        &(aq_attn_merge_args){
            .parts = parts, .n_part = n_rank, .n_row = n_row, .d_head = a->kv.d_head, .out = out});
    for (int64_t row = 0; row < n_row; row++) {
        aq_partial_row ref;
        aq_partial_reference(a, row / a->n_head, (int)(row % a->n_head), AQ_PARTIAL_RIGHT, exact,
                             scores, &ref);
        for (int d = 0; d < a->kv.d_head; d++) {
            const double y = ref.l > 0.0 ? ref.o[d] / ref.l : 0.0;
            const double allowed =
                ref.l > 0.0 ? (ref.o_allowed[d] + fabs(y) * ref.l_allowed) / ref.l : 0.0;
            aq_bound_element(bound, out[row * a->kv.d_head + d], y, 2.0,
                             allowed + ldexp(1.0, -120));
        }
    }
    be->ops->release(be, parts);
    be->ops->release(be, out);
    be->ops->release(be, scores);
}

static void split(const aq_test_backend *on, void *arg) {
    static const int ranks[] = {1, 2, 3, 7};
    (void)arg;
    aq_bound bound = {0};
    for (int i = 0; i < N_SHAPE; i++) {
        if (shapes[i].n_q > 8) continue;
        const aq_attn_partial_args args = open_problem(on->be, &shapes[i]);
        for (int r = 0; r < 4; r++)
            check_split(on->be, &args, ranks[r], shapes[i].data == INTEGERS, &bound);
        close_problem(on->be, &args);
    }
    aq_bound_expect(&bound, "attention cut over ranks");
}

static void ranks_together_give_the_whole(void) {
    aq_each_backend(split, NULL);
}

/* Caches of codes, of keys by token, with an open tile, or with positions of their own in the
 * slots. The reference goes over a twin: what the cache stands for, as f32 by column. */
typedef struct {
    attn_shape attn; /* key_type and value_type are those of the cache */
    aq_key_order order;
    int n_open; /* tokens of the last tile, which is open; 0: all are closed */
    bool slots;
} stored_shape;

#define BY_COLUMN AQ_KEYS_BY_COLUMN
#define BY_TOKEN  AQ_KEYS_BY_TOKEN

static const stored_shape stored_shapes[] = {
    {{1, 9, 3, 64, 64, 0, AQ_KV_Q8, AQ_KV_Q8, 21, 1, LAST, NORMAL, 0, false}, BY_TOKEN, 61, false},
    {{1, 9, 3, 64, 64, 40, AQ_KV_Q8, AQ_KV_Q8, 21, 1, LAST, NORMAL, 0, false},
     BY_COLUMN,
     60,
     false},
    {{8, 6, 2, 24, 19, 0, AQ_KV_Q6, AQ_KV_Q5, 5, 3, EDGES, NORMAL, 0, false}, BY_COLUMN, 0, false},
    {{8, 6, 2, 24, 19, 0, AQ_KV_Q5, AQ_KV_Q6, 5, 3, EDGES, NORMAL, 0, false}, BY_TOKEN, 0, false},
    {{3, 4, 2, 20, 44, 9, AQ_KV_Q5M, AQ_KV_Q4, 3, 2, EDGES, NORMAL, 0, false}, BY_COLUMN, 0, false},
    {{3, 4, 2, 20, 44, 0, AQ_KV_Q5M, AQ_KV_Q5M, 4, 1, LAST, NORMAL, 0, false}, BY_TOKEN, 60, false},
    {{2, 2, 1, 256, 256, 0, AQ_KV_Q4, AQ_KV_BF16, 2, 1, LAST, NORMAL, 0, false},
     BY_TOKEN,
     62,
     false},
    {{8, 6, 2, 24, 24, 0, AQ_KV_BF16, AQ_KV_Q8, 3, 1, LAST, NORMAL, 0, false},
     BY_COLUMN,
     63,
     false},
    {{1, 4, 2, 24, 19, 0, AQ_KV_F32, AQ_KV_F32, 5, 2, EDGES, NORMAL, 0, false}, BY_TOKEN, 0, false},
    {{8, 6, 2, 24, 40, 0, AQ_KV_BF16, AQ_KV_BF16, 5, 2, EDGES, NORMAL, 0, false},
     BY_TOKEN,
     0,
     false},
    {{200, 6, 2, 16, 16, 0, AQ_KV_Q8, AQ_KV_Q8, 6, 1, LAST, NORMAL, 0, false}, BY_TOKEN, 60, false},
    {{120, 3, 1, 16, 16, 5, AQ_KV_Q8, AQ_KV_Q5, 6, 1, LAST, NORMAL, 0, false},
     BY_COLUMN,
     60,
     false},
    {{1, 8, 2, 128, 128, 0, AQ_KV_Q8, AQ_KV_Q8, 5, 2, EDGES, NORMAL, 0, true}, BY_COLUMN, 0, false},
    {{1, 7, 1, 256, 300, 0, AQ_KV_Q8, AQ_KV_Q8, 4, 1, LAST, NORMAL, 0, false},
     BY_COLUMN,
     62,
     false},
    {{1, 8, 2, 128, 128, 0, AQ_KV_Q8, AQ_KV_Q8, 37, 1, LAST, NORMAL, 0, false},
     BY_COLUMN,
     61,
     false},
    {{2, 7, 1, 128, 100, 40, AQ_KV_Q8, AQ_KV_Q8, 5, 1, EDGES, NORMAL, 0, false},
     BY_COLUMN,
     0,
     false},
    {{3, 6, 1, 256, 256, 0, AQ_KV_Q8, AQ_KV_Q8, 4, 1, LAST, NORMAL, 70, false},
     BY_COLUMN,
     62,
     false},
    {{1, 3, 1, 64, 64, 0, AQ_KV_Q8, AQ_KV_Q8, 21, 1, LAST, INTEGERS, 0, false},
     BY_COLUMN,
     0,
     false},
    {{1, 8, 2, 128, 128, 0, AQ_KV_Q8, AQ_KV_Q8, 6, 1, EDGES, NORMAL, 0, false}, BY_COLUMN, 0, true},
    {{1, 7, 1, 80, 300, 0, AQ_KV_Q8, AQ_KV_Q8, 4, 1, LAST, NORMAL, 70, false}, BY_TOKEN, 62, false},
    {{3, 2, 1, 44, 37, 0, AQ_KV_Q8, AQ_KV_BF16, 4, 1, LAST, NORMAL, 0, false}, BY_TOKEN, 61, false},
    {{1, 9, 3, 64, 64, 0, AQ_KV_BF16, AQ_KV_BF16, 9, 1, LAST, NORMAL, 0, false}, BY_TOKEN, 0, true},
    {{8, 6, 2, 24, 19, 7, AQ_KV_F32, AQ_KV_BF16, 5, 1, EDGES, NORMAL, 0, false},
     BY_COLUMN,
     0,
     true},
    {{6, 6, 2, 16, 16, 0, AQ_KV_F32, AQ_KV_F32, 4, 1, BEFORE, NORMAL, 0, false},
     BY_COLUMN,
     0,
     true},
    {{200, 6, 2, 16, 16, 0, AQ_KV_BF16, AQ_KV_F32, 6, 1, EDGES, NORMAL, 0, false},
     BY_TOKEN,
     0,
     true},
};

#define N_STORED ((int)(sizeof stored_shapes / sizeof stored_shapes[0]))

/* Stores all tokens of the twin in a cache of the shape. */
static aq_kv_view store_tokens(aq_backend *be, const stored_shape *shape, const aq_kv_view *twin) {
    aq_kv_view kv = *twin;
    const int64_t n_tile = shape->attn.n_tile, n_head = kv.n_kv_head;
    const int64_t n_tok = n_tile * AQ_TILE - (shape->n_open > 0 ? AQ_TILE - shape->n_open : 0);
    kv.key_type = shape->attn.key_type;
    kv.value_type = shape->attn.value_type;
    kv.key_order = shape->order;
    kv.open_tile = shape->n_open > 0 ? n_tile - 1 : -1;
    kv.keys = aq_test_alloc(be, (size_t)(n_tile * n_head * aq_cache_key_bytes(&kv)));
    kv.values = aq_test_alloc(be, (size_t)(n_tile * n_head * aq_cache_value_bytes(&kv)));
    if (aq_kv_has_open_tile(&kv)) {
        kv.open_keys = aq_test_alloc(be, (size_t)(n_head * kv.n_col * AQ_TILE) * sizeof(float));
        kv.open_values = aq_test_alloc(be, (size_t)(n_head * kv.d_head * AQ_TILE) * sizeof(float));
    }
    float *key = aq_test_alloc(be, (size_t)(n_tok * n_head * kv.n_col) * sizeof *key);
    float *value = aq_test_alloc(be, (size_t)(n_tok * n_head * kv.d_head) * sizeof *value);
    int64_t *slot = aq_test_alloc(be, (size_t)n_tok * sizeof *slot);
    for (int64_t t = 0; t < n_tok; t++) {
        slot[t] = t;
        for (int g = 0; g < n_head; g++) {
            for (int c = 0; c < kv.n_col; c++)
                key[(t * n_head + g) * kv.n_col + c] = (float)aq_cache_key(
                    twin, t / AQ_TILE, g, (int)(t % AQ_TILE), c, AQ_CACHE_RIGHT);
            for (int i = 0; i < kv.d_head; i++)
                value[(t * n_head + g) * kv.d_head + i] = (float)aq_cache_value(
                    twin, t / AQ_TILE, g, (int)(t % AQ_TILE), i, AQ_CACHE_RIGHT);
        }
    }
    be->ops->kv_append(be, &(aq_kv_append_args){
                               .kv = kv, .key = key, .value = value, .slot = slot, .n_tok = n_tok});
    be->ops->release(be, key);
    be->ops->release(be, value);
    be->ops->release(be, slot);
    return kv;
}

/* Makes the twin what the cache stands for. */
static void read_back(const aq_kv_view *kv, int64_t n_tile, aq_cache_bug bug, aq_kv_view *twin) {
    for (int64_t at = 0; at < n_tile * kv->n_kv_head * AQ_TILE; at++) {
        const int64_t tile = at / AQ_TILE / kv->n_kv_head;
        const int g = (int)(at / AQ_TILE % kv->n_kv_head), s = (int)(at % AQ_TILE);
        for (int c = 0; c < kv->n_col; c++)
            ((float *)twin->keys)[(at / AQ_TILE * kv->n_col + c) * AQ_TILE + s] =
                (float)aq_cache_key(kv, tile, g, s, c, bug);
        for (int i = 0; i < kv->d_head; i++)
            ((float *)twin->values)[at * kv->d_head + i] =
                (float)aq_cache_value(kv, tile, g, s, i, bug);
    }
}

/* Positions in no order, a third of the slots without a token, the last tile empty. */
static int64_t *scatter_slots(aq_backend *be, int64_t n_tile, int64_t *tile_pos) {
    const int64_t n = n_tile * AQ_TILE;
    int64_t *slot_pos = aq_test_alloc(be, (size_t)n * sizeof *slot_pos);
    for (int64_t tile = 0; tile < n_tile; tile++)
        tile_pos[tile] = INT64_MAX;
    for (int64_t i = 0; i < n; i++) {
        const bool empty = i % 3 == 2 || i / AQ_TILE == n_tile - 1;
        slot_pos[i] = empty ? INT64_MAX : AQ_TILE + i * 101 % n; /* prime to n */
        if (slot_pos[i] < tile_pos[i / AQ_TILE]) tile_pos[i / AQ_TILE] = slot_pos[i];
    }
    return slot_pos;
}

static const struct {
    aq_cache_bug cache;
    aq_partial_bug partial;
    const char *name;
} stored_plants[] = {
    {AQ_CACHE_PLANES, AQ_PARTIAL_RIGHT, "planes of codes in the wrong order"},
    {AQ_CACHE_NEIGHBOUR, AQ_PARTIAL_RIGHT, "the step of the neighbour"},
    {AQ_CACHE_ZERO, AQ_PARTIAL_RIGHT, "no zero point"},
    {AQ_CACHE_CLOSED, AQ_PARTIAL_RIGHT, "the open tile forgotten"},
    {AQ_CACHE_ORDER, AQ_PARTIAL_RIGHT, "the other order of keys"},
    {AQ_CACHE_RIGHT, AQ_PARTIAL_SLOTS, "positions of slots not heeded"},
};

#define N_STORED_PLANT ((int)(sizeof stored_plants / sizeof stored_plants[0]))

static void check_stored(const aq_test_backend *on, const stored_shape *shape, aq_bound *bound,
                         aq_bound planted[N_STORED_PLANT]) {
    aq_backend *be = on->be;
    attn_shape plain = shape->attn;
    plain.key_type = plain.value_type = AQ_KV_F32;
    aq_attn_partial_args twin = open_problem(be, &plain);
    const int64_t n_tile = plain.n_tile, n_head = plain.n_kv_head;
    aq_fill_normal(7, n_tile * n_head * AQ_TILE * plain.n_col, 1.0f, twin.kv.keys);
    aq_fill_normal(8, n_tile * n_head * AQ_TILE * plain.d_head, 1.0f, twin.kv.values);
    if (shape->slots) twin.slot_pos = scatter_slots(be, n_tile, (int64_t *)twin.tile_pos);
    aq_attn_partial_args args = twin;
    args.kv = store_tokens(be, shape, &twin.kv);
    be->ops->attn_partial(be, &args);
    expect_same_bits(be, &args);
    read_back(&args.kv, n_tile, AQ_CACHE_RIGHT, &twin.kv);
    aq_partial_check(be, &twin, false, AQ_PARTIAL_RIGHT, bound);
    const bool plant = on->isa == AQ_ISA_PORTABLE && on->n_thread == 1 && plain.n_q <= 8;
    for (int b = 0; b < N_STORED_PLANT && plant; b++) {
        read_back(&args.kv, n_tile, stored_plants[b].cache, &twin.kv);
        aq_partial_check(be, &twin, false, stored_plants[b].partial, &planted[b]);
    }
    be->ops->release(be, args.kv.keys);
    be->ops->release(be, args.kv.values);
    if (args.kv.open_keys) be->ops->release(be, args.kv.open_keys);
    if (args.kv.open_values) be->ops->release(be, args.kv.open_values);
    if (twin.slot_pos) be->ops->release(be, (void *)twin.slot_pos);
    close_problem(be, &twin);
}

static void stored(const aq_test_backend *on, void *arg) {
    (void)arg;
    aq_bound bound = {0}, planted[N_STORED_PLANT] = {{0}};
    for (int i = 0; i < N_STORED; i++)
        check_stored(on, &stored_shapes[i], &bound, planted);
    aq_bound_expect(&bound, "attention over codes");
    for (int b = 0; b < N_STORED_PLANT && planted[b].n_check > 0; b++)
        aq_bound_expect_rejects(&planted[b], stored_plants[b].name);
}

static void every_cache_is_attended_to(void) {
    aq_each_backend(stored, NULL);
}

/* Scores of about 1e30: their differences are beyond exp, but nothing may become infinite or NaN.
 */
static void huge(const aq_test_backend *on, void *arg) {
    (void)arg;
    for (int i = 0; i < N_SHAPE; i++) {
        aq_attn_partial_args args = open_problem(on->be, &shapes[i]);
        args.scale = 1e30f;
        on->be->ops->attn_partial(on->be, &args);
        int n_wrong = 0;
        for (int64_t row = 0; row < args.n_q * args.n_head; row++) {
            const float *part = args.part + row * (args.kv.d_head + 2);
            const bool empty = part[args.kv.d_head] == -INFINITY;
            n_wrong += !empty && !isfinite(part[args.kv.d_head]);
            n_wrong += !empty && part[args.kv.d_head + 1] < 1.0f;
            for (int d = 0; d < args.kv.d_head; d++)
                n_wrong += !(fabsf(part[d]) < 1e6f);
        }
        CU_ASSERT_EQUAL(n_wrong, 0);
        close_problem(on->be, &args);
    }
}

static void huge_scores_do_not_overflow(void) {
    aq_each_backend(huge, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "parts match the formula", parts_match_the_formula);
    CU_add_test(suite, "ranks together give the whole", ranks_together_give_the_whole);
    CU_add_test(suite, "every cache is attended to", every_cache_is_attended_to);
    CU_add_test(suite, "huge scores do not overflow", huge_scores_do_not_overflow);
}
