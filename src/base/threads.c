#define _GNU_SOURCE
#include "src/base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/base/clock.h"

/* Spinning longer than this would steal the processor from other ranks of the same host. */
#define SPIN_NS     100000
#define MAX_MEMBERS 1024

typedef struct {
    aq_threads *team;
    int index;
    pthread_t handle;
} member;

struct aq_threads {
    int n_thread;
    int n_started;
    member *members; /* [n_thread]; [0] is the caller and has no handle */
    aq_task_fn fn;
    void *arg;
    atomic_uint task;   /* number of the current task; a change starts it */
    atomic_int pending; /* members that have not finished it */
    atomic_int closing;
    pthread_mutex_t mutex;
    pthread_cond_t started, finished;
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

/* Waits until *task differs from `seen`: spins, then sleeps. Returns the new number. */
static unsigned wait_task(aq_threads *team, unsigned seen) {
    int64_t deadline = aq_clock_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 64; i++) {
            unsigned now = atomic_load_explicit(&team->task, memory_order_acquire);
            if (now != seen) return now;
            relax();
        }
    } while (aq_clock_ns() < deadline);
    pthread_mutex_lock(&team->mutex);
    while (atomic_load(&team->task) == seen)
        pthread_cond_wait(&team->started, &team->mutex);
    pthread_mutex_unlock(&team->mutex);
    return atomic_load(&team->task);
}

static void wait_finished(aq_threads *team) {
    int64_t deadline = aq_clock_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(&team->pending, memory_order_acquire) == 0) return;
            relax();
        }
    } while (aq_clock_ns() < deadline);
    pthread_mutex_lock(&team->mutex);
    while (atomic_load(&team->pending) != 0)
        pthread_cond_wait(&team->finished, &team->mutex);
    pthread_mutex_unlock(&team->mutex);
}

static void *member_main(void *arg) {
    member *self = arg;
    aq_threads *team = self->team;
    unsigned seen = 0;
    for (;;) {
        seen = wait_task(team, seen);
        if (atomic_load(&team->closing)) return NULL;
        team->fn(team->arg, self->index, team->n_thread);
        if (atomic_fetch_sub(&team->pending, 1) == 1) {
            pthread_mutex_lock(&team->mutex);
            pthread_cond_signal(&team->finished);
            pthread_mutex_unlock(&team->mutex);
        }
    }
}

static void start_task(aq_threads *team) {
    pthread_mutex_lock(&team->mutex);
    atomic_fetch_add(&team->task, 1);
    pthread_cond_broadcast(&team->started);
    pthread_mutex_unlock(&team->mutex);
}

aq_status aq_threads_open(int n_thread, aq_threads **out) {
    *out = NULL;
    if (n_thread == 0) n_thread = aq_threads_available();
    if (n_thread < 1 || n_thread > MAX_MEMBERS)
        return aq_fail(AQ_ERR_USAGE, "%d threads asked for; give 1 to %d", n_thread, MAX_MEMBERS);
    aq_threads *team = calloc(1, sizeof *team);
    member *members = calloc((size_t)n_thread, sizeof *members);
    if (!team || !members) {
        free(team);
        free(members);
        return aq_fail(AQ_ERR_MEMORY, "no memory for a team of %d threads", n_thread);
    }
    team->n_thread = n_thread;
    team->n_started = 1;
    team->members = members;
    pthread_mutex_init(&team->mutex, NULL);
    pthread_cond_init(&team->started, NULL);
    pthread_cond_init(&team->finished, NULL);
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
    atomic_store(&team->closing, 1);
    start_task(team);
    for (int i = 1; i < team->n_started; i++)
        pthread_join(team->members[i].handle, NULL);
    pthread_cond_destroy(&team->finished);
    pthread_cond_destroy(&team->started);
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
    atomic_store(&team->pending, team->n_thread - 1);
    start_task(team);
    fn(arg, 0, team->n_thread);
    wait_finished(team);
}
