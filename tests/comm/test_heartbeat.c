/* Waits that end: who is missing is named, who gets on is waited for; on every number of ranks. The
 * last rank is the one that lets the others wait. That dead ranks are found: tests/launch/faults.
 */
#define _POSIX_C_SOURCE 200809L
#include "comm/heartbeat.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "comm/comm_mpi.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

#define DEADLINE_S 1.0

static int n_lost;

static void count_lost(void *arg) {
    ++*(int *)arg;
}

static void pause_s(double seconds) {
    struct timespec time = {.tv_sec = (time_t)seconds};
    time.tv_nsec = (long)((seconds - (double)time.tv_sec) * 1e9);
    nanosleep(&time, NULL);
}

static bool is_last(void) {
    return aq_comm_rank(aq_test_world()) == aq_comm_size(aq_test_world()) - 1;
}

static bool is_alone(void) {
    return aq_comm_size(aq_test_world()) == 1;
}

static void place_is_told(void) {
    char text[128];
    aq_heartbeat_note(AQ_PHASE_DECODE, 3, 4711);
    CU_ASSERT_STRING_EQUAL(aq_heartbeat_where(text, sizeof text), "decode, layer 3, token 4711");
    aq_heartbeat_note(AQ_PHASE_LOAD, -1, 0);
    CU_ASSERT_STRING_EQUAL(aq_heartbeat_where(text, sizeof text), "loading");
}

static void nobody_is_dead(void) {
    aq_test_ok(aq_comm_barrier(aq_test_world()));
    aq_test_ok(aq_heartbeat_find_dead());
    aq_test_ok(aq_comm_barrier(aq_test_world()));
}

/* The last rank comes late_s after the others, who wait in a barrier; whether that was too late. */
static aq_status wait_for_last(double late_s) {
    n_lost = 0;
    aq_test_ok(aq_comm_barrier(aq_test_world()));
    aq_heartbeat_note(AQ_PHASE_PREFILL, is_last() ? 5 : 6, 77);
    if (is_last()) pause_s(late_s);
    aq_comm_deadline(DEADLINE_S, count_lost, &n_lost);
    const aq_status status = aq_comm_barrier(aq_test_world());
    aq_comm_deadline(0, NULL, NULL);
    return status;
}

/* What the others say of the last rank, last seen in a layer; the barrier, in which all have been
 * by then, is over. */
static void missing_is_named(int layer) {
    char name[96], place[64];
    const aq_status status = wait_for_last(3.5 * DEADLINE_S);
    snprintf(name, sizeof name, "rank %d on %s (pid ", aq_comm_size(aq_test_world()) - 1,
             aq_comm_host(aq_test_world()));
    snprintf(place, sizeof place, "last seen in prefill, layer %d, token 77", layer);
    if (is_last()) {
        aq_test_ok(status);
        CU_ASSERT_EQUAL(n_lost, 0);
    } else {
        aq_test_fails(status, AQ_ERR_COMM, "has not answered for 1 s (waiting for all ranks)");
        CU_ASSERT_EQUAL(strncmp(aq_error_text(), name, strlen(name)), 0);
        CU_ASSERT_PTR_NOT_NULL(strstr(aq_error_text(), place));
        CU_ASSERT_PTR_NULL(strstr(aq_error_text(), "; rank"));
        CU_ASSERT_EQUAL(n_lost, 1);
    }
    aq_test_ok(aq_comm_barrier(aq_test_world()));
    aq_heartbeat_wait(0);
}

static void missing_rank_is_named(void) {
    if (!is_alone()) missing_is_named(5);
}

/* Nothing shared: who waits is found by asking, and a rank was last seen where all were. */
static void missing_rank_of_another_host_is_named(void) {
    if (is_alone()) return;
    aq_heartbeat_close();
    aq_test_ok(aq_heartbeat_open(aq_comm_mpi(aq_test_world()), false));
    missing_is_named(6);
    aq_heartbeat_close();
    aq_test_ok(aq_heartbeat_open(aq_comm_mpi(aq_test_world()), true));
}

