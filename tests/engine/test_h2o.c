/* H2O: who is dropped, where new tokens go, and how much room that takes. */
#include "src/engine/h2o.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

typedef enum { NO_BUG, SINKS_GO, RECENT_GO, MOST_GO, NEWER_FIRST } planted_bug;

enum { N_CTX = 1000, MAX_SLOT = 16 * AQ_TILE };

/* What a layer holds, on its own: a list without order. */
typedef struct {
    int64_t n;
    int64_t pos[MAX_SLOT];
    float acc[MAX_SLOT];
} token_list;

/* Whether token i of the list goes before token j. */
static bool goes_before(const token_list *l, int64_t i, int64_t j, int64_t recent_from,
                        planted_bug bug) {
    const bool recent_i = bug != RECENT_GO && l->pos[i] >= recent_from;
    const bool recent_j = bug != RECENT_GO && l->pos[j] >= recent_from;
    if (recent_i != recent_j) return recent_j;
    if (!recent_i && l->acc[i] != l->acc[j])
        return bug == MOST_GO ? l->acc[i] > l->acc[j] : l->acc[i] < l->acc[j];
    return bug == NEWER_FIRST ? l->pos[i] > l->pos[j] : l->pos[i] < l->pos[j];
}

/* Drops one token after the other, looking at all each time. */
static void reference(token_list *l, int64_t n_keep, int64_t recent_from, planted_bug bug) {
    while (l->n > n_keep) {
        int64_t first = -1;
        for (int64_t i = 0; i < l->n; i++)
            if ((bug == SINKS_GO || l->pos[i] >= 4) &&
                (first < 0 || goes_before(l, i, first, recent_from, bug)))
                first = i;
        if (first < 0) return;
        l->pos[first] = l->pos[--l->n];
        l->acc[first] = l->acc[l->n];
    }
}

static token_list list_of(const aq_h2o_layer *layer) {
    token_list l = {.n = 0};
    for (int64_t s = 0; s < layer->n_tile * AQ_TILE; s++) {
        if (layer->slot_pos[s] == AQ_H2O_FREE) continue;
        l.pos[l.n] = layer->slot_pos[s];
        l.acc[l.n++] = layer->acc[s];
    }
    return l;
}

/* Whether the layer holds the tokens of the list. */
static bool same_tokens(const aq_h2o_layer *layer, const token_list *l) {
    if (aq_h2o_held(layer) != l->n) return false;
    float acc_at[N_CTX];
    bool there[N_CTX] = {false};
    for (int64_t s = 0; s < layer->n_tile * AQ_TILE; s++) {
        if (layer->slot_pos[s] == AQ_H2O_FREE) continue;
        there[layer->slot_pos[s]] = true;
        acc_at[layer->slot_pos[s]] = layer->acc[s];
    }
    for (int64_t i = 0; i < l->n; i++)
        if (!there[l->pos[i]] || acc_at[l->pos[i]] != l->acc[i]) return false;
    return true;
}

/* Free slots have no attention, and the directory of tiles tells what is in them. */
static void check_directory(const aq_h2o_layer *layer) {
    int64_t n_used = 0;
    for (int64_t tile = 0; tile < layer->n_tile; tile++) {
        int64_t first = AQ_H2O_FREE;
        for (int64_t s = tile * AQ_TILE; s < (tile + 1) * AQ_TILE; s++) {
            if (layer->slot_pos[s] < first) first = layer->slot_pos[s];
            if (layer->slot_pos[s] == AQ_H2O_FREE) CU_ASSERT_EQUAL(layer->acc[s], 0.0f);
        }
        CU_ASSERT_EQUAL(layer->tile_pos[tile], first);
        if (first != AQ_H2O_FREE) n_used = tile + 1;
    }
    CU_ASSERT_EQUAL(aq_h2o_used(layer), n_used);
}

static aq_backend *open_backend(void) {
    aq_backend *be = NULL;
    aq_test_ok(aq_backend_cpu_open(1, AQ_ISA_PORTABLE, &be));
    return be;
}

/* Attention of the kinds there are: all unlike, with many equal ones, none at all. */
static void give_attention(const aq_h2o_layer *layer, aq_rng *rng, int kind) {
    for (int64_t s = 0; s < layer->n_tile * AQ_TILE; s++) {
        const double u = aq_rng_uniform(rng);
        if (layer->slot_pos[s] == AQ_H2O_FREE || kind == 2) continue;
        layer->acc[s] += kind == 0 ? (float)u : (float)(int)(u * 3);
    }
}

/* Steps of a text on one rank. Returns how many evictions the reference with the bug does
 * otherwise. */
