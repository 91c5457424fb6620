/* attn_select: against the whole rule in double precision, by sorting. Which tokens near the bound
 * are in is the kernel's choice within a factor; how many it took tells which. */
#include "kernels/attn_select.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/oracle_cache.h"
#include "tests/support/oracle_fold.h"
#include "tests/support/suite.h"

#define MAX_HEAD  256
#define MAX_GROUP 40
#define EPS       0x1p-24
#define EXP_ERROR 0x1p-17
#define FACTOR    1.0054299011128027 /* 2^(1/128) */

typedef enum {
    NO_BUG,
    ONE_HEAD,
    OTHER_GROUPING,
    HALF_LEFT_OUT,
    BOUND_TWICE,
    RECENT_FORGOTTEN,
    RECENT_WIDER,
    SINKS_FORGOTTEN,
    SINKS_WIDER,
    NEAR_BY_CODES,
    NEAR_COUNTED_TWICE,
    CHOSEN_BY_CODES,
    WRONG_LEVELS,
    WRONG_STEP,
    ALL_COLUMNS,
    WEIGHT_IGNORED,
    SEES_NEXT,
    NEIGHBOUR_STEP,
    QUERY_UNROUNDED,
    N_BUG
} planted_bug;

/* Queries stand behind all tokens, at the ends of tiles in no order, or before every tile. */
typedef enum { LAST, EDGES, BEFORE } query_places;

typedef struct {
    int64_t n_q;
    int n_head, n_kv_head, d_head, n_col;
    aq_kv_type key_type, value_type;
    const char *codes;
    int64_t n_tile, gap; /* tiles held; every gap-th tile of the text is held */
    int n_open;          /* tokens of the last tile, if it is open */
    query_places places;
    double mass;
    bool group_mean;
    int64_t n_sink, n_recent;
    int n_dynamic;
    int more_work; /* times the least working memory */
} select_shape;

