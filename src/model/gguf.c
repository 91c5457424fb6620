/* Opening and checking. Every byte may be hostile: a length or count is compared with the bytes
 * left before it is used, so that no more memory is asked for than the file is long. */
#include "src/model/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/gguf_file.h"

#define MAGIC             0x46554747u /* "GGUF" */
#define DEFAULT_ALIGNMENT 32
#define MAX_ALIGNMENT     (1 << 20)
#define MAX_NAME_BYTES    64    /* of a tensor */
#define MAX_KEY_BYTES     65535 /* of a key */
#define MIN_KEY_SIZE      14    /* a name of one byte, a kind, a value of one byte */
#define MIN_TENSOR_SIZE   33    /* a name of one byte, one dimension */

/* Where the parser stands in the file, and in what, for messages. */
typedef struct {
    const aq_gguf *file;
    uint64_t at;
    char what[AQ_GGUF_SHOWN_BYTES + 16];
} cursor;

typedef unsigned long long ull;

static uint64_t left(const cursor *c) {
    return c->file->bytes - c->at;
}

static aq_status need(const cursor *c, uint64_t bytes) {
    if (left(c) >= bytes) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT,
                   "%s is truncated or garbled in %s: %llu bytes expected at offset %llu, %llu are "
                   "left",
                   c->file->path, c->what, (ull)bytes, (ull)c->at, (ull)left(c));
}

static aq_status take(cursor *c, int n_byte, uint64_t *out) {
    AQ_TRY(need(c, (uint64_t)n_byte));
    *out = aq_gguf_load(c->file->data + c->at, n_byte);
    c->at += (uint64_t)n_byte;
    return AQ_OK;
}

static aq_status take_string(cursor *c, aq_gguf_string *out) {
    uint64_t bytes;
    AQ_TRY(take(c, 8, &bytes));
    AQ_TRY(need(c, bytes));
    *out = (aq_gguf_string){(const char *)c->file->data + c->at, bytes};
    c->at += bytes;
    return AQ_OK;
}

/* A name of 1 to max_bytes bytes; the cursor is in it from here on. */
static aq_status take_name(cursor *c, const char *noun, uint64_t max_bytes, aq_gguf_string *out) {
    char shown[AQ_GGUF_SHOWN_BYTES];
    AQ_TRY(take_string(c, out));
    if (out->bytes == 0 || out->bytes > max_bytes)
        return aq_fail(AQ_ERR_FORMAT, "%s: %s: its name has %llu bytes, expected 1 to %llu",
                       c->file->path, c->what, (ull)out->bytes, (ull)max_bytes);
    snprintf(c->what, sizeof c->what, "%s %s", noun, aq_gguf_show(*out, shown));
    return AQ_OK;
}

/* Finds each string of an array, so that any one is reached in constant time. */
static aq_status index_strings(cursor *c, aq_gguf_entry *key) {
    aq_gguf_string text;
    AQ_TRY(need(c, 8));
    if (key->n > left(c) / 8)
        return aq_fail(AQ_ERR_FORMAT, "%s: %s: %llu strings do not fit in the %llu bytes left",
                       c->file->path, c->what, (ull)key->n, (ull)left(c));
    key->texts = malloc((size_t)key->n * sizeof *key->texts);
    if (!key->texts) return aq_fail(AQ_ERR_MEMORY, "%s: no memory for %s", c->file->path, c->what);
    for (uint64_t i = 0; i < key->n; i++) {
        key->texts[i] = c->file->data + c->at;
        AQ_TRY(take_string(c, &text));
    }
    return AQ_OK;
}

static aq_status check_bools(const cursor *c, const aq_gguf_entry *key) {
    for (uint64_t i = 0; i < key->n; i++)
        if (key->value[i] > 1)
            return aq_fail(AQ_ERR_FORMAT, "%s: %s: a truth value is %d, expected 0 or 1",
                           c->file->path, c->what, key->value[i]);
    return AQ_OK;
}

