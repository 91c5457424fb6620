#define _GNU_SOURCE
#include "src/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

aq_status aq_file_map_open(const char *path, aq_file_map *out) {
    *out = (aq_file_map){NULL, 0};
    /* O_NONBLOCK: a named pipe is refused below instead of waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return aq_fail(AQ_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    struct stat st;
    aq_status status = AQ_OK;
    if (fstat(fd, &st) != 0) {
        status = aq_fail(AQ_ERR_IO, "cannot examine %s: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        status = aq_fail(AQ_ERR_IO, "%s is not a regular file", path);
    } else if (st.st_size > 0) {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = aq_fail(AQ_ERR_IO, "cannot map %s: %s", path, strerror(errno));
        else
            *out = (aq_file_map){data, (size_t)st.st_size};
    }
    close(fd);
    return status;
}

void aq_file_map_close(aq_file_map *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, map->bytes);
    *map = (aq_file_map){NULL, 0};
}

static aq_status read_all(int fd, const char *path, char **data, size_t *bytes) {
    size_t capacity = 1 << 16, used = 0;
    char *buffer = malloc(capacity);
    while (buffer) {
        ssize_t got = read(fd, buffer + used, capacity - 1 - used);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            free(buffer);
            return aq_fail(AQ_ERR_IO, "cannot read %s: %s", path, strerror(errno));
        }
        used += (size_t)got;
        if (got == 0) {
            buffer[used] = '\0';
            *data = buffer;
            *bytes = used;
            return AQ_OK;
        }
        if (used == capacity - 1) {
            char *larger = realloc(buffer, capacity *= 2);
            if (!larger) free(buffer);
            buffer = larger;
        }
    }
    return aq_fail(AQ_ERR_MEMORY, "no memory to read %s", path);
}

aq_status aq_file_read(const char *path, char **data, size_t *bytes) {
    *data = NULL;
    *bytes = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return aq_fail(AQ_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    aq_status status = read_all(fd, path, data, bytes);
    close(fd);
    return status;
}

static aq_status write_failed(const aq_file_out *out, int error) {
    return aq_fail(AQ_ERR_IO, "cannot write %s: %s%s", out->path, strerror(error),
                   out->temporary ? "; nothing was changed" : "");
}

aq_status aq_file_out_open(const char *path, aq_file_out *out) {
    struct stat st;
    int flags = O_WRONLY | O_CLOEXEC;
    *out = (aq_file_out){.path = path, .fd = -1};
    if (stat(path, &st) != 0 || S_ISREG(st.st_mode)) {
        if (asprintf(&out->temporary, "%s.tmp-%ld", path, (long)getpid()) < 0) {
            out->temporary = NULL;
            return aq_fail(AQ_ERR_MEMORY, "no memory to write %s", path);
        }
        flags |= O_CREAT | O_TRUNC;
    }
    out->fd = open(out->temporary ? out->temporary : path, flags, 0666);
    if (out->fd >= 0) return AQ_OK;
    aq_status status = write_failed(out, errno);
    free(out->temporary);
    out->temporary = NULL;
    return status;
}

/* Offsets are for files; a pipe takes the bytes in the order they come. */
static ssize_t write_at(const aq_file_out *out, int64_t offset, const char *data, size_t bytes) {
    return out->temporary ? pwrite(out->fd, data, bytes, (off_t)offset)
                          : write(out->fd, data, bytes);
}

aq_status aq_file_out_put(aq_file_out *out, int64_t offset, const void *data, size_t bytes) {
    const char *at = data;
    while (bytes > 0) {
        const ssize_t put = write_at(out, offset, at, bytes);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return write_failed(out, errno);
        at += put;
        offset += put;
        bytes -= (size_t)put;
    }
    return AQ_OK;
}

aq_status aq_file_out_commit(aq_file_out *out) {
    aq_status status = AQ_OK;
    if (out->temporary && fsync(out->fd) != 0) status = write_failed(out, errno);
    if (close(out->fd) != 0 && status == AQ_OK) status = write_failed(out, errno);
    out->fd = -1;
    if (status == AQ_OK && out->temporary && rename(out->temporary, out->path) != 0)
        status = write_failed(out, errno);
    if (status == AQ_OK) {
        free(out->temporary);
        out->temporary = NULL;
    }
    aq_file_out_discard(out);
    return status;
}

void aq_file_out_discard(aq_file_out *out) {
    if (out->path && out->fd >= 0) close(out->fd);
    if (out->temporary) unlink(out->temporary);
    free(out->temporary);
    *out = (aq_file_out){.fd = -1};
}

aq_status aq_file_write(const char *path, const void *data, size_t bytes) {
    aq_file_out out;
    AQ_TRY(aq_file_out_open(path, &out));
    aq_status status = aq_file_out_put(&out, 0, data, bytes);
    if (status == AQ_OK) return aq_file_out_commit(&out);
    aq_file_out_discard(&out);
    return status;
}
