/* Which of this process' pages are in its memory, from /proc/self/pagemap (Linux). */
#ifndef AQ_TESTS_SUPPORT_RESIDENT_H
#define AQ_TESTS_SUPPORT_RESIDENT_H

#include <stdint.h>

/* Bytes of the whole pages within `bytes` bytes that are mapped into this process now, not just
 * cached by the system; -1: the system does not tell. *whole, unless NULL: bytes of all those
 * pages. Local. */
int64_t aq_test_resident(const void *data, int64_t bytes, int64_t *whole);

#endif
