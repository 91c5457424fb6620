/* Look-ups in an opened file. Everything was checked by gguf.c; nothing here can fail. */
#include <stdio.h>
#include <string.h>

#include "src/model/gguf.h"
#include "src/model/gguf_file.h"

static bool is_integer(aq_gguf_kind kind) {
    return kind <= AQ_GGUF_I32 || kind == AQ_GGUF_U64 || kind == AQ_GGUF_I64;
}

static bool is_number(aq_gguf_kind kind) {
    return is_integer(kind) || kind == AQ_GGUF_F32 || kind == AQ_GGUF_F64;
}

static bool is_string(aq_gguf_kind kind) {
    return kind == AQ_GGUF_STRING;
}

static bool is_bool(aq_gguf_kind kind) {
    return kind == AQ_GGUF_BOOL;
}

/* The entry of a key if it is (no) array of an accepted kind, or NULL. */
static const aq_gguf_entry *find(const aq_gguf *file, const char *key, bool is_array,
                                 bool (*accepts)(aq_gguf_kind)) {
    const int64_t i = aq_name_index_find(&file->key_index, key, strlen(key));
    if (i < 0) return NULL;
    const aq_gguf_entry *entry = &file->keys[i];
    return entry->is_array == is_array && accepts(entry->kind) ? entry : NULL;
}

/* Element i of an integer kind; unsigned numbers past INT64_MAX are given as INT64_MAX. */
static int64_t integer_at(const aq_gguf_entry *entry, int64_t i) {
    const int size = aq_gguf_kind_bytes(entry->kind);
    const uint64_t bits = aq_gguf_load(entry->value + i * size, size);
    switch (entry->kind) {
    case AQ_GGUF_I8:
        return (int8_t)bits;
    case AQ_GGUF_I16:
        return (int16_t)bits;
    case AQ_GGUF_I32:
        return (int32_t)bits;
    case AQ_GGUF_I64:
        return (int64_t)bits;
    default:
        return bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
    }
}

static double number_at(const aq_gguf_entry *entry, int64_t i) {
    if (entry->kind == AQ_GGUF_F32) {
        const uint32_t bits = (uint32_t)aq_gguf_load(entry->value + 4 * i, 4);
        float value;
        memcpy(&value, &bits, sizeof value);
        return (double)value;
    }
    if (entry->kind == AQ_GGUF_F64) {
        const uint64_t bits = aq_gguf_load(entry->value + 8 * i, 8);
        double value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    return (double)integer_at(entry, i);
}

const char *aq_gguf_path(const aq_gguf *file) {
    return file->path;
}

bool aq_gguf_has(const aq_gguf *file, const char *key) {
    return aq_name_index_find(&file->key_index, key, strlen(key)) >= 0;
}

bool aq_gguf_int(const aq_gguf *file, const char *key, int64_t *out) {
    const aq_gguf_entry *entry = find(file, key, false, is_integer);
    if (entry) *out = integer_at(entry, 0);
    return entry != NULL;
}

bool aq_gguf_float(const aq_gguf *file, const char *key, double *out) {
    const aq_gguf_entry *entry = find(file, key, false, is_number);
    if (entry) *out = number_at(entry, 0);
    return entry != NULL;
}

bool aq_gguf_bool(const aq_gguf *file, const char *key, bool *out) {
    const aq_gguf_entry *entry = find(file, key, false, is_bool);
    if (entry) *out = entry->value[0] != 0;
    return entry != NULL;
}

bool aq_gguf_text(const aq_gguf *file, const char *key, aq_gguf_string *out) {
    const aq_gguf_entry *entry = find(file, key, false, is_string);
    if (entry) *out = aq_gguf_load_string(entry->value);
    return entry != NULL;
}

int64_t aq_gguf_string_count(const aq_gguf *file, const char *key) {
    const aq_gguf_entry *entry = find(file, key, true, is_string);
    return entry ? (int64_t)entry->n : -1;
}

int64_t aq_gguf_int_count(const aq_gguf *file, const char *key) {
    const aq_gguf_entry *entry = find(file, key, true, is_integer);
    return entry ? (int64_t)entry->n : -1;
}

int64_t aq_gguf_float_count(const aq_gguf *file, const char *key) {
    const aq_gguf_entry *entry = find(file, key, true, is_number);
    return entry ? (int64_t)entry->n : -1;
}

aq_gguf_string aq_gguf_string_at(const aq_gguf *file, const char *key, int64_t i) {
    return aq_gguf_load_string(find(file, key, true, is_string)->texts[i]);
}

int64_t aq_gguf_int_at(const aq_gguf *file, const char *key, int64_t i) {
    return integer_at(find(file, key, true, is_integer), i);
}

double aq_gguf_float_at(const aq_gguf *file, const char *key, int64_t i) {
    return number_at(find(file, key, true, is_number), i);
}

int64_t aq_gguf_tensor_count(const aq_gguf *file) {
    return (int64_t)file->n_tensor;
}

const aq_gguf_tensor *aq_gguf_tensor_at(const aq_gguf *file, int64_t i) {
    return &file->tensors[i];
}

const aq_gguf_tensor *aq_gguf_tensor_find(const aq_gguf *file, const char *name) {
    const int64_t i = aq_name_index_find(&file->tensor_index, name, strlen(name));
    return i < 0 ? NULL : &file->tensors[i];
}

int64_t aq_gguf_key_count(const aq_gguf *file) {
    return (int64_t)file->n_key;
}

/* As much of a string as fits, control characters replaced: it may go to a terminal. */
static void show(aq_gguf_string text, char *shown, size_t bytes) {
    const size_t n = text.bytes < bytes - 1 ? (size_t)text.bytes : bytes - 1;
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text.data[i];
        shown[i] = c < 32 || c == 127 ? '?' : text.data[i];
    }
    shown[n] = '\0';
}

const char *aq_gguf_show(aq_gguf_string text, char shown[AQ_GGUF_SHOWN_BYTES]) {
    show(text, shown, AQ_GGUF_SHOWN_BYTES);
    return shown;
}

void aq_gguf_key_describe(const aq_gguf *file, int64_t i, aq_gguf_string *key, char *text,
                          size_t bytes) {
    const aq_gguf_entry *entry = &file->keys[i];
    *key = entry->name;
    if (entry->is_array)
        snprintf(text, bytes, "[%llu %s]", (unsigned long long)entry->n,
                 is_string(entry->kind)    ? "strings"
                 : is_bool(entry->kind)    ? "truth values"
                 : is_integer(entry->kind) ? "integers"
                                           : "numbers");
    else if (is_string(entry->kind))
        show(aq_gguf_load_string(entry->value), text, bytes);
    else if (is_bool(entry->kind))
        snprintf(text, bytes, "%s", entry->value[0] ? "true" : "false");
    else if (is_integer(entry->kind))
        snprintf(text, bytes, "%lld", (long long)integer_at(entry, 0));
    else
        snprintf(text, bytes, "%g", number_at(entry, 0));
}
