#include "src/engine/plan.h"

#include <stddef.h>
#include <stdlib.h>

static int64_t min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t common_factor(int64_t a, int64_t b) {
    while (b != 0) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static int64_t weight_of(const int64_t *weights, int r) {
    return weights ? weights[r] : 1;
}

/* The weights' common factor and what they sum to without it. */
static aq_status measure(int n_rank, const int64_t *weights, int64_t *factor, int64_t *n_period) {
    *factor = 0;
    *n_period = 0;
    for (int r = 0; r < n_rank; r++) {
        if (weight_of(weights, r) < 0)
            return aq_fail(AQ_ERR_USAGE, "--split: the share of rank %d is negative", r);
        *factor = common_factor(weight_of(weights, r), *factor);
    }
    if (*factor == 0)
        return aq_fail(AQ_ERR_USAGE,
                       "--split gives all of %d ranks a share of 0; one must hold "
                       "the context",
                       n_rank);
    for (int r = 0; r < n_rank; r++) {
        const int64_t weight = weight_of(weights, r) / *factor;
        if (weight > AQ_PLAN_MAX_PERIOD - *n_period)
            return aq_fail(AQ_ERR_USAGE,
                           "--split: the shares sum to more than %d once their common factor is "
                           "taken out; use smaller numbers",
                           AQ_PLAN_MAX_PERIOD);
        *n_period += weight;
    }
    return AQ_OK;
}

/* The rank that gets tile t when each has n_dealt[n_rank] already: of those that are not ahead of
 * their share, the one that would reach it first. */
static int next_owner(const aq_plan *plan, int64_t t, const int *n_dealt) {
    int best = -1;
    for (int r = 0; r < plan->n_rank; r++) {
        const int64_t weight = aq_plan_weight(plan, r);
        if (weight == 0 || n_dealt[r] * (int64_t)plan->n_period > t * weight) continue;
        if (best < 0 ||
            (n_dealt[r] + 1) * (int64_t)aq_plan_weight(plan, best) < (n_dealt[best] + 1) * weight)
            best = r;
    }
    return best;
}

static void deal(aq_plan *plan, int *n_dealt) {
    for (int t = 0; t < plan->n_period; t++) {
        const int r = next_owner(plan, t, n_dealt);
        plan->owner[t] = r;
        plan->index[t] = n_dealt[r]++;
        plan->tiles[plan->first[r] + plan->index[t]] = t;
    }
}

aq_status aq_plan_open(int n_rank, int rank, const int64_t *weights, aq_plan *out) {
    int64_t factor, n_period;
    *out = (aq_plan){.n_rank = n_rank, .rank = rank};
    AQ_TRY(measure(n_rank, weights, &factor, &n_period));
    const size_t n = (size_t)n_period;
    int *n_dealt = calloc((size_t)n_rank, sizeof *n_dealt);
    int *tables = calloc(3 * n + (size_t)n_rank + 1, sizeof *tables);
    if (!n_dealt || !tables) {
        free(n_dealt);
        free(tables);
        return aq_fail(AQ_ERR_MEMORY, "no memory for a plan of %d ranks", n_rank);
    }
    out->n_period = (int)n_period;
    out->owner = tables;
    out->index = tables + n;
    out->tiles = tables + 2 * n;
    out->first = tables + 3 * n;
    for (int r = 0; r < n_rank; r++)
        out->first[r + 1] = out->first[r] + (int)(weight_of(weights, r) / factor);
    deal(out, n_dealt);
    free(n_dealt);
    return AQ_OK;
}

void aq_plan_close(aq_plan *plan) {
    free(plan->owner);
    *plan = (aq_plan){.owner = NULL};
}

/* Rank r's tiles of a period among its first n. */
static int64_t tiles_before(const aq_plan *plan, int r, int64_t n) {
    int begin = plan->first[r], end = plan->first[r + 1];
    while (begin < end) {
        const int middle = begin + (end - begin) / 2;
        if (plan->tiles[middle] < n)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin - plan->first[r];
}

int64_t aq_plan_tiles(const aq_plan *plan, int r, int64_t n_tok) {
    const int64_t n_tile = (n_tok + AQ_TILE - 1) / AQ_TILE;
    return n_tile / plan->n_period * aq_plan_weight(plan, r) +
           tiles_before(plan, r, n_tile % plan->n_period);
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
        if (plan->owner[tile % plan->n_period] != r) continue;
        const int64_t first = tile * AQ_TILE > begin ? tile * AQ_TILE : begin;
        const int64_t last = min((tile + 1) * AQ_TILE, end);
        for (int64_t p = first; p < last; p++, n++)
            if (pos) pos[n] = p;
    }
    return n;
}

int64_t aq_plan_most_tiles(const aq_plan *plan, int r, int64_t n_tok) {
    /* n_tok positions touch at most this many tiles: whole periods of them, wherever they begin,
     * and `rest` more, of which most are this rank's where they begin with one of its own. */
    const int64_t n_tile = (n_tok + AQ_TILE - 2) / AQ_TILE + 1;
    const int64_t rest = n_tile % plan->n_period;
    const int weight = aq_plan_weight(plan, r);
    const int *tiles = plan->tiles + plan->first[r];
    int most = 0;
    for (int i = 0, j = 0; i < weight; i++) {
        while (j < i + weight &&
               tiles[j % weight] + j / weight * (int64_t)plan->n_period < tiles[i] + rest)
            j++;
        if (j - i > most) most = j - i;
    }
    return n_tile / plan->n_period * weight + most;
}

int64_t aq_plan_most_owned(const aq_plan *plan, int r, int64_t n_tok) {
    return min(aq_plan_most_tiles(plan, r, n_tok) * AQ_TILE, n_tok);
}
