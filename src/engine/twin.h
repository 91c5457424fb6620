/* Memory that host and backend both work on: one block on each side, or one and the same where the
 * host may use the backend's memory (aq_backend.host_memory), and then nothing is ever copied. What
 * one side has written the other sees after a push or a pull. For src/engine and calib. */
#ifndef AQ_ENGINE_TWIN_H
#define AQ_ENGINE_TWIN_H

#include "kernels/backend.h"

typedef struct {
    char *host;  /* what the host reads and writes */
    char *there; /* backend memory; `host` itself where they are one */
    size_t bytes;
} aq_twin;

/* Both blocks, zeroed. The caller closes it, also on failure. AQ_ERR_MEMORY. Local. */
aq_status aq_twin_open(aq_backend *be, size_t bytes, aq_twin *out);

/* Frees; a zeroed struct is allowed. Local. */
void aq_twin_close(aq_backend *be, aq_twin *twin);

/* Where in backend memory that lies which lies at `host` here. Local. */
static inline void *aq_twin_there(const aq_twin *twin, const void *host) {
    return twin->there + ((const char *)host - twin->host);
}

/* Gives the backend the `bytes` bytes at `host`. Local. */
static inline void aq_twin_push(aq_backend *be, const aq_twin *twin, const void *host,
                                size_t bytes) {
    if (twin->there != twin->host) be->ops->upload(be, aq_twin_there(twin, host), host, bytes);
}

/* Fetches the `bytes` bytes at `host` from the backend; waits for it. Local. */
static inline void aq_twin_pull(aq_backend *be, const aq_twin *twin, void *host, size_t bytes) {
    if (twin->there != twin->host) be->ops->download(be, host, aq_twin_there(twin, host), bytes);
}

/* New backend memory with a copy of host[bytes]. The caller releases it. AQ_ERR_MEMORY. Local. */
aq_status aq_twin_place(aq_backend *be, const void *host, size_t bytes, void **out);

#endif
