/* Files that may be compressed: read whole, unpacked if they are gzip. */
#ifndef AQ_MODEL_GZ_H
#define AQ_MODEL_GZ_H

#include <stddef.h>

#include "src/base/status.h"

/* Reads a file (also a pipe) into fresh memory with a NUL after the last byte; the caller frees
 * *data. One that begins as gzip does (RFC 1952) is unpacked, all its members one behind the other;
 * any other is given as it is. AQ_ERR_IO, AQ_ERR_FORMAT (cut short, garbled), AQ_ERR_MEMORY. Local.
 */
aq_status aq_gz_read(const char *path, char **data, size_t *bytes);

#endif
