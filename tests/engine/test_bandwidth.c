/* How fast memory is read, by all ranks at once. */
#include "src/engine/bandwidth.h"

#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

static void test_measure(void) {
    aq_comm *world = aq_test_world();
    const int64_t cache = aq_last_level_cache(), n_rank = aq_comm_size(world);
    aq_bandwidth bandwidth;
    if (!aq_test_ok(aq_bandwidth_measure(world, 1, 3, &bandwidth))) return;
    CU_ASSERT_TRUE(cache > 0);
    CU_ASSERT_TRUE(bandwidth.bytes > 2 * cache - 4 * n_rank);
    CU_ASSERT_TRUE(bandwidth.bytes > ((int64_t)256 << 20) - 4 * n_rank);
    CU_ASSERT_TRUE(bandwidth.bytes_per_s > 1e7 && bandwidth.bytes_per_s < 1e13);
    CU_ASSERT_EQUAL(bandwidth.n_pass, 3);
    /* No pass is faster than the fastest, in which every rank waits for the slowest. */
    double sum = bandwidth.own_bytes_per_s;
    CU_ASSERT_TRUE(sum > 0);
    CU_ASSERT_TRUE(n_rank > 1 || sum <= bandwidth.bytes_per_s * (1 + 1e-6));
    aq_test_ok(aq_comm_sum_f64(world, &sum, 1));
    CU_ASSERT_TRUE(sum > bandwidth.bytes_per_s / 1e3 && sum < 1e13);
}

/* Of a CUDA device if there is one, else of the processor, which the seam does not tell apart. */
static void test_copy(void) {
    aq_backend *be = NULL;
    aq_bandwidth bandwidth;
    if (aq_comm_rank(aq_test_world()) != 0) return; /* half a GiB each is much for one host */
    const bool cuda = aq_backend_cuda_devices() > 0;
    if (!aq_test_ok(cuda ? aq_backend_cuda_open(0, &be)
                         : aq_backend_cpu_open(1, AQ_ISA_PORTABLE, &be)))
        return;
    if (aq_test_ok(aq_bandwidth_copy(be, &bandwidth))) {
        CU_ASSERT_EQUAL(bandwidth.bytes, (int64_t)512 << 20);
        CU_ASSERT_TRUE(bandwidth.bytes_per_s > (cuda ? 1e11 : 1e8));
        CU_ASSERT_TRUE(bandwidth.bytes_per_s < 1e13);
    }
    be->ops->close(be);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "measure", test_measure);
    CU_add_test(suite, "copy", test_copy);
}
