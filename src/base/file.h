/* Files: read whole, mapped read-only, or written so that a crash or full disk loses nothing. */
#ifndef AQ_BASE_FILE_H
#define AQ_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

/* A file mapped read-only. */
typedef struct {
    const uint8_t *data;
    size_t bytes;
} aq_file_map;

/* Maps a regular file; an empty one gives data NULL and 0 bytes. AQ_ERR_IO. Local. */
aq_status aq_file_map_open(const char *path, aq_file_map *out);

/* Unmaps; a zeroed map is allowed. Local. */
void aq_file_map_close(aq_file_map *map);

/* Reads a whole file (also a pipe) into fresh memory with a NUL after the last byte; the caller
 * frees *data. AQ_ERR_IO, AQ_ERR_MEMORY. Local. */
aq_status aq_file_read(const char *path, char **data, size_t *bytes);

/* A file being written: bytes go to path.tmp-PID, which takes the name `path` only when complete
 * and synced. Until then, and after any failure, what stood at `path` is as it was. A path that
 * exists and is no regular file (a pipe, a device) is written in place. */
typedef struct {
    const char *path; /* borrowed */
    char *temporary;  /* NULL when written in place */
    int fd;
} aq_file_out;

/* Starts a file; end it with commit or discard. AQ_ERR_IO, AQ_ERR_MEMORY. Local. */
aq_status aq_file_out_open(const char *path, aq_file_out *out);

/* Writes `bytes` bytes at `offset`. AQ_ERR_IO (the file must still be discarded). Local. */
aq_status aq_file_out_put(aq_file_out *out, int64_t offset, const void *data, size_t bytes);

/* Syncs and renames; on failure discards. AQ_ERR_IO. Local. */
aq_status aq_file_out_commit(aq_file_out *out);

/* Removes what was written; after commit or on a zeroed struct does nothing. Local. */
void aq_file_out_discard(aq_file_out *out);

/* Open, put and commit in one. Local. */
aq_status aq_file_write(const char *path, const void *data, size_t bytes);

#endif