#define F32  AQ_KV_F32
#define BF16 AQ_KV_BF16
static const select_shape shapes[] = {
    {1, 9, 3, 64, 64, BF16, BF16, "16x4,32x2,16x1", 21, 1, 0, LAST, 0.95, false, 68, 64, 0, 1},
    {1, 4, 1, 64, 64, BF16, BF16, "16x4,32x2,16x1", 50, 1, 30, LAST, 0.98, true, 4, 70, 0, 1},
    {1, 3, 1, 24, 24, F32, F32, "8x4,8x2,8x1", 9, 1, 0, LAST, 0.9, false, 0, 0, 0, 1},
    {1, 4, 4, 32, 32, F32, F32, "32x3", 7, 3, 1, LAST, 0.9, false, 4, 100, 0, 1},
    {7, 6, 2, 24, 24, BF16, F32, "10x4,14x2", 6, 3, 0, EDGES, 0.8, false, 70, 5, 0, 9},
    {8, 6, 2, 32, 40, AQ_KV_Q8, AQ_KV_Q8, "16x4,16x2,8x1", 5, 1, 13, LAST, 0.9, true, 4, 9, 0, 1},
    {8, 8, 2, 24, 19, AQ_KV_Q6, AQ_KV_Q5, "3x8,5x5,6x6", 5, 2, 40, EDGES, 0.9, false, 1, 3, 0, 7},
    {5, 3, 1, 32, 32, AQ_KV_Q5M, AQ_KV_Q4, "8x4,24x1", 8, 1, 63, LAST, 0.7, false, 2, 2, 0, 1},
    {6, 6, 2, 48, 48, AQ_KV_Q5, AQ_KV_Q6, "16x4,32x4", 6, 1, 0, LAST, 0.9, false, 4, 8, 20, 20},
    {1, 6, 2, 48, 48, AQ_KV_Q4, BF16, "48x4", 9, 1, 5, LAST, 0.9, true, 4, 8, 16, 1},
    {2, 2, 2, 256, 256, F32, AQ_KV_Q5M, "64x4", 4, 1, 0, LAST, 0.9, false, 4, 8, 0, 3},
    {3, 6, 2, 16, 16, F32, F32, "16x4", 4, 2, 0, BEFORE, 0.9, false, 4, 8, 0, 1},
    {3, 6, 2, 16, 16, F32, F32, "16x4", 0, 1, 0, LAST, 0.9, false, 4, 8, 0, 1},
    {0, 6, 2, 16, 16, F32, F32, "16x4", 3, 1, 0, LAST, 0.9, false, 4, 8, 0, 1},
    {9, 6, 2, 32, 32, BF16, AQ_KV_Q8, "16x4,16x2", 6, 2, 7, EDGES, 1.0, false, 4, 8, 0, 6},
    {1, 6, 1, 32, 32, AQ_KV_Q8, BF16, "16x4,16x2", 9, 2, 7, LAST, 1.0, false, 4, 8, 0, 1},
    {60, 4, 2, 16, 16, BF16, BF16, "8x4,8x2", 6, 1, 0, LAST, 0.9, false, 4, 16, 0, 40},
    {60, 4, 1, 16, 16, BF16, BF16, "8x4,8x2", 6, 1, 9, LAST, 0.9, false, 4, 16, 0, 3},
    {1, 40, 1, 16, 16, BF16, AQ_KV_Q8, "16x4", 5, 1, 3, LAST, 0.9, false, 4, 8, 0, 1},
    {33, 8, 1, 24, 24, F32, F32, "24x5", 5, 2, 20, EDGES, 0.95, true, 4, 0, 7, 40},
    {2, 8, 2, 64, 64, AQ_KV_Q8, AQ_KV_Q8, "16x4,32x2,16x1", 6, 1, 13, LAST, 0.9, false, 4, 8, 0, 1},
    {1, 7, 1, 128, 128, AQ_KV_Q8, AQ_KV_Q8, "32x4,64x2,32x1", 7, 1, 0, LAST, 0.9, true, 4, 8, 0, 1},
    {1, 3, 1, 256, 256, AQ_KV_Q8, AQ_KV_Q8, "64x4,128x2,64x1", 5, 1, 9, LAST, 0.9, false, 4, 8, 99,
     1},
    {1, 4, 1, 128, 128, BF16, BF16, "16x1,96x2", 5, 2, 0, EDGES, 0.9, false, 4, 8, 0, 1},
    {1, 2, 1, 256, 256, BF16, BF16, "32x4", 4, 1, 0, LAST, 0.9, false, 4, 8, 0, 1},
};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

static int64_t n_token(const aq_attn_select_args *a) {
    return a->n_tile * AQ_TILE;
}

static int64_t pos_of(const aq_attn_select_args *a, int64_t token) {
    return a->tile_pos[token / AQ_TILE] + token % AQ_TILE;
}

static int64_t place_query(const select_shape *shape, int64_t t, aq_rng *rng) {
    static const int64_t edges[] = {-1, 0, 1, AQ_TILE - 2, AQ_TILE - 1, AQ_TILE, AQ_TILE + 1};
    const int64_t held = (int64_t)(aq_rng_uniform(rng) * (double)shape->n_tile);
    const int64_t last_tile = 1 + (shape->n_tile - 1) * shape->gap;
    const int64_t last = last_tile * AQ_TILE + (shape->n_open > 0 ? shape->n_open : AQ_TILE) - 1;
    const int64_t at = (1 + held * shape->gap) * AQ_TILE + edges[t % 7];
    if (shape->places == BEFORE) return t;
    if (shape->places == EDGES) return at < last ? at : last;
    return last - shape->n_q + 1 + t;
}

/* Writes all tokens but those behind the open ones. Columns spread less and less, as projected keys
 * do. */
