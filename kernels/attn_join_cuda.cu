/* Joining the results that shares of the tiles gave: as attn_merge, but not divided. */
#include "kernels/cuda_attn_parts.h"

#define THREADS 128

static __global__ void join_rows(const float *parts, int n_share, int64_t n_row, int d_head,
                                 float *out) {
    __shared__ float factor[AQ_CUDA_SHARES];
    const int64_t width = d_head + 2, stride = n_row * width;
    const float *first = parts + blockIdx.x * width;
    float *to = out + blockIdx.x * width;
    float m = -INFINITY;
    for (int p = 0; p < n_share; p++)
        m = fmaxf(m, first[p * stride + d_head]);
    for (int p = threadIdx.x; p < n_share; p += THREADS) {
        const float of = first[p * stride + d_head];
        factor[p] = of == -INFINITY ? 0.0f : expf(of - m);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < width; i += THREADS) {
        const int from = i < d_head ? i : d_head + 1; /* o, then l */
        float sum = 0.0f;
        for (int p = 0; p < n_share; p++)
            sum = fmaf(factor[p], first[p * stride + from], sum);
        if (i < d_head)
            to[i] = sum;
        else if (i == d_head)
            to[d_head + 1] = sum;
        else
            to[d_head] = m;
    }
}

void aq_cuda_join_parts(aq_cuda *cuda, const float *parts, int n_share, int64_t n_row, int d_head,
                        float *part) {
    join_rows<<<(unsigned)n_row, THREADS, 0, cuda->stream>>>(parts, n_share, n_row, d_head, part);
}
