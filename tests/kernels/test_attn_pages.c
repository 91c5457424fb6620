/* attn_pages: against the rule in double precision, by sorting all pages. */
#include "kernels/attn_pages.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/oracle_cache.h"
#include "tests/support/suite.h"

#define MAX_HEAD 128
#define EPS      0x1p-24

typedef enum {
    NO_BUG,
    ONE_HEAD,         /* the bound of a group's first head */
    LEAST_FORGOTTEN,  /* negative q takes the most of a column too */
    NEXT_PAGE,        /* the summary of the page behind */
    ONE_PAGE_FEWER,   /* the share is rounded down */
    RECENT_FORGOTTEN, /* near by the sinks alone */
    SINKS_FORGOTTEN,
    ONE_TOKEN, /* of a page only the best token is attended to */
    SEES_NEXT,
    N_BUG
} planted_bug;

typedef struct {
    int64_t n_q;
    int n_head, n_kv_head, d_head, n_col;
    aq_kv_type key_type, value_type;
    int64_t n_tile, gap; /* tiles held; every gap-th tile of the text is held */
    int n_open;          /* tokens of the last tile, if it is open */
    int n_page;
    double share;
    int64_t n_sink, n_recent;
} pages_shape;

#define F32  AQ_KV_F32
#define BF16 AQ_KV_BF16
#define Q8   AQ_KV_Q8
static const pages_shape shapes[] = {
    {1, 9, 3, 64, 64, Q8, Q8, 12, 1, 30, 16, 0.2, 4, 64},
    {1, 4, 1, 32, 32, BF16, BF16, 21, 3, 0, 16, 0.1, 0, 0},
    {70, 6, 2, 24, 19, F32, F32, 4, 1, 0, 8, 0.3, 3, 20},
    {40, 4, 4, 24, 24, Q8, BF16, 5, 2, 13, 4, 0.15, 1, 3},
    {30, 3, 1, 100, 100, BF16, Q8, 4, 2, 63, 32, 0.4, 0, 9},
    {9, 8, 2, 16, 16, F32, AQ_KV_Q5, 6, 1, 1, 64, 0.5, 4, 8},
    {9, 2, 1, 16, 16, AQ_KV_Q6, F32, 4, 1, 7, 1, 0.05, 2, 2},
    {5, 4, 2, 16, 16, F32, F32, 5, 1, 0, 16, 1.0, 4, 8},
    {70, 4, 2, 16, 16, F32, F32, 1, 1, 0, 16, 0.5, 4, 8}, /* the first see nothing */
    {3, 4, 2, 16, 16, F32, F32, 0, 1, 0, 16, 0.5, 4, 8},
    {0, 4, 2, 16, 16, F32, F32, 3, 1, 0, 16, 0.5, 4, 8},
};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

static int64_t n_written(const pages_shape *shape) {
    return shape->n_tile * AQ_TILE - (shape->n_open > 0 ? AQ_TILE - shape->n_open : 0);
}

static int64_t pos_of(const aq_attn_pages_args *a, int64_t token) {
    return a->tile_pos[token / AQ_TILE] + token % AQ_TILE;
}

static void fill_cache(aq_backend *be, const pages_shape *shape, const aq_kv_view *kv,
                       aq_rng *rng) {
    const int64_t n = n_written(shape), row = shape->n_kv_head;
    float *key = aq_test_alloc(be, (size_t)(n * row * kv->n_col) * sizeof *key);
    float *value = aq_test_alloc(be, (size_t)(n * row * kv->d_head) * sizeof *value);
    int64_t *slot = aq_test_alloc(be, (size_t)n * sizeof *slot);
    for (int64_t i = 0; i < n * row * kv->n_col; i++)
        key[i] = (float)aq_rng_normal(rng);
    for (int64_t i = 0; i < n * row * kv->d_head; i++)
        value[i] = (float)aq_rng_normal(rng);
    for (int64_t i = 0; i < n; i++)
        slot[i] = i;
    be->ops->kv_append(be, &(aq_kv_append_args){*kv, key, value, slot, n});
    be->ops->release(be, key);
    be->ops->release(be, value);
    be->ops->release(be, slot);
}

