#include "src/model/npy.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"

#define HEADER_BYTES 1024 /* far more than NumPy writes for one or two dimensions */

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

/* A number of decimal digits below 2^62, or -1; *at moves behind it and the spaces after it. */
static int64_t read_dimension(const char **at) {
    int64_t n = 0;
    if (**at < '0' || **at > '9') return -1;
    for (; **at >= '0' && **at <= '9'; (*at)++) {
        if (n >= ((int64_t)1 << 62) / 10) return -1;
        n = 10 * n + (**at - '0');
    }
    *at += strspn(*at, " ");
    return n;
}

/* Elements of a shape that is [n] or [1, n]; -1 otherwise. */
static int64_t shape_length(const char *at) {
    if (*at++ != '(') return -1;
    const int64_t first = read_dimension(&at);
    if (first < 0 || *at++ != ',') return -1;
    at += strspn(at, " ");
    if (*at == ')') return first;
    const int64_t second = read_dimension(&at);
    return first == 1 && *at == ')' ? second : -1;
}

static bool is_printable(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if ((text[i] < ' ' || text[i] > '~') && text[i] != '\n') return false;
    return true;
}

/* Finds the dictionary, as text in header, and the bytes before the data. */
static aq_status split_header(const char *path, const aq_file_map *map, char header[HEADER_BYTES],
                              size_t *start) {
    if (map->bytes < 12 || memcmp(map->data, "\x93NUMPY", 6) != 0)
        return aq_fail(AQ_ERR_FORMAT, "%s is not a .npy file", path);
    const int version = map->data[6];
    if (version < 1 || version > 3)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: .npy version %d, expected 1 to 3", path, version);
    *start = version >= 2 ? 12 : 10;
    size_t length = (size_t)map->data[8] | (size_t)map->data[9] << 8;
    if (version >= 2) length |= (size_t)map->data[10] << 16 | (size_t)map->data[11] << 24;
    if (length > map->bytes - *start)
        return aq_fail(AQ_ERR_FORMAT, "%s ends inside its .npy header", path);
    if (length >= HEADER_BYTES || !is_printable((const char *)map->data + *start, length))
        return aq_fail(AQ_ERR_FORMAT, "%s: the .npy header is too long or not text", path);
    memcpy(header, map->data + *start, length);
    header[length] = '\0';
    *start += length;
    return AQ_OK;
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

/* What the header says of the data: bytes of an element and their number. */
static aq_status parse_header(const char *path, const char *header, int *width, int64_t *n) {
    const char *type = header_value(header, "'descr'");
    const char *order = header_value(header, "'fortran_order'");
    const char *shape = header_value(header, "'shape'");
    if (!type || !order || !shape)
        return aq_fail(AQ_ERR_FORMAT, "%s: the .npy header lacks descr, fortran_order or shape",
                       path);
    *width = strncmp(type, "'<i4'", 5) == 0 ? 4 : strncmp(type, "'<i8'", 5) == 0 ? 8 : 0;
    *n = shape_length(shape);
    if (*width == 0)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: ids are of type %.*s, expected '<i4' or '<i8'",
                       path, (int)strcspn(type, ","), type);
    if (strncmp(order, "False", 5) != 0)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: fortran_order is %.*s, expected False", path,
                       (int)strcspn(order, ",}"), order);
    if (*n < 0)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: ids are of shape %.*s, expected (n,) or (1, n)",
                       path, (int)strcspn(shape, ")") + (strchr(shape, ')') != NULL), shape);
    return AQ_OK;
}

static aq_status parse_ids(const char *path, const aq_file_map *map, int32_t **ids, int64_t *n) {
    char header[HEADER_BYTES];
    size_t start = 0;
    int width = 0;
    AQ_TRY(split_header(path, map, header, &start));
    AQ_TRY(parse_header(path, header, &width, n));
    const size_t bytes = map->bytes - start;
    if ((uint64_t)*n != bytes / (size_t)width || bytes % (size_t)width != 0)
        return aq_fail(AQ_ERR_FORMAT, "%s: %zu bytes of data for %lld ids of %d bytes", path, bytes,
                       (long long)*n, width);
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
        *n = 0;
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
