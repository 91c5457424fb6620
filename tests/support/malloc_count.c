#include "tests/support/malloc_count.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

static atomic_llong n_call;
static bool is_counting;

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifdef SANITIZED

/* Of the sanitizers' run-time library; gcc comes without its header. */
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));

static void on_malloc(const volatile void *memory, size_t bytes) {
    (void)memory;
    (void)bytes;
    atomic_fetch_add(&n_call, 1);
}

static void on_free(const volatile void *memory) {
    (void)memory;
}

static void start(void) {
    __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
}

#else

#include <errno.h>

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

void *malloc(size_t bytes) {
    atomic_fetch_add(&n_call, 1);
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes) {
    atomic_fetch_add(&n_call, 1);
    return __libc_calloc(n, bytes);
}

void *realloc(void *memory, size_t bytes) {
    atomic_fetch_add(&n_call, 1);
    return __libc_realloc(memory, bytes);
}

void *memalign(size_t alignment, size_t bytes) {
    atomic_fetch_add(&n_call, 1);
    return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes) {
    return memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes) {
    *out = memalign(alignment, bytes);
    return *out ? 0 : ENOMEM;
}

static void start(void) {
}

#endif

int64_t aq_malloc_count(void) {
    if (!is_counting) {
        start();
        atomic_store(&n_call, 0);
    }
    is_counting = true;
    return atomic_load(&n_call);
}