/* What the thread that answers SIGTERM finds while the other one waits. */
typedef struct {
    aq_status status;
    char text[AQ_ERROR_TEXT_BYTES];
} finding;

static void *find_silent(void *arg) {
    finding *found = arg;
    pause_s(2.5); /* asked after one second of waiting */
    found->status = aq_heartbeat_find_silent();
    snprintf(found->text, sizeof found->text, "%s", aq_error_text());
    return NULL;
}

/* The lowest rank alone says so, and only while it waits. */
static void silent_rank_of_another_host_is_named(void) {
    finding found;
    pthread_t thread;
    char name[96];
    if (is_alone()) return;
    aq_heartbeat_close();
    aq_test_ok(aq_heartbeat_open(aq_comm_mpi(aq_test_world()), false));
    aq_test_ok(aq_comm_barrier(aq_test_world()));
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, find_silent, &found), 0);
    if (is_last()) pause_s(3.5);
    aq_test_ok(aq_comm_barrier(aq_test_world()));
    pthread_join(thread, NULL);
    snprintf(name, sizeof name, "rank %d on %s (pid ", aq_comm_size(aq_test_world()) - 1,
             aq_comm_host(aq_test_world()));
    if (aq_comm_rank(aq_test_world()) == 0) {
        CU_ASSERT_EQUAL(found.status, AQ_ERR_COMM);
        CU_ASSERT_EQUAL(strncmp(found.text, name, strlen(name)), 0);
        CU_ASSERT_PTR_NOT_NULL(strstr(found.text, "has not answered for "));
        CU_ASSERT_PTR_NULL(strstr(found.text, "; rank"));
    } else {
        aq_test_ok(found.status);
    }
    aq_test_ok(aq_heartbeat_find_silent());
    aq_heartbeat_close();
    aq_test_ok(aq_heartbeat_open(aq_comm_mpi(aq_test_world()), true));
}

static void late_rank_is_waited_for(void) {
    if (!is_alone()) aq_test_ok(wait_for_last(DEADLINE_S / 2));
    CU_ASSERT_EQUAL(n_lost, 0);
}

static void rank_that_gets_on_is_waited_for(void) {
    aq_test_ok(aq_comm_barrier(aq_test_world()));
    aq_comm_deadline(DEADLINE_S, count_lost, &n_lost);
    n_lost = 0;
    for (int i = 0; is_last() && i < 10; i++) {
        aq_heartbeat_note(AQ_PHASE_PREFILL, i, 0);
        pause_s(DEADLINE_S / 4);
    }
    aq_test_ok(aq_comm_barrier(aq_test_world()));
    aq_comm_deadline(0, NULL, NULL);
    CU_ASSERT_EQUAL(n_lost, 0);
}

static void without_a_deadline_it_takes_what_it_takes(void) {
    aq_test_ok(aq_comm_barrier(aq_test_world()));
    if (is_last()) pause_s(1.5 * DEADLINE_S);
    aq_test_ok(aq_comm_barrier(aq_test_world()));
}

/* Last: what is claimed stays so. */
static void one_rank_has_the_line(void) {
    int64_t n_claim = aq_heartbeat_claim();
    n_claim += aq_heartbeat_claim();
    aq_test_ok(aq_comm_sum_i64(aq_test_world(), &n_claim, 1));
    CU_ASSERT_EQUAL(n_claim, 1);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "the place of a rank is told", place_is_told);
    CU_add_test(suite, "nobody is dead", nobody_is_dead);
    CU_add_test(suite, "a missing rank is named", missing_rank_is_named);
    CU_add_test(suite, "a missing rank of another host is named",
                missing_rank_of_another_host_is_named);
    CU_add_test(suite, "a silent rank of another host is named",
                silent_rank_of_another_host_is_named);
    CU_add_test(suite, "a late rank is waited for", late_rank_is_waited_for);
    CU_add_test(suite, "a rank that gets on is waited for", rank_that_gets_on_is_waited_for);
    CU_add_test(suite, "without a deadline it takes what it takes",
                without_a_deadline_it_takes_what_it_takes);
    CU_add_test(suite, "one rank has the line", one_rank_has_the_line);
}
