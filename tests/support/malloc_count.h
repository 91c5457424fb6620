/* Counts what the whole process asks of the C library's allocator, threads and libraries included.
 * Linked into the tests that say so. With AddressSanitizer its hooks count; without, malloc and its
 * kin are taken over for the process. */
#ifndef AQ_TESTS_SUPPORT_MALLOC_COUNT_H
#define AQ_TESTS_SUPPORT_MALLOC_COUNT_H

#include <stdint.h>

/* Calls that gave out memory since the first call of this function, which gives 0. */
int64_t aq_malloc_count(void);

#endif
