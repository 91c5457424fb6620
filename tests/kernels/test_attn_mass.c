/* attn_mass: against the formula in double precision, on the tiles of one rank of several. */
#include "kernels/attn_mass.h"

#include <math.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/oracle_cache.h"
#include "tests/support/suite.h"

#define EPS (1.0 / 16777216.0)

typedef enum {
    NO_BUG,
    LOCAL_SUM,    /* the softmax of this rank's tokens alone */
    ONE_HEAD,     /* the first head of a group alone */
    LATER_TOKENS, /* a query sees tokens after it */
    NOT_SUMMED,   /* what was there before is forgotten */
    PLACE_IGNORED /* tile j is read at place j */
} planted_bug;

/* Where tokens lie. TILES: a tile holds consecutive positions. RING: the same, tiles in places of
 * no order. SLOTS: each slot has a position of its own, or none. */
typedef enum { TILES, RING, SLOTS } token_places;

typedef struct {
    int64_t n_q;
    int n_head, n_kv_head, n_col, n_dim; /* n_dim 0: dims NULL */
    aq_kv_type key_type;
    aq_key_order key_order;
    int64_t n_tile;
    int n_rank; /* tiles of the text are dealt over so many, SLOTS: positions are */
    token_places places;
    int64_t window;
} mass_shape;

static const mass_shape shapes[] = {
    {1, 9, 3, 64, 0, AQ_KV_BF16, AQ_KEYS_BY_COLUMN, 37, 2, TILES, 0},
    {1, 9, 3, 64, 40, AQ_KV_F32, AQ_KEYS_BY_COLUMN, 37, 2, SLOTS, 0},
    {1, 4, 1, 24, 0, AQ_KV_F32, AQ_KEYS_BY_COLUMN, 3, 3, SLOTS, 0},
    {60, 6, 2, 16, 0, AQ_KV_F32, AQ_KEYS_BY_COLUMN, 5, 3, TILES, 0},
    {60, 6, 2, 16, 5, AQ_KV_BF16, AQ_KEYS_BY_COLUMN, 5, 2, SLOTS, 0},
    {30, 4, 4, 19, 15, AQ_KV_BF16, AQ_KEYS_BY_COLUMN, 4, 1, RING, 0},
    {40, 3, 1, 40, 0, AQ_KV_F32, AQ_KEYS_BY_COLUMN, 4, 2, RING, 90},
    {33, 2, 2, 200, 0, AQ_KV_BF16, AQ_KEYS_BY_COLUMN, 3, 2, SLOTS, 0},
    {1, 9, 3, 64, 0, AQ_KV_BF16, AQ_KEYS_BY_TOKEN, 9, 2, SLOTS, 0},
    {40, 4, 2, 24, 0, AQ_KV_F32, AQ_KEYS_BY_TOKEN, 3, 2, SLOTS, 0},
    {3, 6, 2, 16, 0, AQ_KV_F32, AQ_KEYS_BY_COLUMN, 0, 2, TILES, 0},
    {0, 6, 2, 16, 0, AQ_KV_F32, AQ_KEYS_BY_COLUMN, 2, 2, TILES, 0},
};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

#define N_SPARE 2 /* places of a ring that hold no tile */

static int64_t n_place(const mass_shape *shape) {
    return shape->n_tile + (shape->places == RING ? N_SPARE : 0);
}

static int64_t place_of(const aq_attn_partial_args *a, int64_t tile) {
    return a->tile_at ? a->tile_at[tile] : tile;
}

static int64_t pos_of(const aq_attn_partial_args *a, int64_t tile, int64_t s) {
    return a->slot_pos ? a->slot_pos[place_of(a, tile) * AQ_TILE + s] : a->tile_pos[tile] + s;
}

/* Positions of the slots, a third of them free, and the least of each tile. */
static void scatter_tokens(const mass_shape *shape, aq_rng *rng, int64_t *slot_pos,
                           int64_t *tile_pos) {
    const int64_t n_slot = shape->n_tile * AQ_TILE;
    for (int64_t i = 0; i < n_slot; i++)
        slot_pos[i] = i * shape->n_rank;
    for (int64_t i = n_slot - 1; i > 0; i--) {
        const int64_t j = (int64_t)(aq_rng_uniform(rng) * (double)(i + 1)), kept = slot_pos[i];
        slot_pos[i] = slot_pos[j];
        slot_pos[j] = kept;
    }
    for (int64_t i = 0; i < n_slot; i++) {
        if (i % AQ_TILE == 0) tile_pos[i / AQ_TILE] = INT64_MAX;
        if (aq_rng_uniform(rng) < 0.3) slot_pos[i] = INT64_MAX;
        if (slot_pos[i] < tile_pos[i / AQ_TILE]) tile_pos[i / AQ_TILE] = slot_pos[i];
    }
}

