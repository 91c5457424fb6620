#include "src/engine/h2o.h"

static int64_t min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Tokens of a text of n_ctx that this rank keeps: all if all ranks together may keep all. */
static int64_t share_of(const aq_plan *plan, int64_t n_keep, int64_t n_ctx) {
    const int64_t even = (n_keep + plan->n_rank - 1) / plan->n_rank;
    const int64_t first = aq_plan_tokens(plan, plan->rank, n_keep);
    if (n_keep >= n_ctx) return n_ctx;
    return first > even ? first : even;
}

int64_t aq_h2o_tiles(const aq_plan *plan, int64_t n_keep, int64_t n_step, int64_t n_ctx) {
    const int64_t n_slot = share_of(plan, n_keep, n_ctx) + aq_plan_most_owned(plan, n_step);
    return min((n_slot + AQ_TILE - 1) / AQ_TILE, aq_plan_tiles(plan, plan->rank, n_ctx));
}

/* Zeroed memory for n elements. */
static aq_status alloc(aq_backend *be, int64_t n, size_t bytes, void *out) {
    return be->ops->alloc(be, (size_t)n * bytes, out);
}

static aq_status alloc_all(aq_h2o *h2o) {
    const int64_t n_tile = h2o->n_layer * h2o->n_tile;
    aq_backend *be = h2o->be;
    AQ_TRY(alloc(be, n_tile * AQ_TILE, sizeof *h2o->slot_pos, &h2o->slot_pos));
    AQ_TRY(alloc(be, n_tile, sizeof *h2o->tile_pos, &h2o->tile_pos));
    AQ_TRY(alloc(be, n_tile * AQ_TILE, sizeof *h2o->acc, &h2o->acc));
    AQ_TRY(alloc(be, h2o->n_step, sizeof *h2o->slot, &h2o->slot));
    return alloc(be, h2o->n_step, sizeof *h2o->work, &h2o->work);
}

aq_status aq_h2o_open(aq_backend *be, const aq_plan *plan, int n_layer, int64_t n_keep,
                      int64_t n_step, int64_t n_ctx, aq_h2o *out) {
    *out = (aq_h2o){.be = be,
                    .n_layer = n_layer,
                    .n_keep = share_of(plan, n_keep, n_ctx),
                    .n_recent = n_keep / 2,
                    .n_step = aq_plan_most_owned(plan, n_step),
                    .n_tile = aq_h2o_tiles(plan, n_keep, n_step, n_ctx)};
    const aq_status status = alloc_all(out);
    if (status == AQ_OK)
        aq_h2o_reset(out);
    else
        aq_h2o_close(out);
    return status;
}

void aq_h2o_close(aq_h2o *h2o) {
    void *const blocks[] = {h2o->slot_pos, h2o->tile_pos, h2o->acc, h2o->slot, h2o->work};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        if (blocks[i]) h2o->be->ops->release(h2o->be, blocks[i]);
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
}

aq_h2o_layer aq_h2o_at(const aq_h2o *h2o, int layer) {
    const int64_t tile = layer * h2o->n_tile;
    return (aq_h2o_layer){.n_tile = h2o->n_tile,
                          .slot_pos = h2o->slot_pos + tile * AQ_TILE,
                          .tile_pos = h2o->tile_pos + tile,
                          .acc = h2o->acc + tile * AQ_TILE};
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
