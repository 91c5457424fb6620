/* safetensors files: mapped read-only, untrusted, fully checked when opened.
 *
 * A file is u64 N, N bytes of JSON that begin with `{`, then data:
 *     {"NAME": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, "__metadata__": {...}}
 * Offsets count from the end of the JSON. After aq_safetensors_open succeeded names are unique,
 * sizes are the products of shapes, and the tensors cover the data without hole or overlap. */
#ifndef AQ_MODEL_SAFETENSORS_H
#define AQ_MODEL_SAFETENSORS_H

#include "src/base/status.h"
#include "src/model/tensor.h"

typedef struct aq_safetensors aq_safetensors;

#define AQ_SAFETENSORS_MAX_HEADER 100000000

/* Opens and checks a file. One clear line on failure, naming file, tensor and what was expected:
 * AQ_ERR_IO, AQ_ERR_FORMAT (truncated, garbled), AQ_ERR_UNSUPPORTED (unknown type of elements,
 * more than AQ_TENSOR_DIMS dimensions), AQ_ERR_MEMORY. Types that are known but no weight may have
 * (I64, say) are allowed here: see aq_tensor.readable. The caller closes *out. Local. */
aq_status aq_safetensors_open(const char *path, aq_safetensors **out);

/* The same checks over `bytes` bytes at `data`, which the caller keeps; `path` is for messages
 * only. For tests and fuzzing. Local. */
aq_status aq_safetensors_open_memory(const char *path, const void *data, uint64_t bytes,
                                     aq_safetensors **out);

/* Unmaps; NULL is allowed. Local. */
void aq_safetensors_close(aq_safetensors *file);

/* Tensors in the order of their data. Owned by the file. Local. */
int64_t aq_safetensors_count(const aq_safetensors *file);
const aq_tensor *aq_safetensors_at(const aq_safetensors *file, int64_t i);

#endif
