/* How the partial results of a decoded token are merged over ranks (aq_merge_way): names, and a
 * choice by measurement. The merging itself is a part of a step: aq_merge_parts. For src/engine and
 * programs. */
#ifndef AQ_ENGINE_MERGE_H
#define AQ_ENGINE_MERGE_H

#include "src/aqua.h"

/* "allgather", "alltoall", "tree", "auto". Local. */
const char *aq_merge_name(aq_merge_way way);

/* The way of that name; AQ_ERR_USAGE. Local. */
aq_status aq_merge_parse(const char *name, aq_merge_way *out);

/* What sessions that ask for `asked` do: itself, or for AQ_MERGE_AUTO what aq_merge_choose has
 * chosen, without it AQ_MERGE_ALLGATHER. Local. */
aq_merge_way aq_merge_of(const aq_engine *engine, aq_merge_way asked);

/* The median time of merging one layer's partial results of a token, of the slowest rank. */
typedef struct {
    int64_t allgather_ns, alltoall_ns;
} aq_merge_times;

/* Times both ways that merge in rank order, in turns, with partial results of this model between
 * all ranks of the engine, and lets the sessions opened from here on with AQ_MERGE_AUTO take the
 * faster one; of two alike the first. The same times and choice on every rank. With one rank there
 * is nothing to choose, and the times are 0. Errors as aq_session_open and aq_session_decode.
 * Collective. */
aq_status aq_merge_choose(aq_engine *engine, bool wire_bf16, aq_merge_times *times);

#endif
