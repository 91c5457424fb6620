/* A block of threads has one tile, and goes through all rows of all KV heads with it: each slot is
 * added to by one block, in the order of rows. */
#include <math.h>

#include "kernels/cuda_parts.h"
#include "kernels/cuda_tile_parts.h"

/* Adds the shares of the block's rows: a warp each row's, which lie in rows.p. */
static __device__ void add_rows(const aq_cuda_rows &rows, float *acc) {
    const int s = threadIdx.x;
    if (s >= AQ_TILE) return;
    float sum = 0.0f;
    for (int r = 0; r < AQ_TILE_ROWS; r++)
        sum += rows.p[s * AQ_TILE_P + r];
    *acc += sum;
}

static __global__ void __launch_bounds__(AQ_TILE_THREADS)
    add_mass(const aq_attn_mass_args args, const aq_cuda_cache cache) {
    extern __shared__ char shared[];
    const aq_attn_partial_args &a = args.scores;
    const aq_cuda_rows rows = aq_cuda_rows_at(shared, a.kv);
    const int64_t tile = blockIdx.x, at = aq_cuda_place(a, tile);
    const int64_t n_row = a.n_q * (a.n_head / a.kv.n_kv_head);
    const int row = 2 * (threadIdx.x / 16), s = 4 * (threadIdx.x % 16);
    float sum = 0.0f;
    for (int g = 0; g < a.kv.n_kv_head; g++)
        for (int64_t first = 0; first < n_row; first += AQ_TILE_ROWS) {
            float score[2][4];
            __syncthreads();
            aq_cuda_take_rows(a, rows, g, first);
            if (!aq_cuda_tile_seen(a, rows, tile)) continue;
            aq_cuda_load_keys(cache, rows, at, g);
            __syncthreads();
            aq_cuda_score(a, rows, tile, score);
            for (int i = 0; i < 2; i++) {
                const bool there = first + row + i < n_row;
                const float *ml = args.ml + (there ? 2 * aq_cuda_row_at(a, g, first + row + i) : 0);
                for (int j = 0; j < 4; j++) {
                    const bool counts = there && score[i][j] > -INFINITY && ml[1] > 0.0f;
                    rows.p[(s + j) * AQ_TILE_P + row + i] =
                        counts ? expf(score[i][j] - ml[0]) / ml[1] : 0.0f;
                }
            }
            __syncthreads();
            add_rows(rows, &sum);
        }
    if (threadIdx.x < AQ_TILE && sum != 0.0f) args.acc[at * AQ_TILE + threadIdx.x] += sum;
}

void aq_attn_mass_cuda(aq_backend *be, const aq_attn_mass_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    const aq_attn_partial_args *a = &args->scores;
    const size_t bytes = aq_cuda_rows_bytes(&a->kv);
    if (a->n_q == 0 || a->n_tile == 0) return;
    cudaFuncSetAttribute(add_mass, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    add_mass<<<(unsigned)a->n_tile, AQ_TILE_THREADS, bytes, cuda->stream>>>(
        *args, aq_cuda_cache_of(&a->kv));
    aq_cuda_check(cuda, "attn_mass");
}
