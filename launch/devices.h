/* Tells which rank computes where. */
#ifndef AQ_LAUNCH_DEVICES_H
#define AQ_LAUNCH_DEVICES_H

#include "launch/program.h"

/* On stderr of rank 0, if any rank has a CUDA device: the device of each rank, and a warning if
 * several share one. Nothing where all have processors. AQ_ERR_MEMORY, AQ_ERR_COMM. Collective. */
aq_status aq_devices_tell(const aq_program *program, const aq_engine *engine);

#endif
