/* Product with a stored weight on CUDA: one of several with the same tokens. Contract: matmul.h. */
#include "kernels/cuda_model_parts.h"

void aq_matmul_cuda(aq_backend *be, const aq_matmul_args *args) {
    aq_matmul_part part = {};
    part.w = args->w;
    part.dtype = args->dtype;
    part.n_out = args->n_out;
    part.y = args->y;
    part.accumulate = args->accumulate;
    aq_matmul_each_args each = {};
    each.parts = &part;
    each.n_part = 1;
    each.n_in = args->n_in;
    each.n_tok = args->n_tok;
    each.x = args->x;
    aq_matmul_each_cuda(be, &each);
}
