/* NumPy .npy files, as far as needed: token ids in, float matrices out. Format: NumPy's "NPY
 * format" specification; what is written is version 1.0. */
#ifndef AQ_MODEL_NPY_H
#define AQ_MODEL_NPY_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

/* Reads int32 or int64 ids of shape [n] or [1, n], little-endian, C order, versions 1 to 3. The
 * caller frees *ids. AQ_ERR_IO, AQ_ERR_FORMAT (broken, or an element is no id),
 * AQ_ERR_UNSUPPORTED (version, type, order or shape, named), AQ_ERR_MEMORY. Local. */
aq_status aq_npy_read_ids(const char *path, int32_t **ids, int64_t *n);

#define AQ_NPY_HEADER_BYTES 128

/* The header of a float32 matrix [n_row, n_column] in C order; the data follows it. Local. */
void aq_npy_header_f32(int64_t n_row, int64_t n_column, char header[AQ_NPY_HEADER_BYTES]);

#endif
