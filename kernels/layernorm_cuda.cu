/* Layer norm on CUDA: a block for each token. Contract: layernorm.h. */
#include "kernels/cuda_model_parts.h"
#include "kernels/cuda_reduce_parts.h"

#define THREADS 256

__global__ static void layernorm_kernel(const aq_layernorm_args a) {
    __shared__ float mean_part[AQ_MAX_WARP], var_part[AQ_MAX_WARP];
    const float *x = a.x + blockIdx.x * a.d_model;
    float *y = a.y + blockIdx.x * a.d_model;
    float sum = 0.0f, squares = 0.0f;
    for (int64_t i = threadIdx.x; i < a.d_model; i += THREADS)
        sum += x[i];
    const float mean = aq_block_sum(sum, mean_part) / (float)a.d_model;
    for (int64_t i = threadIdx.x; i < a.d_model; i += THREADS)
        squares = fmaf(x[i] - mean, x[i] - mean, squares);
    const float var = aq_block_sum(squares, var_part) / (float)a.d_model;
    const float scale = 1.0f / sqrtf(var + a.eps);
    for (int64_t i = threadIdx.x; i < a.d_model; i += THREADS) {
        float norm = (x[i] - mean) * scale * a.w[i];
        if (a.b) norm += a.b[i];
        y[i] = a.accumulate ? y[i] + norm : norm;
    }
}

void aq_layernorm_cuda(aq_backend *be, const aq_layernorm_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (args->n_tok == 0) return;
    layernorm_kernel<<<(unsigned)args->n_tok, THREADS, 0, cuda->stream>>>(*args);
    aq_cuda_check(cuda, "layernorm");
}
