/* How fast memory is read, by all ranks at once. */
#include "bench/bandwidth.h"

#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

static void test_measure(void) {
    aq_comm *world = aq_test_world();
    const int64_t cache = aq_last_level_cache(), n_rank = aq_comm_size(world);
    aq_bandwidth bandwidth;
    if (!aq_test_ok(aq_bandwidth_measure(world, 1, &bandwidth))) return;
    CU_ASSERT_TRUE(cache > 0);
    CU_ASSERT_TRUE(bandwidth.bytes > 2 * cache - 4 * n_rank);
    CU_ASSERT_TRUE(bandwidth.bytes > ((int64_t)256 << 20) - 4 * n_rank);
    CU_ASSERT_TRUE(bandwidth.bytes_per_s > 1e7 && bandwidth.bytes_per_s < 1e13);
    CU_ASSERT_TRUE(bandwidth.n_pass > 1);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "measure", test_measure);
}
