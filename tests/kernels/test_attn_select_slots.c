/* attn_select where slots have positions of their own: as over the same tokens in their order,
 * which test_attn_select checks against the rule. Tokens change places within their tile, whose
 * codes they so keep, and tiles change places. */
#include <math.h>
#include <string.h>

#include "kernels/attn_select.h"
#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

enum { N_TILE = 7, N_TOK = N_TILE * AQ_TILE, N_KV_HEAD = 2, N_HEAD = 6, N_COL = 32, D_HEAD = 24 };

/* The last tokens are later than all queries: their slots count as free. */
enum { N_LATER = 9 };

typedef enum { NO_BUG, POSITIONS_SHIFTED, FREE_SLOT_SEEN, TILES_IN_ORDER } planted_bug;

static const struct {
    int64_t n_q;
    double mass;
    bool group_mean;
    int64_t n_sink, n_recent;
    aq_kv_type type;
} cases[] = {{1, 1e-6, false, 4, 40, AQ_KV_BF16}, {9, 1e-6, true, 70, 5, AQ_KV_F32},
             {1, 1.0, false, 4, 40, AQ_KV_F32},   {9, 1.0, false, 0, 0, AQ_KV_BF16},
             {1, 0.9, true, 4, 16, AQ_KV_F32},    {40, 0.9, false, 4, 16, AQ_KV_BF16}};

#define N_CASE ((int)(sizeof cases / sizeof cases[0]))

/* Which token lies in each slot. */
static void scatter(aq_rng *rng, int64_t *token) {
    for (int64_t tile = 0; tile < N_TILE; tile++) {
        int64_t *to = token + (tile * 3 + 2) % N_TILE * AQ_TILE;
        for (int64_t s = 0; s < AQ_TILE; s++)
            to[s] = tile * AQ_TILE + s;
        for (int64_t s = AQ_TILE - 1; s > 0; s--) {
            const int64_t j = (int64_t)(aq_rng_uniform(rng) * (double)(s + 1)), kept = to[s];
            to[s] = to[j];
            to[j] = kept;
        }
    }
}

/* A cache whose slot i holds token[i]. */
static aq_kv_view fill_cache(aq_backend *be, aq_kv_type type, const float *key, const float *value,
                             const int64_t *token) {
    const int64_t n_key = N_KV_HEAD * N_COL, n_value = N_KV_HEAD * D_HEAD;
    aq_kv_view kv = {.key_type = type,
                     .value_type = type,
                     .key_order = AQ_KEYS_BY_TOKEN,
                     .n_kv_head = N_KV_HEAD,
                     .n_col = N_COL,
                     .d_head = D_HEAD,
                     .open_tile = -1};
    aq_test_ok(aq_code_layout_parse("16x4,16x3", &kv.codes));
    kv.keys = aq_test_alloc(be, (size_t)(N_TILE * N_KV_HEAD * aq_kv_key_bytes(&kv)));
    kv.values = aq_test_alloc(be, (size_t)(N_TILE * N_KV_HEAD * aq_kv_value_bytes(&kv)));
    kv.selector = aq_test_alloc(be, (size_t)(N_TILE * N_KV_HEAD * aq_kv_selector_bytes(&kv)));
    kv.open_keys = aq_test_alloc(be, (size_t)(n_key * AQ_TILE) * sizeof(float));
    kv.open_values = aq_test_alloc(be, (size_t)(n_value * AQ_TILE) * sizeof(float));
    float *k = aq_test_alloc(be, (size_t)(N_TOK * n_key) * sizeof *k);
    float *v = aq_test_alloc(be, (size_t)(N_TOK * n_value) * sizeof *v);
    int64_t *slot = aq_test_alloc(be, N_TOK * sizeof *slot);
    for (int64_t i = 0; i < N_TOK; i++) {
        memcpy(k + i * n_key, key + token[i] * n_key, (size_t)n_key * sizeof *k);
        memcpy(v + i * n_value, value + token[i] * n_value, (size_t)n_value * sizeof *v);
        slot[i] = i;
    }
    be->ops->kv_append(
        be, &(aq_kv_append_args){.kv = kv, .key = k, .value = v, .slot = slot, .n_tok = N_TOK});
    void *const blocks[] = {k, v, slot, kv.open_keys, kv.open_values};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        be->ops->release(be, blocks[i]);
    kv.open_keys = kv.open_values = NULL;
    return kv;
}

/* The directories of both caches. */
typedef struct {
    int64_t *token, *slot_pos, *slot_tile; /* scattered */
    int64_t *in_order, *tile_pos;          /* in order */
} places;

