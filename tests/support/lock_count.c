#include "tests/support/lock_count.h"

#include <pthread.h>
#include <stdatomic.h>

static atomic_llong n_lock, n_sleep;

int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __real_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex) {
    atomic_fetch_add(&n_lock, 1);
    return __real_pthread_mutex_lock(mutex);
}

int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex) {
    atomic_fetch_add(&n_sleep, 1);
    return __real_pthread_cond_wait(cond, mutex);
}

int64_t aq_lock_count(void) {
    return atomic_load(&n_lock);
}

int64_t aq_sleep_count(void) {
    return atomic_load(&n_sleep);
}
