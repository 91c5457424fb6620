/* Selecting attention: which tokens of a tile a query sees, and which of them are near. */
#include "kernels/attn_select_parts.h"

/* Number of tokens held that stand before position `pos`. */
static int64_t count_before(const aq_attn_select_args *args, int64_t pos) {
    int64_t begin = 0, end = args->n_tile; /* tiles before `begin` start before pos */
    while (begin < end) {
        const int64_t middle = (begin + end) / 2;
        if (args->tile_pos[middle] < pos)
            begin = middle + 1;
        else
            end = middle;
    }
    if (begin == 0) return 0;
    return (begin - 1) * AQ_TILE + aq_select_min(pos - args->tile_pos[begin - 1], AQ_TILE);
}

aq_select_view aq_select_view_of(const aq_attn_select_args *args, int64_t t) {
    const int64_t after = args->q_pos[t] + 1;
    if (args->slot_pos) {
        int64_t n_tile = args->n_tile;
        while (n_tile > 0 && args->tile_pos[n_tile - 1] >= after)
            n_tile--;
        return (aq_select_view){.pos = args->q_pos[t], .n_seen = n_tile * AQ_TILE};
    }
    const int64_t n_seen = count_before(args, after);
    return (aq_select_view){.pos = args->q_pos[t],
                            .n_seen = n_seen,
                            .sink_end = aq_select_min(count_before(args, args->n_sink), n_seen),
                            .recent_begin = count_before(args, after - args->n_recent)};
}

/* The places begin .. end of all tokens that lie in tile `tile`, as bits. */
static uint64_t bits_between(int64_t begin, int64_t end, int64_t tile) {
    return aq_select_bits_between(begin - tile * AQ_TILE, end - tile * AQ_TILE);
}

/* The slots of tile `tile` with positions first .. last, as bits. */
static uint64_t slots_between(const aq_attn_select_args *args, int64_t tile, int64_t first,
                              int64_t last) {
    const int64_t *pos = args->slot_pos + tile * AQ_TILE;
    uint64_t bits = 0;
    for (int s = 0; s < AQ_TILE; s++)
        bits |= (uint64_t)(pos[s] >= first && pos[s] <= last) << s;
    return bits;
}

uint64_t aq_select_seen_bits(const aq_attn_select_args *args, const aq_select_view *view,
                             int64_t tile) {
    if (args->slot_pos) return slots_between(args, tile, 0, view->pos);
    return bits_between(0, view->n_seen, tile);
}

uint64_t aq_select_near_bits(const aq_attn_select_args *args, const aq_select_view *view,
                             int64_t tile) {
    if (args->slot_pos)
        return slots_between(args, tile, 0, aq_select_min(args->n_sink - 1, view->pos)) |
               slots_between(args, tile, view->pos - args->n_recent + 1, view->pos);
    return bits_between(0, view->sink_end, tile) |
           bits_between(view->recent_begin, view->n_seen, tile);
}

int64_t aq_select_count_seen(const aq_attn_select_args *args, const aq_select_view *view) {
    if (!args->slot_pos) return view->n_seen;
    int64_t n = 0;
    for (int64_t tile = 0; tile < aq_select_tiles_of(view->n_seen); tile++)
        n += __builtin_popcountll(aq_select_seen_bits(args, view, tile));
    return n;
}
