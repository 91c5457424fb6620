#include "src/model/npy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"

/* The header is a Python dictionary in text: {'descr': '<i4', 'fortran_order': False, 'shape':
 * (5,), }. Returns what follows "'key':" and spaces, or NULL. */
static const char *header_value(const char *header, const char *key) {
    const char *at = strstr(header, key);
    if (!at) return NULL;
    at += strlen(key);
    while (*at == ' ' || *at == ':')
        at++;
    return at;
}

/* Elements of a shape that is [n] or [1, n]; -1 otherwise. */
static int64_t shape_length(const char *shape) {
    long long a = 0, b = 0;
    char last = 0;
    if (sscanf(shape, "(%lld, %lld%c", &a, &b, &last) == 3 && last == ')') return a == 1 ? b : -1;
    if (sscanf(shape, "(%lld,%c", &a, &last) == 2 && last == ')') return a;
    return -1;
}

/* Bytes before the data, or 0 if this is no .npy file; *header gets the dictionary as text. */
static size_t split_header(const aq_file_map *map, char header[1024]) {
    if (map->bytes < 12 || memcmp(map->data, "\x93NUMPY", 6) != 0) return 0;
    const int wide = map->data[6] >= 2;
    const size_t start = wide ? 12 : 10;
    size_t length = (size_t)map->data[8] | (size_t)map->data[9] << 8;
    if (wide) length |= (size_t)map->data[10] << 16 | (size_t)map->data[11] << 24;
    if (length >= 1024 || length > map->bytes - start) return 0;
    memcpy(header, map->data + start, length);
    header[length] = '\0';
    return start + length;
}

static aq_status copy_ids(const char *path, const uint8_t *data, int64_t n, int width,
                          int32_t *ids) {
    for (int64_t i = 0; i < n; i++) {
        int64_t wide = 0;
        int32_t narrow = 0;
        if (width == 8) {
            memcpy(&wide, data + 8 * i, 8);
        } else {
            memcpy(&narrow, data + 4 * i, 4);
            wide = narrow;
        }
        if (wide < 0 || wide > INT32_MAX)
            return aq_fail(AQ_ERR_FORMAT, "%s: element %lld is %lld, not a token id", path,
                           (long long)i, (long long)wide);
        ids[i] = (int32_t)wide;
    }
    return AQ_OK;
}

static aq_status parse_ids(const char *path, const aq_file_map *map, int32_t **ids, int64_t *n) {
    char header[1024];
    const size_t start = split_header(map, header);
    if (start == 0) return aq_fail(AQ_ERR_FORMAT, "%s is not a whole .npy file", path);
    const char *type = header_value(header, "'descr'");
    const char *order = header_value(header, "'fortran_order'");
    const char *shape = header_value(header, "'shape'");
    if (!type || !order || !shape)
        return aq_fail(AQ_ERR_FORMAT, "%s: the .npy header lacks descr, order or shape", path);
    const int width = strncmp(type, "'<i4'", 5) == 0 ? 4 : strncmp(type, "'<i8'", 5) == 0 ? 8 : 0;
    *n = shape_length(shape);
    if (width == 0 || *n < 0)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: ids must be int32 or int64 of shape [n] or [1, n]",
                       path);
    if ((uint64_t)*n != (map->bytes - start) / (size_t)width ||
        (map->bytes - start) % (size_t)width != 0)
        return aq_fail(AQ_ERR_FORMAT, "%s: %zu bytes of data for %lld ids of %d bytes", path,
                       map->bytes - start, (long long)*n, width);
    *ids = malloc((size_t)*n * sizeof **ids + 1);
    if (!*ids) return aq_fail(AQ_ERR_MEMORY, "no memory for the ids of %s", path);
    return copy_ids(path, map->data + start, *n, width, *ids);
}

aq_status aq_npy_read_ids(const char *path, int32_t **ids, int64_t *n) {
    aq_file_map map;
    *ids = NULL;
    *n = 0;
    AQ_TRY(aq_file_map_open(path, &map));
    aq_status status = parse_ids(path, &map, ids, n);
    if (status != AQ_OK) {
        free(*ids);
        *ids = NULL;
    }
    aq_file_map_close(&map);
    return status;
}

void aq_npy_header_f32(int64_t n_row, int64_t n_column, char header[AQ_NPY_HEADER_BYTES]) {
    char text[AQ_NPY_HEADER_BYTES];
    const int length = snprintf(text, sizeof text,
                                "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }",
                                (long long)n_row, (long long)n_column);
    memset(header, ' ', AQ_NPY_HEADER_BYTES);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10); /* 0x76 bytes follow: 128 in all */
    memcpy(header + 10, text, (size_t)length);
    header[AQ_NPY_HEADER_BYTES - 1] = '\n';
}
