/* Memory as Linux tells it, from trees of files like its own; and sizes as users write them. */
#include "src/base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "tests/support/suite.h"

#define MIB ((int64_t)1 << 20)

/* A file of the tree, with its folders. */
static void put(const char *root, const char *path, const char *text) {
    char full[512], command[600];
    snprintf(full, sizeof full, "%s%s", root, path);
    snprintf(command, sizeof command, "mkdir -p \"$(dirname '%s')\"", full);
    CU_ASSERT_EQUAL(system(command), 0);
    aq_test_ok(aq_file_write(full, text, strlen(text)));
}

static void make_root(const char *name, char *root, size_t bytes) {
    snprintf(root, bytes, "%s/%s", aq_test_temp_dir(), name);
    put(root, "/proc/meminfo", "MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:  8192 kB\n");
}

static void without_groups(void) {
    char root[256];
    CU_ASSERT_EQUAL(aq_memory_available_in("/nowhere"), 0);
    make_root("plain", root, sizeof root);
    CU_ASSERT_EQUAL(aq_memory_available_in(root), 8 * MIB);
}

/* Version 2: the group has no limit, the one above it has; what its files take can be had back. */
static void version_2(void) {
    char root[256];
    make_root("two", root, sizeof root);
    put(root, "/proc/self/cgroup", "0::/jobs/job1\n");
    put(root, "/sys/fs/cgroup/jobs/job1/memory.max", "max\n");
    put(root, "/sys/fs/cgroup/jobs/job1/memory.current", "1048576\n");
    CU_ASSERT_EQUAL(aq_memory_available_in(root), 8 * MIB);
    put(root, "/sys/fs/cgroup/jobs/memory.max", "6291456\n");
    put(root, "/sys/fs/cgroup/jobs/memory.current", "4194304\n");
    CU_ASSERT_EQUAL(aq_memory_available_in(root), 2 * MIB);
    put(root, "/sys/fs/cgroup/jobs/memory.stat", "anon 3145728\nfile 1048576\nkernel 0\n");
    CU_ASSERT_EQUAL(aq_memory_available_in(root), 3 * MIB);
    put(root, "/sys/fs/cgroup/jobs/memory.current", "9999999\n");
    put(root, "/sys/fs/cgroup/jobs/memory.stat", "file 0\n");
    CU_ASSERT_EQUAL(aq_memory_available_in(root), 0);
}

/* Version 1, in a container that sees its own group as the root. */
static void version_1(void) {
    char root[256];
    make_root("one", root, sizeof root);
    put(root, "/proc/self/cgroup", "5:cpu:/\n4:memory:/outside/name\n0::/\n");
    put(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "7340032\n");
    put(root, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "3145728\n");
    put(root, "/sys/fs/cgroup/memory/memory.stat", "cache 1\ntotal_cache 2097152\n");
    CU_ASSERT_EQUAL(aq_memory_available_in(root), 6 * MIB);
}

static void this_process(void) {
    const int64_t before = aq_memory_resident(), more = 64 * MIB;
    volatile char *memory = malloc((size_t)more);
    if (!memory) return;
    for (int64_t i = 0; i < more; i += 512) /* each page */
        memory[i] = 1;
    const int64_t after = aq_memory_resident();
    CU_ASSERT_TRUE(memory[0] == 1 && before > 0);
    CU_ASSERT_TRUE(after - before > more * 9 / 10 && after - before < 2 * more);
    CU_ASSERT_TRUE(aq_memory_available() > 0);
    free((void *)memory);
}

static void sizes(void) {
    static const struct {
        const char *text;
        int64_t bytes;
    } right[] = {{"1", 1},      {"123456", 123456},  {"2K", 2048},
                 {"2KB", 2048}, {"512M", 512 * MIB}, {"1.5GiB", 1536 * MIB},
                 {"3B", 3},     {"1T", MIB * MIB},   {"0.5Ki", 512}};
    static const char *const wrong[] = {"",    "M",  "-1",  "0",    "1X",  "1MM",
                                        "1 M", "1m", "nan", "1e30", "inf", "0x"};
    int64_t bytes = 0;
    for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) {
        aq_test_ok(aq_memory_parse("--memory", right[i].text, &bytes));
        CU_ASSERT_EQUAL(bytes, right[i].bytes);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        aq_test_fails(aq_memory_parse("--memory", wrong[i], &bytes), AQ_ERR_USAGE, "--memory");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "without groups", without_groups);
    CU_add_test(suite, "version 2", version_2);
    CU_add_test(suite, "version 1", version_1);
    CU_add_test(suite, "this process", this_process);
    CU_add_test(suite, "sizes", sizes);
}
