/* Counts the locks that this project's own code takes, in all threads. A test that asks must be
 * linked with --wrap=pthread_mutex_lock and --wrap=pthread_cond_wait; the C library's own locks and
 * those of MPI are not seen. */
#ifndef AQ_TESTS_SUPPORT_LOCK_COUNT_H
#define AQ_TESTS_SUPPORT_LOCK_COUNT_H

#include <stdint.h>

/* Calls of pthread_mutex_lock, and of pthread_cond_wait, since the start. Local. */
int64_t aq_lock_count(void);
int64_t aq_sleep_count(void);

#endif
