/* Who holds what, by the number of ranks and their weights alone: no MPI needed.
 *
 * Position p lies in tile p / AQ_TILE. Tiles are dealt to ranks in proportion to their weights so
 * that every rank has its share of every part of the text and decode appends evenly: of the first t
 * tiles a rank with weight w of W in all owns less than one more or less than t w / W, for every t.
 * With equal weights they are dealt in turn; a rank of weight 0 owns none. A rank keeps its tiles
 * in rising order. The deal repeats after as many tiles as the weights sum to, once their common
 * factor is taken out: a period, which is what the tables below hold.
 *
 * All functions are Local. */
#ifndef AQ_ENGINE_PLAN_H
#define AQ_ENGINE_PLAN_H

#include <stdint.h>

#include "kernels/kv_append.h"

/* The longest period. */
#define AQ_PLAN_MAX_PERIOD 65536

/* Copies share the tables, which the first one owns. */
typedef struct {
    int n_rank;
    int rank;
    int n_period;
    int *owner; /* [n_period] the rank that owns each tile of a period */
    int *index; /* [n_period] and which one of its owner's tiles of a period it is */
    int *tiles; /* [n_period] rank 0's tiles of a period, rising, then rank 1's, ... */
    int *first; /* [n_rank + 1] where in `tiles` each rank's begin */
} aq_plan;

/* A plan for this rank of n_rank, by weights[n_rank], or equal ones if NULL. The caller closes it.
 * AQ_ERR_USAGE: a negative weight, none above 0, a period too long; AQ_ERR_MEMORY. Each tile goes
 * to the rank whose next one is due first, among those that would not be ahead of their share with
 * it. Source: Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980). */
aq_status aq_plan_open(int n_rank, int rank, const int64_t *weights, aq_plan *out);

/* Frees; a zeroed struct is allowed. */
void aq_plan_close(aq_plan *plan);

/* A rank's weight without the common factor: its tiles of each period. */
static inline int aq_plan_weight(const aq_plan *plan, int r) {
    return plan->first[r + 1] - plan->first[r];
}

/* The rank that owns a position. */
static inline int aq_plan_owner(const aq_plan *plan, int64_t pos) {
    return plan->owner[pos / AQ_TILE % plan->n_period];
}

/* The slot of a position in its owner's cache: local tile * AQ_TILE + place in the tile. */
static inline int64_t aq_plan_slot(const aq_plan *plan, int64_t pos) {
    const int64_t tile = pos / AQ_TILE, at = tile % plan->n_period;
    const int weight = aq_plan_weight(plan, plan->owner[at]);
    return (tile / plan->n_period * weight + plan->index[at]) * AQ_TILE + pos % AQ_TILE;
}

/* This rank's tile that a context of n_tok tokens leaves unfinished; -1: it has none. */
static inline int64_t aq_plan_open_tile(const aq_plan *plan, int64_t n_tok) {
    if (n_tok % AQ_TILE == 0 || aq_plan_owner(plan, n_tok) != plan->rank) return -1;
    return aq_plan_slot(plan, n_tok) / AQ_TILE;
}

/* First position of this rank's j-th tile; its weight is not 0. */
static inline int64_t aq_plan_tile_pos(const aq_plan *plan, int64_t j) {
    const int weight = aq_plan_weight(plan, plan->rank);
    const int *mine = plan->tiles + plan->first[plan->rank];
    return (j / weight * plan->n_period + mine[j % weight]) * AQ_TILE;
}

/* Tiles that rank r holds of a text of n_tok tokens, and how many of the tokens. */
int64_t aq_plan_tiles(const aq_plan *plan, int r, int64_t n_tok);
int64_t aq_plan_tokens(const aq_plan *plan, int r, int64_t n_tok);

/* Positions of [begin, end) owned by rank r, rising; returns their number. pos may be NULL to count
 * only. */
int64_t aq_plan_owned(const aq_plan *plan, int r, int64_t begin, int64_t end, int64_t *pos);

/* The most tiles rank r owns that hold any of n_tok consecutive positions, wherever these begin,
 * and the most of these positions. */
int64_t aq_plan_most_tiles(const aq_plan *plan, int r, int64_t n_tok);
int64_t aq_plan_most_owned(const aq_plan *plan, int r, int64_t n_tok);

#endif
