/* Bias on CUDA. Contract: add_bias.h. */
#include "kernels/cuda_model_parts.h"
#include "kernels/cuda_reduce_parts.h"

#define THREADS 256

__global__ static void add_bias_kernel(const aq_add_bias_args a) {
    const int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i < a.n_tok * a.width) a.y[i] += a.b[i % a.width];
}

void aq_add_bias_cuda(aq_backend *be, const aq_add_bias_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    const int64_t n = args->n_tok * args->width;
    if (n == 0) return;
    add_bias_kernel<<<(unsigned)aq_blocks_of(n, THREADS), THREADS, 0, cuda->stream>>>(*args);
    aq_cuda_check(cuda, "add_bias");
}
