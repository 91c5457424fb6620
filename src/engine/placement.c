#include "src/engine/placement.h"

#include <stdio.h>

#include "src/base/numa.h"
#include "src/base/threads.h"

aq_placement aq_placement_of(const aq_comm *comm, int n_thread) {
    return (aq_placement){.n_rank = aq_comm_size_on_host(comm),
                          .n_thread = n_thread,
                          .n_processor = aq_threads_online(),
                          .n_domain = aq_numa_domains()};
}

const char *aq_placement_advice(const aq_placement *placement, const char *host, char *out,
                                size_t bytes) {
    out[0] = '\0';
    if (placement->n_rank * placement->n_thread > placement->n_processor)
        snprintf(out, bytes,
                 "%d ranks of %d threads share %d processors of %s and wait for each other; give "
                 "fewer with -t or mpirun -n",
                 placement->n_rank, placement->n_thread, placement->n_processor, host);
    else if (placement->n_thread > 1 && placement->n_domain > 1)
        snprintf(out, bytes,
                 "the threads of a rank on %s lie in %d NUMA domains; one rank a domain reads its "
                 "memory faster: mpirun --map-by numa --bind-to numa",
                 host, placement->n_domain);
    return out;
}
