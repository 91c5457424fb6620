/* Threads: every member runs each task once, and its writes are seen by the caller. */
#define _POSIX_C_SOURCE 200809L
#include "src/base/threads.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "tests/support/suite.h"

#define MAX_THREAD 5

static const int team_sizes[] = {1, 2, 3, 5};

#define N_SIZE (int)(sizeof team_sizes / sizeof team_sizes[0])

static void pause_ms(int ms) {
    const struct timespec pause = {.tv_nsec = ms * 1000000L};
    nanosleep(&pause, NULL);
}

/* Plain memory, one line per member: a missing ordering between task and caller would show. */
typedef struct {
    struct {
        int64_t calls, sum;
        char pad[48];
    } member[MAX_THREAD];
    int64_t task; /* written by the caller between tasks, read by all */
    int n_thread;
    int slow_member; /* sleeps in each task; -1: nobody */
    atomic_int n_misnumbered;
} tally;

static void count_call(void *arg, int thread, int n_thread) {
    tally *t = arg;
    if (n_thread != t->n_thread || thread < 0 || thread >= n_thread) {
        atomic_fetch_add(&t->n_misnumbered, 1);
        return;
    }
    if (thread == t->slow_member) pause_ms(1);
    t->member[thread].calls++;
    t->member[thread].sum += t->task * (thread + 1);
}

/* Runs n_task tasks numbered 1, 2, ... and checks after each that all members have done it. */
static void run_tasks(aq_threads *team, tally *t, int64_t n_task, int pause_each_ms) {
    int64_t n_late = 0;
    for (int64_t i = 1; i <= n_task; i++) {
        t->task = i;
        aq_threads_run(team, count_call, t);
        for (int m = 0; m < t->n_thread; m++)
            n_late += t->member[m].calls != i;
        if (pause_each_ms > 0) pause_ms(pause_each_ms);
    }
    CU_ASSERT_EQUAL(n_late, 0);
    CU_ASSERT_EQUAL(atomic_load(&t->n_misnumbered), 0);
    for (int m = 0; m < t->n_thread; m++)
        CU_ASSERT_EQUAL(t->member[m].sum, n_task * (n_task + 1) / 2 * (m + 1));
}

static void check_tasks(int n_thread, int64_t n_task, int pause_each_ms, int slow_member) {
    aq_threads *team = NULL;
    tally t = {.n_thread = n_thread, .slow_member = slow_member};
    if (!aq_test_ok(aq_threads_open(n_thread, &team))) return;
    CU_ASSERT_EQUAL(aq_threads_count(team), n_thread);
    run_tasks(team, &t, n_task, pause_each_ms);
    aq_threads_close(team);
}

/* Members that outnumber the processors wait for the scheduler in each task, so they get fewer. */
static void quick_tasks_lose_nothing(void) {
    for (int i = 0; i < N_SIZE; i++)
        check_tasks(team_sizes[i], team_sizes[i] <= aq_threads_available() ? 100000 : 10000, 0, -1);
}

static void sleeping_members_wake(void) {
    for (int i = 0; i < N_SIZE; i++)
        check_tasks(team_sizes[i], 20, 3, -1);
}

static void the_caller_waits_for_the_slowest(void) {
    for (int i = 0; i < N_SIZE; i++) {
        check_tasks(team_sizes[i], 20, 0, 0);
        check_tasks(team_sizes[i], 20, 0, 1);
    }
}

static void a_team_closes_at_any_time(void) {
    for (int i = 0; i < N_SIZE; i++) {
        for (int repeat = 0; repeat < 20; repeat++) {
            aq_threads *team = NULL;
            tally t = {.n_thread = team_sizes[i], .slow_member = -1};
            if (!aq_test_ok(aq_threads_open(team_sizes[i], &team))) return;
            if (repeat % 2 == 0) run_tasks(team, &t, 1, 0);
            if (repeat % 4 < 2) pause_ms(2); /* the members are asleep by now */
            aq_threads_close(team);
        }
    }
    aq_threads_close(NULL);
}

#define N_ROUND 200

/* Each member writes its cell of a round, meets the others, and reads what all have written. */
typedef struct {
    aq_threads *team;
    int64_t cell[N_ROUND][MAX_THREAD];
    int slow_member;
    atomic_llong n_wrong;
} rounds;

