/* The CPU backend's table, memory, threads and choice of instruction set; the poisoned backend. */
#define _GNU_SOURCE
#include "kernels/backend.h"

#include <CUnit/CUnit.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/backend_poisoned.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

/* Every entry is a pointer: none of their bytes may be all zero, but for the last one. */
static void expect_full(const aq_backend_ops *ops) {
    typedef void (*entry)(void);
    entry entries[sizeof *ops / sizeof(entry)];
    memcpy(entries, ops, sizeof entries);
    for (size_t i = 0; i < offsetof(aq_backend_ops, attn_pages) / sizeof(entry); i++)
        CU_ASSERT_PTR_NOT_NULL(entries[i]);
}

#define MEMORY_MAX 100000

static void check_memory(const aq_test_backend *on, void *arg) {
    (void)arg;
    static const size_t sizes[] = {0, 1, 63, 64, 65, MEMORY_MAX};
    static uint8_t host[MEMORY_MAX];
    expect_full(on->be->ops);
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        void *memory = aq_test_alloc(on->be, sizes[s]);
        CU_ASSERT_EQUAL((uintptr_t)memory % 64, 0);
        memset(host, 1, sizeof host);
        aq_test_get(on, host, memory, sizes[s]);
        size_t n_set = 0;
        for (size_t i = 0; i < sizes[s]; i++)
            n_set += host[i] != 0;
        CU_ASSERT_EQUAL(n_set, 0);
        memset(host, 0x5a, sizes[s]); /* the next block of this size must be zeroed again */
        on->be->ops->upload(on->be, memory, host, sizes[s]);
        on->be->ops->release(on->be, memory);
    }
    void *memory = &memory;
    aq_test_fails(on->be->ops->alloc(on->be, SIZE_MAX, &memory), AQ_ERR_MEMORY, "bytes");
    CU_ASSERT_PTR_NULL(memory);
    on->be->ops->release(on->be, NULL);
}

static void test_memory(void) {
    aq_each_backend(check_memory, NULL);
}

/* Bytes there, across and back, from odd places; the host's memory is spoilt between, as `upload`
 * allows. */
