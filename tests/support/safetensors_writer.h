/* Writes safetensors files, good and broken ones, for tests of readers. */
#ifndef AQ_TESTS_SUPPORT_SAFETENSORS_WRITER_H
#define AQ_TESTS_SUPPORT_SAFETENSORS_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

typedef struct {
    char *header; /* entries so far, without the braces */
    size_t header_bytes, header_room;
    uint8_t *data;
    size_t data_bytes, data_room;
    int pad;          /* blanks behind the header; -1: up to a multiple of 8 */
    const char *skip; /* a tensor that is left out, or NULL */
    bool failed;      /* out of memory */
} aq_safetensors_writer;

/* An empty file, padded as the format's own library does. End it with close. Local. */
aq_safetensors_writer aq_safetensors_writer_make(void);
void aq_safetensors_writer_close(aq_safetensors_writer *w);

/* Adds a tensor behind the ones before. `dtype` and the shape are written as they are. Local. */
void aq_safetensors_put(aq_safetensors_writer *w, const char *name, const char *dtype, int n_dim,
                        const int64_t *shape, const void *data, size_t bytes);

/* The file in fresh memory that the caller frees. AQ_ERR_MEMORY. Local. */
aq_status aq_safetensors_writer_finish(const aq_safetensors_writer *w, uint8_t **data,
                                       size_t *bytes);

/* A file with this header and n_data bytes of data, 0, 1, 2, ...; the same. Local. */
aq_status aq_safetensors_raw(const char *header, size_t n_data, uint8_t **data, size_t *bytes);

#endif