/* The value, or the elements, of a key whose kind and number are known. */
static aq_status take_values(cursor *c, aq_gguf_entry *key) {
    aq_gguf_string text;
    const uint64_t size = (uint64_t)aq_gguf_kind_bytes(key->kind);
    key->value = c->file->data + c->at;
    if (key->kind == AQ_GGUF_STRING)
        return key->is_array && key->n > 0 ? index_strings(c, key)
               : key->is_array             ? AQ_OK
                                           : take_string(c, &text);
    if (size == 0)
        return aq_fail(AQ_ERR_FORMAT, "%s: %s: unknown kind of value %u, expected 0 to 12",
                       c->file->path, c->what, (unsigned)key->kind);
    if (key->n > left(c) / size)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s: %s: %llu values of %llu bytes do not fit in the %llu bytes left",
                       c->file->path, c->what, (ull)key->n, (ull)size, (ull)left(c));
    c->at += key->n * size;
    return key->kind == AQ_GGUF_BOOL ? check_bools(c, key) : AQ_OK;
}

static aq_status take_key(cursor *c, aq_gguf_entry *key) {
    uint64_t kind;
    AQ_TRY(take_name(c, "key", MAX_KEY_BYTES, &key->name));
    AQ_TRY(take(c, 4, &kind));
    key->n = 1;
    key->is_array = kind == AQ_GGUF_ARRAY;
    if (key->is_array) {
        AQ_TRY(take(c, 4, &kind));
        AQ_TRY(take(c, 8, &key->n));
        if (kind == AQ_GGUF_ARRAY)
            return aq_fail(AQ_ERR_UNSUPPORTED, "%s: %s: arrays of arrays are not supported",
                           c->file->path, c->what);
    }
    key->kind = (aq_gguf_kind)kind;
    return take_values(c, key);
}

static aq_status take_keys(cursor *c, aq_gguf *file, uint64_t n_key) {
    if (n_key > left(c) / MIN_KEY_SIZE)
        return aq_fail(AQ_ERR_FORMAT, "%s: %llu keys do not fit in the %llu bytes left", file->path,
                       (ull)n_key, (ull)left(c));
    AQ_TRY(aq_name_index_open(n_key, &file->key_index));
    file->keys = calloc((size_t)n_key + 1, sizeof *file->keys);
    if (!file->keys) return aq_fail(AQ_ERR_MEMORY, "%s: no memory for its keys", file->path);
    for (uint64_t i = 0; i < n_key; i++) {
        aq_gguf_entry *key = &file->keys[i];
        snprintf(c->what, sizeof c->what, "key number %llu", (ull)i);
        file->n_key = i + 1;
        AQ_TRY(take_key(c, key));
        if (!aq_name_index_add(&file->key_index, key->name.data, (size_t)key->name.bytes,
                               (int64_t)i))
            return aq_fail(AQ_ERR_FORMAT, "%s: %s is there twice", file->path, c->what);
    }
    return AQ_OK;
}

/* *out = a * b for non-negative numbers; false if that overflows. */
static bool multiply(int64_t a, int64_t b, int64_t *out) {
    if (b != 0 && a > INT64_MAX / b) return false;
    *out = a * b;
    return true;
}

/* Fills bytes from ne and dtype. */
static aq_status size_tensor(const cursor *c, aq_gguf_tensor *t) {
    const aq_dtype_info *type = aq_dtype_find((uint32_t)t->dtype);
    int64_t n_block = t->ne[0] / type->block_elems;
    bool fits = true;
    if (t->ne[0] % type->block_elems != 0)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s: %s: rows of %lld elements, expected a multiple of %d (%s)",
                       c->file->path, c->what, (long long)t->ne[0], type->block_elems, type->name);
    for (int i = 1; i < 4; i++)
        fits = fits && multiply(n_block, t->ne[i], &n_block);
    fits = fits && multiply(n_block, type->block_elems, &t->bytes); /* elements fit as well */
    fits = fits && multiply(n_block, type->block_bytes, &t->bytes);
    if (!fits)
        return aq_fail(AQ_ERR_FORMAT, "%s: %s: its size overflows 63 bits", c->file->path, c->what);
    return AQ_OK;
}

