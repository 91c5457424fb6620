#include "src/engine/plan.h"

#include <stddef.h>

static int64_t min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

int64_t aq_plan_tiles(const aq_plan *plan, int r, int64_t n_tok) {
    const int64_t n_tile = (n_tok + AQ_TILE - 1) / AQ_TILE;
    return n_tile <= r ? 0 : (n_tile - r - 1) / plan->n_rank + 1;
}

int64_t aq_plan_tokens(const aq_plan *plan, int r, int64_t n_tok) {
    const int64_t n_tile = aq_plan_tiles(plan, r, n_tok);
    const int64_t unfilled = -n_tok & (AQ_TILE - 1); /* free slots of the last tile */
    const int holds_last = n_tok > 0 && aq_plan_owner(plan, n_tok - 1) == r;
    return n_tile * AQ_TILE - (holds_last ? unfilled : 0);
}

int64_t aq_plan_owned(const aq_plan *plan, int r, int64_t begin, int64_t end, int64_t *pos) {
    int64_t n = 0;
    for (int64_t tile = begin / AQ_TILE; tile * AQ_TILE < end; tile++) {
        if (tile % plan->n_rank != r) continue;
        const int64_t first = tile * AQ_TILE > begin ? tile * AQ_TILE : begin;
        const int64_t last = min((tile + 1) * AQ_TILE, end);
        for (int64_t p = first; p < last; p++, n++)
            if (pos) pos[n] = p;
    }
    return n;
}

int64_t aq_plan_most_tiles(const aq_plan *plan, int64_t n_tok) {
    /* n_tok positions touch at most this many tiles, of which one rank owns every n_rank-th. */
    const int64_t n_tile = (n_tok + AQ_TILE - 2) / AQ_TILE + 1;
    return (n_tile + plan->n_rank - 1) / plan->n_rank;
}

int64_t aq_plan_most_owned(const aq_plan *plan, int64_t n_tok) {
    return min(aq_plan_most_tiles(plan, n_tok) * AQ_TILE, n_tok);
}
