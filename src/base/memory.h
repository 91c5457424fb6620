/* Memory of this machine and process, as Linux tells it. */
#ifndef AQ_BASE_MEMORY_H
#define AQ_BASE_MEMORY_H

#include <stdint.h>

#include "src/base/status.h"

/* Bytes that this process could still take: MemAvailable of /proc/meminfo, or what its control
 * group leaves if that is less: memory.max - memory.current + what the group's files take in the
 * cache (version 2; of version 1 memory.limit_in_bytes and memory.usage_in_bytes), and so for each
 * group above it. 0: the system does not tell. Local. Source: Linux,
 * Documentation/admin-guide/cgroup-v2.rst. */
int64_t aq_memory_available(void);

/* The same of a tree of files that looks like /proc and /sys, under `root`. Local. */
int64_t aq_memory_available_in(const char *root);

/* Bytes of this process that lie in memory now, mapped files included; 0: not told. Local. */
int64_t aq_memory_resident(void);

/* A size as users write it: bytes, or with K, M, G or T, 2^10 bytes and so on; "i" and "B" may
 * follow: 512M, 1.5GiB. AQ_ERR_USAGE names `what`, also if it is not above 0. Local. */
aq_status aq_memory_parse(const char *what, const char *text, int64_t *out);

#endif