static void fill_cache(aq_backend *be, const select_shape *shape, aq_attn_select_args *a,
                       aq_rng *rng) {
    const int64_t n_tok = n_token(a) - (shape->n_open > 0 ? AQ_TILE - shape->n_open : 0);
    const int n_row = shape->n_kv_head, n_col = shape->n_col, d_head = shape->d_head;
    float *key = aq_test_alloc(be, (size_t)(n_tok * n_row * n_col) * sizeof *key);
    float *value = aq_test_alloc(be, (size_t)(n_tok * n_row * d_head) * sizeof *value);
    int64_t *slot = aq_test_alloc(be, (size_t)n_tok * sizeof *slot);
    for (int64_t i = 0; i < n_tok * n_row * n_col; i++) {
        const double spread = 0.3 + 2.0 * exp(-8.0 * (double)(i % n_col) / n_col);
        key[i] = (float)(spread * aq_rng_normal(rng));
    }
    for (int64_t i = 0; i < n_tok * n_row * d_head; i++)
        value[i] = (float)aq_rng_normal(rng);
    for (int64_t i = 0; i < n_tok; i++)
        slot[i] = i;
    be->ops->kv_append(be, &(aq_kv_append_args){a->kv, key, value, slot, n_tok});
    be->ops->release(be, key);
    be->ops->release(be, value);
    be->ops->release(be, slot);
}

static aq_kv_view open_cache(aq_backend *be, const select_shape *shape) {
    const int64_t n_block = shape->n_tile * shape->n_kv_head;
    const int64_t n_open = (int64_t)shape->n_kv_head * AQ_TILE;
    aq_kv_view kv = {.key_type = shape->key_type,
                     .value_type = shape->value_type,
                     .key_order = AQ_KEYS_BY_TOKEN,
                     .n_kv_head = shape->n_kv_head,
                     .n_col = shape->n_col,
                     .d_head = shape->d_head,
                     .open_tile = shape->n_open > 0 ? shape->n_tile - 1 : -1};
    (void)aq_test_ok(aq_code_layout_parse(shape->codes, &kv.codes));
    kv.keys = aq_test_poison(be, n_block * aq_cache_key_bytes(&kv));
    kv.values = aq_test_poison(be, n_block * aq_cache_value_bytes(&kv));
    kv.selector = aq_test_poison(be, n_block * aq_cache_selector_bytes(&kv));
    kv.open_keys = aq_test_alloc(be, (size_t)(n_open * kv.n_col) * sizeof(float));
    kv.open_values = aq_test_alloc(be, (size_t)(n_open * kv.d_head) * sizeof(float));
    return kv;
}

/* A problem of the shape, in memory of the backend; close_problem releases it. */
static aq_attn_select_args open_problem(const aq_test_backend *on, const select_shape *shape) {
    aq_backend *be = on->be;
    const int64_t n_row = shape->n_q * shape->n_head, n_weight = shape->n_kv_head * shape->n_col;
    float *q = aq_test_alloc(be, (size_t)(n_row * shape->n_col) * sizeof *q);
    float *weight = aq_test_alloc(be, (size_t)n_weight * sizeof *weight);
    int64_t *q_pos = aq_test_alloc(be, (size_t)shape->n_q * sizeof *q_pos);
    int64_t *tile_pos = aq_test_alloc(be, (size_t)shape->n_tile * sizeof *tile_pos);
    aq_rng rng = {(uint64_t)(shape->n_q * 1000 + shape->d_head * 10 + shape->n_tile)};
    for (int64_t i = 0; i < n_row * shape->n_col; i++)
        q[i] = 2.0f * (float)aq_rng_normal(&rng);
    for (int64_t i = 0; i < n_weight; i++)
        weight[i] = 0.1f + (float)aq_rng_uniform(&rng);
    for (int64_t t = 0; t < shape->n_q; t++)
        q_pos[t] = place_query(shape, t, &rng);
    for (int64_t tile = 0; tile < shape->n_tile; tile++)
        tile_pos[tile] = (1 + tile * shape->gap) * AQ_TILE;
    aq_attn_select_args args = {.q = q,
                                .q_pos = q_pos,
                                .n_q = shape->n_q,
                                .n_head = shape->n_head,
                                .scale = 1.0f / sqrtf((float)shape->d_head),
                                .kv = open_cache(be, shape),
                                .tile_pos = tile_pos,
                                .n_tile = shape->n_tile,
                                .mass = shape->mass,
                                .group_mean = shape->group_mean,
                                .n_sink = shape->n_sink > 0 ? AQ_TILE + shape->n_sink
                                                            : 0, /* tile 0 is not held */
                                .n_recent = shape->n_recent,
                                .n_dynamic = shape->n_dynamic,
                                .weight = weight};
    args.work_bytes =
        shape->more_work * aq_attn_select_work(&args.kv, args.n_head, on->n_thread, args.n_tile);
    args.work = aq_test_poison(be, args.work_bytes);
    args.part = aq_test_poison(be, n_row * (shape->d_head + 2) * (int64_t)sizeof(float));
    args.counts = aq_test_poison(be, shape->n_q * shape->n_kv_head * 3 * (int64_t)sizeof(int32_t));
    fill_cache(be, shape, &args, &rng);
    return args;
}

