/* NUMA domains, of machines that hwloc makes up. */
#define _POSIX_C_SOURCE 200809L
#include "src/base/numa.h"

#include <stdlib.h>

#include "tests/support/suite.h"

/* Domains of a made-up machine on which this process may run everywhere. */
static int domains_of(const char *machine) {
    setenv("HWLOC_SYNTHETIC", machine, 1);
    const int n = aq_numa_domains();
    unsetenv("HWLOC_SYNTHETIC");
    return n;
}

static void one_domain(void) {
    CU_ASSERT_EQUAL(domains_of("node:1 core:4 pu:1"), 1);
}

static void several_domains(void) {
    CU_ASSERT_EQUAL(domains_of("pack:2 node:2 core:2 pu:1"), 4);
    CU_ASSERT_EQUAL(domains_of("node:3 core:1 pu:1"), 3);
}

static void this_machine(void) {
    CU_ASSERT_TRUE(aq_numa_domains() >= 1);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "one domain", one_domain);
    CU_add_test(suite, "several domains", several_domains);
    CU_add_test(suite, "this machine", this_machine);
}
