/* Private to kernels/: decode attention to the open tile, which lies as f32: a block of threads for
 * the heads of a KV head, beside those for the other tiles. */
#ifndef AQ_KERNELS_CUDA_DECODE_OPEN_PARTS_H
#define AQ_KERNELS_CUDA_DECODE_OPEN_PARTS_H

#include "kernels/cuda_decode_parts.h"

/* The place among the tiles of the open one, -1: none of them is. */
static __device__ int64_t aq_decode_find_open(const aq_attn_partial_args &a,
                                              const aq_cuda_cache &cache) {
    __shared__ int64_t found;
    if (threadIdx.x == 0) found = -1;
    __syncthreads();
    for (int64_t tile = threadIdx.x; tile < a.n_tile; tile += blockDim.x)
        if (aq_cuda_open(cache, aq_cuda_place(a, tile))) found = tile;
    __syncthreads();
    return found;
}

/* The open tile of KV head g, by a whole block: part[n_head, D + 2]. */
template <class Store>
static __device__ void aq_decode_open(const aq_attn_partial_args &a, const aq_cuda_cache &cache,
                                      const aq_decode_queries &queries, float4 *p, int g,
                                      int64_t pos, int n_head, float *part) {
    constexpr int D = Store::width, n_thread = 32 * Store::n_warp, n_part = n_thread / AQ_TILE;
    const int n_col = a.kv.n_col, s = threadIdx.x % AQ_TILE, lane = threadIdx.x % 32;
    const int64_t tile = aq_decode_find_open(a, cache);
    const float *keys = a.kv.open_keys + (int64_t)g * n_col * AQ_TILE + s;
    const float *values = a.kv.open_values + (int64_t)g * AQ_TILE * D;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 16
    for (int c = threadIdx.x / AQ_TILE; c < n_col; c += n_part) {
        const float4 q = queries.q[c];
        const float key = keys[c * AQ_TILE];
        sum = make_float4(fmaf(q.x, key, sum.x), fmaf(q.y, key, sum.y), fmaf(q.z, key, sum.z),
                          fmaf(q.w, key, sum.w));
    }
    p[threadIdx.x] = sum;
    __syncthreads();
    for (int h = threadIdx.x / 32; h < AQ_DECODE_HEADS; h += Store::n_warp) {
        float score[2], most = -INFINITY, l = 0.0f;
        for (int i = 0; i < 2; i++) {
            score[i] = 0.0f;
            for (int k = 0; k < n_part; k++)
                score[i] += ((const float *)(p + k * AQ_TILE + 32 * i + lane))[h];
            if (tile < 0 || !aq_cuda_sees(a, pos, aq_cuda_token_pos(a, tile, 32 * i + lane)))
                score[i] = -INFINITY;
            most = fmaxf(most, score[i]);
        }
        for (int apart = 1; apart < 32; apart *= 2)
            most = fmaxf(most, __shfl_xor_sync(AQ_DECODE_WHOLE, most, apart));
        for (int i = 0; i < 2; i++) {
            const float w = most == -INFINITY ? 0.0f : __expf(score[i] - most);
            ((float *)(p + 32 * i + lane))[h] = w;
            l += w;
        }
        for (int apart = 1; apart < 32; apart *= 2)
            l += __shfl_xor_sync(AQ_DECODE_WHOLE, l, apart);
        if (lane == 0 && h < n_head) {
            part[h * (D + 2) + D] = most;
            part[h * (D + 2) + D + 1] = l;
        }
    }
    __syncthreads();
    for (int d = threadIdx.x; d < D; d += n_thread) {
        float o[AQ_DECODE_HEADS] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 16
        for (int i = 0; i < AQ_TILE; i++) {
            const float value = values[i * D + d];
            const float4 w = p[i];
            o[0] = fmaf(w.x, value, o[0]);
            o[1] = fmaf(w.y, value, o[1]);
            o[2] = fmaf(w.z, value, o[2]);
            o[3] = fmaf(w.w, value, o[3]);
        }
#pragma unroll
        for (int h = 0; h < AQ_DECODE_HEADS; h++)
            if (h < n_head) part[h * (D + 2) + d] = o[h];
    }
}

#endif
