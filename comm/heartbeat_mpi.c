#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "comm/heartbeat.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "comm/comm_mpi.h"
#include "src/base/clock.h"

#define N_NAMED     3 /* ranks that a line names */
#define ASK_TAG     1 /* "who waits?" */
#define ANSWER_TAG  2 /* "I do" */
#define ROLL_NS     INT64_C(1000000000)
#define SILENT_NS   INT64_C(500000000)
#define COURTESY_NS INT64_C(500000000)

/* What a rank says of itself, on cache lines of its own: it alone writes there. */
typedef struct {
    _Alignas(128) atomic_int pid; /* 0: no rank of this host */
    atomic_int phase, layer;
    atomic_llong token;
    atomic_llong beat;    /* notes so far */
    atomic_llong wait_ns; /* when it last said that it waits; 0: it does not */
} slot;

typedef struct {
    atomic_int claimed;
    slot slots[]; /* [size] by rank; those of other hosts stay 0 */
} table;

typedef struct {
    int pid;
    char host[MPI_MAX_PROCESSOR_NAME];
} identity;

static struct {
    MPI_Comm mpi; /* a duplicate of the world, for the roll alone */
    int rank, size;
    bool has_far; /* ranks of other hosts */
    table *shared;
    identity *who;          /* [size] */
    atomic_llong *asked_ns; /* [size] of a far rank that has not answered: since when; else 0 */
    int64_t next_roll_ns;   /* in a wait: when far ranks are asked again; else 0 */
} heart = {.mpi = MPI_COMM_NULL};

static slot *slot_of(int rank) {
    return &heart.shared->slots[rank];
}

static bool is_near(int rank) {
    return atomic_load(&slot_of(rank)->pid) != 0;
}

void aq_heartbeat_note(aq_phase phase, int layer, int64_t token) {
    if (!heart.shared) return;
    slot *mine = slot_of(heart.rank);
    atomic_store_explicit(&mine->phase, (int)phase, memory_order_relaxed);
    atomic_store_explicit(&mine->layer, layer, memory_order_relaxed);
    atomic_store_explicit(&mine->token, token, memory_order_relaxed);
    atomic_fetch_add_explicit(&mine->beat, 1, memory_order_release);
}

int64_t aq_heartbeat_pulse(void) {
    int64_t pulse = 0;
    for (int r = 0; r < heart.size; r++)
        if (r != heart.rank) pulse += atomic_load_explicit(&slot_of(r)->beat, memory_order_relaxed);
    return pulse;
}

bool aq_heartbeat_claim(void) {
    return !heart.shared || !atomic_exchange(&heart.shared->claimed, 1);
}

/* Memory that the ranks of a host share, zeroed; NULL if there is none to be had. Its name is gone
 * when this returns, so that nothing is left behind. Collective over `host`. */
static void *share(MPI_Comm host, size_t bytes) {
    char name[32];
    int rank = 0, pid = (int)getpid(), fd = -1;
    void *at = MAP_FAILED;
    MPI_Comm_rank(host, &rank);
    MPI_Bcast(&pid, 1, MPI_INT, 0, host);
    snprintf(name, sizeof name, "/aqua-dist-%d", pid);
    if (rank == 0) {
        fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
        if (fd >= 0 && ftruncate(fd, (off_t)bytes) != 0) {
            close(fd);
            fd = -1;
        }
    }
    MPI_Barrier(host);
    if (rank != 0) fd = shm_open(name, O_RDWR, 0600);
    if (fd >= 0) at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    int good = at != MAP_FAILED;
    MPI_Allreduce(MPI_IN_PLACE, &good, 1, MPI_INT, MPI_MIN, host);
    if (rank == 0) shm_unlink(name);
    if (good) return at;
    if (at != MAP_FAILED) munmap(at, bytes);
    return NULL;
}

/* The table of this host, or, where nothing can be shared, one of this rank alone. Collective. */
static aq_status open_table(MPI_Comm world, bool shared) {
    const size_t bytes = sizeof(table) + (size_t)heart.size * sizeof(slot);
    MPI_Comm host = MPI_COMM_NULL;
    void *at = NULL;
    if (shared) {
        AQ_TRY(
            aq_comm_check(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host),
                          "finding the ranks of this host"));
        at = share(host, bytes);
    }
    if (!at) {
        at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) at = NULL;
    }
    heart.shared = at;
    if (at) atomic_store(&slot_of(heart.rank)->pid, (int)getpid());
    if (shared) MPI_Comm_free(&host);
    return at ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for the heartbeat of the ranks");
}

