/* Private to kernels/, for .cu files: which columns of a query decide, found by one warp.
 *
 * As in loops_dims.h the rank of a column is the bit pattern of its absolute value, which orders
 * like the value; NaN gets -1. The rank that divides the columns is found bit by bit from the
 * top. `rank` is shared memory; lane l writes and reads columns l, l + 32, ... of it. */
#ifndef AQ_KERNELS_CUDA_DIMS_PARTS_H
#define AQ_KERNELS_CUDA_DIMS_PARTS_H

#include "kernels/cuda_reduce_parts.h"

/* rank[n_col] of abs(q) * weight, rounded to fp32; weight NULL: 1. */
__device__ static inline void aq_rank_columns(const float *q, const float *weight, int n_col,
                                              int lane, int32_t *rank) {
    for (int i = lane; i < n_col; i += AQ_WARP) {
        const float a = weight ? __fmul_rn(fabsf(q[i]), weight[i]) : fabsf(q[i]);
        rank[i] = a == a ? __float_as_int(a) : -1;
    }
}

/* Columns of rank `least` and above. */
__device__ static inline int aq_count_from(const int32_t *rank, int n_col, int lane,
                                           int32_t least) {
    int n = 0;
    for (int i = lane; i < n_col; i += AQ_WARP)
        n += rank[i] >= least;
    return __reduce_add_sync(AQ_ALL, n);
}

/* The columns above `least`, and of those equal to it the first `n_equal`. */
typedef struct {
    int32_t least;
    int n_equal;
} aq_dims_choice;

/* The n_dim columns of the highest rank; of equal ones the lower comes first. */
__device__ static inline aq_dims_choice aq_choose_columns(const int32_t *rank, int n_col, int lane,
                                                          int n_dim) {
    int32_t least = -1;
    int n_from = aq_count_from(rank, n_col, lane, 0);
    if (n_from >= n_dim) least = 0;
    for (int32_t bit = 1 << 30; least >= 0 && bit > 0 && n_from > n_dim; bit >>= 1) {
        const int n = aq_count_from(rank, n_col, lane, least | bit);
        if (n < n_dim) continue;
        least |= bit;
        n_from = n;
    }
    return {least, n_dim - aq_count_from(rank, n_col, lane, least + 1)};
}

/* Goes over whole warps of columns in rising order, all lanes together. */
typedef struct {
    int n_chosen, n_equal; /* before this warp of columns */
} aq_dims_walk;

/* Whether column i, the lane's of this step, is chosen (false beyond n_col), and its place among
 * the chosen. */
__device__ static inline bool aq_walk_columns(aq_dims_walk *walk, const aq_dims_choice *choice,
                                              const int32_t *rank, int n_col, int i, int lane,
                                              int *place) {
    const unsigned before = (1u << lane) - 1;
    const bool equal = i < n_col && rank[i] == choice->least;
    const unsigned equals = __ballot_sync(AQ_ALL, equal);
    const bool above = i < n_col && rank[i] > choice->least;
    const bool chosen =
        above || (equal && walk->n_equal + __popc(equals & before) < choice->n_equal);
    const unsigned all = __ballot_sync(AQ_ALL, chosen);
    *place = walk->n_chosen + __popc(all & before);
    walk->n_equal += __popc(equals);
    walk->n_chosen += __popc(all);
    return chosen;
}

#endif
