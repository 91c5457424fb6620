#define _GNU_SOURCE
#include "tests/support/resident.h"

#include <fcntl.h>
#include <stddef.h>
#include <unistd.h>

#define PRESENT ((uint64_t)1 << 63) /* Documentation/admin-guide/mm/pagemap.rst */

int64_t aq_test_resident(const void *data, int64_t bytes, int64_t *whole) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    const int64_t first = ((int64_t)(uintptr_t)data + page - 1) / page;
    const int64_t end = ((int64_t)(uintptr_t)data + bytes) / page;
    const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    int64_t n = 0;
    if (fd < 0) return -1;
    for (int64_t i = first; i < end && n >= 0; i++) {
        uint64_t entry;
        if (pread(fd, &entry, sizeof entry, (off_t)(i * (int64_t)sizeof entry)) != sizeof entry)
            n = -1;
        else
            n += (entry & PRESENT) != 0;
    }
    close(fd);
    if (whole) *whole = end > first ? (end - first) * page : 0;
    return n < 0 ? -1 : n * page;
}
