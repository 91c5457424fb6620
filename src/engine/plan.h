/* Who holds what: a pure function of the number of ranks, no MPI needed.
 *
 * Position p lies in tile p / AQ_TILE; tiles are dealt to ranks in turn, so that every rank has its
 * share of every part of the text and decode appends evenly. A rank keeps its tiles in rising
 * order: its j-th one is tile rank + j * n_rank. All functions are Local. */
#ifndef AQ_ENGINE_PLAN_H
#define AQ_ENGINE_PLAN_H

#include <stdint.h>

#include "kernels/kv_append.h"

typedef struct {
    int n_rank;
    int rank;
} aq_plan;

/* The rank that owns a position. */
static inline int aq_plan_owner(const aq_plan *plan, int64_t pos) {
    return (int)(pos / AQ_TILE % plan->n_rank);
}

/* The slot of an owned position in its owner's cache: local tile * AQ_TILE + place in the tile. */
static inline int64_t aq_plan_slot(const aq_plan *plan, int64_t pos) {
    return pos / AQ_TILE / plan->n_rank * AQ_TILE + pos % AQ_TILE;
}

/* This rank's tile that a context of n_tok tokens leaves unfinished; -1: it has none. */
static inline int64_t aq_plan_open_tile(const aq_plan *plan, int64_t n_tok) {
    if (n_tok % AQ_TILE == 0 || aq_plan_owner(plan, n_tok) != plan->rank) return -1;
    return aq_plan_slot(plan, n_tok) / AQ_TILE;
}

/* First position of this rank's j-th tile. */
static inline int64_t aq_plan_tile_pos(const aq_plan *plan, int64_t j) {
    return (plan->rank + j * plan->n_rank) * AQ_TILE;
}

/* Tiles that rank r holds of a text of n_tok tokens, and how many of the tokens. */
int64_t aq_plan_tiles(const aq_plan *plan, int r, int64_t n_tok);
int64_t aq_plan_tokens(const aq_plan *plan, int r, int64_t n_tok);

/* Positions of [begin, end) owned by rank r, rising; returns their number. pos may be NULL to count
 * only. */
int64_t aq_plan_owned(const aq_plan *plan, int r, int64_t begin, int64_t end, int64_t *pos);

/* The most tiles any rank owns that hold any of n_tok consecutive positions, and the most of these
 * positions. */
int64_t aq_plan_most_tiles(const aq_plan *plan, int64_t n_tok);
int64_t aq_plan_most_owned(const aq_plan *plan, int64_t n_tok);

#endif