static void close_problem(aq_backend *be, const aq_attn_select_args *a) {
    void *memory[] = {(void *)a->q,      (void *)a->q_pos, (void *)a->tile_pos,
                      (void *)a->weight, a->kv.keys,       a->kv.values,
                      a->kv.selector,    a->kv.open_keys,  a->kv.open_values,
                      a->work,           a->part,          a->counts};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        be->ops->release(be, memory[i]);
}

/* The cache as numbers, read once: [n_kv_head, tokens, n_col] and [n_kv_head, tokens, d_head]. */
typedef struct {
    double *key, *code, *value;
} numbers;

static numbers read_cache(aq_backend *be, const aq_attn_select_args *a, planted_bug bug) {
    static const aq_cache_bug bugs[N_BUG] = {[WRONG_LEVELS] = AQ_CACHE_LEVELS,
                                             [WRONG_STEP] = AQ_CACHE_STEP8,
                                             [NEIGHBOUR_STEP] = AQ_CACHE_NEIGHBOUR};
    const aq_kv_view *kv = &a->kv;
    const int n_code = aq_code_layout_columns(&kv->codes);
    const size_t n = (size_t)(kv->n_kv_head * n_token(a));
    numbers to = {aq_test_alloc(be, n * (size_t)kv->n_col * sizeof(double)),
                  aq_test_alloc(be, n * (size_t)kv->n_col * sizeof(double)),
                  aq_test_alloc(be, n * (size_t)kv->d_head * sizeof(double))};
    for (int64_t i = 0; i < (int64_t)n; i++) {
        const int g = (int)(i / n_token(a)), s = (int)(i % AQ_TILE);
        const int64_t tile = i % n_token(a) / AQ_TILE;
        for (int c = 0; c < kv->n_col; c++)
            to.key[i * kv->n_col + c] = aq_cache_key(kv, tile, g, s, c, AQ_CACHE_RIGHT);
        for (int c = 0; c < n_code && tile != kv->open_tile; c++)
            to.code[i * kv->n_col + c] = aq_cache_selector(kv, tile, g, s, c, bugs[bug]);
        for (int d = 0; d < kv->d_head; d++)
            to.value[i * kv->d_head + d] = aq_cache_value(kv, tile, g, s, d, AQ_CACHE_RIGHT);
    }
    return to;
}

/* A token as one query sees it. */
typedef struct {
    int64_t token;
    bool near;
    double w;
    aq_score exact[MAX_GROUP], by_codes[MAX_GROUP];
} seen_token;

/* What query t and KV head g see. */
typedef struct {
    const aq_attn_select_args *a;
    const numbers *cache;
    int64_t t;
    int g, group;
    planted_bug bug;
    bool reads[MAX_HEAD]; /* columns of the selector */
    aq_folded fold[MAX_GROUP][MAX_HEAD];
    int64_t folded_tile;
    seen_token *tokens;
    int64_t n;
    double w_error; /* relative, of the kernel's w */
} sight;

static const float *query_of(const sight *s, int h) {
    return s->a->q + (s->t * s->a->n_head + s->g * s->group + h) * s->a->kv.n_col;
}

/* Marks the columns of the selector that are read: the n_dynamic strongest, by counting how many
 * are stronger. */