static aq_kv_view open_cache(aq_backend *be, const pages_shape *shape) {
    const int64_t n_block = shape->n_tile * shape->n_kv_head;
    const size_t n_open = (size_t)shape->n_kv_head * AQ_TILE;
    aq_kv_view kv = {.key_type = shape->key_type,
                     .value_type = shape->value_type,
                     .key_order = AQ_KEYS_BY_TOKEN,
                     .n_kv_head = shape->n_kv_head,
                     .n_col = shape->n_col,
                     .d_head = shape->d_head,
                     .open_tile = shape->n_open > 0 ? shape->n_tile - 1 : -1};
    kv.keys = aq_test_poison(be, n_block * aq_cache_key_bytes(&kv));
    kv.values = aq_test_poison(be, n_block * aq_cache_value_bytes(&kv));
    if (!aq_kv_has_open_tile(&kv)) return kv;
    kv.open_keys = aq_test_alloc(be, n_open * (size_t)kv.n_col * sizeof(float));
    kv.open_values = aq_test_alloc(be, n_open * (size_t)kv.d_head * sizeof(float));
    return kv;
}

/* Queries stand at the last tokens of the text, or where those reach back to its beginning, from
 * before the first token on. */
static aq_attn_pages_args open_problem(const aq_test_backend *on, const pages_shape *shape) {
    aq_backend *be = on->be;
    const int64_t n_row = shape->n_q * shape->n_head;
    float *q = aq_test_alloc(be, (size_t)(n_row * shape->n_col) * sizeof *q);
    int64_t *q_pos = aq_test_alloc(be, (size_t)shape->n_q * sizeof *q_pos);
    int64_t *tile_pos = aq_test_alloc(be, (size_t)shape->n_tile * sizeof *tile_pos);
    aq_rng rng = {(uint64_t)(shape->n_q * 1000 + shape->d_head * 10 + shape->n_tile)};
    for (int64_t i = 0; i < n_row * shape->n_col; i++)
        q[i] = (float)aq_rng_normal(&rng);
    for (int64_t i = 0; i < shape->n_tile; i++)
        tile_pos[i] = i * shape->gap * AQ_TILE;
    const int64_t gone = (shape->n_tile - 1) * (shape->gap - 1) * AQ_TILE;
    for (int64_t t = 0; t < shape->n_q; t++)
        q_pos[t] = n_written(shape) + gone - shape->n_q + t;
    aq_attn_pages_args a = {.q = q,
                            .q_pos = q_pos,
                            .n_q = shape->n_q,
                            .n_head = shape->n_head,
                            .scale = 1.0f / sqrtf((float)shape->d_head),
                            .kv = open_cache(be, shape),
                            .tile_pos = tile_pos,
                            .n_tile = shape->n_tile,
                            .n_page = shape->n_page,
                            .share = shape->share,
                            .n_sink = shape->n_sink,
                            .n_recent = shape->n_recent};
    a.work = aq_test_poison(
        be, aq_attn_pages_work(&a.kv, a.n_head, on->n_thread, a.n_tile, shape->n_page));
    a.part = aq_test_poison(be, n_row * (shape->d_head + 2) * (int64_t)sizeof(float));
    a.counts = aq_test_poison(be, shape->n_q * shape->n_kv_head * 3 * (int64_t)sizeof(int32_t));
    fill_cache(be, shape, &a.kv, &rng);
    return a;
}

static void close_problem(aq_backend *be, const aq_attn_pages_args *a) {
    const void *const memory[] = {a->q,         a->q_pos,         a->tile_pos, a->kv.keys,
                                  a->kv.values, a->kv.open_keys,  a->work,     a->part,
                                  a->counts,    a->kv.open_values};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        if (memory[i]) be->ops->release(be, (void *)memory[i]);
}

typedef struct {
    int64_t page;
    bool near, whole;
    double u, error;
} seen_page;

