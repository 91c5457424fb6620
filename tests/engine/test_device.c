/* Which rank takes which device, and who shares one. */
#include "src/engine/device.h"

#include <stdio.h>
#include <string.h>

#include "kernels/backend.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

/* The device index that rank `rank` beside n_cuda devices takes; -1: processors. */
static int taken(const char *text, int rank, int n_cuda) {
    aq_device device = {.index = -7};
    if (!aq_test_ok(aq_device_of(text, rank, n_cuda, &device))) return -7;
    return device.cuda ? device.index : -1;
}

static void ranks_take_devices_in_turn(void) {
    static const int expected[] = {0, 1, 2, 0, 1};
    for (int rank = 0; rank < 5; rank++) {
        CU_ASSERT_EQUAL(taken("cuda", rank, 3), expected[rank]);
        CU_ASSERT_EQUAL(taken("auto", rank, 3), expected[rank]);
        CU_ASSERT_EQUAL(taken("cuda:2", rank, 3), 2);
        CU_ASSERT_EQUAL(taken("auto", rank, 0), -1);
        CU_ASSERT_EQUAL(taken("cuda", rank, 0), 0); /* opening it says what is missing */
        CU_ASSERT_EQUAL(taken("cpu", rank, 3), -1);
        CU_ASSERT_EQUAL(taken(NULL, rank, 3), -1);
    }
    CU_ASSERT_EQUAL(taken("cuda:17", 0, 1), 17);
}

static void other_texts_are_refused(void) {
    static const char *const texts[] = {"",         "gpu",     "cuda:",      "cuda:x",
                                        "cuda:-1",  "cuda:1x", "cuda:12345", "CUDA",
                                        "cuda : 1", "auto:0",  "cuda:0 "};
    aq_device device;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        aq_test_fails(aq_device_of(texts[i], 0, 2, &device), AQ_ERR_USAGE, "cuda:N");
}

/* Rank r of the world pretends to have device r / 2 of this host; the others' are as told. */
static void sharing_is_seen(void) {
    enum { MOST = 8 };
    aq_comm *world = aq_test_world();
    const int n_rank = aq_comm_size(world), rank = aq_comm_rank(world);
    const aq_device mine = {.cuda = true, .index = rank / 2};
    aq_device_place places[MOST];
    if (n_rank > MOST || !aq_test_ok(aq_device_gather(world, &mine, places))) return;
    for (int r = 0; r < n_rank; r++) {
        char start[32];
        snprintf(start, sizeof start, "cuda:%d (", r / 2);
        CU_ASSERT_EQUAL(places[r].cuda, r / 2);
        CU_ASSERT_EQUAL(strncmp((const char *)places[r].device, start, strlen(start)), 0);
        CU_ASSERT_STRING_EQUAL((const char *)places[r].host, aq_comm_host(world));
    }
    CU_ASSERT_EQUAL(aq_device_sharing(places, n_rank), n_rank > 1 ? 2 : 1);
    for (int r = 0; r < n_rank; r++)
        snprintf((char *)places[r].host, sizeof places[r].host, "node%d", r);
    CU_ASSERT_EQUAL(aq_device_sharing(places, n_rank), 1);
    for (int r = 0; r < n_rank; r++)
        places[r].cuda = -1;
    CU_ASSERT_EQUAL(aq_device_sharing(places, n_rank), 0);
}

static void this_host(void) {
    aq_comm *world = aq_test_world();
    aq_device device;
    char name[64];
    if (!aq_test_ok(aq_device_choose("auto", world, &device))) return;
    CU_ASSERT_EQUAL(device.cuda, aq_backend_cuda_devices() > 0);
    aq_device_name(&device, name, sizeof name);
    CU_ASSERT_TRUE(device.cuda ? strstr(name, "cuda:") == name : strcmp(name, "cpu") == 0);
    if (!aq_test_ok(aq_device_choose("cpu", world, &device))) return;
    CU_ASSERT_FALSE(device.cuda);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "ranks take devices in turn", ranks_take_devices_in_turn);
    CU_add_test(suite, "other texts are refused", other_texts_are_refused);
    CU_add_test(suite, "sharing is seen", sharing_is_seen);
    CU_add_test(suite, "this host", this_host);
}
