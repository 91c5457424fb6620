#include "src/engine/h2o.h"

static int64_t min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Tokens of a text of n_ctx that this rank keeps: all if all ranks together may keep all. */
static int64_t share_of(const aq_plan *plan, int64_t n_keep, int64_t n_ctx) {
    const int64_t weight = aq_plan_weight(plan, plan->rank);
    if (n_keep >= n_ctx) return n_ctx;
    const int64_t even = (n_keep * weight + plan->n_period - 1) / plan->n_period;
    const int64_t first = aq_plan_tokens(plan, plan->rank, n_keep);
    return first > even ? first : even;
}

int64_t aq_h2o_tiles(const aq_plan *plan, int64_t n_keep, int64_t n_step, int64_t n_ctx) {
    const int64_t n_slot =
        share_of(plan, n_keep, n_ctx) + aq_plan_most_owned(plan, plan->rank, n_step);
    return min((n_slot + AQ_TILE - 1) / AQ_TILE, aq_plan_tiles(plan, plan->rank, n_ctx));
}

int64_t aq_h2o_bytes(const aq_plan *plan, int n_layer, int64_t n_keep, int64_t n_step,
                     int64_t n_ctx) {
    const int64_t n_tile = n_layer * aq_h2o_tiles(plan, n_keep, n_step, n_ctx);
    const int64_t word = sizeof(int64_t), tile = AQ_TILE * (word + (int64_t)sizeof(float)) + word;
    return n_tile * tile + 2 * aq_plan_most_owned(plan, plan->rank, n_step) * word;
}

static aq_status open_twins(aq_h2o *h2o) {
    const size_t n_tile = (size_t)(h2o->n_layer * h2o->n_tile), n_step = (size_t)h2o->n_step;
    const size_t word = sizeof(int64_t);
    aq_backend *be = h2o->be;
    AQ_TRY(aq_twin_open(be, n_tile * AQ_TILE * word, &h2o->slot_pos_twin));
    AQ_TRY(aq_twin_open(be, n_tile * word, &h2o->tile_pos_twin));
    AQ_TRY(aq_twin_open(be, n_tile * AQ_TILE * sizeof *h2o->acc, &h2o->acc_twin));
    AQ_TRY(aq_twin_open(be, n_step * word, &h2o->slot_twin));
    AQ_TRY(aq_twin_open(be, n_step * word, &h2o->work_twin));
    h2o->slot_pos = (int64_t *)h2o->slot_pos_twin.host;
    h2o->tile_pos = (int64_t *)h2o->tile_pos_twin.host;
    h2o->acc = (float *)h2o->acc_twin.host;
    h2o->slot = (int64_t *)h2o->slot_twin.host;
    h2o->work = (int64_t *)h2o->work_twin.host;
    return AQ_OK;
}

aq_status aq_h2o_open(aq_backend *be, const aq_plan *plan, int n_layer, int64_t n_keep,
                      int64_t n_step, int64_t n_ctx, aq_h2o *out) {
    *out = (aq_h2o){.be = be,
                    .n_layer = n_layer,
                    .n_keep = share_of(plan, n_keep, n_ctx),
                    .n_recent = n_keep / 2,
                    .n_step = aq_plan_most_owned(plan, plan->rank, n_step),
                    .n_tile = aq_h2o_tiles(plan, n_keep, n_step, n_ctx)};
    const aq_status status = open_twins(out);
    if (status == AQ_OK)
        aq_h2o_reset(out);
    else
        aq_h2o_close(out);
    return status;
}

void aq_h2o_close(aq_h2o *h2o) {
    aq_twin *const twins[] = {&h2o->slot_pos_twin, &h2o->tile_pos_twin, &h2o->acc_twin,
                              &h2o->slot_twin, &h2o->work_twin};
    for (size_t i = 0; i < sizeof twins / sizeof twins[0]; i++)
        if (h2o->be) aq_twin_close(h2o->be, twins[i]);
    *h2o = (aq_h2o){0};
}

void aq_h2o_reset(aq_h2o *h2o) {
    const int64_t n_tile = h2o->n_layer * h2o->n_tile;
    for (int64_t i = 0; i < n_tile * AQ_TILE; i++) {
        h2o->slot_pos[i] = AQ_H2O_FREE;
        h2o->acc[i] = 0.0f;
    }
    for (int64_t i = 0; i < n_tile; i++)
        h2o->tile_pos[i] = AQ_H2O_FREE;
    for (int layer = 0; layer < h2o->n_layer; layer++) {
        const aq_h2o_layer directory = aq_h2o_at(h2o, layer);
        aq_h2o_push_places(h2o, &directory);
        aq_h2o_push_acc(h2o, &directory);
    }
}

aq_h2o_layer aq_h2o_at(const aq_h2o *h2o, int layer) {
    const int64_t tile = layer * h2o->n_tile;
    return (aq_h2o_layer){.n_tile = h2o->n_tile,
                          .slot_pos = h2o->slot_pos + tile * AQ_TILE,
                          .tile_pos = h2o->tile_pos + tile,
                          .acc = h2o->acc + tile * AQ_TILE};
}

