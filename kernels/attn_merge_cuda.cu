/* A block of threads merges one row, a thread every blockDim-th entry. */
#include "kernels/cuda_parts.h"

#define THREADS 128

static __global__ void merge_rows(const aq_attn_merge_args a) {
    const int64_t row = blockIdx.x, width = a.d_head + 2, part_stride = a.n_row * width;
    const float *first = a.parts + row * width;
    float m = -INFINITY, l = 0.0f;
    for (int p = 0; p < a.n_part; p++)
        m = fmaxf(m, first[p * part_stride + a.d_head]);
    for (int p = 0; p < a.n_part && m > -INFINITY; p++) {
        const float *part = first + p * part_stride;
        l += expf(part[a.d_head] - m) * part[a.d_head + 1];
    }
    for (int i = threadIdx.x; i < a.d_head; i += THREADS) {
        float sum = 0.0f;
        for (int p = 0; p < a.n_part && m > -INFINITY; p++) {
            const float *part = first + p * part_stride;
            if (part[a.d_head] > -INFINITY) sum += expf(part[a.d_head] - m) * part[i];
        }
        a.out[row * a.d_head + i] = m > -INFINITY ? sum / l : 0.0f;
    }
    if (a.ml && threadIdx.x == 0) {
        a.ml[2 * row] = m;
        a.ml[2 * row + 1] = l;
    }
}

void aq_attn_merge_cuda(aq_backend *be, const aq_attn_merge_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (args->n_row == 0) return;
    merge_rows<<<(unsigned)args->n_row, THREADS, 0, cuda->stream>>>(*args);
    aq_cuda_check(cuda, "attn_merge");
}
