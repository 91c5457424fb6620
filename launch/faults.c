#define _POSIX_C_SOURCE 200809L
#include "launch/faults.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/heartbeat.h"
#include "src/base/file.h"
#include "src/model/fingerprint.h"

#define TERMINATED_STATUS 143 /* as a shell gives for SIGTERM */

/* A rank that has not told waits this long to be ended by the one that has. */
#define GRACE_S 2

/* One write, past the buffers and locks of stdio, which the other thread may hold. */
static void tell(const aq_comm *world) {
    char line[AQ_ERROR_TEXT_BYTES + 128];
    int n = snprintf(line, sizeof line, "aqua-dist: rank %d on %s: %s\n", aq_comm_rank(world),
                     aq_comm_host(world), aq_error_text());
    if (n >= (int)sizeof line) n = (int)sizeof line - 1;
    if (write(STDERR_FILENO, line, (size_t)n) < 0) return; /* there is nobody left to tell */
}

void aq_faults_end(aq_comm *world) {
    if (aq_heartbeat_claim())
        tell(world);
    else
        nanosleep(&(struct timespec){.tv_sec = GRACE_S}, NULL);
    aq_comm_abort(world, 1);
}

static void end_lost(void *world) {
    aq_faults_end(world);
}

/* Raised by SIGTERM for the thread that answers it: a handler itself may do next to nothing. */
static sem_t term;

static void raise_term(int signal_number) {
    (void)signal_number;
    sem_post(&term);
}

/* Leaves the text of why SIGTERM came, as far as this rank knows. Returns whether it is for this
 * rank to tell. */
static bool explain_term(const aq_comm *world) {
    char where[128], why[AQ_ERROR_TEXT_BYTES] = "";
    if (aq_heartbeat_find_dead() != AQ_OK) return true;
    const bool silent = aq_heartbeat_find_silent() != AQ_OK;
    if (silent)
        snprintf(why, sizeof why, "; %s", aq_error_text());
    else if (aq_comm_size(world) > aq_comm_size_on_host(world))
        snprintf(why, sizeof why, "; if nobody stopped the job, a rank of another host has died");
    aq_fail(AQ_ERR_COMM, "told to end (SIGTERM), in %s%s", aq_heartbeat_where(where, sizeof where),
            why);
    return silent || aq_comm_rank(world) == 0;
}

/* Waits for SIGTERM, tells if it is for this rank to do so, and ends the process. */
static void *answer_term(void *arg) {
    const aq_comm *world = arg;
    while (sem_wait(&term) != 0) /* interrupted */
        continue;
    if (explain_term(world) && aq_heartbeat_claim()) tell(world);
    aq_heartbeat_note(AQ_PHASE_END, -1, 0);
    _exit(TERMINATED_STATUS);
}

aq_status aq_faults_start(aq_comm *world, double timeout_s) {
    pthread_t thread;
    if (!(timeout_s >= 0 && timeout_s <= 1e6))
        return aq_fail(AQ_ERR_USAGE, "--timeout takes 0 to 1000000 seconds");
    if (aq_comm_size(world) == 1) return AQ_OK;
    aq_comm_deadline(timeout_s, end_lost, world);
    /* Without that thread SIGTERM just ends this rank. */
    if (sem_init(&term, 0, 0) != 0 || pthread_create(&thread, NULL, answer_term, world) != 0)
        return AQ_OK;
    pthread_detach(thread);
    const struct sigaction action = {.sa_handler = raise_term, .sa_flags = SA_RESTART};
    sigaction(SIGTERM, &action, NULL);
    return AQ_OK;
}

/* Of this program's file; 0 if it cannot be read. */
static uint64_t hash_program(void) {
    aq_file_map map = {0};
    if (aq_file_map_open("/proc/self/exe", &map) != AQ_OK) return 0;
    const uint64_t hash = aq_bytes_fingerprint(map.data, map.bytes);
    aq_file_map_close(&map);
    return hash;
}

aq_status aq_faults_same_program(aq_comm *world, const char *version) {
    struct {
        char version[56];
        uint64_t hash;
    } first, mine;
    if (aq_comm_size(world) == 1) return AQ_OK;
    memset(&mine, 0, sizeof mine);
    snprintf(mine.version, sizeof mine.version, "%s", version);
    mine.hash = hash_program();
    first = mine;
    AQ_TRY(aq_comm_bcast(world, &first, sizeof first, 0));
    aq_status status = AQ_OK;
    if (memcmp(&first, &mine, sizeof mine) != 0)
        status = aq_fail(AQ_ERR_MISMATCH,
                         "this is another program than rank 0's (version %s, %016llx, there %s, "
                         "%016llx); install one on all hosts",
                         mine.version, (unsigned long long)mine.hash, first.version,
                         (unsigned long long)first.hash);
    return aq_comm_agree(world, status);
}