/* Keys; those after the last query hold what must not be seen, those without a token also. */
static void fill_keys(const aq_attn_partial_args *a, aq_rng *rng) {
    const aq_kv_view *kv = &a->kv;
    int64_t last = -1;
    for (int64_t t = 0; t < a->n_q; t++)
        last = a->q_pos[t] > last ? a->q_pos[t] : last;
    for (int64_t tile = 0; tile < a->n_tile; tile++)
        for (int64_t i = 0; i < (int64_t)kv->n_kv_head * kv->n_col * AQ_TILE; i++) {
            const int64_t s =
                kv->key_order == AQ_KEYS_BY_TOKEN ? i / kv->n_col % AQ_TILE : i % AQ_TILE;
            const bool seen = pos_of(a, tile, s) <= last;
            aq_cache_set(kv->keys, kv->key_type,
                         place_of(a, tile) * kv->n_kv_head * kv->n_col * AQ_TILE + i,
                         seen ? (float)aq_rng_normal(rng) : 1e20f);
        }
}

static void *alloc_n(aq_backend *be, int64_t n, size_t bytes) {
    return n > 0 ? aq_test_alloc(be, (size_t)n * bytes) : NULL;
}

/* Where the tokens are: tile_pos, and tile_at or slot_pos. */
static void place_tokens(aq_backend *be, const mass_shape *shape, aq_rng *rng,
                         aq_attn_partial_args *a) {
    const int64_t n = shape->n_tile;
    int64_t *tile_pos = aq_test_alloc(be, (size_t)n * sizeof *tile_pos);
    int64_t *tile_at = alloc_n(be, shape->places == RING ? n : 0, sizeof *tile_at);
    int64_t *slot_pos = alloc_n(be, shape->places == SLOTS ? n * AQ_TILE : 0, sizeof *slot_pos);
    for (int64_t tile = 0; tile < n; tile++) {
        tile_pos[tile] = tile * shape->n_rank * AQ_TILE;
        if (tile_at) tile_at[tile] = (n_place(shape) + 1 - tile) % n_place(shape);
    }
    if (slot_pos) scatter_tokens(shape, rng, slot_pos, tile_pos);
    a->tile_pos = tile_pos;
    a->tile_at = tile_at;
    a->slot_pos = slot_pos;
}

/* The newest positions but the last few; with a ring, the first query is before all tokens. */
static int64_t *place_queries(aq_backend *be, const mass_shape *shape) {
    int64_t *q_pos = aq_test_alloc(be, (size_t)shape->n_q * sizeof *q_pos);
    for (int64_t t = 0; t < shape->n_q; t++)
        q_pos[t] = shape->n_tile * shape->n_rank * AQ_TILE - 5 - shape->n_q + t;
    if (shape->places == RING) q_pos[0] = -1;
    return q_pos;
}

static int16_t *choose_dims(aq_backend *be, const mass_shape *shape) {
    const int64_t n = shape->n_q * shape->n_head * shape->n_dim;
    int16_t *dims = alloc_n(be, n, sizeof *dims);
    for (int64_t i = 0; i < n; i++)
        dims[i] =
            (int16_t)((i % shape->n_dim * shape->n_col + i / shape->n_dim % 2) / shape->n_dim);
    return dims;
}

