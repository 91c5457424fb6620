#include "launch/devices.h"

#include <stdlib.h>

#include "src/engine/device.h"

static void tell(const aq_device_place *places, int n_rank) {
    const int n_sharing = aq_device_sharing(places, n_rank);
    if (n_sharing == 0) return;
    for (int r = 0; r < n_rank; r++)
        fprintf(stderr, "device: rank %d on %s: %s\n", r, (const char *)places[r].host,
                (const char *)places[r].device);
    if (n_sharing > 1)
        fprintf(stderr,
                "warning: up to %d ranks share a CUDA device: they take turns, each holds the "
                "weights, and what they exchange goes through the host; use one rank a device\n",
                n_sharing);
}

aq_status aq_devices_tell(const aq_program *program, const aq_engine *engine) {
    const aq_engine_info info = aq_engine_describe(engine);
    const int n_rank = aq_comm_size(program->world);
    aq_device_place *places = calloc((size_t)n_rank, sizeof *places);
    aq_status status = places ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for a list of devices");
    status = aq_comm_agree(program->world, status);
    if (status == AQ_OK) status = aq_device_gather(program->world, &info.device, places);
    if (status == AQ_OK && program->first) tell(places, n_rank);
    free(places);
    return status;
}
