/* The hosts that a plan is made for: how many ranks each has, and memory for them. */
#ifndef AQ_LAUNCH_HOSTS_H
#define AQ_LAUNCH_HOSTS_H

#include <stdint.h>

#include "src/base/status.h"

#define AQ_HOSTS_MAX 1024
#define AQ_HOST_NAME 64

typedef struct {
    char name[AQ_HOST_NAME];
    int n_rank;
    int64_t memory;       /* bytes, of all its ranks together */
    double bandwidth_gbs; /* of its link, 10^9 bytes a second; 0: not said */
} aq_host;

/* Ranks are numbered host by host. */
typedef struct {
    int n;
    aq_host hosts[AQ_HOSTS_MAX];
} aq_hosts;

/* Reads lines "NAME ranks=N memory=SIZE [bandwidth=GB/s]"; what follows a # and empty lines do not
 * count. AQ_ERR_IO; AQ_ERR_USAGE names file and line. Local. */
aq_status aq_hosts_read(const char *path, aq_hosts *out);

/* One host with all ranks; and n_rank hosts of one each, with so much memory. AQ_ERR_USAGE: more
 * than AQ_HOSTS_MAX. Local. */
void aq_hosts_one(const char *name, int n_rank, int64_t memory, aq_hosts *out);
aq_status aq_hosts_each(int n_rank, int64_t memory, aq_hosts *out);

/* Ranks of all hosts; and of host i those among the first n_rank. Local. */
int aq_hosts_ranks(const aq_hosts *hosts);
int aq_hosts_used(const aq_hosts *hosts, int i, int n_rank);

#endif
