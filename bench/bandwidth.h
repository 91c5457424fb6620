/* How fast this machine reads memory: the roof that rates of bytes are held against. */
#ifndef AQ_BENCH_BANDWIDTH_H
#define AQ_BENCH_BANDWIDTH_H

#include <stdint.h>

#include "comm/comm.h"

typedef struct {
    double bytes_per_s; /* of all ranks together */
    int64_t bytes;      /* that they read in one pass */
    int n_pass;         /* of which the fastest counts */
} aq_bandwidth;

/* Bytes of the last-level cache as Linux tells them, 32 MiB if it does not. Local. */
int64_t aq_last_level_cache(void);

/* A team of n_thread threads on each rank of comm, all at the same time, sums up floats that its
 * members wrote before, with the loads that kernels use: together twice the last-level cache on
 * each host, and 256 MiB at least. A pass is as long as that of the slowest rank. AQ_ERR_MEMORY,
 * AQ_ERR_COMM. Collective. */
aq_status aq_bandwidth_measure(aq_comm *comm, int n_thread, aq_bandwidth *out);

#endif