aq_status aq_heartbeat_open(MPI_Comm world, bool shared) {
    identity mine = {.pid = (int)getpid()};
    int length = 0;
    MPI_Comm_rank(world, &heart.rank);
    MPI_Comm_size(world, &heart.size);
    MPI_Get_processor_name(mine.host, &length);
    const aq_status opened = open_table(world, shared);
    heart.who = calloc((size_t)heart.size, sizeof *heart.who);
    heart.asked_ns = calloc((size_t)heart.size, sizeof *heart.asked_ns);
    int good = opened == AQ_OK && heart.who && heart.asked_ns;
    AQ_TRY(aq_comm_check(MPI_Allreduce(MPI_IN_PLACE, &good, 1, MPI_INT, MPI_MIN, world),
                         "starting the heartbeat"));
    AQ_TRY(opened);
    if (!good) return aq_fail(AQ_ERR_MEMORY, "a rank has no memory for the heartbeat");
    AQ_TRY(aq_comm_check(
        MPI_Allgather(&mine, sizeof mine, MPI_BYTE, heart.who, sizeof mine, MPI_BYTE, world),
        "starting the heartbeat"));
    AQ_TRY(aq_comm_check(MPI_Comm_dup(world, &heart.mpi), "starting the heartbeat"));
    MPI_Comm_set_errhandler(heart.mpi, MPI_ERRORS_RETURN);
    heart.has_far = false;
    for (int r = 0; r < heart.size; r++)
        heart.has_far = heart.has_far || !is_near(r);
    return AQ_OK;
}

void aq_heartbeat_close(void) {
    aq_heartbeat_note(AQ_PHASE_END, -1, 0);
    if (heart.mpi != MPI_COMM_NULL) MPI_Comm_free(&heart.mpi);
    heart.has_far = false;
}

/* A message without content. */
static void send_sign(int to, int tag) {
    MPI_Request request;
    if (MPI_Isend(NULL, 0, MPI_BYTE, to, tag, heart.mpi, &request) == MPI_SUCCESS)
        MPI_Request_free(&request);
}

void aq_heartbeat_answer(void) {
    MPI_Status sign;
    int there = 1;
    while (heart.has_far) {
        if (MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, heart.mpi, &there, &sign) != MPI_SUCCESS)
            return;
        if (!there) return;
        MPI_Recv(NULL, 0, MPI_BYTE, sign.MPI_SOURCE, sign.MPI_TAG, heart.mpi, MPI_STATUS_IGNORE);
        if (sign.MPI_TAG == ASK_TAG) send_sign(sign.MPI_SOURCE, ANSWER_TAG);
        atomic_store(&heart.asked_ns[sign.MPI_SOURCE], 0);
    }
}

/* Asks the ranks of other hosts whether they wait too; those that were asked before are silent
 * since then. */
static void ask(int64_t now_ns) {
    for (int r = 0; r < heart.size; r++) {
        if (is_near(r)) continue;
        if (atomic_load(&heart.asked_ns[r]) == 0) atomic_store(&heart.asked_ns[r], now_ns);
        send_sign(r, ASK_TAG);
    }
}

static void forget_asked(void) {
    for (int r = 0; r < heart.size; r++)
        atomic_store(&heart.asked_ns[r], 0);
}

void aq_heartbeat_wait(int64_t now_ns) {
    if (!heart.shared) return;
    atomic_store(&slot_of(heart.rank)->wait_ns, now_ns);
    if (!heart.has_far || now_ns == AQ_WAITED_IN_VAIN ||
        (now_ns > 0 && now_ns < heart.next_roll_ns))
        return;
    if (now_ns == 0)
        forget_asked();
    else if (heart.next_roll_ns > 0)
        ask(now_ns);
    heart.next_roll_ns = now_ns > 0 ? now_ns + ROLL_NS : 0;
}

