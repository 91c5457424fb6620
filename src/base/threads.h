/* A persistent team of threads that runs one task at a time, fork-join.
 *
 * The calling thread is member 0. Who waits, for a task or for others inside one, spins for a set
 * time (a decode step starts a task every few microseconds), then sleeps. No lock is taken while
 * nobody sleeps. */
#ifndef AQ_BASE_THREADS_H
#define AQ_BASE_THREADS_H

#include <stdint.h>

#include "src/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct aq_threads aq_threads;

/* One member's share of a task; `thread` is 0 .. n_thread - 1. */
typedef void (*aq_task_fn)(void *arg, int thread, int n_thread);

/* Number of processors this process may run on (its affinity mask). Local. */
int aq_threads_available(void);

/* Number of processors of this host that are online. Local. */
int aq_threads_online(void);

/* Starts a team of n_thread members; 0 means aq_threads_available(). The team is owned by the
 * caller and must be used from one thread at a time. AQ_ERR_USAGE, AQ_ERR_MEMORY. Local. */
aq_status aq_threads_open(int n_thread, aq_threads **out);

/* Ends the team; NULL is allowed. Local. */
void aq_threads_close(aq_threads *team);

/* Number of members, the caller included. Local. */
int aq_threads_count(const aq_threads *team);

/* Runs fn on every member and returns when all are done. Allocates nothing. Local. */
void aq_threads_run(aq_threads *team, aq_task_fn fn, void *arg);

/* Inside a task: returns when all members have called it as many times; what each wrote before, all
 * see after. Every member must call it equally often. Returns at once where no task of the team
 * runs, so that a task's function may also be called for one member alone. Local. */
void aq_threads_barrier(aq_threads *team);

/* The part [*begin, *end) of n items that belongs to member `thread`: parts differ in length by at
 * most one, in order. Local. */
static inline void aq_threads_part(int64_t n, int thread, int n_thread, int64_t *begin,
                                   int64_t *end) {
    *begin = n * thread / n_thread;
    *end = n * (thread + 1) / n_thread;
}

/* The same for items that stay together in runs of `align`: parts begin at multiples of it. */
static inline void aq_threads_part_of(int64_t n, int64_t align, int thread, int n_thread,
                                      int64_t *begin, int64_t *end) {
    aq_threads_part((n + align - 1) / align, thread, n_thread, begin, end);
    *begin *= align;
    *end = *end * align < n ? *end * align : n;
}

#ifdef __cplusplus
}
#endif
#endif