/* What query t and KV head g see. */
typedef struct {
    const aq_attn_pages_args *a;
    planted_bug bug;
    int64_t t, last; /* the last position seen */
    int g, group;
    seen_page *pages;
    int64_t n, n_chosen;
    int64_t n_attended;
} sight;

static double key_at(const sight *s, int64_t token, int c) {
    return aq_cache_key(&s->a->kv, token / AQ_TILE, s->g, (int)(token % AQ_TILE), c,
                        AQ_CACHE_RIGHT);
}

static double query_at(const sight *s, int h, int c) {
    const int64_t row = s->t * s->a->n_head + s->g * s->group + h;
    return (double)s->a->q[row * s->a->kv.n_col + c];
}

/* u and the bound of its error. */
static void bound_of(const sight *s, seen_page *p) {
    const int n_page = s->a->n_page;
    const int64_t behind = (p->page + 1) % (s->a->n_tile * AQ_TILE / n_page);
    const int64_t other = s->bug == NEXT_PAGE ? behind : p->page;
    p->u = -INFINITY;
    for (int h = 0; h < (s->bug == ONE_HEAD ? 1 : s->group); h++) {
        double sum = 0.0, sum_abs = 0.0;
        for (int c = 0; c < s->a->kv.n_col; c++) {
            double least = INFINITY, most = -INFINITY;
            for (int64_t token = other * n_page; token < (other + 1) * n_page; token++) {
                least = fmin(least, key_at(s, token, c));
                most = fmax(most, key_at(s, token, c));
            }
            const double q = query_at(s, h, c);
            const double term = s->bug == LEAST_FORGOTTEN ? q * most : fmax(q * least, q * most);
            sum += term;
            sum_abs += fabs(term);
        }
        p->u = fmax(p->u, sum);
        p->error = fmax(p->error, 4.0 * sqrt(2.0 * s->a->kv.n_col) * EPS * sum_abs);
    }
}

static void look(sight *s) {
    const aq_attn_pages_args *a = s->a;
    s->n = 0;
    for (int64_t page = 0; page < a->n_tile * AQ_TILE / a->n_page; page++) {
        const int64_t first = pos_of(a, page * a->n_page), last = first + a->n_page - 1;
        if (first > s->last) continue;
        seen_page p = {.page = page, .whole = last <= s->last};
        const bool recent = last > a->q_pos[s->t] - a->n_recent && s->bug != RECENT_FORGOTTEN;
        const bool sink = first < a->n_sink && s->bug != SINKS_FORGOTTEN;
        p.near = recent || sink || !p.whole;
        if (!p.near) bound_of(s, &p);
        s->pages[s->n++] = p;
    }
}

static int by_falling_bound(const void *one, const void *other) {
    const seen_page *a = one, *b = other;
    if (a->near != b->near) return b->near - a->near;
    if (!a->near && a->u != b->u) return a->u < b->u ? 1 : -1;
    return a->page < b->page ? -1 : 1;
}

/* Sorts; the first n_chosen are C. Returns whether rounding could change it. */
static bool choose(sight *s) {
    const double wanted = s->a->share * (double)s->n;
    int64_t n_near = 0;
    for (int64_t i = 0; i < s->n; i++)
        n_near += s->pages[i].near;
    s->n_chosen = (int64_t)(s->bug == ONE_PAGE_FEWER ? floor(wanted) : ceil(wanted));
    if (s->n_chosen > s->n) s->n_chosen = s->n;
    if (s->n_chosen < n_near) s->n_chosen = n_near;
    qsort(s->pages, (size_t)s->n, sizeof *s->pages, by_falling_bound);
    if (s->n_chosen == s->n || s->n_chosen == n_near) return false;
    const seen_page *in = &s->pages[s->n_chosen - 1], *out = in + 1;
    return in->u - out->u <= in->error + out->error;
}

typedef struct {
    double a, allowed;
} score;

static score score_of(const sight *s, int h, int64_t token) {
    const int n_col = s->a->kv.n_col;
    double sum = 0.0, sum_abs = 0.0;
    for (int c = 0; c < n_col; c++) {
        const double term = (double)s->a->scale * query_at(s, h, c) * key_at(s, token, c);
        sum += term;
        sum_abs += fabs(term);
    }
    return (score){sum, 4.0 * sqrt(n_col + 1.0) * EPS * sum_abs};
}

