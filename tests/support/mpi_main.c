/* Main of the MPI tests: the file's suite runs on every rank at once, under mpirun.
 *
 * Rank 0 prints; what another rank prints is held back and shown only if that rank failed. Every
 * rank exits 1 if any rank failed, 77 if every rank skipped everything, else 0. */
#define _POSIX_C_SOURCE 200809L
#include <CUnit/Basic.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

static aq_comm *world;

aq_comm *aq_test_world(void) {
    return world;
}

/* Standard output goes to an unnamed file from here on; returns that file and, in *saved_fd, the
 * output as it was. NULL: nothing was changed. */
static FILE *hold_output(int *saved_fd) {
    FILE *held = tmpfile();
    fflush(stdout);
    *saved_fd = dup(STDOUT_FILENO);
    if (held && *saved_fd >= 0 && dup2(fileno(held), STDOUT_FILENO) >= 0) return held;
    if (held) fclose(held);
    return NULL;
}

static void release_output(FILE *held, int saved_fd, bool show) {
    char line[512];
    fflush(stdout);
    dup2(saved_fd, STDOUT_FILENO);
    close(saved_fd);
    rewind(held);
    while (show && fgets(line, sizeof line, held))
        printf("rank %d: %s", aq_comm_rank(world), line);
    fclose(held);
}

/* Runs the suite on this rank; returns its failures (also 1 if there was nothing to run). */
static int64_t run_suite(bool *all_skipped) {
    CU_pSuite suite = NULL;
    *all_skipped = false;
    if (CU_initialize_registry() == CUE_SUCCESS) suite = CU_add_suite(AQ_TEST_NAME, NULL, NULL);
    if (!suite) return 1;
    aq_test_register(suite);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    const unsigned n_run = CU_get_number_of_tests_run();
    const unsigned n_fail = CU_get_number_of_failures();
    *all_skipped = (unsigned)aq_test_skips() >= n_run;
    CU_cleanup_registry();
    return n_run == 0 ? 1 : n_fail;
}

int main(int argc, char **argv) {
    FILE *held = NULL;
    int saved_fd = -1;
    bool all_skipped = false;
    if (aq_comm_init_world(&argc, &argv, &world) != AQ_OK) {
        fprintf(stderr, "%s\n", aq_error_text());
        return 1;
    }
    if (aq_comm_rank(world) != 0) held = hold_output(&saved_fd);
    const int64_t n_fail = run_suite(&all_skipped);
    if (held) release_output(held, saved_fd, n_fail > 0);

    int64_t totals[2] = {n_fail,
                         all_skipped ? 1 : 0}; /* over ranks: failures, ranks that skipped */
    const aq_status status = aq_comm_sum_i64(world, totals, 2);
    const bool nothing_ran = totals[1] == aq_comm_size(world);
    aq_comm_finish(world);
    if (status != AQ_OK || totals[0] > 0) return 1;
    return nothing_ran ? 77 : 0;
}
