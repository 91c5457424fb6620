/* Root-mean-square norm on CUDA: a block for each token. Contract: rmsnorm.h. */
#include "kernels/cuda_model_parts.h"
#include "kernels/cuda_reduce_parts.h"

#define THREADS 256

__global__ static void rmsnorm_kernel(const aq_rmsnorm_args a) {
    __shared__ float part[AQ_MAX_WARP];
    const float *x = a.x + blockIdx.x * a.d_model;
    float *y = a.y + blockIdx.x * a.d_model;
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < a.d_model; i += THREADS)
        sum = fmaf(x[i], x[i], sum);
    const float mean = aq_block_sum(sum, part) / (float)a.d_model;
    const float scale = 1.0f / sqrtf(mean + a.eps);
    for (int64_t i = threadIdx.x; i < a.d_model; i += THREADS) {
        const float norm = x[i] * scale * a.w[i];
        y[i] = a.accumulate ? y[i] + norm : norm;
    }
}

void aq_rmsnorm_cuda(aq_backend *be, const aq_rmsnorm_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (args->n_tok == 0) return;
    rmsnorm_kernel<<<(unsigned)args->n_tok, THREADS, 0, cuda->stream>>>(*args);
    aq_cuda_check(cuda, "rmsnorm");
}
