/* Pruned queries on CUDA: a warp for each query. Contract: prune_dims.h. */
#include "kernels/cuda_dims_parts.h"
#include "kernels/cuda_model_parts.h"

#define WARPS 4

/* The ranks of one query, shared by a warp. */
typedef struct {
    const int32_t *rank;
    int n_col, lane;
} query;

/* Energy of the columns of rank `least` and above. All are added in one order, zeros for those
 * below, so that the sum never grows with `least`, roundings included. */
__device__ static float energy_from(const query *s, int32_t least) {
    float sum = 0.0f;
    for (int i = s->lane; i < s->n_col; i += AQ_WARP) {
        const float a = __int_as_float(s->rank[i]);
        sum = __fadd_rn(sum, s->rank[i] >= least ? __fmul_rn(a, a) : 0.0f);
    }
    return aq_warp_sum(sum);
}

/* The fewest columns of the highest ranks that hold the share `tau` of the energy. */
__device__ static int fewest(const query *s, float tau) {
    const float needed = tau * energy_from(s, 0);
    if (!(needed > 0.0f)) return 1;
    int32_t least = 0;
    for (int32_t bit = 1 << 30; bit > 0; bit >>= 1)
        if (energy_from(s, least | bit) >= needed) least |= bit;
    /* The columns above are not enough; of those of this rank as many come as are missing. */
    const float each = __int_as_float(least);
    const int n_above = aq_count_from(s->rank, s->n_col, s->lane, least + 1);
    const int n_equal = aq_count_from(s->rank, s->n_col, s->lane, least) - n_above;
    const float missing = (needed - energy_from(s, least + 1)) / (each * each);
    if (missing >= (float)n_equal) return n_above + n_equal;
    return n_above + (missing > 1.0f ? (int)ceilf(missing) : 1);
}

/* Columns whose energy is `least` or more. */
__device__ static int count_reaching(const query *s, float least) {
    int n = 0;
    for (int i = s->lane; i < s->n_col; i += AQ_WARP) {
        const float a = __int_as_float(s->rank[i]);
        n += s->rank[i] >= 0 && __fmul_rn(a, a) >= least;
    }
    n = __reduce_add_sync(AQ_ALL, n);
    return n > 0 ? n : 1;
}

__global__ static void prune_kernel(const aq_prune_dims_args a) {
    extern __shared__ int32_t ranks[]; /* [WARPS, n_col] */
    const int lane = threadIdx.x % AQ_WARP, warp = threadIdx.x / AQ_WARP;
    const int64_t row = blockIdx.x * (int64_t)WARPS + warp;
    if (row >= a.n_tok * a.n_head) return;
    const int64_t g = row % a.n_head / (a.n_head / a.n_kv_head);
    float *q = a.q + row * a.n_col;
    int32_t *rank = ranks + warp * a.n_col;
    aq_rank_columns(q, a.weight ? a.weight + g * a.n_col : nullptr, a.n_col, lane, rank);
    const query s = {rank, a.n_col, lane};
    const int n = a.tau > 0 ? fewest(&s, (float)a.tau) : count_reaching(&s, a.least);
    const aq_dims_choice choice = aq_choose_columns(rank, a.n_col, lane, n);
    aq_dims_walk walk = {0, 0};
    for (int i = lane; i - lane < a.n_col; i += AQ_WARP) {
        int place;
        const bool chosen = aq_walk_columns(&walk, &choice, rank, a.n_col, i, lane, &place);
        if (!chosen && i < a.n_col) q[i] = 0.0f;
    }
    if (lane == 0) atomicAdd((unsigned long long *)a.n_kept, (unsigned long long)n);
}

void aq_prune_dims_cuda(aq_backend *be, const aq_prune_dims_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    const int64_t n_row = args->n_tok * args->n_head;
    if (n_row == 0) return;
    const size_t shared = (size_t)WARPS * (size_t)args->n_col * sizeof(int32_t);
    prune_kernel<<<(unsigned)aq_blocks_of(n_row, WARPS), WARPS * AQ_WARP, shared, cuda->stream>>>(
        *args);
    aq_cuda_check(cuda, "prune_dims");
}
