/* Private to kernels/, for .cu files: sums over a warp and a block, in one order whatever runs
 * first, and the shape of a launch. */
#ifndef AQ_KERNELS_CUDA_REDUCE_PARTS_H
#define AQ_KERNELS_CUDA_REDUCE_PARTS_H

#include <stdint.h>

#define AQ_WARP     32
#define AQ_ALL      0xffffffffu
#define AQ_MAX_WARP 32 /* of a block */

/* Blocks of `size` that cover n. */
static inline int64_t aq_blocks_of(int64_t n, int64_t size) {
    return (n + size - 1) / size;
}

/* Every lane gets the sum. */
__device__ static inline float aq_warp_sum(float v) {
    for (int step = AQ_WARP / 2; step > 0; step /= 2)
        v += __shfl_xor_sync(AQ_ALL, v, step);
    return v;
}

/* Every thread of a block of whole warps gets the sum. `part` [AQ_MAX_WARP] is shared memory; the
 * block has passed a barrier since it was last used. */
__device__ static inline float aq_block_sum(float v, float *part) {
    const int n_warp = blockDim.x / AQ_WARP;
    v = aq_warp_sum(v);
    if (threadIdx.x % AQ_WARP == 0) part[threadIdx.x / AQ_WARP] = v;
    __syncthreads();
    float sum = 0.0f;
    for (int w = 0; w < n_warp; w++)
        sum += part[w];
    return sum;
}

#endif
