/* Waiting for other ranks: busy at first, then resting, and not for ever. */
#define _POSIX_C_SOURCE 200809L
#include <sched.h>
#include <time.h>

#include "comm/comm_mpi.h"
#include "src/base/clock.h"

/* Up to SPIN_NS the processor is kept: most waits of decode end there. Up to YIELD_NS others may
 * have it; then it rests for a share of the time waited, which makes no wait longer by more than
 * that share. */
#define SPIN_NS    INT64_C(20000)
#define YIELD_NS   INT64_C(5000000)
#define REST_SHARE 100
#define REST_NS    INT64_C(1000000)

/* What a look may add to the time waited: a job that was suspended has not waited. */
#define LOOK_NS INT64_C(100000000)

/* A rank of this host counts as waiting if it said so this lately, or within half the deadline. */
#define FRESH_NS INT64_C(2000000000)

static struct {
    int64_t ns; /* 0: none */
    void (*lost)(void *arg);
    void *arg;
} deadline;

void aq_comm_deadline(double seconds, void (*lost)(void *arg), void *arg) {
    deadline.ns = seconds > 0 ? (int64_t)(seconds * 1e9) : 0;
    deadline.lost = lost;
    deadline.arg = arg;
}

static void rest(int64_t waited_ns) {
    if (waited_ns < SPIN_NS) return;
    if (waited_ns < YIELD_NS) {
        sched_yield();
        return;
    }
    const int64_t share_ns = waited_ns / REST_SHARE;
    const struct timespec pause = {.tv_nsec = (long)(share_ns < REST_NS ? share_ns : REST_NS)};
    nanosleep(&pause, NULL);
}

/* A wait that has become long: others are told, and looked at. silent_ns: since one got on. */
typedef struct {
    int64_t last_ns, waited_ns, silent_ns, pulse;
} long_wait;

/* Returns whether the deadline has passed. */
static bool look(long_wait *wait) {
    const int64_t now_ns = aq_clock_ns();
    const int64_t since_ns = now_ns - wait->last_ns < LOOK_NS ? now_ns - wait->last_ns : LOOK_NS;
    wait->last_ns = now_ns;
    wait->waited_ns += since_ns;
    if (wait->waited_ns < YIELD_NS) return false;
    aq_heartbeat_wait(now_ns);
    aq_heartbeat_answer();
    const int64_t pulse = aq_heartbeat_pulse();
    wait->silent_ns = pulse == wait->pulse ? wait->silent_ns + since_ns : 0;
    wait->pulse = pulse;
    return deadline.ns > 0 && wait->silent_ns > deadline.ns;
}

static aq_status give_up(const char *what) {
    aq_heartbeat_wait(AQ_WAITED_IN_VAIN);
    const int64_t fresh_ns = deadline.ns / 2 < FRESH_NS ? deadline.ns / 2 : FRESH_NS;
    return aq_heartbeat_find_missing(what, (double)deadline.ns * 1e-9, fresh_ns);
}

aq_status aq_comm_wait(int mpi_code, MPI_Request *request, const char *what) {
    long_wait wait = {.last_ns = aq_clock_ns()};
    int done = 0;
    aq_status status = aq_comm_check(mpi_code, what);
    while (status == AQ_OK) {
        status = aq_comm_check(MPI_Test(request, &done, MPI_STATUS_IGNORE), what);
        if (done) break;
        if (status == AQ_OK && look(&wait)) status = give_up(what);
        if (status == AQ_OK) rest(wait.waited_ns);
    }
    if (status == AQ_OK && wait.waited_ns >= YIELD_NS) aq_heartbeat_wait(0);
    if (status != AQ_OK && deadline.lost) deadline.lost(deadline.arg);
    return status;
}
