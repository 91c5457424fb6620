/* A backend for tests whose memory is memory of the host, in front of one whose memory is not:
 * before an operation all blocks are copied over, and pointers in its arguments turned to the
 * copies; afterwards all blocks are copied back. So a contract test that fills and compares memory
 * between operations runs on a device as it is. */
#ifndef AQ_TESTS_SUPPORT_BACKEND_MIRROR_H
#define AQ_TESTS_SUPPORT_BACKEND_MIRROR_H

#include "kernels/backend.h"

/* Takes over `inner`, which is closed with it, also on failure. AQ_ERR_MEMORY. Local. */
aq_status aq_backend_mirror_open(aq_backend *inner, aq_backend **out);

#endif