/* The tokens of the chosen pages; returns how many. */
static int64_t collect(const sight *s, int64_t *tokens) {
    int64_t n = 0;
    for (int64_t i = 0; i < s->n_chosen; i++)
        for (int k = 0; k < s->a->n_page; k++) {
            const int64_t token = s->pages[i].page * s->a->n_page + k;
            const bool left_out = s->bug == ONE_TOKEN && k > 0;
            if (pos_of(s->a, token) <= s->last && !left_out) tokens[n++] = token;
        }
    return n;
}

static int64_t count_tiles(const int64_t *tokens, int64_t n) {
    uint64_t tiles = 0;
    for (int64_t i = 0; i < n; i++)
        tiles |= (uint64_t)1 << tokens[i] / AQ_TILE;
    return __builtin_popcountll(tiles);
}

/* The row of head h over n tokens. Errors of weights as in oracle_partial.c. */
static void check_row(const sight *s, int h, const int64_t *tokens, int64_t n, aq_bound *bound) {
    const int d_head = s->a->kv.d_head;
    const int64_t row = s->t * s->a->n_head + s->g * s->group + h;
    const float *part = s->a->part + row * (d_head + 2);
    double m = -INFINITY, m_allowed = ldexp(1.0, -110), least = INFINITY, l = 0.0, l_allowed = 0.0;
    double o[MAX_HEAD] = {0}, o_allowed[MAX_HEAD] = {0};
    for (int64_t i = 0; i < n; i++) {
        const score a = score_of(s, h, tokens[i]);
        m = fmax(m, a.a);
        least = fmin(least, a.a);
        m_allowed = fmax(m_allowed, a.allowed);
    }
    for (int64_t i = 0; i < n; i++) {
        const score a = score_of(s, h, tokens[i]);
        const double w = exp(a.a - m);
        const double error =
            w * (a.allowed + EPS * (3.0 * fmin(m - least, 104.0) +
                                    4.0 * ((double)s->a->n_tile + 5.0 + sqrt((double)n))));
        l += w;
        l_allowed += error;
        for (int d = 0; d < d_head; d++) {
            const double v = aq_cache_value(&s->a->kv, tokens[i] / AQ_TILE, s->g,
                                            (int)(tokens[i] % AQ_TILE), d, AQ_CACHE_RIGHT);
            o[d] += w * v;
            o_allowed[d] += error * fabs(v) + w * fabs(v) * 2.0 * EPS;
        }
    }
    const double factor = n == 0 ? 1.0 : exp((double)part[d_head] - m);
    aq_bound_element(bound, part[d_head], m, 0.0, m_allowed);
    aq_bound_element(bound, (float)(factor * (double)part[d_head + 1]), l, 0.0, l_allowed);
    for (int d = 0; d < d_head; d++)
        aq_bound_element(bound, (float)(factor * (double)part[d]), o[d], 0.0,
                         o_allowed[d] + ldexp(1.0, -110));
}

static void expect_equal(aq_bound *bound, int64_t got, int64_t expected) {
    aq_bound_element(bound, (float)(got - expected), 0.0, 0.0, 0.5);
}

/* Results of the kernel and the reference meet here. */
typedef struct {
    aq_bound bound;
    int64_t n_pair, n_ambiguous;
} verdict;

/* One query and KV head; `tokens` is room for all. */
static void check_pair(sight *s, int64_t *tokens, verdict *to) {
    const int32_t *counts = s->a->counts + (s->t * s->a->kv.n_kv_head + s->g) * 3;
    int64_t n_seen = 0;
    look(s);
    for (int64_t i = 0; i < s->a->n_tile * AQ_TILE; i++)
        n_seen += pos_of(s->a, i) <= s->last;
    const bool ambiguous = choose(s);
    const int64_t n = collect(s, tokens);
    to->n_pair++;
    to->n_ambiguous += ambiguous;
    expect_equal(&to->bound, counts[0], n_seen);
    expect_equal(&to->bound, counts[1], n);
    if (ambiguous) return;
    expect_equal(&to->bound, counts[2], count_tiles(tokens, n));
    for (int h = 0; h < s->group; h++)
        check_row(s, h, tokens, n, &to->bound);
}

