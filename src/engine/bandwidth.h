/* How fast this machine reads memory: the roof that rates of bytes are held against. */
#ifndef AQ_ENGINE_BANDWIDTH_H
#define AQ_ENGINE_BANDWIDTH_H

#include <stdint.h>

#include "comm/comm.h"
#include "kernels/backend.h"

typedef struct {
    double bytes_per_s;     /* of all ranks together, in the fastest pass */
    double own_bytes_per_s; /* of this rank beside the others, over all passes */
    int64_t bytes;          /* that all read in one pass */
    int n_pass;
} aq_bandwidth;

/* Passes of a measurement that speeds are held against. */
#define AQ_BANDWIDTH_PASSES 16

/* Bytes of the last-level cache as Linux tells them, 32 MiB if it does not. Local. */
int64_t aq_last_level_cache(void);

/* A team of n_thread threads on each rank of comm, all at the same time, sums up floats that its
 * members wrote before, with the loads that kernels use: together twice the last-level cache on
 * each host, and 256 MiB at least. A pass is as long as that of the slowest rank. AQ_ERR_MEMORY,
 * AQ_ERR_COMM. Collective. */
aq_status aq_bandwidth_measure(aq_comm *comm, int n_thread, int n_pass, aq_bandwidth *out);

/* The same of a backend that is a device: it copies one half of 512 MiB to the other, and bytes
 * that are read and bytes that are written both count. AQ_ERR_MEMORY, and what `sync` fails with.
 * Local. */
aq_status aq_bandwidth_copy(aq_backend *be, aq_bandwidth *out);

#endif
