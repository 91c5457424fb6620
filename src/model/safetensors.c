#include "src/model/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "src/model/gguf.h"
#include "src/model/json.h"

struct aq_safetensors {
    char *path;
    aq_file_map map; /* empty if the bytes are the caller's */
    cJSON *header;   /* the tensors' names lie in it */
    aq_tensor *tensors;
    int64_t n_tensor;
    const uint8_t *data; /* behind the header */
    int64_t bytes;       /* of the data */
};

typedef long long ll;

/* Every type the format knows; those that a weight may have, with our number. */
static const struct {
    const char *name;
    int bits;
    int dtype; /* -1: of no weight */
} types[] = {
    {"F32", 32, AQ_F32}, {"F16", 16, AQ_F16}, {"BF16", 16, AQ_BF16}, {"F64", 64, -1},
    {"I64", 64, -1},     {"I32", 32, -1},     {"I16", 16, -1},       {"I8", 8, -1},
    {"U64", 64, -1},     {"U32", 32, -1},     {"U16", 16, -1},       {"U8", 8, -1},
    {"BOOL", 8, -1},     {"F8_E4M3", 8, -1},  {"F8_E5M2", 8, -1},    {"F8_E8M0", 8, -1},
    {"F6_E2M3", 6, -1},  {"F6_E3M2", 6, -1},  {"F4", 4, -1},         {"C64", 64, -1},
};

static const char *show(const char *name, char shown[AQ_GGUF_SHOWN_BYTES]) {
    return aq_gguf_show((aq_gguf_string){name, strlen(name)}, shown);
}

/* "FILE: tensor NAME: what is wrong with it". */
static aq_status refuse(const aq_safetensors *file, const cJSON *entry, const char *what) {
    char shown[AQ_GGUF_SHOWN_BYTES];
    return aq_fail(AQ_ERR_FORMAT, "%s: tensor %s: %s", file->path, show(entry->string, shown),
                   what);
}

static aq_status take_type(const aq_safetensors *file, const cJSON *entry, aq_tensor *t,
                           int64_t *bits) {
    char name[AQ_GGUF_SHOWN_BYTES], type[AQ_GGUF_SHOWN_BYTES];
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(entry, "dtype");
    if (!cJSON_IsString(value)) return refuse(file, entry, "has no dtype");
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, value->valuestring) == 0) {
            t->type = types[i].name;
            t->readable = types[i].dtype >= 0;
            t->dtype = t->readable ? (aq_dtype)types[i].dtype : AQ_F32;
            *bits = types[i].bits;
            return AQ_OK;
        }
    return aq_fail(AQ_ERR_UNSUPPORTED,
                   "%s: tensor %s: type %s is not known, expected BF16, F16 or F32", file->path,
                   show(entry->string, name), show(value->valuestring, type));
}

/* The shape, and the number of elements. */
static aq_status take_shape(const aq_safetensors *file, const cJSON *entry, aq_tensor *t,
                            int64_t *n_elem) {
    char shown[AQ_GGUF_SHOWN_BYTES];
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(entry, "shape");
    const int n_dim = cJSON_GetArraySize(shape);
    if (!cJSON_IsArray(shape)) return refuse(file, entry, "has no shape");
    if (n_dim > AQ_TENSOR_DIMS)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: tensor %s: %d dimensions, expected at most %d",
                       file->path, show(entry->string, shown), n_dim, AQ_TENSOR_DIMS);
    *n_elem = 1;
    t->n_dim = n_dim;
    for (int i = 0; i < AQ_TENSOR_DIMS; i++)
        t->shape[i] = 1;
    for (int i = 0; i < n_dim; i++) {
        if (!aq_json_whole(cJSON_GetArrayItem(shape, i), 0, INT64_MAX, &t->shape[i]))
            return refuse(file, entry, "a dimension is no whole number");
        if (t->shape[i] > 0 && *n_elem > INT64_MAX / 64 / t->shape[i])
            return refuse(file, entry, "its size overflows 63 bits");
        *n_elem *= t->shape[i];
    }
    return AQ_OK;
}

/* The place of the data: begin and end, as long as the shape says, inside the file. */
static aq_status take_place(const aq_safetensors *file, const cJSON *entry, int64_t bits,
                            aq_tensor *t) {
    char shown[AQ_GGUF_SHOWN_BYTES];
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
    int64_t begin, end;
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !aq_json_whole(cJSON_GetArrayItem(offsets, 0), 0, INT64_MAX, &begin) ||
        !aq_json_whole(cJSON_GetArrayItem(offsets, 1), begin, INT64_MAX, &end))
        return refuse(file, entry, "its data_offsets are not [begin, end]");
    if (end > file->bytes)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s is truncated or garbled: tensor %s ends at byte %lld of the data, there "
                       "are %lld",
                       file->path, show(entry->string, shown), (ll)end, (ll)file->bytes);
    if (bits % 8 != 0 || (end - begin) * 8 != bits)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s: tensor %s: data_offsets give it %lld bytes, its shape and type %lld "
                       "bits",
                       file->path, show(entry->string, shown), (ll)(end - begin), (ll)bits);
    t->data = file->data + begin;
    t->bytes = end - begin;
    return AQ_OK;
}