static size_t slots_of(const aq_h2o_layer *layer) {
    return (size_t)layer->n_tile * AQ_TILE;
}

void aq_h2o_push_places(const aq_h2o *h2o, const aq_h2o_layer *layer) {
    const size_t word = sizeof(int64_t);
    aq_twin_push(h2o->be, &h2o->slot_pos_twin, layer->slot_pos, slots_of(layer) * word);
    aq_twin_push(h2o->be, &h2o->tile_pos_twin, layer->tile_pos, (size_t)layer->n_tile * word);
}

void aq_h2o_push_acc(const aq_h2o *h2o, const aq_h2o_layer *layer) {
    aq_twin_push(h2o->be, &h2o->acc_twin, layer->acc, slots_of(layer) * sizeof *layer->acc);
}

void aq_h2o_pull_acc(const aq_h2o *h2o, const aq_h2o_layer *layer) {
    aq_twin_pull(h2o->be, &h2o->acc_twin, layer->acc, slots_of(layer) * sizeof *layer->acc);
}

void aq_h2o_place(const aq_h2o_layer *layer, const int64_t *pos, int64_t n_tok, int64_t *slot) {
    for (int64_t s = 0, t = 0; t < n_tok; s++) {
        if (layer->slot_pos[s] != AQ_H2O_FREE) continue;
        int64_t *first = &layer->tile_pos[s / AQ_TILE];
        layer->slot_pos[s] = pos[t];
        *first = min(*first, pos[t]);
        slot[t++] = s;
    }
}

/* The tokens that are to go. */
typedef struct {
    const aq_h2o_layer *layer;
    int64_t recent_from;
    int64_t *drop; /* slots, a heap: none goes later than the first */
    int64_t n, n_max;
} eviction;

/* Whether the token in slot a goes before that in slot b. */
static bool goes_before(const eviction *e, int64_t a, int64_t b) {
    const int64_t pos_a = e->layer->slot_pos[a], pos_b = e->layer->slot_pos[b];
    const bool recent_a = pos_a >= e->recent_from, recent_b = pos_b >= e->recent_from;
    if (recent_a != recent_b) return recent_b;
    const float acc_a = e->layer->acc[a], acc_b = e->layer->acc[b];
    if (recent_a || acc_a == acc_b) return pos_a < pos_b;
    return acc_a < acc_b;
}

static void swap(int64_t *a, int64_t *b) {
    const int64_t kept = *a;
    *a = *b;
    *b = kept;
}

static void push(eviction *e, int64_t slot) {
    int64_t i = e->n++;
    e->drop[i] = slot;
    for (; i > 0 && goes_before(e, e->drop[(i - 1) / 2], e->drop[i]); i = (i - 1) / 2)
        swap(&e->drop[(i - 1) / 2], &e->drop[i]);
}

static void replace_first(eviction *e, int64_t slot) {
    e->drop[0] = slot;
    for (int64_t i = 0, child = 1; child < e->n; child = 2 * i + 1) {
        if (child + 1 < e->n && goes_before(e, e->drop[child], e->drop[child + 1])) child++;
        if (!goes_before(e, e->drop[i], e->drop[child])) return;
        swap(&e->drop[i], &e->drop[child]);
        i = child;
    }
}

static void free_slot(const aq_h2o_layer *layer, int64_t slot) {
    const int64_t *tile = layer->slot_pos + slot / AQ_TILE * AQ_TILE;
    layer->slot_pos[slot] = AQ_H2O_FREE;
    layer->acc[slot] = 0.0f;
    int64_t first = AQ_H2O_FREE;
    for (int s = 0; s < AQ_TILE; s++)
        first = min(first, tile[s]);
    layer->tile_pos[slot / AQ_TILE] = first;
}

int64_t aq_h2o_evict(const aq_h2o_layer *layer, int64_t n_keep, int64_t recent_from,
                     int64_t *drop) {
    const int64_t n_over = aq_h2o_held(layer) - n_keep;
    eviction e = {
        .layer = layer, .recent_from = recent_from, .drop = drop, .n_max = n_over > 0 ? n_over : 0};
    for (int64_t s = 0; s < layer->n_tile * AQ_TILE && e.n_max > 0; s++) {
        if (layer->slot_pos[s] == AQ_H2O_FREE || layer->slot_pos[s] < AQ_H2O_SINKS) continue;
        if (e.n < e.n_max)
            push(&e, s);
        else if (goes_before(&e, s, drop[0]))
            replace_first(&e, s);
    }
    for (int64_t i = 0; i < e.n; i++)
        free_slot(layer, drop[i]);
    return e.n;
}

int64_t aq_h2o_held(const aq_h2o_layer *layer) {
    int64_t n = 0;
    for (int64_t s = 0; s < layer->n_tile * AQ_TILE; s++)
        n += layer->slot_pos[s] != AQ_H2O_FREE;
    return n;
}

int64_t aq_h2o_used(const aq_h2o_layer *layer) {
    int64_t n = layer->n_tile;
    while (n > 0 && layer->tile_pos[n - 1] == AQ_H2O_FREE)
        n--;
    return n;
}
