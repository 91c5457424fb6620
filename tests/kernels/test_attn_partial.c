/* attn_partial: against the formula in double precision; whole and windowed, from places in any
 * order, and cut over ranks and merged. */
#include "kernels/attn_partial.h"

#include <math.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define MAX_HEAD 256
#define EPS      (1.0 / 16777216.0)

typedef enum {
    NO_BUG,
    BOUND_TOO_LOW,
    BOUND_TOO_HIGH,
    WINDOW_TOO_WIDE,
    WINDOW_TOO_NARROW,
    PLACE_IGNORED,
    NO_RESCALE,
    SWAPPED_DIM,
    WRONG_HEAD
} planted_bug;

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

static void set_element(void *tensor, aq_kv_type dtype, int64_t i, float value) {
    if (dtype == AQ_KV_BF16)
        ((uint16_t *)tensor)[i] = aq_f32_to_bf16(value);
    else
        ((float *)tensor)[i] = value;
}

static double element(const void *tensor, aq_kv_type dtype, int64_t i) {
    if (dtype == AQ_KV_BF16) return (double)aq_bf16_to_f32(((const uint16_t *)tensor)[i]);
    return (double)((const float *)tensor)[i];
}

static int64_t place_query(const attn_shape *shape, int64_t t, aq_rng *rng) {
    static const int64_t edges[] = {-1, 0, 1, AQ_TILE - 2, AQ_TILE - 1, AQ_TILE, AQ_TILE + 1};
    const int64_t held = (int64_t)(aq_rng_uniform(rng) * (double)shape->n_tile);
    if (shape->places == BEFORE) return t;
    if (shape->places == EDGES) return (1 + held * shape->gap) * AQ_TILE + edges[t % 7];
    return (1 + shape->n_tile * shape->gap) * AQ_TILE - 5 - shape->n_q + t;
}

