#include "tests/support/gguf_writer.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"

/* Appends `bytes` bytes, zeros if data is NULL. */
static void push(aq_gguf_writer *w, aq_byte_buffer *to, const void *data, size_t bytes) {
    if (bytes == 0 || w->failed) return;
    if (to->capacity - to->bytes < bytes) {
        size_t capacity = 2 * to->capacity + bytes + 256;
        uint8_t *larger = realloc(to->data, capacity);
        w->failed = !larger;
        if (!larger) return;
        to->data = larger;
        to->capacity = capacity;
    }
    if (data)
        memcpy(to->data + to->bytes, data, bytes);
    else
        memset(to->data + to->bytes, 0, bytes);
    to->bytes += bytes;
}

/* The low n_byte bytes of a number, lowest first. */
static void push_number(aq_gguf_writer *w, aq_byte_buffer *to, uint64_t value, int n_byte) {
    uint8_t bytes[8];
    for (int i = 0; i < n_byte; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    push(w, to, bytes, (size_t)n_byte);
}

static void push_text(aq_gguf_writer *w, aq_byte_buffer *to, const char *text) {
    push_number(w, to, strlen(text), 8);
    push(w, to, text, strlen(text));
}

static int kind_bytes(aq_gguf_kind kind) {
    switch (kind) {
    case AQ_GGUF_U8:
    case AQ_GGUF_I8:
    case AQ_GGUF_BOOL:
        return 1;
    case AQ_GGUF_U16:
    case AQ_GGUF_I16:
        return 2;
    case AQ_GGUF_U64:
    case AQ_GGUF_I64:
    case AQ_GGUF_F64:
        return 8;
    default:
        return 4;
    }
}

static void push_float(aq_gguf_writer *w, aq_byte_buffer *to, aq_gguf_kind kind, double value) {
    const float single = (float)value;
    uint64_t bits = 0;
    if (kind == AQ_GGUF_F64) {
        memcpy(&bits, &value, sizeof value);
    } else {
        uint32_t low;
        memcpy(&low, &single, sizeof low);
        bits = low;
    }
    push_number(w, to, bits, kind_bytes(kind));
}

static bool skipped(const aq_gguf_writer *w, const char *name) {
    return w->skip && strcmp(w->skip, name) == 0;
}

/* Starts a key; false if it is to be left out. */
static bool push_key(aq_gguf_writer *w, const char *key, uint32_t kind) {
    if (skipped(w, key)) return false;
    w->n_key++;
    push_text(w, &w->keys, key);
    push_number(w, &w->keys, kind, 4);
    return true;
}

static bool push_array(aq_gguf_writer *w, const char *key, aq_gguf_kind kind, int64_t n) {
    if (!push_key(w, key, AQ_GGUF_ARRAY)) return false;
    push_number(w, &w->keys, kind, 4);
    push_number(w, &w->keys, (uint64_t)n, 8);
    return true;
}

aq_gguf_writer aq_gguf_writer_make(void) {
    return (aq_gguf_writer){.magic = 0x46554747, .version = 3, .alignment = 32};
}

void aq_gguf_writer_close(aq_gguf_writer *w) {
    free(w->keys.data);
    free(w->infos.data);
    free(w->data.data);
    *w = aq_gguf_writer_make();
}

void aq_gguf_put_int(aq_gguf_writer *w, const char *key, aq_gguf_kind kind, int64_t value) {
    if (push_key(w, key, kind)) push_number(w, &w->keys, (uint64_t)value, kind_bytes(kind));
}

void aq_gguf_put_float(aq_gguf_writer *w, const char *key, aq_gguf_kind kind, double value) {
    if (push_key(w, key, kind)) push_float(w, &w->keys, kind, value);
}

void aq_gguf_put_bool(aq_gguf_writer *w, const char *key, bool value) {
    aq_gguf_put_int(w, key, AQ_GGUF_BOOL, value);
}

void aq_gguf_put_text(aq_gguf_writer *w, const char *key, const char *text) {
    if (push_key(w, key, AQ_GGUF_STRING)) push_text(w, &w->keys, text);
}

void aq_gguf_put_ints(aq_gguf_writer *w, const char *key, aq_gguf_kind kind, const int64_t *values,
                      int64_t n) {
    if (!push_array(w, key, kind, n)) return;
    for (int64_t i = 0; i < n; i++)
        push_number(w, &w->keys, (uint64_t)values[i], kind_bytes(kind));
}

void aq_gguf_put_floats(aq_gguf_writer *w, const char *key, aq_gguf_kind kind, const double *values,
                        int64_t n) {
    if (!push_array(w, key, kind, n)) return;
    for (int64_t i = 0; i < n; i++)
        push_float(w, &w->keys, kind, values[i]);
}

void aq_gguf_put_texts(aq_gguf_writer *w, const char *key, const char *const *texts, int64_t n) {
    if (!push_array(w, key, AQ_GGUF_STRING, n)) return;
    for (int64_t i = 0; i < n; i++)
        push_text(w, &w->keys, texts[i]);
}

void aq_gguf_put_raw(aq_gguf_writer *w, const char *key, uint32_t kind, const void *value,
                     size_t bytes) {
    if (push_key(w, key, kind)) push(w, &w->keys, value, bytes);
}

static size_t padding(size_t bytes, uint64_t alignment) {
    return (size_t)((alignment - bytes % alignment) % alignment);
}

void aq_gguf_put_tensor(aq_gguf_writer *w, const char *name, uint32_t type, int n_dim,
                        const int64_t *ne, const void *data, size_t bytes) {
    if (skipped(w, name)) return;
    w->n_tensor++;
    push_text(w, &w->infos, name);
    push_number(w, &w->infos, (uint64_t)n_dim, 4);
    for (int i = 0; i < n_dim; i++)
        push_number(w, &w->infos, (uint64_t)ne[i], 8);
    push_number(w, &w->infos, type, 4);
    push_number(w, &w->infos, w->data.bytes + (uint64_t)w->offset_shift, 8);
    push(w, &w->data, data, bytes);
    push(w, &w->data, NULL, padding(w->data.bytes, w->alignment));
}

aq_status aq_gguf_writer_finish(const aq_gguf_writer *w, uint8_t **data, size_t *bytes) {
    aq_gguf_writer all = {.failed = w->failed};
    push_number(&all, &all.data, w->magic, 4);
    push_number(&all, &all.data, w->version, 4);
    push_number(&all, &all.data, w->n_tensor, 8);
    push_number(&all, &all.data, w->n_key, 8);
    push(&all, &all.data, w->keys.data, w->keys.bytes);
    push(&all, &all.data, w->infos.data, w->infos.bytes);
    if (w->data.bytes > 0) push(&all, &all.data, NULL, padding(all.data.bytes, w->alignment));
    push(&all, &all.data, w->data.data, w->data.bytes);
    *data = all.data.data;
    *bytes = all.data.bytes;
    if (!all.failed) return AQ_OK;
    free(all.data.data);
    *data = NULL;
    return aq_fail(AQ_ERR_MEMORY, "no memory to build a GGUF file");
}

aq_status aq_gguf_writer_open(aq_gguf_writer *w, uint8_t **data, aq_gguf **out) {
    size_t bytes = 0;
    *data = NULL;
    *out = NULL;
    aq_status status = aq_gguf_writer_finish(w, data, &bytes);
    if (status == AQ_OK) status = aq_gguf_open_memory("model.gguf", *data, bytes, out);
    if (status != AQ_OK) {
        free(*data);
        *data = NULL;
    }
    aq_gguf_writer_close(w);
    return status;
}

aq_status aq_gguf_writer_save(const aq_gguf_writer *w, const char *path) {
    uint8_t *data = NULL;
    size_t bytes = 0;
    AQ_TRY(aq_gguf_writer_finish(w, &data, &bytes));
    const aq_status status = aq_file_write(path, data, bytes);
    free(data);
    return status;
}