/* One tensor info; *offset is left to be checked when the start of the data is known. */
static aq_status take_tensor(cursor *c, aq_gguf_tensor *t, uint64_t *offset) {
    uint64_t n_dim, type;
    AQ_TRY(take_name(c, "tensor", MAX_NAME_BYTES, &t->name));
    AQ_TRY(take(c, 4, &n_dim));
    if (n_dim < 1 || n_dim > 4)
        return aq_fail(AQ_ERR_FORMAT, "%s: %s: %llu dimensions, expected 1 to 4", c->file->path,
                       c->what, (ull)n_dim);
    t->n_dim = (int)n_dim;
    for (int i = 0; i < 4; i++) {
        uint64_t ne = 1;
        if (i < t->n_dim) AQ_TRY(take(c, 8, &ne));
        if (ne < 1 || ne > INT64_MAX)
            return aq_fail(AQ_ERR_FORMAT, "%s: %s: dimension %d is %lld, expected at least 1",
                           c->file->path, c->what, i, (long long)ne);
        t->ne[i] = (int64_t)ne;
    }
    AQ_TRY(take(c, 4, &type));
    AQ_TRY(take(c, 8, offset));
    if (!aq_dtype_find((uint32_t)type))
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s: %s: %s is not supported; requantise the model to Q4_K_M", c->file->path,
                       c->what, aq_dtype_any_name((uint32_t)type));
    t->dtype = (aq_dtype)type;
    return size_tensor(c, t);
}

/* The metadata key general.alignment, or the default. */
static aq_status read_alignment(const aq_gguf *file, uint64_t *alignment) {
    static const char key[] = "general.alignment";
    int64_t value = DEFAULT_ALIGNMENT;
    const bool present = aq_name_index_find(&file->key_index, key, sizeof key - 1) >= 0;
    if (present && !aq_gguf_int(file, key, &value))
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s is no integer", file->path, key);
    if (value < 8 || value > MAX_ALIGNMENT || (value & (value - 1)) != 0)
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s is %lld, expected a power of two from 8 to %d",
                       file->path, key, (long long)value, MAX_ALIGNMENT);
    *alignment = (uint64_t)value;
    return AQ_OK;
}

/* Gives each tensor its data: consecutive in file order, each start aligned, all in the file. */
static aq_status place_tensors(cursor *c, aq_gguf *file, const uint64_t *offsets) {
    uint64_t alignment = DEFAULT_ALIGNMENT, next = 0;
    char shown[AQ_GGUF_SHOWN_BYTES];
    AQ_TRY(read_alignment(file, &alignment));
    const uint64_t start = (c->at + alignment - 1) & ~(alignment - 1);
    for (uint64_t i = 0; i < file->n_tensor; i++) {
        aq_gguf_tensor *t = &file->tensors[i];
        const char *name = aq_gguf_show(t->name, shown);
        if (offsets[i] != next)
            return aq_fail(AQ_ERR_FORMAT, "%s: tensor %s: its offset is %llu, expected %llu",
                           file->path, name, (ull)offsets[i], (ull)next);
        if (start > file->bytes || next > file->bytes - start ||
            (uint64_t)t->bytes > file->bytes - start - next)
            return aq_fail(AQ_ERR_FORMAT,
                           "%s is truncated: tensor %s ends at byte %llu, the file has %llu; copy "
                           "or download it again",
                           file->path, name, (ull)(start + next) + (ull)t->bytes, (ull)file->bytes);
        t->data = file->data + start + next;
        next = (next + (uint64_t)t->bytes + alignment - 1) & ~(alignment - 1);
    }
    return AQ_OK;
}

static aq_status take_tensors(cursor *c, aq_gguf *file, uint64_t n_tensor) {
    aq_status status = AQ_OK;
    if (n_tensor > left(c) / MIN_TENSOR_SIZE)
        return aq_fail(AQ_ERR_FORMAT, "%s: %llu tensors do not fit in the %llu bytes left",
                       file->path, (ull)n_tensor, (ull)left(c));
    AQ_TRY(aq_name_index_open(n_tensor, &file->tensor_index));
    file->tensors = calloc((size_t)n_tensor + 1, sizeof *file->tensors);
    uint64_t *offsets = calloc((size_t)n_tensor + 1, sizeof *offsets);
    if (!file->tensors || !offsets)
        status = aq_fail(AQ_ERR_MEMORY, "%s: no memory for its tensor list", file->path);
    for (uint64_t i = 0; status == AQ_OK && i < n_tensor; i++) {
        aq_gguf_tensor *t = &file->tensors[i];
        snprintf(c->what, sizeof c->what, "tensor number %llu", (ull)i);
        status = take_tensor(c, t, &offsets[i]);
        if (status == AQ_OK && !aq_name_index_add(&file->tensor_index, t->name.data,
                                                  (size_t)t->name.bytes, (int64_t)i))
            status = aq_fail(AQ_ERR_FORMAT, "%s: %s is there twice", file->path, c->what);
    }
    if (status == AQ_OK) {
        file->n_tensor = n_tensor;
        status = place_tensors(c, file, offsets);
    }
    free(offsets);
    return status;
}

