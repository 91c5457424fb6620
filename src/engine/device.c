#include "src/engine/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"

#define N_WORD ((int64_t)(sizeof(aq_device_place) / sizeof(int64_t)))

aq_status aq_device_of(const char *text, int rank, int n_cuda, aq_device *out) {
    *out = (aq_device){.cuda = false};
    const bool any = text && strcmp(text, "auto") == 0;
    if (!text || strcmp(text, "cpu") == 0 || (any && n_cuda == 0)) return AQ_OK;
    out->cuda = true;
    if (any || strcmp(text, "cuda") == 0) {
        out->index = n_cuda > 0 ? rank % n_cuda : 0;
        return AQ_OK;
    }
    const char *digits = strncmp(text, "cuda:", 5) == 0 ? text + 5 : "";
    const size_t n = strspn(digits, "0123456789");
    if (n == 0 || n > 4 || digits[n] != '\0')
        return aq_fail(AQ_ERR_USAGE, "--device takes auto, cpu, cuda or cuda:N, not \"%s\"", text);
    out->index = atoi(digits);
    return AQ_OK;
}

aq_status aq_device_choose(const char *text, const aq_comm *comm, aq_device *out) {
    const bool on_cpu = !text || strcmp(text, "cpu") == 0; /* asking for devices takes long */
    const int n_cuda = on_cpu ? 0 : aq_backend_cuda_devices();
    return aq_device_of(text, aq_comm_rank_on_host(comm), n_cuda, out);
}

const char *aq_device_name(const aq_device *device, char *out, size_t bytes) {
    char name[128];
    if (device->cuda)
        snprintf(out, bytes, "cuda:%d (%s)", device->index,
                 aq_backend_cuda_name(device->index, name, sizeof name));
    else
        snprintf(out, bytes, "cpu");
    return out;
}

aq_status aq_device_gather(aq_comm *comm, const aq_device *device, aq_device_place *places) {
    aq_device_place mine = {.cuda = device->cuda ? device->index : -1};
    snprintf((char *)mine.host, sizeof mine.host, "%s", aq_comm_host(comm));
    aq_device_name(device, (char *)mine.device, sizeof mine.device);
    return aq_comm_allgather_i64(comm, (const int64_t *)&mine, N_WORD, (int64_t *)places);
}

static bool same_device(const aq_device_place *a, const aq_device_place *b) {
    return a->cuda >= 0 && a->cuda == b->cuda &&
           strcmp((const char *)a->host, (const char *)b->host) == 0;
}

int aq_device_sharing(const aq_device_place *places, int n_rank) {
    int most = 0;
    for (int i = 0; i < n_rank; i++) {
        int n = 0;
        for (int j = 0; j < n_rank; j++)
            n += same_device(&places[i], &places[j]);
        most = n > most ? n : most;
    }
    return most;
}
