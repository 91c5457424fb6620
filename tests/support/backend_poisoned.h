/* A backend that watches another: every block it hands out lies between two red zones full of NaN.
 * A kernel that writes past a block damages a zone; one that reads past a block reads NaN, and so
 * does one that reads a block already released. It counts allocations, for the test that a decode
 * step makes none; and it can hide its memory, so that the host that touches it dies as it would
 * with the memory of a device. */
#ifndef AQ_TESTS_SUPPORT_BACKEND_POISONED_H
#define AQ_TESTS_SUPPORT_BACKEND_POISONED_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"

/* Wraps `inner`, a backend of host memory, and owns it from here on, also on failure. End it with
 * close, which releases what is still out. AQ_ERR_MEMORY. */
aq_status aq_backend_poisoned_open(aq_backend *inner, aq_backend **out);

/* From here on the memory is there inside operations only, and host_memory is false. */
void aq_backend_poisoned_hide(aq_backend *be);

/* Whether no red zone has been damaged so far, of blocks still out or already released. */
bool aq_backend_poisoned_intact(aq_backend *be);

/* Calls of alloc so far, and blocks still out. */
int64_t aq_backend_poisoned_allocs(const aq_backend *be);
int64_t aq_backend_poisoned_live(const aq_backend *be);

#endif