static void check(aq_backend *be, const aq_attn_pages_args *a, planted_bug bug, int64_t step,
                  verdict *to) {
    const size_t n_token = (size_t)(a->n_tile * AQ_TILE);
    seen_page *pages = aq_test_alloc(be, n_token * sizeof *pages);
    int64_t *tokens = aq_test_alloc(be, n_token * sizeof *tokens);
    for (int64_t i = 0; i < a->n_q * a->kv.n_kv_head; i += step) {
        const int64_t t = i / a->kv.n_kv_head;
        sight s = {.a = a,
                   .bug = bug,
                   .t = t,
                   .last = a->q_pos[t] + (bug == SEES_NEXT),
                   .g = (int)(i % a->kv.n_kv_head),
                   .group = a->n_head / a->kv.n_kv_head,
                   .pages = pages};
        check_pair(&s, tokens, to);
    }
    be->ops->release(be, pages);
    be->ops->release(be, tokens);
}

static void expect_same_bits(aq_backend *be, const aq_attn_pages_args *a) {
    const size_t bytes = (size_t)(a->n_q * a->n_head * (a->kv.d_head + 2)) * sizeof(float);
    aq_attn_pages_args again = *a;
    again.part = aq_test_alloc(be, bytes);
    be->ops->attn_pages(be, &again);
    CU_ASSERT_EQUAL(memcmp(again.part, a->part, bytes), 0);
    be->ops->release(be, again.part);
}

static const char *const bug_names[N_BUG] = {
    [ONE_HEAD] = "the bound of one head of a group",
    [LEAST_FORGOTTEN] = "least of a column forgotten",
    [NEXT_PAGE] = "the summary of the next page",
    [ONE_PAGE_FEWER] = "a share rounded down",
    [RECENT_FORGOTTEN] = "recent tokens forgotten",
    [SINKS_FORGOTTEN] = "sinks forgotten",
    [ONE_TOKEN] = "one token of a page",
    [SEES_NEXT] = "a query that sees its next token",
};

/* Bugs are planted in the reference, where they are as wrong as in the kernel. */
static void contract(const aq_test_backend *on, void *arg) {
    const bool plants = on->isa == AQ_ISA_PORTABLE && on->n_thread == 2;
    verdict right = {0}, planted[N_BUG] = {0};
    (void)arg;
    if (!on->be->ops->attn_pages) return;
    for (int i = 0; i < N_SHAPE; i++) {
        const aq_attn_pages_args args = open_problem(on, &shapes[i]);
        on->be->ops->attn_pages(on->be, &args);
        expect_same_bits(on->be, &args);
        check(on->be, &args, NO_BUG, shapes[i].n_q > 10 ? 7 : 1, &right);
        for (int bug = 1; bug < N_BUG && plants; bug++)
            check(on->be, &args, (planted_bug)bug, 7, &planted[bug]);
        close_problem(on->be, &args);
    }
    aq_bound_expect(&right.bound, "attn_pages");
    CU_ASSERT(right.n_ambiguous * 20 < right.n_pair);
    for (int bug = 1; bug < N_BUG && plants; bug++)
        aq_bound_expect_rejects(&planted[bug].bound, bug_names[bug]);
}

static void chosen_pages_match_the_rule(void) {
    aq_each_backend(contract, NULL);
}

static void summaries_take_bytes(void) {
    const aq_kv_view kv = {.n_col = 64, .n_kv_head = 3, .d_head = 64};
    CU_ASSERT_DOUBLE_EQUAL(aq_attn_pages_summary_bytes(&kv, 16), 8.0 + 4.0, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(aq_attn_pages_summary_bytes(&kv, 64), 2.0 + 4.0, 1e-12);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "chosen pages match the rule", chosen_pages_match_the_rule);
    CU_add_test(suite, "summaries take bytes", summaries_take_bytes);
}