static void nap(void) {
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Asks anew, and gives them time to answer. */
static void call_roll(void) {
    const int64_t start_ns = aq_clock_ns();
    if (!heart.has_far) return;
    forget_asked();
    ask(start_ns);
    while (aq_clock_ns() - start_ns < ROLL_NS) {
        aq_heartbeat_answer();
        nap();
    }
}

static bool waits(int rank, int64_t fresh_ns) {
    if (rank == heart.rank) return true;
    if (!is_near(rank)) return atomic_load(&heart.asked_ns[rank]) == 0;
    const int64_t since_ns = atomic_load(&slot_of(rank)->wait_ns);
    return since_ns > 0 && aq_clock_ns() - since_ns < fresh_ns;
}

/* A rank that has left in order, or is being ended, is not dead in this sense. */
static bool is_dead(int rank) {
    const slot *its = slot_of(rank);
    if (!is_near(rank) || atomic_load(&its->phase) == AQ_PHASE_END) return false;
    return kill(atomic_load(&its->pid), 0) != 0 && errno == ESRCH;
}

static const char *place(int rank, char *text, size_t bytes) {
    static const char *const names[] = {"the start", "loading", "prefill", "decode", "the end"};
    const slot *its = slot_of(is_near(rank) ? rank : heart.rank);
    const int layer = atomic_load(&its->layer);
    const char *phase = names[atomic_load(&its->phase)];
    if (layer < 0 || atomic_load(&its->phase) < AQ_PHASE_PREFILL)
        snprintf(text, bytes, "%s", phase);
    else
        snprintf(text, bytes, "%s, layer %d, token %lld", phase, layer, atomic_load(&its->token));
    return text;
}

const char *aq_heartbeat_where(char *text, size_t bytes) {
    if (heart.shared) return place(heart.rank, text, bytes);
    snprintf(text, bytes, "the start");
    return text;
}

/* The text of a failure in which the ranks of a set, n of them, have done something: "rank 1 on
 * HOST (pid 77) WHAT, last seen in PLACE; rank 2 ... ". */
static aq_status blame(const bool *set, int n, const char *what, const char *advice) {
    char text[AQ_ERROR_TEXT_BYTES] = "", where[96];
    int n_named = 0;
    size_t at = 0;
    for (int r = 0; r < heart.size && n_named < N_NAMED; r++) {
        if (!set[r]) continue;
        const int more =
            snprintf(text + at, sizeof text - at, "%srank %d on %.64s (pid %d) %s, last seen in %s",
                     n_named ? "; " : "", r, heart.who[r].host, heart.who[r].pid, what,
                     place(r, where, sizeof where));
        at += (size_t)more < sizeof text - at ? (size_t)more : 0;
        n_named++;
    }
    if (n > n_named) return aq_fail(AQ_ERR_COMM, "%s; and %d more%s", text, n - n_named, advice);
    return aq_fail(AQ_ERR_COMM, "%s%s", text, advice);
}

/* Lower ranks outside a set have the line first: waits until one has claimed it, or long enough. */
static void defer(const bool *set, int64_t most_ns) {
    const int64_t start_ns = aq_clock_ns();
    bool lower = false;
    for (int r = 0; r < heart.rank; r++)
        lower =
            lower || (!set[r] && (!is_near(r) || atomic_load(&slot_of(r)->phase) != AQ_PHASE_END));
    while (lower && !atomic_load(&heart.shared->claimed) && aq_clock_ns() - start_ns < most_ns)
        nap();
}

aq_status aq_heartbeat_find_dead(void) {
    int n = 0;
    if (!heart.shared) return AQ_OK;
    bool *dead = calloc((size_t)heart.size, sizeof *dead);
    if (!dead) return aq_fail(AQ_ERR_COMM, "a rank has died");
    for (int r = 0; r < heart.size; r++)
        n += dead[r] = r != heart.rank && is_dead(r);
    if (n > 0) defer(dead, COURTESY_NS);
    const aq_status status = n > 0 ? blame(dead, n, "has died", "") : AQ_OK;
    free(dead);
    return status;
}

aq_status aq_heartbeat_find_silent(void) {
    const int64_t now_ns = aq_clock_ns();
    int64_t least_ns = INT64_MAX;
    char silent[64];
    int n = 0;
    bool *set = heart.shared && heart.has_far ? calloc((size_t)heart.size, sizeof *set) : NULL;
    if (!set) return AQ_OK;
    bool lowest = true;
    for (int r = 0; r < heart.size; r++) {
        const int64_t asked_ns = atomic_load(&heart.asked_ns[r]);
        set[r] = asked_ns > 0 && now_ns - asked_ns > SILENT_NS;
        if (set[r] && now_ns - asked_ns < least_ns) least_ns = now_ns - asked_ns;
        if (r < heart.rank && !is_near(r)) lowest = lowest && set[r];
        n += set[r];
    }
    snprintf(silent, sizeof silent, "has not answered for %.1f s", (double)least_ns * 1e-9);
    const aq_status status = n > 0 && lowest ? blame(set, n, silent, "") : AQ_OK;
    free(set);
    return status;
}

aq_status aq_heartbeat_find_missing(const char *what, double seconds, int64_t fresh_ns) {
    char missed[160];
    int n = 0;
    bool *missing = heart.shared ? calloc((size_t)heart.size, sizeof *missing) : NULL;
    if (!missing) return aq_fail(AQ_ERR_COMM, "no rank answered for %g s (%s)", seconds, what);
    call_roll();
    for (int r = 0; r < heart.size; r++)
        n += missing[r] = !waits(r, fresh_ns);
    snprintf(missed, sizeof missed, "has not answered for %g s (%s)", seconds, what);
    const aq_status status =
        n > 0 ? blame(missing, n, missed, "; if it is slow and not stuck, raise --timeout")
              : aq_fail(AQ_ERR_COMM, "all ranks wait and no message came for %g s (%s)", seconds,
                        what);
    defer(missing, ROLL_NS);
    free(missing);
    return status;
}
