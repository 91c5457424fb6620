/* Which processor each rank computes on. */
#ifndef AQ_ENGINE_DEVICE_H
#define AQ_ENGINE_DEVICE_H

#include "src/aqua.h"

/* What `text` asks for on this rank: "cpu"; "cuda:N", that device on every rank; "cuda", the ranks
 * of a host take its devices in turn; "auto", as "cuda" where there is a device, else "cpu". NULL
 * is "cpu". AQ_ERR_USAGE. Local. */
aq_status aq_device_choose(const char *text, const aq_comm *comm, aq_device *out);

/* The same for rank number `rank` of a host with n_cuda devices. Local. */
aq_status aq_device_of(const char *text, int rank, int n_cuda, aq_device *out);

/* "cpu", or "cuda:0 (NVIDIA H100 80GB HBM3)", cut to `bytes`. Returns `out`. Local. */
const char *aq_device_name(const aq_device *device, char *out, size_t bytes);

/* Where the ranks are: integers only, so that they travel in one message. */
typedef struct {
    int64_t host[8];   /* 63 characters */
    int64_t device[8]; /* as aq_device_name says */
    int64_t cuda;      /* index of the CUDA device; -1: none */
} aq_device_place;

/* The places of all ranks, in rank order, on every rank: places[n_rank]. AQ_ERR_COMM. Collective.
 */
aq_status aq_device_gather(aq_comm *comm, const aq_device *device, aq_device_place *places);

/* The most ranks that have one CUDA device in common; 0 if none has any. Local. */
int aq_device_sharing(const aq_device_place *places, int n_rank);

#endif