static void mark_columns(sight *s) {
    const int n_code = aq_code_layout_columns(&s->a->kv.codes);
    double strength[MAX_HEAD];
    for (int c = 0; c < n_code; c++) {
        const double weight = (double)s->a->weight[s->g * s->a->kv.n_col + c];
        strength[c] = 0.0;
        for (int h = 0; h < s->group; h++)
            strength[c] += fabs((double)query_of(s, h)[c]);
        if (s->bug != WEIGHT_IGNORED) strength[c] *= weight;
    }
    for (int c = 0; c < s->a->kv.n_col; c++) {
        int n_stronger = 0;
        for (int other = 0; other < n_code; other++)
            n_stronger += strength[other] > strength[c];
        const bool all = s->a->n_dynamic == 0 || s->bug == ALL_COLUMNS;
        s->reads[c] = c < n_code && (all || n_stronger < s->a->n_dynamic);
    }
}

static bool is_near(const sight *s, int64_t token) {
    const int64_t pos = pos_of(s->a, token), here = s->a->q_pos[s->t];
    const int64_t n_sink = s->a->n_sink + (s->bug == SINKS_WIDER);
    const int64_t n_recent = s->a->n_recent + (s->bug == RECENT_WIDER);
    return (pos < n_sink && s->bug != SINKS_FORGOTTEN) ||
           (pos > here - n_recent && s->bug != RECENT_FORGOTTEN);
}

/* The score that counts in the choice. */
static aq_score choice_score(const sight *s, const seen_token *token, int h) {
    const bool open = token->token / AQ_TILE == s->a->kv.open_tile;
    return open || (token->near && s->bug != NEAR_BY_CODES) ? token->exact[h] : token->by_codes[h];
}

/* Collects the tokens seen, with their scores. */
static void look(sight *s) {
    const int64_t last = s->a->q_pos[s->t] + (s->bug == SEES_NEXT ? 1 : 0);
    const double scale = (double)s->a->scale;
    const int n_col = s->a->kv.n_col;
    s->n = 0;
    s->folded_tile = -1;
    for (int64_t token = 0; token < n_token(s->a); token++) {
        if (pos_of(s->a, token) > last) continue;
        seen_token *to = &s->tokens[s->n++];
        *to = (seen_token){.token = token, .near = is_near(s, token)};
        const int64_t tile = token / AQ_TILE, at = (s->g * n_token(s->a) + token) * n_col;
        const bool open = tile == s->a->kv.open_tile;
        for (int h = 0; h < s->group && !open && tile != s->folded_tile; h++)
            aq_fold_query(&s->a->kv, tile, s->g, query_of(s, h), s->reads,
                          s->bug != QUERY_UNROUNDED, s->fold[h]);
        if (!open) s->folded_tile = tile;
        for (int h = 0; h < s->group; h++) {
            const float *q = query_of(s, h);
            to->exact[h] = aq_score_exactly(q, s->cache->key + at, n_col, scale);
            if (!open)
                to->by_codes[h] =
                    aq_score_by_codes(q, s->reads, s->fold[h], s->cache->code + at, n_col, scale);
        }
    }
}

/* Weighs the tokens. The kernel's w has the error of its score, of the sum that divides it, and of
 * the differences: score minus maximum minus logarithm. */
static void weigh(sight *s) {
    const bool mean = s->a->group_mean != (s->bug == OTHER_GROUPING);
    double total = 0.0;
    for (int h = 0; h < (s->bug == ONE_HEAD ? 1 : s->group); h++) {
        double m = -INFINITY, l = 0.0, allowed = 0.0, range = 0.0;
        for (int64_t i = 0; i < s->n; i++) {
            const aq_score z = choice_score(s, &s->tokens[i], h);
            m = fmax(m, z.a);
            allowed = fmax(allowed, z.allowed);
        }
        for (int64_t i = 0; i < s->n; i++) {
            l += exp(choice_score(s, &s->tokens[i], h).a - m);
            range = fmax(range, m - choice_score(s, &s->tokens[i], h).a);
        }
        for (int64_t i = 0; i < s->n; i++) {
            seen_token *token = &s->tokens[i];
            const double w = exp(choice_score(s, token, h).a - m) / l;
            token->w = mean ? token->w + w : fmax(token->w, w);
        }
        const double error =
            2.0 * allowed + 2.0 * EXP_ERROR + EPS * (3.0 * range + 40.0 + 4.0 * sqrt((double)s->n));
        s->w_error = fmax(s->w_error, 2.0 * error);
    }
    for (int64_t i = 0; i < s->n; i++)
        total += s->tokens[i].w;
    for (int64_t i = 0; i < s->n; i++)
        s->tokens[i].w /= total;
}