static places make_places(aq_backend *be, planted_bug bug) {
    aq_rng rng = {5};
    places p = {.token = aq_test_alloc(be, N_TOK * sizeof *p.token),
                .slot_pos = aq_test_alloc(be, N_TOK * sizeof *p.slot_pos),
                .slot_tile = aq_test_alloc(be, N_TILE * sizeof *p.slot_tile),
                .in_order = aq_test_alloc(be, N_TOK * sizeof *p.in_order),
                .tile_pos = aq_test_alloc(be, N_TILE * sizeof *p.tile_pos)};
    scatter(&rng, p.token);
    for (int64_t i = 0; i < N_TOK; i++) {
        const int64_t pos = bug == TILES_IN_ORDER ? i : p.token[i];
        const bool is_free = pos >= N_TOK - N_LATER;
        p.in_order[i] = i;
        p.slot_pos[i] = is_free ? INT64_MAX : pos + (bug == POSITIONS_SHIFTED);
        if (is_free && bug == FREE_SLOT_SEEN) p.slot_pos[i] = 20;
    }
    for (int64_t tile = 0; tile < N_TILE; tile++) {
        p.tile_pos[tile] = tile * AQ_TILE;
        p.slot_tile[tile] = INT64_MAX;
        for (int64_t s = tile * AQ_TILE; s < (tile + 1) * AQ_TILE; s++)
            if (p.slot_pos[s] < p.slot_tile[tile]) p.slot_tile[tile] = p.slot_pos[s];
    }
    return p;
}

static void release_places(aq_backend *be, const places *p) {
    void *const blocks[] = {p->token, p->slot_pos, p->slot_tile, p->in_order, p->tile_pos};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        be->ops->release(be, blocks[i]);
}

/* Largest difference of attention between the two results, and of what was counted. The order of
 * sums differs, and with it the bound that is found: with mass 0.9 a token or two may. */
typedef struct {
    double apart;
    int count_apart;
} difference;

static difference compare(const aq_attn_select_args *a, const aq_attn_select_args *b) {
    difference d = {0};
    for (int64_t row = 0; row < a->n_q * N_HEAD; row++) {
        const float *x = a->part + row * (D_HEAD + 2), *y = b->part + row * (D_HEAD + 2);
        for (int i = 0; i < D_HEAD; i++)
            d.apart = fmax(d.apart, fabs((double)(x[i] / x[D_HEAD + 1] - y[i] / y[D_HEAD + 1])));
    }
    for (int64_t i = 0; i < a->n_q * N_KV_HEAD * 3; i++) {
        const int apart =
            a->counts[i] < b->counts[i] ? b->counts[i] - a->counts[i] : a->counts[i] - b->counts[i];
        if (apart > d.count_apart) d.count_apart = apart;
        if (i % 3 == 0 && apart > 0) d.count_apart = N_TOK; /* tokens seen are the same always */
    }
    return d;
}

static difference run_case(const aq_test_backend *on, int c, planted_bug bug) {
    aq_backend *be = on->be;
    const int64_t n_q = cases[c].n_q, n_row = n_q * N_HEAD;
    float *key = aq_test_alloc(be, N_TOK * N_KV_HEAD * N_COL * sizeof *key);
    float *value = aq_test_alloc(be, N_TOK * N_KV_HEAD * D_HEAD * sizeof *value);
    float *q = aq_test_alloc(be, (size_t)(n_row * N_COL) * sizeof *q);
    int64_t *q_pos = aq_test_alloc(be, (size_t)n_q * sizeof *q_pos);
    const places p = make_places(be, bug);
    aq_fill_normal(1, (int64_t)N_TOK * N_KV_HEAD * N_COL, 1.0f, key);
    aq_fill_normal(2, (int64_t)N_TOK * N_KV_HEAD * D_HEAD, 1.0f, value);
    aq_fill_normal(3, n_row * N_COL, 2.0f, q);
    for (int64_t t = 0; t < n_q; t++)
        q_pos[t] = N_TOK - N_LATER - n_q + t;
    aq_attn_select_args a = {.q = q,
                             .q_pos = q_pos,
                             .n_q = n_q,
                             .n_head = N_HEAD,
                             .scale = 0.2f,
                             .kv = fill_cache(be, cases[c].type, key, value, p.in_order),
                             .tile_pos = p.tile_pos,
                             .n_tile = N_TILE,
                             .mass = cases[c].mass,
                             .group_mean = cases[c].group_mean,
                             .n_sink = cases[c].n_sink,
                             .n_recent = cases[c].n_recent,
                             .part = aq_test_alloc(be, (size_t)(n_row * (D_HEAD + 2)) * 4),
                             .counts = aq_test_alloc(be, (size_t)(n_q * N_KV_HEAD * 3) * 4)};
    a.work_bytes = aq_attn_select_work(&a.kv, N_HEAD, on->n_thread, N_TILE);
    a.work = aq_test_alloc(be, (size_t)a.work_bytes);
    aq_attn_select_args b = a;
    b.kv = fill_cache(be, cases[c].type, key, value, p.token);
    b.tile_pos = p.slot_tile;
    b.slot_pos = p.slot_pos;
    b.part = aq_test_alloc(be, (size_t)(n_row * (D_HEAD + 2)) * 4);
    b.counts = aq_test_alloc(be, (size_t)(n_q * N_KV_HEAD * 3) * 4);
    be->ops->attn_select(be, &a);
    be->ops->attn_select(be, &b);
    const difference found = compare(&a, &b);
    void *const blocks[] = {key,         value,         q,         q_pos,       a.work,
                            a.part,      a.counts,      b.part,    b.counts,    a.kv.keys,
                            a.kv.values, a.kv.selector, b.kv.keys, b.kv.values, b.kv.selector};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        be->ops->release(be, blocks[i]);
    release_places(be, &p);
    return found;
}

