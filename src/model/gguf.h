/* GGUF model files (versions 2 and 3): mapped read-only, untrusted, fully checked when opened.
 *
 * After aq_gguf_open succeeded every key, string, array and tensor lies inside the file, tensor
 * types are supported, shapes multiply without overflow, and names are unique. Layout:
 * docs/formats.md. */
#ifndef AQ_MODEL_GGUF_H
#define AQ_MODEL_GGUF_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/dtype.h"
#include "src/base/status.h"

typedef struct aq_gguf aq_gguf;

/* Kinds of metadata values, with the numbers the files use. */
typedef enum {
    AQ_GGUF_U8 = 0,
    AQ_GGUF_I8 = 1,
    AQ_GGUF_U16 = 2,
    AQ_GGUF_I16 = 3,
    AQ_GGUF_U32 = 4,
    AQ_GGUF_I32 = 5,
    AQ_GGUF_F32 = 6,
    AQ_GGUF_BOOL = 7,
    AQ_GGUF_STRING = 8,
    AQ_GGUF_ARRAY = 9,
    AQ_GGUF_U64 = 10,
    AQ_GGUF_I64 = 11,
    AQ_GGUF_F64 = 12
} aq_gguf_kind;

/* A string inside the map: not NUL-terminated. */
typedef struct {
    const char *data;
    uint64_t bytes;
} aq_gguf_string;

/* Room for a name in a message. */
#define AQ_GGUF_SHOWN_BYTES 80

/* As much of a string as fits `shown`, with a NUL and without control characters; returns `shown`.
 * For messages: strings of a file are not trusted. Local. */
const char *aq_gguf_show(aq_gguf_string text, char shown[AQ_GGUF_SHOWN_BYTES]);

/* A tensor. ne[0] is the contiguous dimension: a weight [n_out, n_in] has ne = {n_in, n_out, 1, 1}.
 */
typedef struct {
    aq_gguf_string name;
    aq_dtype dtype;
    int n_dim;
    int64_t ne[4];
    const void *data; /* in the map */
    int64_t bytes;
} aq_gguf_tensor;

/* Opens and checks a file. One clear line on failure, naming the file and what was expected:
 * AQ_ERR_IO, AQ_ERR_FORMAT (truncated, garbled), AQ_ERR_UNSUPPORTED (version, tensor type),
 * AQ_ERR_MEMORY. The caller closes *out. Local. */
aq_status aq_gguf_open(const char *path, aq_gguf **out);

/* The same checks over `bytes` bytes at `data`, which the caller keeps, 8-byte aligned; `path` is
 * for messages only. For tests and fuzzing. Local. */
aq_status aq_gguf_open_memory(const char *path, const void *data, uint64_t bytes, aq_gguf **out);

/* Unmaps; NULL is allowed. Local. */
void aq_gguf_close(aq_gguf *file);

const char *aq_gguf_path(const aq_gguf *file);

/* Whether the key is there, of any kind. Local. */
bool aq_gguf_has(const aq_gguf *file, const char *key);

/* Look-ups by key. The bool ones return false if the key is absent; a key of another kind than
 * asked counts as absent, but any integer type serves as an integer (an unsigned one past INT64_MAX
 * is given as INT64_MAX), and f64 or an integer as a float. Local. */
bool aq_gguf_int(const aq_gguf *file, const char *key, int64_t *out);
bool aq_gguf_float(const aq_gguf *file, const char *key, double *out);
bool aq_gguf_bool(const aq_gguf *file, const char *key, bool *out);
bool aq_gguf_text(const aq_gguf *file, const char *key, aq_gguf_string *out);

/* Arrays: the number of elements, -1 if the key is absent or no array of that kind; then element i,
 * 0 <= i < n, in constant time. Local. */
int64_t aq_gguf_string_count(const aq_gguf *file, const char *key);
int64_t aq_gguf_int_count(const aq_gguf *file, const char *key);
int64_t aq_gguf_float_count(const aq_gguf *file, const char *key);
aq_gguf_string aq_gguf_string_at(const aq_gguf *file, const char *key, int64_t i);
int64_t aq_gguf_int_at(const aq_gguf *file, const char *key, int64_t i);
double aq_gguf_float_at(const aq_gguf *file, const char *key, int64_t i);

/* Tensors, in file order in one array, and by name (NULL if absent). Owned by the file. Local. */
int64_t aq_gguf_tensor_count(const aq_gguf *file);
const aq_gguf_tensor *aq_gguf_tensor_at(const aq_gguf *file, int64_t i);
const aq_gguf_tensor *aq_gguf_tensor_find(const aq_gguf *file, const char *name);

/* Metadata in file order for `info`: key i and its value as text ("[49152 strings]" for arrays).
 * The text is cut to fit `bytes`. Local. */
int64_t aq_gguf_key_count(const aq_gguf *file);
void aq_gguf_key_describe(const aq_gguf *file, int64_t i, aq_gguf_string *key, char *text,
                          size_t bytes);

#endif
