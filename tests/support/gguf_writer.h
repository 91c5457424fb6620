/* Makes GGUF files for tests, good and broken ones.
 *
 * Keys and tensors are appended in the order of the calls; finish puts header, keys, tensor infos
 * and data together. Nothing is checked: the caller may change the public fields between calls to
 * break a file. Out of memory is remembered and told by finish. */
#ifndef AQ_TESTS_SUPPORT_GGUF_WRITER_H
#define AQ_TESTS_SUPPORT_GGUF_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/model/gguf.h"

/* A growing block of bytes. */
typedef struct {
    uint8_t *data;
    size_t bytes;
    size_t capacity;
} aq_byte_buffer;

typedef struct {
    /* What the header will say; counts are kept by the put functions. */
    uint32_t magic;
    uint32_t version;
    uint64_t n_key;
    uint64_t n_tensor;
    /* Padding of the data section and of each tensor. Not written: put the key
     * general.alignment as well if it is not 32. */
    uint64_t alignment;
    /* Added to the offset written for tensors put from now on. */
    int64_t offset_shift;
    /* Keys and tensors of this name are left out from now on, so that a test can put its own in
     * front of aq_tiny_model_put. NULL: none. */
    const char *skip;

    aq_byte_buffer keys;
    aq_byte_buffer infos;
    aq_byte_buffer data;
    bool failed;
} aq_gguf_writer;

/* An empty version 3 file. End it with aq_gguf_writer_close. Local. */
aq_gguf_writer aq_gguf_writer_make(void);
void aq_gguf_writer_close(aq_gguf_writer *w);

/* One key each; `kind` is an integer kind, or AQ_GGUF_F32 or AQ_GGUF_F64. Local. */
void aq_gguf_put_int(aq_gguf_writer *w, const char *key, aq_gguf_kind kind, int64_t value);
void aq_gguf_put_float(aq_gguf_writer *w, const char *key, aq_gguf_kind kind, double value);
void aq_gguf_put_bool(aq_gguf_writer *w, const char *key, bool value);
void aq_gguf_put_text(aq_gguf_writer *w, const char *key, const char *text);
void aq_gguf_put_ints(aq_gguf_writer *w, const char *key, aq_gguf_kind kind, const int64_t *values,
                      int64_t n);
void aq_gguf_put_floats(aq_gguf_writer *w, const char *key, aq_gguf_kind kind, const double *values,
                        int64_t n);
void aq_gguf_put_texts(aq_gguf_writer *w, const char *key, const char *const *texts, int64_t n);

/* A key of any kind number with any bytes as its value. Local. */
void aq_gguf_put_raw(aq_gguf_writer *w, const char *key, uint32_t kind, const void *value,
                     size_t bytes);

/* A tensor of any type number and shape with `bytes` bytes of data. Local. */
void aq_gguf_put_tensor(aq_gguf_writer *w, const char *name, uint32_t type, int n_dim,
                        const int64_t *ne, const void *data, size_t bytes);

/* The whole file in fresh memory, which the caller frees. AQ_ERR_MEMORY. Local. */
aq_status aq_gguf_writer_finish(const aq_gguf_writer *w, uint8_t **data, size_t *bytes);

/* The file opened, over fresh memory that the caller frees after closing it. Ends the writer. On
 * failure both are NULL. AQ_ERR_MEMORY, AQ_ERR_FORMAT. Local. */
aq_status aq_gguf_writer_open(aq_gguf_writer *w, uint8_t **data, aq_gguf **out);

/* The whole file at `path`. AQ_ERR_IO, AQ_ERR_MEMORY. Local. */
aq_status aq_gguf_writer_save(const aq_gguf_writer *w, const char *path);

#endif
