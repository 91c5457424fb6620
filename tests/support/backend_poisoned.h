/* A backend that watches another: every block it hands out lies between two red zones full of NaN.
 * A kernel that writes past a block damages a zone; one that reads past a block reads NaN. It also
 * counts allocations, for the test that a decode step makes none. */
#ifndef AQ_TESTS_SUPPORT_BACKEND_POISONED_H
#define AQ_TESTS_SUPPORT_BACKEND_POISONED_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"

/* Wraps `inner`, a backend of host memory, and owns it from here on, also on failure. End it with
 * close, which releases what is still out. AQ_ERR_MEMORY. */
aq_status aq_backend_poisoned_open(aq_backend *inner, aq_backend **out);

/* Whether no red zone has been damaged so far, of blocks still out or already released. */
bool aq_backend_poisoned_intact(const aq_backend *be);

/* Calls of alloc so far, and blocks still out. */
int64_t aq_backend_poisoned_allocs(const aq_backend *be);
int64_t aq_backend_poisoned_live(const aq_backend *be);

#endif
