/* Private to kernels/: how matmul_each_cuda.cu shares its work. */
#ifndef AQ_KERNELS_CUDA_MATMUL_PARTS_H
#define AQ_KERNELS_CUDA_MATMUL_PARTS_H

#include "kernels/cuda_parts.h"
#include "kernels/matmul.h"

#define AQ_CUDA_FEW_TOKS  AQ_MATMUL_EXACT_TOKS
#define AQ_CUDA_FEW_PARTS 4

/* Products of few tokens with parts of one dtype, biases and, if `activated`, the activation of the
 * first part or of the first with the second; at most AQ_CUDA_FEW_TOKS and AQ_CUDA_FEW_PARTS. */
typedef struct {
    aq_matmul_part parts[AQ_CUDA_FEW_PARTS];
    int n_part;
    int64_t n_in, row_bytes;
    int n_tok;
    const float *x;
    bool activated;
    aq_activate_kind activation;
} aq_cuda_few_args;

/* The same with sums over the weights as they are stored (matmul_few_cuda.cu). */
void aq_cuda_matmul_few(aq_cuda *cuda, const aq_cuda_few_args *args);

/* y of every part, without bias or activation, through panels of 16-bit floats
 * (matmul_many_cuda.cu). */
void aq_cuda_matmul_many(aq_cuda *cuda, const aq_matmul_each_args *args);

#endif
