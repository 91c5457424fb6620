/* A tensor of a model file, the same for every format. */
#ifndef AQ_MODEL_TENSOR_H
#define AQ_MODEL_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/dtype.h"

#define AQ_TENSOR_DIMS 4

typedef struct {
    const char *name; /* not NUL-terminated, not trusted: show it with aq_gguf_show */
    size_t name_bytes;
    const char *type;              /* what the file calls the type of its elements: "BF16", "I64" */
    aq_dtype dtype;                /* only if readable */
    bool readable;                 /* false: a type that no weight may have */
    int n_dim;                     /* 0: one element */
    int64_t shape[AQ_TENSOR_DIMS]; /* outermost first: a matrix is [n_out, n_in]; 1 past n_dim */
    const void *data;              /* in the map; aligned to nothing in safetensors */
    int64_t bytes;
    const char *path; /* of the file it lies in */
} aq_tensor;

#endif
