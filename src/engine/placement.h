/* What is wrong with how ranks and threads lie on the processors of a host. */
#ifndef AQ_ENGINE_PLACEMENT_H
#define AQ_ENGINE_PLACEMENT_H

#include <stddef.h>

#include "comm/comm.h"

typedef struct {
    int n_rank;      /* on this host */
    int n_thread;    /* of each */
    int n_processor; /* of the host, online */
    int n_domain;    /* NUMA domains whose processors this rank may use */
} aq_placement;

/* How this rank and those beside it lie. Local. */
aq_placement aq_placement_of(const aq_comm *comm, int n_thread);

/* One sentence of advice, at most `bytes` with the final 0, or an empty text if there is none:
 * more threads than processors, or a rank whose threads lie in several NUMA domains, of which each
 * reads the others' memory more slowly. Returns `out`. Local. */
const char *aq_placement_advice(const aq_placement *placement, const char *host, char *out,
                                size_t bytes);

#endif
