/* The router of a mixture of experts on CUDA: a block for each token. Contract: route.h. */
#include <math.h>

#include "kernels/cuda_model_parts.h"
#include "kernels/cuda_reduce_parts.h"

#define THREADS 128

/* An expert and what it is ranked by; id -1 is none. */
typedef struct {
    float rank;
    int id;
} expert;

__device__ static bool comes_first(const expert a, const expert b) {
    if (a.id < 0 || b.id < 0) return a.id >= 0;
    return a.rank > b.rank || (a.rank == b.rank && a.id < b.id);
}

/* Every thread gets the expert that comes first of those of all threads. */
__device__ static expert first_of_block(expert mine, expert *part) {
    for (int step = AQ_WARP / 2; step > 0; step /= 2) {
        const expert other = {__shfl_xor_sync(AQ_ALL, mine.rank, step),
                              __shfl_xor_sync(AQ_ALL, mine.id, step)};
        if (comes_first(other, mine)) mine = other;
    }
    __syncthreads(); /* the part of the search before has been read */
    if (threadIdx.x % AQ_WARP == 0) part[threadIdx.x / AQ_WARP] = mine;
    __syncthreads();
    expert best = part[0];
    for (int w = 1; w < THREADS / AQ_WARP; w++)
        if (comes_first(part[w], best)) best = part[w];
    return best;
}

/* Of the experts that come after `before` (id -1: of all), the one that comes first. */
__device__ static expert next_expert(const float *logit, int n_expert, expert before,
                                     expert *part) {
    expert best = {0.0f, -1};
    for (int e = threadIdx.x; e < n_expert; e += THREADS) {
        const expert mine = {isnan(logit[e]) ? -INFINITY : logit[e], e};
        if (before.id >= 0 && !comes_first(before, mine)) continue;
        if (comes_first(mine, best)) best = mine;
    }
    return first_of_block(best, part);
}

__global__ static void route_kernel(const aq_route_args a) {
    __shared__ expert part[THREADS / AQ_WARP];
    __shared__ float sum_part[AQ_MAX_WARP];
    const float *logit = a.logits + blockIdx.x * (int64_t)a.n_expert;
    int32_t *ids = a.ids + blockIdx.x * (int64_t)a.n_used;
    float *weight = a.weight + blockIdx.x * (int64_t)a.n_used;
    expert at = {0.0f, -1};
    float top = 0.0f, all = 0.0f, used = 0.0f;
    for (int j = 0; j < a.n_used; j++) {
        at = next_expert(logit, a.n_expert, at, part);
        if (j == 0) top = at.rank;
        const float share = expf(logit[at.id] - top);
        used += share;
        if (threadIdx.x == 0) {
            ids[j] = at.id;
            weight[j] = share;
        }
    }
    for (int e = threadIdx.x; e < a.n_expert; e += THREADS)
        all += expf(logit[e] - top);
    all = aq_block_sum(all, sum_part);
    if (threadIdx.x > 0) return;
    for (int j = 0; j < a.n_used; j++)
        weight[j] /= a.renormalise ? used : all;
}

void aq_route_cuda(aq_backend *be, const aq_route_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (args->n_tok == 0) return;
    route_kernel<<<(unsigned)args->n_tok, THREADS, 0, cuda->stream>>>(*args);
    aq_cuda_check(cuda, "route");
}
