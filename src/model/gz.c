#include "src/model/gz.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "src/base/file.h"

#define GZIP_ONLY  (16 + MAX_WBITS) /* zlib: a gzip header is expected */
#define FIRST_ROOM ((size_t)1 << 16)

/* What has been unpacked. */
typedef struct {
    char *data;
    size_t bytes, room; /* room for the final NUL is always there */
} unpacked;

static bool is_gzip(const char *data, size_t bytes) {
    return bytes >= 2 && memcmp(data, "\x1f\x8b", 2) == 0;
}

/* Room for at least one more byte and the NUL. */
static aq_status grow(const char *path, unpacked *out) {
    if (out->bytes + 1 < out->room) return AQ_OK;
    const size_t room = out->room ? 2 * out->room : FIRST_ROOM;
    char *larger = realloc(out->data, room);
    if (!larger)
        return aq_fail(AQ_ERR_MEMORY, "no memory to unpack %s: more than %zu bytes", path,
                       out->bytes);
    out->data = larger;
    out->room = room;
    return AQ_OK;
}

static size_t at_most_uint(size_t n) {
    return n < UINT_MAX ? n : UINT_MAX;
}

/* Unpacks one member at data[0 .. bytes); *used is its length. */
static aq_status unpack_member(const char *path, z_stream *z, const char *data, size_t bytes,
                               size_t *used, unpacked *out) {
    int code = inflateReset(z);
    *used = 0;
    while (code == Z_OK) {
        AQ_TRY(grow(path, out));
        const size_t n_in = at_most_uint(bytes - *used);
        const size_t n_out = at_most_uint(out->room - 1 - out->bytes);
        z->next_in = (z_const Bytef *)(data + *used);
        z->avail_in = (uInt)n_in;
        z->next_out = (Bytef *)(out->data + out->bytes);
        z->avail_out = (uInt)n_out;
        code = inflate(z, Z_NO_FLUSH);
        *used += n_in - z->avail_in;
        out->bytes += n_out - z->avail_out;
    }
    if (code == Z_STREAM_END) return AQ_OK;
    if (code == Z_MEM_ERROR) return aq_fail(AQ_ERR_MEMORY, "no memory to unpack %s", path);
    return aq_fail(AQ_ERR_FORMAT, "%s: the gzip data are %s", path,
                   code == Z_BUF_ERROR ? "cut short" : "garbled");
}

static aq_status unpack(const char *path, const char *data, size_t bytes, unpacked *out) {
    z_stream z = {.zalloc = Z_NULL};
    if (inflateInit2(&z, GZIP_ONLY) != Z_OK)
        return aq_fail(AQ_ERR_MEMORY, "no memory to unpack %s", path);
    aq_status status = AQ_OK;
    for (size_t at = 0, used; status == AQ_OK && at < bytes; at += used)
        status = unpack_member(path, &z, data + at, bytes - at, &used, out);
    inflateEnd(&z);
    if (status == AQ_OK) out->data[out->bytes] = '\0';
    return status;
}

aq_status aq_gz_read(const char *path, char **data, size_t *bytes) {
    unpacked out = {.data = NULL};
    char *packed = NULL;
    *data = NULL;
    AQ_TRY(aq_file_read(path, &packed, bytes));
    if (!is_gzip(packed, *bytes)) {
        *data = packed;
        return AQ_OK;
    }
    const aq_status status = unpack(path, packed, *bytes, &out);
    free(packed);
    if (status == AQ_OK) {
        *data = out.data;
        *bytes = out.bytes;
    } else {
        free(out.data);
    }
    return status;
}