static aq_status take_tensor(const aq_safetensors *file, const cJSON *entry, aq_tensor *t) {
    int64_t bits = 0, n_elem = 0;
    *t = (aq_tensor){.name = entry->string, .path = file->path};
    t->name_bytes = strlen(entry->string);
    if (t->name_bytes == 0)
        return aq_fail(AQ_ERR_FORMAT, "%s: a tensor has an empty name", file->path);
    if (!cJSON_IsObject(entry)) return refuse(file, entry, "is no object");
    AQ_TRY(take_type(file, entry, t, &bits));
    AQ_TRY(take_shape(file, entry, t, &n_elem));
    return take_place(file, entry, n_elem * bits, t);
}

static int by_place(const void *a, const void *b) {
    const aq_tensor *s = a, *t = b;
    if (s->data != t->data) return (const char *)s->data < (const char *)t->data ? -1 : 1;
    return (s->bytes > t->bytes) - (s->bytes < t->bytes);
}

/* Every byte of the data belongs to one tensor. */
static aq_status check_cover(const aq_safetensors *file) {
    char shown[AQ_GGUF_SHOWN_BYTES];
    int64_t at = 0;
    for (int64_t i = 0; i < file->n_tensor; i++) {
        const aq_tensor *t = &file->tensors[i];
        const int64_t begin = (const uint8_t *)t->data - file->data;
        if (begin != at)
            return aq_fail(AQ_ERR_FORMAT,
                           "%s: tensor %s: %s before it: begins at byte %lld of the data, expected "
                           "%lld",
                           file->path, show(t->name, shown),
                           begin > at ? "a hole" : "an overlap with the one", (ll)begin, (ll)at);
        at += t->bytes;
    }
    if (at == file->bytes) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT, "%s: %lld bytes behind the last tensor belong to none",
                   file->path, (ll)(file->bytes - at));
}

/* "__metadata__" is an object of texts; they are for people. */
static aq_status check_metadata(const aq_safetensors *file, const cJSON *entry) {
    bool good = cJSON_IsObject(entry);
    for (const cJSON *child = good ? entry->child : NULL; child; child = child->next)
        good = good && cJSON_IsString(child);
    if (good) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT, "%s: __metadata__ is no object of texts", file->path);
}

static aq_status take_tensors(aq_safetensors *file) {
    file->tensors = calloc((size_t)cJSON_GetArraySize(file->header) + 1, sizeof *file->tensors);
    if (!file->tensors) return aq_fail(AQ_ERR_MEMORY, "%s: no memory for its tensors", file->path);
    for (const cJSON *entry = file->header->child; entry; entry = entry->next)
        AQ_TRY(strcmp(entry->string, "__metadata__") == 0
                   ? check_metadata(file, entry)
                   : take_tensor(file, entry, &file->tensors[file->n_tensor++]));
    qsort(file->tensors, (size_t)file->n_tensor, sizeof *file->tensors, by_place);
    return check_cover(file);
}

static aq_status parse(aq_safetensors *file, const uint8_t *data, uint64_t bytes) {
    uint64_t n = 0;
    if (bytes < 8)
        return aq_fail(AQ_ERR_FORMAT, "%s is truncated: %llu bytes, expected at least 8",
                       file->path, (unsigned long long)bytes);
    for (int i = 7; i >= 0; i--)
        n = n << 8 | data[i];
    if (n > AQ_SAFETENSORS_MAX_HEADER || n > bytes - 8 || n < 2 || data[8] != '{')
        return aq_fail(AQ_ERR_FORMAT,
                       "%s is truncated or no safetensors file: a header of %llu bytes that begins "
                       "with { was expected in the first %llu",
                       file->path, (unsigned long long)n, (unsigned long long)bytes);
    AQ_TRY(aq_json_parse(file->path, (const char *)data + 8, (size_t)n, &file->header));
    file->data = data + 8 + n;
    file->bytes = (int64_t)(bytes - 8 - n);
    return take_tensors(file);
}

static aq_status make(const char *path, aq_safetensors **out) {
    aq_safetensors *file = calloc(1, sizeof *file);
    *out = NULL;
    if (file) file->path = strdup(path);
    if (!file || !file->path) {
        aq_safetensors_close(file);
        return aq_fail(AQ_ERR_MEMORY, "%s: no memory to open it", path);
    }
    *out = file;
    return AQ_OK;
}

aq_status aq_safetensors_open_memory(const char *path, const void *data, uint64_t bytes,
                                     aq_safetensors **out) {
    aq_safetensors *file;
    AQ_TRY(make(path, &file));
    const aq_status status = parse(file, data, bytes);
    *out = status == AQ_OK ? file : NULL;
    if (status != AQ_OK) aq_safetensors_close(file);
    return status;
}

aq_status aq_safetensors_open(const char *path, aq_safetensors **out) {
    aq_safetensors *file;
    AQ_TRY(make(path, &file));
    aq_status status = aq_file_map_open(path, &file->map);
    if (status == AQ_OK) status = parse(file, file->map.data, file->map.bytes);
    *out = status == AQ_OK ? file : NULL;
    if (status != AQ_OK) aq_safetensors_close(file);
    return status;
}

void aq_safetensors_close(aq_safetensors *file) {
    if (!file) return;
    cJSON_Delete(file->header);
    aq_file_map_close(&file->map);
    free(file->tensors);
    free(file->path);
    free(file);
}

int64_t aq_safetensors_count(const aq_safetensors *file) {
    return file->n_tensor;
}

const aq_tensor *aq_safetensors_at(const aq_safetensors *file, int64_t i) {
    return &file->tensors[i];
}