static void contract(const aq_test_backend *on, void *arg) {
    (void)arg;
    for (int c = 0; c < N_CASE; c++) {
        const bool searches = cases[c].mass > 0.5 && cases[c].mass < 1.0;
        const difference found = run_case(on, c, NO_BUG);
        CU_ASSERT_TRUE(found.count_apart <= (searches ? 2 : 0));
        CU_ASSERT_TRUE(found.apart <= (searches ? 0.05 : 1e-5));
        for (int bug = POSITIONS_SHIFTED; bug <= TILES_IN_ORDER && c < 2; bug++) {
            const difference wrong = run_case(on, c, (planted_bug)bug);
            CU_ASSERT_TRUE(wrong.count_apart > 0 || wrong.apart > 1e-3);
        }
    }
}

static void slots_are_as_tokens_in_order(void) {
    aq_each_backend(contract, NULL);
}

/* A shard of free slots gives the neutral part, also where the team shares its tiles. */
static void empty(const aq_test_backend *on, void *arg) {
    (void)arg;
    enum { N = 40 };
    aq_backend *be = on->be;
    aq_kv_view kv = {.key_type = AQ_KV_F32,
                     .value_type = AQ_KV_F32,
                     .key_order = AQ_KEYS_BY_TOKEN,
                     .n_kv_head = 1,
                     .n_col = 64,
                     .d_head = 64,
                     .open_tile = -1};
    aq_test_ok(aq_code_layout_parse("64x4", &kv.codes));
    kv.keys = aq_test_alloc(be, (size_t)(N * aq_kv_key_bytes(&kv)));
    kv.values = aq_test_alloc(be, (size_t)(N * aq_kv_value_bytes(&kv)));
    kv.selector = aq_test_alloc(be, (size_t)(N * aq_kv_selector_bytes(&kv)));
    int64_t *slot_pos = aq_test_alloc(be, N * AQ_TILE * sizeof *slot_pos);
    int64_t *tile_pos = aq_test_alloc(be, N * sizeof *tile_pos);
    int64_t *q_pos = aq_test_alloc(be, sizeof *q_pos);
    float *q = aq_test_alloc(be, 64 * sizeof *q), *part = aq_test_alloc(be, 66 * sizeof *part);
    int32_t *counts = aq_test_alloc(be, 3 * sizeof *counts);
    const int64_t work_bytes = aq_attn_select_work(&kv, 1, on->n_thread, N);
    void *work = aq_test_alloc(be, (size_t)work_bytes);
    *q_pos = 100;
    for (int last = 0; last < 2; last++) {
        for (int64_t i = 0; i < N * AQ_TILE; i++)
            slot_pos[i] = INT64_MAX;
        for (int64_t i = 0; i < N; i++)
            tile_pos[i] = INT64_MAX;
        if (last) slot_pos[N * AQ_TILE - 3] = tile_pos[N - 1] = 7;
        be->ops->attn_select(be, &(aq_attn_select_args){.q = q,
                                                        .q_pos = q_pos,
                                                        .n_q = 1,
                                                        .n_head = 1,
                                                        .scale = 1.0f,
                                                        .kv = kv,
                                                        .tile_pos = tile_pos,
                                                        .n_tile = N,
                                                        .slot_pos = slot_pos,
                                                        .mass = 0.9,
                                                        .work = work,
                                                        .work_bytes = work_bytes,
                                                        .part = part,
                                                        .counts = counts});
        CU_ASSERT_EQUAL(part[64], last ? 0.0f : -INFINITY);
        CU_ASSERT_EQUAL(part[65], last ? 1.0f : 0.0f);
        CU_ASSERT_TRUE(counts[0] == last && counts[1] == last && counts[2] == last);
    }
    void *const blocks[] = {kv.keys, kv.values, kv.selector, slot_pos, tile_pos,
                            q_pos,   q,         part,        counts,   work};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        be->ops->release(be, blocks[i]);
}

static void free_slots_give_nothing(void) {
    aq_each_backend(empty, NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "slots are as tokens in order", slots_are_as_tokens_in_order);
    CU_add_test(suite, "free slots give nothing", free_slots_give_nothing);
}
