/* For any cache: a block of threads goes through tiles with AQ_TILE_ROWS rows of a KV head, keys
 * and values as f32 in shared memory. Where there are few rows the tiles are shared, every n-th to
 * one block, and the results joined. */
#include <math.h>

#include "kernels/cuda_attn_parts.h"
#include "kernels/cuda_tile_parts.h"

/* The online softmax: scores become weights in rows.p, m and l of this thread's rows go on, and
 * rows.keep gets the factors of what was summed before. Sixteen threads share their rows. */
static __device__ void soften(const aq_cuda_rows &rows, float score[2][4], float *m, float *l) {
    const int row = 2 * (threadIdx.x / 16), s = 4 * (threadIdx.x % 16);
    for (int i = 0; i < 2; i++) {
        float most = fmaxf(fmaxf(score[i][0], score[i][1]), fmaxf(score[i][2], score[i][3]));
        for (int apart = 1; apart < 16; apart *= 2)
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, apart));
        most = fmaxf(most, m[i]);
        const float keep = m[i] == -INFINITY ? 0.0f : expf(m[i] - most);
        float sum = 0.0f;
        for (int j = 0; j < 4; j++) {
            const float p = score[i][j] == -INFINITY ? 0.0f : expf(score[i][j] - most);
            rows.p[(s + j) * AQ_TILE_P + row + i] = p;
            sum += p;
        }
        for (int apart = 1; apart < 16; apart *= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, apart);
        m[i] = most;
        l[i] = l[i] * keep + sum;
        if (threadIdx.x % 16 == 0) rows.keep[row + i] = keep;
    }
}

/* D: d_head, rounded up to a power of 2. Thread i sums entry i % D of AQ_TILE_ROWS * D / 256 rows.
 */
template <int D>
static __global__ void __launch_bounds__(AQ_TILE_THREADS)
    attend_rows(const aq_attn_partial_args a, const aq_cuda_cache cache, int n_share,
                float *parts) {
    extern __shared__ char shared[];
    constexpr int own = AQ_TILE_ROWS * D / AQ_TILE_THREADS;
    const aq_cuda_rows rows = aq_cuda_rows_at(shared, a.kv);
    const int g = blockIdx.y, d_head = a.kv.d_head, share = blockIdx.z;
    const int i = threadIdx.x % D, r0 = threadIdx.x / D * own;
    const int64_t first = (int64_t)blockIdx.x * AQ_TILE_ROWS;
    const int64_t n_row = a.n_q * (a.n_head / a.kv.n_kv_head);
    float o[own], m[2] = {-INFINITY, -INFINITY}, l[2] = {0.0f, 0.0f};
    for (int r = 0; r < own; r++)
        o[r] = 0.0f;
    aq_cuda_take_rows(a, rows, g, first);
    for (int64_t tile = share; tile < a.n_tile; tile += n_share) {
        if (!aq_cuda_tile_seen(a, rows, tile)) continue;
        const int64_t at = aq_cuda_place(a, tile);
        float score[2][4];
        aq_cuda_load_keys(cache, rows, at, g);
        __syncthreads();
        aq_cuda_score(a, rows, tile, score);
        soften(rows, score, m, l);
        __syncthreads();
        aq_cuda_load_values(cache, rows, at, g);
        __syncthreads();
        for (int r = 0; r < own; r++)
            o[r] *= rows.keep[r0 + r];
        for (int s = 0; s < AQ_TILE && i < d_head; s++) {
            const float value = rows.tile[s * d_head + i];
            for (int r = 0; r < own; r++)
                o[r] = fmaf(rows.p[s * AQ_TILE_P + r0 + r], value, o[r]);
        }
        __syncthreads();
    }
    const int width = d_head + 2;
    float *part = parts + share * a.n_q * a.n_head * width;
    for (int r = 0; r < own && i < d_head; r++)
        if (first + r0 + r < n_row) part[aq_cuda_row_at(a, g, first + r0 + r) * width + i] = o[r];
    for (int r = 0; r < 2 && threadIdx.x % 16 == 0; r++) {
        const int64_t row = first + 2 * (threadIdx.x / 16) + r;
        if (row >= n_row) continue;
        part[aq_cuda_row_at(a, g, row) * width + d_head] = m[r];
        part[aq_cuda_row_at(a, g, row) * width + d_head + 1] = l[r];
    }
}

typedef void (*attend_kernel)(const aq_attn_partial_args, const aq_cuda_cache, int, float *);

static attend_kernel kernel_for(int d_head) {
    return d_head <= 16    ? attend_rows<16>
           : d_head <= 32  ? attend_rows<32>
           : d_head <= 64  ? attend_rows<64>
           : d_head <= 128 ? attend_rows<128>
                           : attend_rows<256>;
}

int aq_cuda_shares(const aq_cuda *cuda, const aq_attn_partial_args *a, int64_t n_block) {
    const int64_t part_bytes = a->n_q * a->n_head * (a->kv.d_head + 2) * (int64_t)sizeof(float);
    int64_t n = 2 * cuda->n_sm / n_block;
    if (n > a->n_tile) n = a->n_tile;
    if (n > AQ_CUDA_SHARES) n = AQ_CUDA_SHARES;
    if (n > (int64_t)cuda->scratch_bytes / part_bytes)
        n = (int64_t)cuda->scratch_bytes / part_bytes;
    return n > 1 ? (int)n : 1;
}

static void attend_any(aq_cuda *cuda, const aq_attn_partial_args *args) {
    const int64_t n_row = args->n_q * (args->n_head / args->kv.n_kv_head);
    const int64_t n_block = (n_row + AQ_TILE_ROWS - 1) / AQ_TILE_ROWS;
    const int n_share = aq_cuda_shares(cuda, args, n_block * args->kv.n_kv_head);
    const size_t bytes = aq_cuda_rows_bytes(&args->kv);
    const attend_kernel kernel = kernel_for(args->kv.d_head);
    float *parts = n_share > 1 ? (float *)cuda->scratch : args->part;
    const dim3 grid((unsigned)n_block, (unsigned)args->kv.n_kv_head, (unsigned)n_share);
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    kernel<<<grid, AQ_TILE_THREADS, bytes, cuda->stream>>>(*args, aq_cuda_cache_of(&args->kv),
                                                           n_share, parts);
    if (n_share > 1)
        aq_cuda_join_parts(cuda, parts, n_share, args->n_q * args->n_head, args->kv.d_head,
                           args->part);
}

void aq_attn_partial_cuda(aq_backend *be, const aq_attn_partial_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (args->n_q == 0) return;
    if (aq_cuda_decode_takes(args))
        aq_cuda_decode(cuda, args);
    else if (aq_cuda_prefill_takes(cuda, args))
        aq_cuda_prefill(cuda, args);
    else
        attend_any(cuda, args);
    aq_cuda_check(cuda, "attn_partial");
}