static int run_text(aq_backend *be, const aq_plan *plan, int64_t n_keep, int64_t n_step, int kind,
                    planted_bug bug) {
    aq_rng rng = {(uint64_t)(n_keep * 10 + kind)};
    aq_h2o h2o;
    int n_unlike = 0;
    if (!aq_test_ok(aq_h2o_open(be, plan, 2, n_keep, n_step, N_CTX, &h2o))) return 0;
    const aq_h2o_layer layer = aq_h2o_at(&h2o, 1);
    int64_t *pos = calloc(N_CTX, sizeof *pos);
    for (int64_t begin = 0, i = 0; pos && begin < N_CTX; i++) {
        const int64_t n = i % 3 == 1 ? 1 + n_step / 2 : n_step;
        const int64_t end = begin + n < N_CTX ? begin + n : N_CTX;
        const int64_t n_tok = aq_plan_owned(plan, plan->rank, begin, end, pos);
        CU_ASSERT_TRUE(aq_h2o_held(&layer) + n_tok <= layer.n_tile * AQ_TILE);
        aq_h2o_place(&layer, pos, n_tok, h2o.slot);
        for (int64_t t = 0; t < n_tok; t++)
            CU_ASSERT_TRUE(layer.slot_pos[h2o.slot[t]] == pos[t] &&
                           (t == 0 || h2o.slot[t] > h2o.slot[t - 1]));
        give_attention(&layer, &rng, kind);
        token_list expected = list_of(&layer);
        reference(&expected, h2o.n_keep, end - h2o.n_recent, bug);
        const int64_t n_before = aq_h2o_held(&layer);
        const int64_t n_gone = aq_h2o_evict(&layer, h2o.n_keep, end - h2o.n_recent, h2o.drop);
        CU_ASSERT_EQUAL(n_before - n_gone, aq_h2o_held(&layer));
        CU_ASSERT_TRUE(aq_h2o_held(&layer) <= h2o.n_keep);
        n_unlike += !same_tokens(&layer, &expected);
        check_directory(&layer);
        begin = end;
    }
    const aq_h2o_layer other = aq_h2o_at(&h2o, 0);
    CU_ASSERT_EQUAL(aq_h2o_held(&other), 0);
    free(pos);
    aq_h2o_close(&h2o);
    return n_unlike;
}

static void the_least_attended_go(void) {
    static const int64_t keeps[] = {16, 64, 130, 400, 1000}, steps[] = {1, 20, 256};
    aq_backend *be = open_backend();
    int n_found[NEWER_FIRST + 1] = {0};
    for (int n_rank = 1; be && n_rank <= 4; n_rank++)
        for (int i = 0; i < 15; i++)
            for (int bug = NO_BUG; bug <= NEWER_FIRST; bug++) {
                const aq_plan plan = {n_rank, i % n_rank};
                const int64_t n_keep = keeps[i % 5] < 16 * n_rank ? 16 * n_rank : keeps[i % 5];
                n_found[bug] += run_text(be, &plan, n_keep, steps[i / 5], i % 3, (planted_bug)bug);
            }
    CU_ASSERT_EQUAL(n_found[NO_BUG], 0);
    for (int bug = NO_BUG + 1; bug <= NEWER_FIRST; bug++)
        CU_ASSERT_TRUE(n_found[bug] > 0);
    if (be) be->ops->close(be);
}

/* Room for the share and one step, whatever the length of the text; never more than the text. */
static void room_is_bounded(void) {
    const aq_plan two = {2, 1};
    CU_ASSERT_EQUAL(aq_h2o_tiles(&two, 1024, 256, 1 << 20), (512 + 192 + 63) / 64);
    CU_ASSERT_EQUAL(aq_h2o_tiles(&two, 1024, 1, 1 << 20), 9);
    CU_ASSERT_EQUAL(aq_h2o_tiles(&two, 1024, 256, 400), 3);
    CU_ASSERT_EQUAL(aq_h2o_tiles(&two, 1 << 30, 256, 400), 3);
}

/* A reset session starts with every slot free, the first one first. */
static void reset_frees_all(void) {
    const aq_plan plan = {1, 0};
    const int64_t pos[] = {0, 1, 2};
    aq_backend *be = open_backend();
    aq_h2o h2o;
    if (!be || !aq_test_ok(aq_h2o_open(be, &plan, 2, 16, 8, 100, &h2o))) return;
    const aq_h2o_layer layer = aq_h2o_at(&h2o, 1);
    for (int run = 0; run < 2; run++) {
        CU_ASSERT_EQUAL(aq_h2o_used(&layer), 0);
        aq_h2o_place(&layer, pos, 3, h2o.slot);
        CU_ASSERT_TRUE(h2o.slot[0] == 0 && h2o.slot[2] == 2);
        CU_ASSERT_TRUE(aq_h2o_held(&layer) == 3 && layer.tile_pos[0] == 0);
        layer.acc[1] = 3.0f;
        aq_h2o_reset(&h2o);
        check_directory(&layer);
    }
    aq_h2o_close(&h2o);
    be->ops->close(be);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "the least attended go", the_least_attended_go);
    CU_add_test(suite, "room is bounded", room_is_bounded);
    CU_add_test(suite, "reset frees all", reset_frees_all);
}
