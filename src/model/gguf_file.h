/* Private to gguf.c and gguf_lookup.c: an opened file as its parts. */
#ifndef AQ_MODEL_GGUF_FILE_H
#define AQ_MODEL_GGUF_FILE_H

#include "src/base/file.h"
#include "src/model/gguf.h"
#include "src/model/name_index.h"

/* One key of the metadata. */
typedef struct {
    aq_gguf_string name;
    aq_gguf_kind kind; /* of the value; of the elements if is_array */
    bool is_array;
    uint64_t n;            /* elements; 1 unless is_array */
    const uint8_t *value;  /* the first element, in the map, not aligned */
    const uint8_t **texts; /* [n] each string's length word; NULL unless an array of strings */
} aq_gguf_entry;

struct aq_gguf {
    char *path;
    aq_file_map map; /* empty if the bytes are the caller's */
    const uint8_t *data;
    uint64_t bytes;
    aq_gguf_entry *keys; /* [n_key] */
    uint64_t n_key;
    aq_gguf_tensor *tensors; /* [n_tensor] */
    uint64_t n_tensor;
    aq_name_index key_index;
    aq_name_index tensor_index;
};

/* A little-endian number of n_byte bytes, not aligned. */
static inline uint64_t aq_gguf_load(const uint8_t *at, int n_byte) {
    uint64_t value = 0;
    for (int i = n_byte - 1; i >= 0; i--)
        value = value << 8 | at[i];
    return value;
}

/* The string whose length word stands at `at`. */
static inline aq_gguf_string aq_gguf_load_string(const uint8_t *at) {
    return (aq_gguf_string){(const char *)at + 8, aq_gguf_load(at, 8)};
}

/* Bytes of one value of a kind of fixed size; 0 for strings, arrays and unknown kinds. */
static inline int aq_gguf_kind_bytes(aq_gguf_kind kind) {
    switch (kind) {
    case AQ_GGUF_U8:
    case AQ_GGUF_I8:
    case AQ_GGUF_BOOL:
        return 1;
    case AQ_GGUF_U16:
    case AQ_GGUF_I16:
        return 2;
    case AQ_GGUF_U32:
    case AQ_GGUF_I32:
    case AQ_GGUF_F32:
        return 4;
    case AQ_GGUF_U64:
    case AQ_GGUF_I64:
    case AQ_GGUF_F64:
        return 8;
    default:
        return 0;
    }
}

#endif
