/* The dimensions that decide, on CUDA: a warp for each query. Contract: topk_dims.h. */
#include "kernels/cuda_dims_parts.h"
#include "kernels/cuda_model_parts.h"

#define WARPS 4

__global__ static void topk_kernel(const aq_topk_dims_args a) {
    extern __shared__ int32_t ranks[]; /* [WARPS, n_col] */
    const int lane = threadIdx.x % AQ_WARP, warp = threadIdx.x / AQ_WARP;
    const int64_t row = blockIdx.x * (int64_t)WARPS + warp;
    if (row >= a.n_tok * a.n_head) return;
    const int64_t g = row % a.n_head / (a.n_head / a.n_kv_head);
    const float *weight = a.weight ? a.weight + g * a.n_col : nullptr;
    int32_t *rank = ranks + warp * a.n_col;
    aq_rank_columns(a.q + row * a.n_col, weight, a.n_col, lane, rank);
    const aq_dims_choice choice = aq_choose_columns(rank, a.n_col, lane, a.n_dim);
    int16_t *dims = a.dims + row * a.n_dim;
    aq_dims_walk walk = {0, 0};
    for (int i = lane; i - lane < a.n_col; i += AQ_WARP) {
        int place;
        if (aq_walk_columns(&walk, &choice, rank, a.n_col, i, lane, &place))
            dims[place] = (int16_t)i;
    }
}

void aq_topk_dims_cuda(aq_backend *be, const aq_topk_dims_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    const int64_t n_row = args->n_tok * args->n_head;
    if (n_row == 0) return;
    const size_t shared = (size_t)WARPS * (size_t)args->n_col * sizeof(int32_t);
    topk_kernel<<<(unsigned)aq_blocks_of(n_row, WARPS), WARPS * AQ_WARP, shared, cuda->stream>>>(
        *args);
    aq_cuda_check(cuda, "topk_dims");
}