static int by_falling_weight(const void *one, const void *other) {
    const double a = ((const seen_token *)one)->w, b = ((const seen_token *)other)->w;
    return (a < b) - (a > b);
}

/* Results of the kernel and the reference meet here. */
typedef struct {
    aq_bound bound;
    int64_t n_row, n_ambiguous; /* whose last token in and first one out differ by rounding */
} verdict;

static void expect_equal(aq_bound *bound, int64_t got, int64_t expected) {
    aq_bound_element(bound, (float)(got - expected), 0.0, 0.0, 0.5);
}

/* Which of the sorted tokens the kernel took, known from their number: the near ones, and the first
 * n_least .. n_most of all (those between are near). False if there is no such set. */
static bool find_set(const sight *s, int64_t n_attended, int64_t *n_least, int64_t *n_most) {
    int64_t n = 0, first = 0;
    *n_least = -1;
    for (int64_t i = 0; i < s->n; i++)
        n += s->tokens[i].near;
    for (; first <= s->n && n <= n_attended; first++) {
        if (n == n_attended) {
            if (*n_least < 0) *n_least = first;
            *n_most = first;
        }
        if (first < s->n) n += !s->tokens[first].near;
    }
    return *n_least >= 0;
}

static bool attended(const sight *s, int64_t i, int64_t n_first) {
    return i < n_first || s->tokens[i].near;
}
/* Near tokens and the first n_most hold the mass; the last of the first n_least may not be left. */
static void check_set(const sight *s, int64_t n_least, int64_t n_most, aq_bound *bound) {
    const double mass = s->bug == HALF_LEFT_OUT ? 1.0 - (1.0 - s->a->mass) / 2 : s->a->mass;
    const double near_counts = s->bug == NEAR_COUNTED_TWICE ? 2.0 : 1.0;
    double held = 0.0, sum = 0.0, least = INFINITY;
    for (int64_t i = 0; i < s->n; i++) {
        if (attended(s, i, n_most)) held += s->tokens[i].w;
        if (s->tokens[i].near) sum += near_counts * s->tokens[i].w;
    }
    for (int64_t i = 0; i < s->n && sum < mass + s->w_error; i++) {
        if (s->tokens[i].near) continue;
        sum += s->tokens[i].w;
        least = s->tokens[i].w * (s->bug == BOUND_TWICE ? 2.0 : 1.0);
    }
    aq_bound_element(bound, (float)fmax(0.0, mass - held), 0.0, 0.0, s->w_error);
    if (n_least == 0) return;
    const double below = 1.0 - s->tokens[n_least - 1].w * FACTOR / least;
    aq_bound_element(bound, (float)fmax(0.0, below), 0.0, 0.0, 2.0 * s->w_error);
}

/* Whether rounding could change the set. */
static bool is_ambiguous(const sight *s, int64_t n_most) {
    int64_t in = n_most - 1, out = n_most;
    while (in >= 0 && s->tokens[in].near)
        in--;
    while (out < s->n && s->tokens[out].near)
        out++;
    return in >= 0 && out < s->n && s->tokens[in].w < s->tokens[out].w * (1.0 + 2.0 * s->w_error);
}

/* What one row of the result must be, and by how much it may differ. */
typedef struct {
    double m, m_allowed, l, l_allowed;
    double o[MAX_HEAD], o_allowed[MAX_HEAD];
} row_reference;

static aq_score mixed_score(const sight *s, int64_t i, int h) {
    const seen_token *token = &s->tokens[i];
    const bool open = token->token / AQ_TILE == s->a->kv.open_tile;
    return s->bug == CHOSEN_BY_CODES && !open ? token->by_codes[h] : token->exact[h];
}