/* A problem in memory of the backend, but for ml; close_problem releases it. */
static aq_attn_mass_args open_problem(aq_backend *be, const mass_shape *shape) {
    const int64_t n_row = shape->n_q * shape->n_head, n_slot = n_place(shape) * AQ_TILE;
    const int64_t n_key = n_slot * shape->n_kv_head * shape->n_col;
    aq_rng rng = {(uint64_t)(shape->n_q * 1000 + shape->n_col * 10 + shape->n_dim)};
    float *q = aq_test_alloc(be, (size_t)(n_row * shape->n_col) * sizeof *q);
    float *acc = aq_test_alloc(be, (size_t)n_slot * sizeof *acc);
    for (int64_t i = 0; i < n_row * shape->n_col; i++)
        q[i] = 2.0f * (float)aq_rng_normal(&rng);
    for (int64_t i = 0; i < n_slot; i++)
        acc[i] = (float)aq_rng_uniform(&rng);
    aq_attn_mass_args args = {
        .scores = {.q = q,
                   .dims = choose_dims(be, shape),
                   .n_dim = shape->n_dim,
                   .q_pos = place_queries(be, shape),
                   .n_q = shape->n_q,
                   .n_head = shape->n_head,
                   .scale = 1.0f / sqrtf((float)shape->n_col),
                   .kv = {.keys = aq_test_alloc(be, (size_t)n_key *
                                                        (shape->key_type == AQ_KV_BF16 ? 2 : 4)),
                          .key_type = shape->key_type,
                          .key_order = shape->key_order,
                          .n_kv_head = shape->n_kv_head,
                          .n_col = shape->n_col,
                          .d_head = shape->n_col,
                          .open_tile = -1},
                   .n_tile = shape->n_tile,
                   .window = shape->window},
        .ml = aq_test_alloc(be, (size_t)(2 * n_row) * sizeof(float)),
        .acc = acc};
    place_tokens(be, shape, &rng, &args.scores);
    fill_keys(&args.scores, &rng);
    return args;
}

static void close_problem(aq_backend *be, const aq_attn_mass_args *a) {
    const void *const blocks[] = {a->scores.q,
                                  a->scores.dims,
                                  a->scores.q_pos,
                                  a->scores.kv.keys,
                                  a->scores.tile_pos,
                                  a->scores.tile_at,
                                  a->scores.slot_pos,
                                  a->ml,
                                  a->acc};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        if (blocks[i]) be->ops->release(be, (void *)blocks[i]);
}

typedef struct {
    double a, allowed; /* a score, -inf if not seen, and the bound of its error */
} score;

static score score_of(const aq_attn_partial_args *a, int64_t row, int64_t tile, int64_t s,
                      planted_bug bug) {
    const int64_t pos = pos_of(a, tile, s), t = row / a->n_head;
    const int64_t g = row % a->n_head / (a->n_head / a->kv.n_kv_head);
    const int64_t last = a->q_pos[t] + (bug == LATER_TOKENS ? 64 : 0);
    const int64_t place = bug == PLACE_IGNORED ? tile : place_of(a, tile);
    const int n_in = a->dims ? a->n_dim : a->kv.n_col;
    score y = {-INFINITY, 0.0};
    if (pos > last || (a->window > 0 && pos <= a->q_pos[t] - a->window)) return y;
    double sum = 0.0, sum_abs = 0.0;
    for (int j = 0; j < n_in; j++) {
        const int64_t c = a->dims ? a->dims[row * n_in + j] : j;
        const double term = (double)a->scale * (double)a->q[row * a->kv.n_col + c] *
                            aq_cache_key(&a->kv, place, (int)g, (int)s, (int)c, AQ_CACHE_RIGHT);
        sum += term;
        sum_abs += fabs(term);
    }
    return (score){sum, 4.0 * sqrt(n_in + 1.0) * EPS * sum_abs};
}

/* Scores of a row over all tokens held; m and l of its softmax over them. */
static void score_row(const aq_attn_partial_args *a, int64_t row, planted_bug bug, score *scores,
                      double *m, double *l) {
    *m = -INFINITY;
    *l = 0.0;
    for (int64_t i = 0; i < a->n_tile * AQ_TILE; i++) {
        scores[i] = score_of(a, row, i / AQ_TILE, i % AQ_TILE, bug);
        *m = fmax(*m, scores[i].a);
    }
    for (int64_t i = 0; i < a->n_tile * AQ_TILE; i++)
        *l += scores[i].a == -INFINITY ? 0.0 : exp(scores[i].a - *m);
}

/* Fills ml as if other ranks held tokens with about as much mass, some of larger scores. */
static void fill_ml(const aq_attn_mass_args *args, int n_rank, score *scores) {
    float *ml = (float *)args->ml;
    for (int64_t row = 0; row < args->scores.n_q * args->scores.n_head; row++) {
        double m, l;
        score_row(&args->scores, row, NO_BUG, scores, &m, &l);
        const double above = n_rank > 1 && m > -INFINITY ? (double)(row % 3) * 0.7 : 0.0;
        ml[2 * row] = (float)(m + above);
        ml[2 * row + 1] = (float)(l * exp(-above) + (n_rank > 1 ? 5.0 + (double)(row % 4) : 0.0));
    }
}

