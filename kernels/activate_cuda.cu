/* Activation on CUDA. Contract: activate.h. */
#include "kernels/cuda_activate_parts.h"
#include "kernels/cuda_model_parts.h"
#include "kernels/cuda_reduce_parts.h"

#define THREADS 256

__global__ static void activate_kernel(const aq_activate_args a) {
    const int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i >= a.n) return;
    const float up = a.up ? a.up[i] : 1.0f;
    a.y[i] = aq_activated(a.kind, a.x[i]) * up;
}

void aq_activate_cuda(aq_backend *be, const aq_activate_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (args->n == 0) return;
    activate_kernel<<<(unsigned)aq_blocks_of(args->n, THREADS), THREADS, 0, cuda->stream>>>(*args);
    aq_cuda_check(cuda, "activate");
}