static void check_copies(const aq_test_backend *on, void *arg) {
    (void)arg;
    static uint8_t host[MEMORY_MAX], back[MEMORY_MAX];
    for (size_t i = 0; i < sizeof host; i++)
        host[i] = (uint8_t)(7 * i + i / 256);
    char *a = aq_test_put(on, host, sizeof host), *b = aq_test_alloc(on->be, sizeof host);
    memset(host, 0, sizeof host);
    on->be->ops->copy(on->be, b + 5, a + 3, 777);
    on->be->ops->copy(on->be, b, a, 0);
    aq_test_get(on, back, b, sizeof back);
    size_t n_wrong = 0;
    for (size_t i = 0; i < sizeof back; i++) {
        const size_t from = i - 2;
        const uint8_t expected = i < 5 || i >= 782 ? 0 : (uint8_t)(7 * from + from / 256);
        n_wrong += back[i] != expected;
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
    aq_test_free(on, a);
    aq_test_free(on, b);
}

static void test_copies(void) {
    aq_each_backend(check_copies, NULL);
}

static void test_cuda_open(void) {
    aq_backend *be = (aq_backend *)&be;
    const int n = aq_backend_cuda_devices();
    CU_ASSERT(n >= 0);
    if (n == 0) aq_test_fails(aq_backend_cuda_open(0, &be), AQ_ERR_UNSUPPORTED, "CUDA");
    if (n > 0) aq_test_fails(aq_backend_cuda_open(n, &be), AQ_ERR_USAGE, "devices 0 to");
    CU_ASSERT_PTR_NULL(be);
}

static void test_threads(void) {
    aq_backend *be;
    for (int n = 1; n <= 3; n++) {
        if (!aq_test_ok(aq_backend_cpu_open(n, AQ_ISA_PORTABLE, &be))) return;
        CU_ASSERT_EQUAL(aq_backend_cpu_threads(be), n);
        be->ops->close(be);
    }
    if (!aq_test_ok(aq_backend_cpu_open(0, AQ_ISA_PORTABLE, &be))) return;
    CU_ASSERT(aq_backend_cpu_threads(be) >= 1);
    be->ops->close(be);
    aq_test_fails(aq_backend_cpu_open(-1, AQ_ISA_PORTABLE, &be), AQ_ERR_USAGE, "-1 threads");
    CU_ASSERT_PTR_NULL(be);
}

static void test_isa(void) {
    const char *outer = getenv("AQUA_ISA");
    char *kept = outer ? strdup(outer) : NULL;
    unsetenv("AQUA_ISA");
    const aq_cpu_isa has = aq_cpu_isa_best();
    for (int isa = AQ_ISA_PORTABLE; isa < AQ_ISAS; isa++) {
        setenv("AQUA_ISA", aq_cpu_isa_name((aq_cpu_isa)isa), 1);
        CU_ASSERT_EQUAL((int)aq_cpu_isa_best(), isa < (int)has ? isa : (int)has);
    }
    setenv("AQUA_ISA", "no such thing", 1);
    CU_ASSERT_EQUAL(aq_cpu_isa_best(), has);
    setenv("AQUA_ISA", "portable", 1);
    aq_backend *be;
    aq_test_fails(aq_backend_cpu_open(1, AQ_ISA_AVX2, &be), AQ_ERR_UNSUPPORTED, "avx2");
    CU_ASSERT_PTR_NULL(be);
    unsetenv("AQUA_ISA");
    if (kept) setenv("AQUA_ISA", kept, 1);
    free(kept);
    CU_ASSERT_STRING_EQUAL(aq_cpu_isa_name(AQ_ISA_PORTABLE), "portable");
    CU_ASSERT_STRING_EQUAL(aq_cpu_isa_name(AQ_ISA_AVX512), "avx512");
    CU_ASSERT_STRING_EQUAL(aq_cpu_isa_name(AQ_ISA_AVX512VNNI), "avx512vnni");
}

static aq_backend *open_poisoned(void) {
    aq_backend *inner, *be = NULL;
    if (!aq_test_ok(aq_backend_cpu_open(1, AQ_ISA_PORTABLE, &inner))) return NULL;
    (void)aq_test_ok(aq_backend_poisoned_open(inner, &be));
    return be;
}

/* The planted bug: one byte written beside a block, on either side, found both while the block is
 * out and after its release. */
static void test_poisoned_catches(void) {
    for (int side = 0; side < 2; side++)
        for (int released = 0; released < 2; released++) {
            aq_backend *be = open_poisoned();
            if (!be) return;
            uint8_t *memory = aq_test_alloc(be, 100);
            memory[0] = memory[99] = 1;
            CU_ASSERT_TRUE(aq_backend_poisoned_intact(be));
            memory[side == 0 ? -1 : 100] = 0;
            if (released) be->ops->release(be, memory);
            CU_ASSERT_FALSE(aq_backend_poisoned_intact(be));
            be->ops->close(be);
        }
}

/* The planted bug: a host that reads hidden memory, which ends it as a device's memory would. */
static void test_poisoned_hides(void) {
    aq_backend *be = open_poisoned();
    if (!be) return;
    aq_backend_poisoned_hide(be);
    CU_ASSERT_FALSE(be->host_memory);
    const uint8_t byte = 7;
    uint8_t back = 0;
    volatile uint8_t *memory = aq_test_alloc(be, 1);
    be->ops->upload(be, (void *)memory, &byte, 1);
    be->ops->download(be, &back, (const void *)memory, 1);
    CU_ASSERT_EQUAL(back, byte);
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit(*memory);
    }
    int status = 0;
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    CU_ASSERT_TRUE(aq_backend_poisoned_intact(be));
    be->ops->close(be);
}

static void test_poisoned_counts(void) {
    aq_backend *be = open_poisoned();
    if (!be) return;
    void *a = aq_test_alloc(be, 10), *b = aq_test_alloc(be, 20);
    CU_ASSERT_EQUAL(aq_backend_poisoned_allocs(be), 2);
    be->ops->release(be, a);
    CU_ASSERT_EQUAL(aq_backend_poisoned_allocs(be), 2);
    CU_ASSERT_EQUAL(aq_backend_poisoned_live(be), 1);
    CU_ASSERT_TRUE(aq_backend_poisoned_intact(be));
    be->ops->release(be, b);
    CU_ASSERT_EQUAL(aq_backend_poisoned_live(be), 0);
    (void)aq_test_alloc(be, 30); /* left for close */
    be->ops->close(be);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "memory", test_memory);
    CU_add_test(suite, "copies", test_copies);
    CU_add_test(suite, "cuda_open", test_cuda_open);
    CU_add_test(suite, "threads", test_threads);
    CU_add_test(suite, "isa", test_isa);
    CU_add_test(suite, "poisoned_catches", test_poisoned_catches);
    CU_add_test(suite, "poisoned_hides", test_poisoned_hides);
    CU_add_test(suite, "poisoned_counts", test_poisoned_counts);
}