/* Attention of head h over the set. The errors of weights as in test_attn_partial.c. */
static void attend(const sight *s, int h, int64_t n_first, row_reference *ref) {
    const aq_kv_view *kv = &s->a->kv;
    double range = 0.0;
    int64_t n = 0;
    *ref = (row_reference){.m = -INFINITY};
    for (int64_t i = 0; i < s->n; i++) {
        if (!attended(s, i, n_first)) continue;
        ref->m = fmax(ref->m, mixed_score(s, i, h).a);
        ref->m_allowed = fmax(ref->m_allowed, mixed_score(s, i, h).allowed);
        n++;
    }
    for (int64_t i = 0; i < s->n; i++)
        if (attended(s, i, n_first)) range = fmax(range, ref->m - mixed_score(s, i, h).a);
    const double relative = EPS * (3.0 * fmin(range, 104.0) + 4.0 * ((double)s->a->n_tile + 5.0) +
                                   4.0 * sqrt((double)n + 1.0));
    for (int64_t i = 0; i < s->n; i++) {
        if (!attended(s, i, n_first)) continue;
        const aq_score a = mixed_score(s, i, h);
        const double w = exp(a.a - ref->m), error = w * (relative + a.allowed);
        const int64_t token = s->tokens[i].token;
        ref->l += w;
        ref->l_allowed += error;
        for (int d = 0; d < kv->d_head; d++) {
            const double v = s->cache->value[(s->g * n_token(s->a) + token) * kv->d_head + d];
            ref->o[d] += w * v;
            ref->o_allowed[d] += error * fabs(v);
        }
    }
}

/* o and l of a part are relative to its own m, which may differ from the reference's. */
static void check_row(const float *part, int d_head, const row_reference *ref, aq_bound *bound) {
    const float m = part[d_head], l = part[d_head + 1];
    const double tiny = ldexp(1.0, -110);
    const double factor = ref->m == -INFINITY ? 1.0 : exp((double)m - ref->m);
    aq_bound_element(bound, m, ref->m, 0.0, ref->m_allowed + tiny);
    aq_bound_element(bound, (float)(factor * (double)l), ref->l, 0.0, ref->l_allowed + tiny);
    for (int d = 0; d < d_head; d++)
        aq_bound_element(bound, (float)(factor * (double)part[d]), ref->o[d], 0.0,
                         ref->o_allowed[d] + tiny);
}

static int64_t count_tiles(const sight *s, int64_t n_first) {
    uint64_t tiles = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < s->n; i++)
        if (attended(s, i, n_first)) tiles |= (uint64_t)1 << s->tokens[i].token / AQ_TILE;
    for (; tiles != 0; tiles &= tiles - 1)
        n++;
    return n;
}

/* One query and KV head. */
static void check_sight(sight *s, verdict *to) {
    const aq_attn_select_args *a = s->a;
    const int32_t *counts = a->counts + (s->t * a->kv.n_kv_head + s->g) * 3;
    int64_t n_least = 0, n_most = 0;
    look(s);
    weigh(s);
    if (a->mass < 1.0) qsort(s->tokens, (size_t)s->n, sizeof *s->tokens, by_falling_weight);
    to->n_row++;
    expect_equal(&to->bound, counts[0], s->n);
    if (!find_set(s, counts[1], &n_least, &n_most)) {
        expect_equal(&to->bound, 0, 1);
        return;
    }
    if (a->mass >= 1.0)
        expect_equal(&to->bound, counts[1], s->n);
    else if (s->n > 0)
        check_set(s, n_least, n_most, &to->bound);
    if (is_ambiguous(s, n_most) && a->mass < 1.0) {
        to->n_ambiguous++;
        return;
    }
    expect_equal(&to->bound, counts[2], count_tiles(s, n_most));
    for (int h = 0; h < s->group; h++) {
        const int64_t row = s->t * a->n_head + s->g * s->group + h;
        row_reference ref;
        attend(s, h, n_most, &ref);
        check_row(a->part + row * (a->kv.d_head + 2), a->kv.d_head, &ref, &to->bound);
    }
}