/* Adds one row to the reference of each slot: expected sum, and what it may differ by. */
static void add_row(const aq_attn_mass_args *args, int64_t row, planted_bug bug, score *scores,
                    double *sum, double *allowed) {
    const aq_attn_partial_args *a = &args->scores;
    double m, l;
    score_row(a, row, bug, scores, &m, &l);
    if (bug != LOCAL_SUM) {
        m = (double)args->ml[2 * row];
        l = (double)args->ml[2 * row + 1];
    }
    for (int64_t i = 0; i < a->n_tile * AQ_TILE; i++) {
        if (scores[i].a == -INFINITY || l == 0.0) continue;
        const int64_t slot = place_of(a, i / AQ_TILE) * AQ_TILE + i % AQ_TILE;
        const double w = exp(scores[i].a - m) / l;
        sum[slot] += w;
        allowed[slot] += w * (scores[i].allowed + EPS * (fabs(scores[i].a - m) + 6.0));
    }
}

/* Compares acc, which was `before`, with the reference. */
static void check(aq_backend *be, const aq_attn_mass_args *args, int64_t n_slot,
                  const float *before, planted_bug bug, aq_bound *bound) {
    const aq_attn_partial_args *a = &args->scores;
    const int group = a->n_head / a->kv.n_kv_head;
    const int64_t n_row = a->n_q * a->n_head;
    score *scores = aq_test_alloc(be, (size_t)(a->n_tile * AQ_TILE) * sizeof *scores);
    double *sum = aq_test_alloc(be, (size_t)n_slot * sizeof *sum);
    double *allowed = aq_test_alloc(be, (size_t)n_slot * sizeof *allowed);
    for (int64_t i = 0; i < n_slot; i++)
        sum[i] = bug == NOT_SUMMED ? 0.0 : (double)before[i];
    for (int64_t row = 0; row < n_row; row++)
        if (bug != ONE_HEAD || row % a->n_head % group == 0)
            add_row(args, row, bug, scores, sum, allowed);
    for (int64_t i = 0; i < n_slot; i++)
        aq_bound_element(bound, args->acc[i], sum[i], 4.0 * sqrt((double)n_row),
                         allowed[i] + ldexp(1.0, -120));
    void *const blocks[] = {scores, sum, allowed};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        be->ops->release(be, blocks[i]);
}

static const struct {
    planted_bug bug;
    const char *name;
} plants[] = {{LOCAL_SUM, "shares of this rank's softmax"},
              {ONE_HEAD, "one head of a group"},
              {LATER_TOKENS, "a query that sees the tokens after it"},
              {NOT_SUMMED, "what was accumulated forgotten"},
              {PLACE_IGNORED, "tile j read at place j of a ring"}};

#define N_PLANT ((int)(sizeof plants / sizeof plants[0]))

static void contract(const aq_test_backend *on, void *arg) {
    (void)arg;
    aq_bound bound = {0}, planted[N_PLANT] = {{0}};
    for (int i = 0; i < N_SHAPE; i++) {
        const aq_attn_mass_args args = open_problem(on->be, &shapes[i]);
        const int64_t n_slot = n_place(&shapes[i]) * AQ_TILE;
        const size_t bytes = (size_t)n_slot * sizeof(float);
        float *before = aq_test_alloc(on->be, bytes), *again = aq_test_alloc(on->be, bytes);
        score *scores =
            aq_test_alloc(on->be, (size_t)(shapes[i].n_tile * AQ_TILE) * sizeof *scores);
        fill_ml(&args, shapes[i].n_rank, scores);
        memcpy(before, args.acc, bytes);
        memcpy(again, args.acc, bytes);
        on->be->ops->attn_mass(on->be, &args);
        check(on->be, &args, n_slot, before, NO_BUG, &bound);
        for (int b = 0; b < N_PLANT; b++)
            check(on->be, &args, n_slot, before, plants[b].bug, &planted[b]);
        on->be->ops->attn_mass(
            on->be, &(aq_attn_mass_args){.scores = args.scores, .ml = args.ml, .acc = again});
        CU_ASSERT_EQUAL(memcmp(again, args.acc, bytes), 0);
        on->be->ops->release(on->be, before);
        on->be->ops->release(on->be, again);
        on->be->ops->release(on->be, scores);
        close_problem(on->be, &args);
    }
    aq_bound_expect(&bound, "attn_mass");
    for (int b = 0; b < N_PLANT; b++)
        aq_bound_expect_rejects(&planted[b], plants[b].name);
}

static void shares_match_the_formula(void) {
    aq_each_backend(contract, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "shares match the formula", shares_match_the_formula);
}
