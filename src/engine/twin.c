#include "src/engine/twin.h"

#include <stdlib.h>

aq_status aq_twin_open(aq_backend *be, size_t bytes, aq_twin *out) {
    void *there = NULL;
    *out = (aq_twin){.bytes = bytes};
    AQ_TRY(be->ops->alloc(be, bytes, &there));
    out->there = there;
    out->host = be->host_memory ? out->there : calloc(bytes + 1, 1);
    if (out->host) return AQ_OK;
    return aq_fail(AQ_ERR_MEMORY, "no memory of the host for %zu bytes", bytes);
}

void aq_twin_close(aq_backend *be, aq_twin *twin) {
    if (twin->host != twin->there) free(twin->host);
    if (twin->there) be->ops->release(be, twin->there);
    *twin = (aq_twin){NULL, NULL, 0};
}

aq_status aq_twin_place(aq_backend *be, const void *host, size_t bytes, void **out) {
    AQ_TRY(be->ops->alloc(be, bytes, out));
    be->ops->upload(be, *out, host, bytes);
    return AQ_OK;
}
