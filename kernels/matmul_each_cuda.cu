/* Products with the same tokens on CUDA. Contract: matmul_each.h.
 *
 * Few tokens: parts of one dtype that follow each other are one launch, which adds the biases and,
 * where it has all parts, activates. Many: products, then biases and activation each on its own. */
#include "kernels/cuda_matmul_parts.h"
#include "kernels/cuda_model_parts.h"

static void activate(aq_backend *be, const aq_matmul_each_args *a) {
    aq_activate_args args = {};
    args.kind = a->activation;
    args.x = a->parts[0].y;
    args.up = a->n_part > 1 ? a->parts[1].y : nullptr;
    args.n = a->n_tok * a->parts[0].n_out;
    args.y = a->parts[0].y;
    aq_activate_cuda(be, &args);
}

static void few(aq_backend *be, const aq_matmul_each_args *a) {
    bool activated = false;
    for (int p = 0; p < a->n_part;) {
        aq_cuda_few_args run = {};
        const aq_dtype dtype = a->parts[p].dtype;
        while (p < a->n_part && run.n_part < AQ_CUDA_FEW_PARTS && a->parts[p].dtype == dtype)
            run.parts[run.n_part++] = a->parts[p++];
        run.n_in = a->n_in;
        run.row_bytes = aq_dtype_row_bytes(dtype, a->n_in);
        run.n_tok = (int)a->n_tok;
        run.x = a->x;
        run.activated = activated = a->activated && run.n_part == a->n_part;
        run.activation = a->activation;
        aq_cuda_matmul_few(aq_cuda_of(be), &run);
    }
    if (a->activated && !activated) activate(be, a);
}

static void many(aq_backend *be, const aq_matmul_each_args *a) {
    aq_cuda_matmul_many(aq_cuda_of(be), a);
    for (int p = 0; p < a->n_part; p++) {
        const aq_matmul_part *part = &a->parts[p];
        const aq_add_bias_args bias = {part->b, a->n_tok, part->n_out, part->y};
        if (part->b) aq_add_bias_cuda(be, &bias);
    }
    if (a->activated) activate(be, a);
}

void aq_matmul_each_cuda(aq_backend *be, const aq_matmul_each_args *args) {
    if (args->n_tok == 0) return;
    if (args->n_tok <= AQ_CUDA_FEW_TOKS)
        few(be, args);
    else
        many(be, args);
}
