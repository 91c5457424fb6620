/* Twins are one block where the backend's memory is the host's, else two that a push and a pull
 * make equal, where they were asked to and nowhere else. */
#include "src/engine/twin.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/backend_poisoned.h"
#include "tests/support/suite.h"

enum { N = 300, FIRST = 64, COUNT = 100 };

static aq_backend *open_backend(bool hidden) {
    aq_backend *cpu = NULL, *be = NULL;
    aq_test_ok(aq_backend_cpu_open(1, AQ_ISA_PORTABLE, &cpu));
    aq_test_ok(aq_backend_poisoned_open(cpu, &be));
    if (hidden) aq_backend_poisoned_hide(be);
    return be;
}

/* Bytes of host[N] that are not `inside` in FIRST .. FIRST + COUNT - 1, not `outside` elsewhere. */
static int n_wrong(const char *host, char inside, char outside) {
    int n = 0;
    for (int i = 0; i < N; i++)
        n += host[i] != (i >= FIRST && i < FIRST + COUNT ? inside : outside);
    return n;
}

static void pushed_and_pulled(void) {
    for (int hidden = 0; hidden < 2; hidden++) {
        aq_backend *be = open_backend(hidden);
        aq_twin twin;
        char seen[N];
        if (!aq_test_ok(aq_twin_open(be, N, &twin))) return;
        CU_ASSERT_EQUAL(twin.host == twin.there, !hidden);
        CU_ASSERT_EQUAL(n_wrong(twin.host, 0, 0), 0);
        CU_ASSERT_PTR_EQUAL(aq_twin_there(&twin, twin.host + FIRST), twin.there + FIRST);
        memset(twin.host, 'a', N);
        aq_twin_push(be, &twin, twin.host + FIRST, COUNT);
        be->ops->download(be, seen, twin.there, N);
        CU_ASSERT_EQUAL(n_wrong(seen, 'a', hidden ? 0 : 'a'), 0);
        be->ops->clear(be, twin.there, N);
        aq_twin_pull(be, &twin, twin.host + FIRST, COUNT);
        CU_ASSERT_EQUAL(n_wrong(twin.host, 0, hidden ? 'a' : 0), 0);
        aq_twin_close(be, &twin);
        CU_ASSERT_PTR_NULL(twin.host);
        CU_ASSERT_EQUAL(aq_backend_poisoned_live(be), 0);
        CU_ASSERT_TRUE(aq_backend_poisoned_intact(be));
        be->ops->close(be);
    }
}

static void placed(void) {
    aq_backend *be = open_backend(true);
    char host[N], seen[N];
    void *there = NULL;
    memset(host, 'x', N);
    if (!aq_test_ok(aq_twin_place(be, host, N, &there))) return;
    memset(host, 'y', N);
    be->ops->download(be, seen, there, N);
    CU_ASSERT_EQUAL(n_wrong(seen, 'x', 'x'), 0);
    be->ops->release(be, there);
    be->ops->close(be);
}

static void refused_memory_leaves_nothing(void) {
    aq_backend *be = open_backend(true);
    aq_twin twin;
    void *there = be;
    aq_test_fails(aq_twin_open(be, (size_t)1 << 50, &twin), AQ_ERR_MEMORY, "bytes");
    aq_twin_close(be, &twin);
    aq_test_fails(aq_twin_place(be, &twin, (size_t)1 << 50, &there), AQ_ERR_MEMORY, "bytes");
    CU_ASSERT_PTR_NULL(there);
    CU_ASSERT_EQUAL(aq_backend_poisoned_live(be), 0);
    be->ops->close(be);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "pushed and pulled", pushed_and_pulled);
    CU_add_test(suite, "placed", placed);
    CU_add_test(suite, "refused memory leaves nothing", refused_memory_leaves_nothing);
}
