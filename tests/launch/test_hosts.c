/* Files of hosts, and which ranks are where. */
#include "launch/hosts.h"

#include <stdio.h>
#include <string.h>

#include "src/base/file.h"
#include "tests/support/suite.h"

static aq_hosts hosts;

static aq_status read_text(const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/hosts", aq_test_temp_dir());
    aq_test_ok(aq_file_write(path, text, strlen(text)));
    return aq_hosts_read(path, &hosts);
}

static void files(void) {
    if (!aq_test_ok(read_text("# ours\nn1 ranks=2 memory=16G\n\n  n2\tmemory=512M bandwidth=12.5 "
                              "ranks=3 # the old one\r\n")))
        return;
    CU_ASSERT_EQUAL_FATAL(hosts.n, 2);
    CU_ASSERT_STRING_EQUAL(hosts.hosts[0].name, "n1");
    CU_ASSERT_STRING_EQUAL(hosts.hosts[1].name, "n2");
    CU_ASSERT_TRUE(hosts.hosts[0].n_rank == 2 && hosts.hosts[1].n_rank == 3);
    CU_ASSERT_EQUAL(hosts.hosts[0].memory, (int64_t)16 << 30);
    CU_ASSERT_EQUAL(hosts.hosts[1].memory, (int64_t)512 << 20);
    CU_ASSERT_TRUE(hosts.hosts[0].bandwidth_gbs == 0 && hosts.hosts[1].bandwidth_gbs == 12.5);
    CU_ASSERT_EQUAL(aq_hosts_ranks(&hosts), 5);
    static const int used[][2] = {{0, 0}, {1, 0}, {2, 0}, {2, 1}, {2, 2}, {2, 3}, {2, 3}};
    for (int n = 0; n <= 6; n++) {
        CU_ASSERT_EQUAL(aq_hosts_used(&hosts, 0, n), used[n][0]);
        CU_ASSERT_EQUAL(aq_hosts_used(&hosts, 1, n), used[n][1]);
    }
}

static void refusals(void) {
    static const char *const wrong[] = {
        "n1 ranks=1 memory=1G\nn2 ranks=2",
        "n1 ranks=1 memory=1G\nn2 memory=1G",
        "n1 ranks=1 memory=1G\nn2 ranks=0 memory=1G",
        "n1 ranks=1 memory=1G\nn2 ranks=1x memory=1G",
        "n1 ranks=1 memory=1G\nn2 ranks=1 memory=much",
        "n1 ranks=1 memory=1G\nn2 ranks=1 memory=1G bandwidth=0",
        "n1 ranks=1 memory=1G\nn2 ranks=1 memory=1G gpus=2",
        "n1 ranks=1 memory=1G\nranks=1 memory=1G",
        "n1 ranks=1 memory=1G\nn2 ranks=1 memory=1G 7",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        aq_test_fails(read_text(wrong[i]), AQ_ERR_USAGE, "hosts, line 2");
    aq_test_fails(read_text("# none\n"), AQ_ERR_USAGE, "names no host");
    aq_test_fails(aq_hosts_read("/nowhere/hosts", &hosts), AQ_ERR_IO, "/nowhere/hosts");
}

static void made(void) {
    aq_hosts_one("here", 4, 1000, &hosts);
    CU_ASSERT_TRUE(hosts.n == 1 && aq_hosts_used(&hosts, 0, 3) == 3);
    CU_ASSERT_TRUE(hosts.hosts[0].memory == 1000 && aq_hosts_ranks(&hosts) == 4);
    aq_test_ok(aq_hosts_each(3, 500, &hosts));
    CU_ASSERT_TRUE(hosts.n == 3 && aq_hosts_ranks(&hosts) == 3 && hosts.hosts[2].memory == 500);
    CU_ASSERT_TRUE(aq_hosts_used(&hosts, 1, 2) == 1 && aq_hosts_used(&hosts, 2, 2) == 0);
    aq_test_fails(aq_hosts_each(AQ_HOSTS_MAX + 1, 1, &hosts), AQ_ERR_USAGE, "--memory");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "files", files);
    CU_add_test(suite, "refusals", refusals);
    CU_add_test(suite, "made", made);
}
