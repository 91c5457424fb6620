#define _GNU_SOURCE
#include "src/base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/base/clock.h"

/* Somebody who waits spins, then lets others of this processor go first, then sleeps. Waiting
 * longer without sleep would steal the processor from other ranks of the same host. */
#define SPIN_NS     20000
#define AWAKE_NS    100000
#define MAX_MEMBERS 1024
#define LINE_BYTES  64

typedef struct {
    aq_threads *team;
    int index;
    pthread_t handle;
} member;

/* Members count up words and wait for words to change. Each word that many write has a line of the
 * cache to itself. */
struct aq_threads {
    int n_thread;
    int n_started;
    member *members; /* [n_thread]; [0] is the caller and has no handle */
    aq_task_fn fn;   /* of the task that runs; NULL between tasks */
    void *arg;
    atomic_bool closing;
    pthread_mutex_t mutex; /* of those who sleep and who wake them, nobody else */
    pthread_cond_t changed;
    _Alignas(LINE_BYTES) atomic_uint task; /* number of the current task; a change starts it */
    atomic_int n_asleep;
    _Alignas(LINE_BYTES) atomic_int n_arrived; /* at the meeting that comes next */
    _Alignas(LINE_BYTES) atomic_uint meeting;  /* number of meetings that all have come to */
};

int aq_threads_available(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

int aq_threads_online(void) {
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* After a change of a word: wakes those who sleep. Word and n_asleep are written and then read in
 * opposite order by the two sides, in one order for all, so that one of them sees the other. */
static void wake(aq_threads *team) {
    if (atomic_load(&team->n_asleep) == 0) return;
    pthread_mutex_lock(&team->mutex);
    pthread_cond_broadcast(&team->changed);
    pthread_mutex_unlock(&team->mutex);
}

static void sleep_until_changed(aq_threads *team, const atomic_uint *word, unsigned seen) {
    pthread_mutex_lock(&team->mutex);
    atomic_fetch_add(&team->n_asleep, 1);
    while (atomic_load(word) == seen)
        pthread_cond_wait(&team->changed, &team->mutex);
    atomic_fetch_sub(&team->n_asleep, 1);
    pthread_mutex_unlock(&team->mutex);
}

/* Whether *word stops being `seen` within a few hundred nanoseconds. */
static bool changes_soon(const atomic_uint *word, unsigned seen) {
    for (int i = 0; i < 16; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != seen) return true;
        relax();
    }
    return false;
}

/* Returns when *word is not `seen` any more. */
static void wait_changed(aq_threads *team, const atomic_uint *word, unsigned seen) {
    if (changes_soon(word, seen)) return;
    const int64_t start = aq_clock_ns();
    for (int64_t waited = 0; waited < AWAKE_NS; waited = aq_clock_ns() - start) {
        if (waited > SPIN_NS) sched_yield();
        if (changes_soon(word, seen)) return;
    }
    sleep_until_changed(team, word, seen);
}

/* Tells that a member has come to the meeting that comes next; returns the number to wait on. */
static unsigned arrive(aq_threads *team) {
    const unsigned meeting = atomic_load_explicit(&team->meeting, memory_order_relaxed);
    if (atomic_fetch_add(&team->n_arrived, 1) + 1 == team->n_thread) {
        atomic_store_explicit(&team->n_arrived, 0, memory_order_relaxed);
        atomic_fetch_add(&team->meeting, 1);
        wake(team);
    }
    return meeting;
}

void aq_threads_barrier(aq_threads *team) {
    if (!team->fn) return;
    wait_changed(team, &team->meeting, arrive(team));
}

static void *member_main(void *arg) {
    member *self = arg;
    aq_threads *team = self->team;
    for (unsigned seen = 0;; seen++) {
        wait_changed(team, &team->task, seen);
        if (atomic_load(&team->closing)) return NULL;
        team->fn(team->arg, self->index, team->n_thread);
        arrive(team);
    }
}

static void start_task(aq_threads *team) {
    atomic_fetch_add(&team->task, 1);
    wake(team);
}

aq_status aq_threads_open(int n_thread, aq_threads **out) {
    *out = NULL;
    if (n_thread == 0) n_thread = aq_threads_available();
    if (n_thread < 1 || n_thread > MAX_MEMBERS)
        return aq_fail(AQ_ERR_USAGE, "%d threads asked for; give 1 to %d", n_thread, MAX_MEMBERS);
    aq_threads *team = aligned_alloc(LINE_BYTES, sizeof *team);
    member *members = calloc((size_t)n_thread, sizeof *members);
    if (!team || !members) {
        free(team);
        free(members);
        return aq_fail(AQ_ERR_MEMORY, "no memory for a team of %d threads", n_thread);
    }
    *team = (aq_threads){.n_thread = n_thread, .n_started = 1, .members = members};
    pthread_mutex_init(&team->mutex, NULL);
    pthread_cond_init(&team->changed, NULL);
    for (int i = 1; i < n_thread; i++) {
        members[i] = (member){.team = team, .index = i};
        if (pthread_create(&members[i].handle, NULL, member_main, &members[i]) != 0) {
            aq_threads_close(team);
            return aq_fail(AQ_ERR_MEMORY,
                           "the system refused thread %d of %d; ask for fewer with -t", i + 1,
                           n_thread);
        }
        team->n_started++;
    }
    *out = team;
    return AQ_OK;
}

void aq_threads_close(aq_threads *team) {
    if (!team) return;
    atomic_store(&team->closing, true);
    start_task(team);
    for (int i = 1; i < team->n_started; i++)
        pthread_join(team->members[i].handle, NULL);
    pthread_cond_destroy(&team->changed);
    pthread_mutex_destroy(&team->mutex);
    free(team->members);
    free(team);
}

int aq_threads_count(const aq_threads *team) {
    return team->n_thread;
}

void aq_threads_run(aq_threads *team, aq_task_fn fn, void *arg) {
    if (team->n_thread == 1) {
        fn(arg, 0, 1);
        return;
    }
    team->fn = fn;
    team->arg = arg;
    start_task(team);
    fn(arg, 0, team->n_thread);
    wait_changed(team, &team->meeting, arrive(team));
    team->fn = NULL;
}