static int64_t place_of(const aq_attn_partial_args *a, int64_t tile) {
    return a->tile_at ? a->tile_at[tile] : tile;
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
                const int64_t at = place_of(a, tile) * kv->n_kv_head + g;
                for (int64_t c = 0; c < kv->n_col; c++)
                    set_element(kv->keys, kv->key_type, (at * kv->n_col + c) * AQ_TILE + s,
                                unseen ? 1e25f : make_number(data, rng));
                for (int64_t i = 0; i < kv->d_head; i++)
                    set_element(kv->values, kv->value_type, (at * AQ_TILE + s) * kv->d_head + i,
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

/* What one row of the result must be, and by how much it may differ. */
typedef struct {
    double m, m_allowed, l, l_allowed;
    double o[MAX_HEAD], o_allowed[MAX_HEAD];
} row_reference;

typedef struct {
    double a, allowed; /* a score, and the bound of its error */
} score;

static score score_of(const aq_attn_partial_args *a, int64_t t, int h, int64_t g, int64_t tile,
                      int64_t s, planted_bug bug) {
    const int n_in = a->dims ? a->n_dim : a->kv.n_col;
    const int64_t row = t * a->n_head + h, place = bug == PLACE_IGNORED ? tile : place_of(a, tile);
    double sum = 0.0, sum_abs = 0.0;
    for (int j = 0; j < n_in; j++) {
        const int64_t c = a->dims ? a->dims[row * n_in + j] : j;
        const int64_t swapped = bug == SWAPPED_DIM && j < 2 && n_in > 1 ? 1 - j : j;
        const int64_t c_key = a->dims ? a->dims[row * n_in + swapped] : swapped;
        const int64_t at = ((place * a->kv.n_kv_head + g) * a->kv.n_col + c_key) * AQ_TILE + s;
        const double term = (double)a->scale * (double)a->q[row * a->kv.n_col + c] *
                            element(a->kv.keys, a->kv.key_type, at);
        sum += term;
        sum_abs += fabs(term);
    }
    return (score){sum, 4.0 * sqrt(n_in + 1.0) * EPS * sum_abs};
}

/* Scores of all visible tokens into scores[tile * AQ_TILE + s], -inf for the others; fills m. */
static void score_row(const aq_attn_partial_args *a, int64_t t, int h, planted_bug bug, bool exact,
                      score *scores, row_reference *ref) {
    const int group = a->n_head / a->kv.n_kv_head;
    const int64_t g = (bug == WRONG_HEAD ? h + group : h) / group % a->kv.n_kv_head;
    const int64_t last =
        a->q_pos[t] + (bug == BOUND_TOO_LOW ? -1 : 0) + (bug == BOUND_TOO_HIGH ? 1 : 0);
    const int64_t first = a->q_pos[t] - a->window + 1 + (bug == WINDOW_TOO_WIDE ? -1 : 0) +
                          (bug == WINDOW_TOO_NARROW ? 1 : 0);
    *ref = (row_reference){.m = -INFINITY};
    for (int64_t i = 0; i < a->n_tile * AQ_TILE; i++) {
        const int64_t tile = i / AQ_TILE, s = i % AQ_TILE;
        scores[i] = (score){-INFINITY, 0.0};
        if (a->tile_pos[tile] + s > last) continue;
        if (a->window > 0 && a->tile_pos[tile] + s < first) continue;
        scores[i] = score_of(a, t, h, g, tile, s, bug);
        if (exact) scores[i].allowed = 0.0;
        ref->m = fmax(ref->m, scores[i].a);
        ref->m_allowed = fmax(ref->m_allowed, scores[i].allowed);
    }
}

/* The reference of one row. The weight of a token has, relative to itself: the error of its score;
 * the rounding of score minus maximum, and of the changes of the maximum, which sum up to at most
 * the range of the scores, once in the tiles and once in a merge (a weight that is not 0 has come
 * down by at most 104 each time); the errors of exp and a product, at most 4 eps, for the token,
 * for each tile after it and for 4 merges. Then o and l are reductions. */
static void reference(const aq_attn_partial_args *a, int64_t t, int h, planted_bug bug, bool exact,
                      score *scores, row_reference *ref) {
    score_row(a, t, h, bug, exact, scores, ref);
    const int group = a->n_head / a->kv.n_kv_head;
    const int64_t g = (bug == WRONG_HEAD ? h + group : h) / group % a->kv.n_kv_head;
    double range = 0.0, running = -INFINITY;
    int64_t n_seen = 0;
    for (int64_t i = 0; i < a->n_tile * AQ_TILE; i++) {
        if (scores[i].a == -INFINITY) continue;
        range = fmax(range, ref->m - scores[i].a);
        n_seen++;
    }
    for (int64_t i = 0; i < a->n_tile * AQ_TILE; i++) {
        if (i % AQ_TILE == 0)
            for (int s = 0; s < AQ_TILE; s++)
                running = fmax(running, scores[i + s].a);
        if (scores[i].a == -INFINITY) continue;
        const double w = exp(scores[i].a - ref->m);
        const double w_mixed = bug == NO_RESCALE ? exp(scores[i].a - running) : w;
        const double relative = scores[i].allowed +
                                EPS * (3.0 * fmin(range, 104.0) + 4.0 * ((double)a->n_tile + 5.0)) +
                                4.0 * sqrt((double)n_seen + 1.0) * EPS;
        ref->l += w;
        ref->l_allowed += relative * w;
        const int64_t place = place_of(a, i / AQ_TILE), s = i % AQ_TILE;
        const int64_t at = ((place * a->kv.n_kv_head + g) * AQ_TILE + s) * a->kv.d_head;
        for (int d = 0; d < a->kv.d_head; d++) {
            const double v = element(a->kv.values, a->kv.value_type, at + d);
            ref->o[d] += w_mixed * v;
            ref->o_allowed[d] += relative * w * fabs(v);
        }
    }
}

/* o and l of a part are relative to its own m: they are compared relative to the m of the
 * reference, so that an allowed error of m is not counted twice. */
static void check_row(const aq_attn_partial_args *a, int64_t row, const row_reference *ref,
                      aq_bound *bound) {
    const float *part = a->part + row * (a->kv.d_head + 2);
    const float m = part[a->kv.d_head], l = part[a->kv.d_head + 1];
    const double tiny = ldexp(1.0, -120);
    const double factor = ref->m == -INFINITY ? 1.0 : exp((double)m - ref->m);
    aq_bound_element(bound, m, ref->m, 0.0, ref->m_allowed + tiny);
    aq_bound_element(bound, (float)(factor * (double)l), ref->l, 0.0, ref->l_allowed + tiny);
    for (int d = 0; d < a->kv.d_head; d++)
        aq_bound_element(bound, (float)(factor * (double)part[d]), ref->o[d], 0.0,
                         ref->o_allowed[d] + tiny);
}

static void check(aq_backend *be, const aq_attn_partial_args *a, bool exact, planted_bug bug,
                  aq_bound *bound) {
    score *scores = aq_test_alloc(be, (size_t)(a->n_tile * AQ_TILE) * sizeof *scores);
    for (int64_t row = 0; row < a->n_q * a->n_head; row++) {
        row_reference ref;
        reference(a, row / a->n_head, (int)(row % a->n_head), bug, exact, scores, &ref);
        check_row(a, row, &ref, bound);
    }
    be->ops->release(be, scores);
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
    planted_bug bug;
    const char *name;
} plants[] = {{BOUND_TOO_LOW, "a query that does not see itself"},
              {BOUND_TOO_HIGH, "a query that sees the next token"},
              {WINDOW_TOO_WIDE, "a window of one token more"},
              {WINDOW_TOO_NARROW, "a window of one token less"},
              {PLACE_IGNORED, "tile j read at place j of a ring"},
              {NO_RESCALE, "o not rescaled when the maximum rises"},
              {SWAPPED_DIM, "two columns swapped"},
              {WRONG_HEAD, "the tiles of another KV head"}};

#define N_PLANT ((int)(sizeof plants / sizeof plants[0]))

static void contract(const aq_test_backend *on, void *arg) {
    (void)arg;
    aq_bound bound = {0}, planted[N_PLANT] = {{0}};
    for (int i = 0; i < N_SHAPE; i++) {
        const bool exact = shapes[i].data == INTEGERS;
        const aq_attn_partial_args args = open_problem(on->be, &shapes[i]);
        on->be->ops->attn_partial(on->be, &args);
        check(on->be, &args, exact, NO_BUG, &bound);
        expect_same_bits(on->be, &args);
        for (int b = 0; b < N_PLANT && shapes[i].n_q <= 8; b++)
            check(on->be, &args, exact, plants[b].bug, &planted[b]);
        close_problem(on->be, &args);
    }
    aq_bound_expect(&bound, "attn_partial");
    for (int b = 0; b < N_PLANT; b++)
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
        copy_tile(&args.kv, args.n_tile++, &whole->kv, place_of(whole, tile));
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
    score *scores = aq_test_alloc(be, (size_t)(a->n_tile * AQ_TILE) * sizeof *scores);
    for (int r = 0; r < n_rank; r++)
        run_rank(be, a, r, n_rank, parts + r * n_part);
    be->ops->attn_merge(
        be,
        &(aq_attn_merge_args){
            .parts = parts, .n_part = n_rank, .n_row = n_row, .d_head = a->kv.d_head, .out = out});
    for (int64_t row = 0; row < n_row; row++) {
        row_reference ref;
        reference(a, row / a->n_head, (int)(row % a->n_head), NO_BUG, exact, scores, &ref);
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
    CU_add_test(suite, "huge scores do not overflow", huge_scores_do_not_overflow);
}
