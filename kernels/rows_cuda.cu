/* Rows by index on CUDA. Contract: rows.h. */
#include "kernels/cuda_model_parts.h"

#define THREADS 256

__global__ static void gather_kernel(const aq_gather_rows_args a) {
    const float *x = a.x + a.index[blockIdx.x] * a.width;
    float *out = a.out + blockIdx.x * a.width;
    for (int64_t k = threadIdx.x; k < a.width; k += THREADS)
        out[k] = x[k];
}

/* The block of the first row of an index adds all rows of that index, in rising order; the blocks
 * of the others have nothing to do. */
__global__ static void scatter_kernel(const aq_scatter_add_rows_args a) {
    const int64_t first = blockIdx.x;
    const int32_t to = a.index[first];
    bool before = false;
    int64_t last = first;
    for (int64_t i = threadIdx.x; i < a.n_row; i += THREADS) {
        const bool same = a.index[i] == to;
        before = before || (same && i < first);
        if (same && i > first) last = i;
    }
    if (__syncthreads_or(before)) return;
    const bool alone = !__syncthreads_or(last > first);
    for (int64_t k = threadIdx.x; k < a.width; k += THREADS) {
        float sum = a.y[to * a.width + k];
        for (int64_t i = first; i < (alone ? first + 1 : a.n_row); i++)
            if (a.index[i] == to) sum = __fadd_rn(sum, __fmul_rn(a.scale[i], a.x[i * a.width + k]));
        a.y[to * a.width + k] = sum;
    }
}

void aq_gather_rows_cuda(aq_backend *be, const aq_gather_rows_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (args->n_row == 0) return;
    gather_kernel<<<(unsigned)args->n_row, THREADS, 0, cuda->stream>>>(*args);
    aq_cuda_check(cuda, "gather_rows");
}

void aq_scatter_add_rows_cuda(aq_backend *be, const aq_scatter_add_rows_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (args->n_row == 0) return;
    scatter_kernel<<<(unsigned)args->n_row, THREADS, 0, cuda->stream>>>(*args);
    aq_cuda_check(cuda, "scatter_add_rows");
}
