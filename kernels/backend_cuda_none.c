/* In place of backend_cuda.cu where there is no CUDA. */
#include <stdio.h>

#include "kernels/backend.h"

int aq_backend_cuda_devices(void) {
    return 0;
}

const char *aq_backend_cuda_name(int device, char *out, size_t bytes) {
    (void)device;
    snprintf(out, bytes, "no device");
    return out;
}

aq_status aq_backend_cuda_open(int device, aq_backend **out) {
    (void)device;
    *out = NULL;
    return aq_fail(AQ_ERR_UNSUPPORTED,
                   "built without CUDA: configure with -DAQUA_WITH_CUDA=ON (preset cuda)");
}