/* Magic and version. */
static aq_status take_signature(cursor *c) {
    const aq_gguf *file = c->file;
    uint64_t magic, version;
    if (file->bytes == 0) return aq_fail(AQ_ERR_FORMAT, "%s is empty", file->path);
    AQ_TRY(take(c, 4, &magic));
    if (magic != MAGIC)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s is not a GGUF file: it starts with bytes %02x %02x %02x %02x, expected "
                       "47 47 55 46",
                       file->path, file->data[0], file->data[1], file->data[2], file->data[3]);
    AQ_TRY(take(c, 4, &version));
    if (version != 0 && (version & 0xffff) == 0)
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s is a big-endian GGUF file, expected little-endian; convert it anew",
                       file->path);
    if (version != 2 && version != 3)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s has GGUF version %llu, expected 2 or 3%s",
                       file->path, (ull)version, version == 1 ? "; convert it anew" : "");
    return AQ_OK;
}

static aq_status refuse_split(const aq_gguf *file) {
    int64_t n_part;
    if (!aq_gguf_int(file, "split.count", &n_part) || n_part <= 1) return AQ_OK;
    return aq_fail(AQ_ERR_UNSUPPORTED,
                   "%s is one of %lld parts of a split model; join them with llama-gguf-split "
                   "--merge",
                   file->path, (long long)n_part);
}

static aq_status parse(aq_gguf *file) {
    cursor c = {file, 0, "the header"};
    uint64_t n_tensor, n_key;
    AQ_TRY(take_signature(&c));
    AQ_TRY(take(&c, 8, &n_tensor));
    AQ_TRY(take(&c, 8, &n_key));
    AQ_TRY(take_keys(&c, file, n_key));
    AQ_TRY(refuse_split(file));
    return take_tensors(&c, file, n_tensor);
}

/* Takes over the map, also on failure. */
static aq_status open_bytes(const char *path, aq_file_map map, const void *data, uint64_t bytes,
                            aq_gguf **out) {
    aq_gguf *file = calloc(1, sizeof *file);
    char *path_copy = malloc(strlen(path) + 1);
    *out = NULL;
    if (!file || !path_copy) {
        free(file);
        free(path_copy);
        aq_file_map_close(&map);
        return aq_fail(AQ_ERR_MEMORY, "no memory to open %s", path);
    }
    *file = (aq_gguf){.path = strcpy(path_copy, path), .map = map, .data = data, .bytes = bytes};
    const aq_status status = parse(file);
    if (status == AQ_OK)
        *out = file;
    else
        aq_gguf_close(file);
    return status;
}

aq_status aq_gguf_open(const char *path, aq_gguf **out) {
    aq_file_map map;
    *out = NULL;
    AQ_TRY(aq_file_map_open(path, &map));
    return open_bytes(path, map, map.data, map.bytes, out);
}

aq_status aq_gguf_open_memory(const char *path, const void *data, uint64_t bytes, aq_gguf **out) {
    return open_bytes(path, (aq_file_map){NULL, 0}, data, bytes, out);
}

void aq_gguf_close(aq_gguf *file) {
    if (!file) return;
    for (uint64_t i = 0; i < file->n_key; i++)
        free(file->keys[i].texts);
    free(file->keys);
    free(file->tensors);
    aq_name_index_close(&file->key_index);
    aq_name_index_close(&file->tensor_index);
    aq_file_map_close(&file->map);
    free(file->path);
    free(file);
}
