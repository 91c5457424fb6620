/* Joining the results that shares of the tiles gave: as attn_merge, but not divided. A block of
 * threads has a row; its warps have shares in turns, so that many are read at once, and their sums
 * are joined in order. */
#include "kernels/cuda_attn_parts.h"

#define WARPS      8
#define THREADS    (32 * WARPS)
#define MOST_WIDTH 258 /* of a row */
#define AT_ONCE    8   /* shares that a warp reads together */
#define WHOLE      0xffffffffu

static __device__ float largest_of(float x, float *shared) {
    for (int apart = 16; apart > 0; apart /= 2)
        x = fmaxf(x, __shfl_xor_sync(WHOLE, x, apart));
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    for (int w = 0; w < WARPS; w++)
        x = fmaxf(x, shared[w]);
    return x;
}

static __global__ void __launch_bounds__(THREADS)
    join_rows(const float *parts, int n_share, int64_t n_row, int d_head, float *out) {
    __shared__ float factor[AQ_CUDA_SHARES], sums[WARPS][MOST_WIDTH], most[WARPS];
    const int width = d_head + 2, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t stride = n_row * width;
    const float *first = parts + blockIdx.x * (int64_t)width;
    float *to = out + blockIdx.x * (int64_t)width;
    float m = -INFINITY;
    for (int p = threadIdx.x; p < n_share; p += THREADS)
        m = fmaxf(m, first[p * stride + d_head]);
    m = largest_of(m, most);
    for (int p = threadIdx.x; p < n_share; p += THREADS) {
        const float of = first[p * stride + d_head];
        factor[p] = of == -INFINITY ? 0.0f : expf(of - m);
    }
    __syncthreads();
#pragma unroll 3
    for (int c = lane; c < width; c += 32) {
        float sum = 0.0f;
        for (int from = warp; from < n_share; from += AT_ONCE * WARPS) {
            float x[AT_ONCE];
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) {
                const int p = from + k * WARPS;
                x[k] = p < n_share ? first[p * stride + c] : 0.0f;
            }
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++)
                if (from + k * WARPS < n_share) sum = fmaf(factor[from + k * WARPS], x[k], sum);
        }
        sums[warp][c] = sum;
    }
    __syncthreads();
    for (int c = threadIdx.x; c < width; c += THREADS) {
        float sum = 0.0f;
        for (int w = 0; w < WARPS; w++)
            sum += sums[w][c];
        to[c] = c == d_head ? m : sum;
    }
}

void aq_cuda_join_parts(aq_cuda *cuda, const float *parts, int n_share, int64_t n_row, int d_head,
                        float *part) {
    join_rows<<<(unsigned)n_row, THREADS, 0, cuda->stream>>>(parts, n_share, n_row, d_head, part);
}