static void meet_each_round(void *arg, int thread, int n_thread) {
    rounds *r = arg;
    for (int round = 0; round < N_ROUND; round++) {
        if (thread == r->slow_member && round % 50 == 0) pause_ms(1);
        r->cell[round][thread] = round + thread + 1;
        aq_threads_barrier(r->team);
        for (int m = 0; m < n_thread; m++)
            if (r->cell[round][m] != round + m + 1) atomic_fetch_add(&r->n_wrong, 1);
    }
}

static void members_meet_inside_a_task(void) {
    for (int i = 0; i < N_SIZE; i++) {
        rounds r = {.slow_member = team_sizes[i] - 1};
        if (!aq_test_ok(aq_threads_open(team_sizes[i], &r.team))) return;
        for (int task = 0; task < 20; task++) {
            memset(r.cell, 0, sizeof r.cell);
            aq_threads_run(r.team, meet_each_round, &r);
        }
        CU_ASSERT_EQUAL(atomic_load(&r.n_wrong), 0);
        meet_each_round(&r, 0, 1); /* alone, outside a task */
        aq_threads_close(r.team);
    }
}

static void sizes_are_checked(void) {
    aq_threads *team = NULL;
    aq_test_fails(aq_threads_open(-1, &team), AQ_ERR_USAGE, "-1 threads asked for");
    CU_ASSERT_PTR_NULL(team);
    aq_test_fails(aq_threads_open(1025, &team), AQ_ERR_USAGE, "give 1 to 1024");
    CU_ASSERT_PTR_NULL(team);
    if (!aq_test_ok(aq_threads_open(0, &team))) return;
    CU_ASSERT_EQUAL(aq_threads_count(team), aq_threads_available());
    aq_threads_close(team);
    CU_ASSERT_TRUE(aq_threads_available() >= 1);
    CU_ASSERT_TRUE(aq_threads_online() >= 1);
}

static void parts_cover_all_items_evenly(void) {
    static const int64_t lengths[] = {0, 1, 2, 7, 64, 1000003, INT64_C(1) << 50};
    for (int l = 0; l < 7; l++) {
        for (int n_thread = 1; n_thread <= 9; n_thread++) {
            int64_t next = 0;
            for (int thread = 0; thread < n_thread; thread++) {
                int64_t begin = -1, end = -1;
                aq_threads_part(lengths[l], thread, n_thread, &begin, &end);
                CU_ASSERT_EQUAL(begin, next);
                CU_ASSERT_TRUE(end - begin >= lengths[l] / n_thread);
                CU_ASSERT_TRUE(end - begin <= (lengths[l] + n_thread - 1) / n_thread);
                next = end;
            }
            CU_ASSERT_EQUAL(next, lengths[l]);
        }
    }
}

static void runs_stay_together(void) {
    static const int64_t lengths[] = {0, 1, 15, 16, 17, 33, 1000};
    for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++)
        for (int64_t align = 1; align <= 16; align *= 4)
            for (int n_thread = 1; n_thread <= 5; n_thread++) {
                int64_t next = 0;
                for (int thread = 0; thread < n_thread; thread++) {
                    int64_t begin = -1, end = -1;
                    aq_threads_part_of(lengths[l], align, thread, n_thread, &begin, &end);
                    CU_ASSERT_EQUAL(begin, next);
                    CU_ASSERT_EQUAL(begin % align, 0);
                    CU_ASSERT_TRUE(end >= begin);
                    next = end;
                }
                CU_ASSERT_EQUAL(next, lengths[l]);
            }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "quick tasks lose nothing", quick_tasks_lose_nothing);
    CU_add_test(suite, "sleeping members wake", sleeping_members_wake);
    CU_add_test(suite, "the caller waits for the slowest", the_caller_waits_for_the_slowest);
    CU_add_test(suite, "a team closes at any time", a_team_closes_at_any_time);
    CU_add_test(suite, "members meet inside a task", members_meet_inside_a_task);
    CU_add_test(suite, "sizes are checked", sizes_are_checked);
    CU_add_test(suite, "parts cover all items evenly", parts_cover_all_items_evenly);
    CU_add_test(suite, "runs stay together", runs_stay_together);
}