/* Every `step`-th pair of a query and a KV head. */
static void check(aq_backend *be, const aq_attn_select_args *a, planted_bug bug, int64_t step,
                  verdict *to) {
    seen_token *tokens = aq_test_alloc(be, (size_t)n_token(a) * sizeof *tokens);
    const numbers cache = read_cache(be, a, bug);
    for (int64_t i = 0; i < a->n_q * a->kv.n_kv_head; i += step) {
        sight s = {.a = a,
                   .cache = &cache,
                   .t = i / a->kv.n_kv_head,
                   .g = (int)(i % a->kv.n_kv_head),
                   .group = a->n_head / a->kv.n_kv_head,
                   .bug = bug,
                   .tokens = tokens};
        mark_columns(&s);
        check_sight(&s, to);
    }
    void *memory[] = {cache.key, cache.code, cache.value, tokens};
    for (int i = 0; i < 4; i++)
        be->ops->release(be, memory[i]);
}

/* Runs the problem again: the same bits. */
static void expect_same_bits(aq_backend *be, const aq_attn_select_args *a) {
    const size_t part_bytes = (size_t)(a->n_q * a->n_head * (a->kv.d_head + 2)) * sizeof(float);
    const size_t count_bytes = (size_t)(a->n_q * a->kv.n_kv_head * 3) * sizeof(int32_t);
    aq_attn_select_args again = *a;
    again.part = aq_test_alloc(be, part_bytes);
    again.counts = aq_test_alloc(be, count_bytes);
    be->ops->attn_select(be, &again);
    CU_ASSERT_EQUAL(memcmp(again.part, a->part, part_bytes), 0);
    CU_ASSERT_EQUAL(memcmp(again.counts, a->counts, count_bytes), 0);
    be->ops->release(be, again.part);
    be->ops->release(be, again.counts);
}

static const char *const bug_names[N_BUG] = {
    [ONE_HEAD] = "the mass of one head of a group",
    [OTHER_GROUPING] = "the mean for the largest weight of a group",
    [HALF_LEFT_OUT] = "twice as much left out",
    [BOUND_TWICE] = "a bound of half its height",
    [RECENT_FORGOTTEN] = "recent tokens forgotten",
    [RECENT_WIDER] = "one recent token less",
    [SINKS_FORGOTTEN] = "sinks forgotten",
    [SINKS_WIDER] = "one sink less",
    [NEAR_BY_CODES] = "near tokens chosen by exact scores where codes are asked for",
    [NEAR_COUNTED_TWICE] = "the mass of near tokens counted twice",
    [CHOSEN_BY_CODES] = "chosen tokens mixed by exact scores where codes are asked for",
    [WRONG_LEVELS] = "other levels of 2 bits",
    [WRONG_STEP] = "another step of a selector's column",
    [ALL_COLUMNS] = "n_dynamic ignored",
    [WEIGHT_IGNORED] = "columns chosen without their weights",
    [SEES_NEXT] = "a query that does not see its next token",
    [NEIGHBOUR_STEP] = "the step of the next column",
    [QUERY_UNROUNDED] = "the query by codes without rounding",
};

/* Bugs are planted in the reference, where they are as wrong as in the kernel. */
static void contract(const aq_test_backend *on, void *arg) {
    const bool plants = on->isa == AQ_ISA_PORTABLE && on->n_thread == 2;
    verdict right = {0}, planted[N_BUG] = {0};
    (void)arg;
    for (int i = 0; i < N_SHAPE; i++) {
        const aq_attn_select_args args = open_problem(on, &shapes[i]);
        on->be->ops->attn_select(on->be, &args);
        expect_same_bits(on->be, &args);
        check(on->be, &args, NO_BUG, shapes[i].n_q > 20 ? 5 : 1, &right);
        for (int bug = 1; bug < N_BUG && plants && shapes[i].n_tile < 10; bug++)
            check(on->be, &args, (planted_bug)bug, 3, &planted[bug]);
        close_problem(on->be, &args);
    }
    aq_bound_expect(&right.bound, "attn_select");
    printf("  ambiguous: %lld of %lld\n", (long long)right.n_ambiguous, (long long)right.n_row);
    CU_ASSERT(right.n_ambiguous * 10 < right.n_row);
    for (int bug = 1; bug < N_BUG && plants; bug++)
        aq_bound_expect_rejects(&planted[bug].bound, bug_names[bug]);
}

static void run(void) {
    aq_each_backend(contract, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "the chosen are right", run);
}
