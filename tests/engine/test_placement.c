/* Placement: advice where there is something to say, and what this host is. */
#include "src/engine/placement.h"

#include <string.h>

#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

static const char *advice(aq_placement placement, char out[200]) {
    return aq_placement_advice(&placement, "node7", out, 200);
}

static void nothing_to_say(void) {
    char out[200];
    CU_ASSERT_STRING_EQUAL(advice((aq_placement){2, 4, 8, 1}, out), "");
    CU_ASSERT_STRING_EQUAL(advice((aq_placement){8, 1, 8, 2}, out), "");
}

static void too_many_threads(void) {
    char out[200];
    CU_ASSERT_PTR_NOT_NULL(strstr(advice((aq_placement){3, 3, 8, 1}, out),
                                  "3 ranks of 3 threads share 8 processors of node7"));
    CU_ASSERT_PTR_NOT_NULL(strstr(advice((aq_placement){3, 3, 8, 2}, out), "8 processors"));
}

static void several_domains(void) {
    char out[200];
    CU_ASSERT_PTR_NOT_NULL(
        strstr(advice((aq_placement){1, 8, 8, 2}, out), "on node7 lie in 2 NUMA domains"));
}

static void text_is_cut(void) {
    const aq_placement placement = {3, 3, 8, 1};
    char out[8] = "";
    CU_ASSERT_EQUAL(strlen(aq_placement_advice(&placement, "node7", out, sizeof out)), 7);
}

static void this_host(void) {
    aq_comm *world = aq_test_world();
    const aq_placement placement = aq_placement_of(world, 3);
    CU_ASSERT_EQUAL(placement.n_rank, aq_comm_size_on_host(world));
    CU_ASSERT_EQUAL(placement.n_thread, 3);
    CU_ASSERT_TRUE(placement.n_processor >= 1 && placement.n_domain >= 1);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "nothing to say", nothing_to_say);
    CU_add_test(suite, "too many threads", too_many_threads);
    CU_add_test(suite, "several domains", several_domains);
    CU_add_test(suite, "a text is cut", text_is_cut);
    CU_add_test(suite, "this host", this_host);
}
