/* Private to kernels/: the kernel of decode attention on tensor cores, for a store of keys and
 * values, which says how they come to shared memory and how they are multiplied:
 *
 *   width, n_warp, warp_bytes          d_head; warps of a block, and shared memory of one
 *   token(position), entry(row, j)     which token, which entry of o a lane has, see
 *                                      cuda_decode_parts.h
 *   take(queries, n_col)               keeps what it needs of them
 *   copy_keys(block, queries)          starts copies
 *   copy_values(block)
 *   score(queries, n_col, score)       of the keys that have come
 *   mix(weights, keep, factor, o)      o = keep o + factor * (weights times values that have come)
 */
#ifndef AQ_KERNELS_CUDA_DECODE_FRAME_PARTS_H
#define AQ_KERNELS_CUDA_DECODE_FRAME_PARTS_H

#include "kernels/cuda_asm_parts.h"
#include "kernels/cuda_decode_open_parts.h"

#define AQ_DECODE_BLOCKS 3 /* of a multiprocessor, as far as its shared memory goes */

/* Starts the copies of the first tile: before the queries are there if all columns are read. */
template <class Store>
static __device__ __forceinline__ void
aq_decode_start(const aq_attn_partial_args &a, const aq_cuda_cache &cache,
                const aq_decode_walk &walk, int g, const aq_decode_queries &queries,
                const Store &store) {
    const bool any = walk.tile < a.n_tile;
    if (any) store.copy_keys(aq_cuda_key_block(cache, walk.at, g), a.kv.n_col, queries);
    aq_cuda_copies_end();
    if (any) store.copy_values(aq_cuda_value_block(cache, walk.at, g));
    aq_cuda_copies_end();
}

/* The tiles of a warp. */
template <class Store>
static __device__ __forceinline__ void
aq_decode_tiles(const aq_attn_partial_args &a, const aq_cuda_cache &cache, int g, int64_t query,
                int first, int n_head, int n_share, aq_decode_queries &queries, uint8_t *own,
                float *shared, float *part) {
    constexpr int D = Store::width;
    const int64_t pos = a.q_pos[query];
    const int share = (int)blockIdx.x - ((int)gridDim.x - n_share);
    Store store(own);
    aq_decode_walk walk;
    walk.step = (int64_t)n_share * Store::n_warp;
    walk.tile = share * Store::n_warp + threadIdx.x / 32 - walk.step;
    aq_decode_peek(a, walk.tile + walk.step, &walk);
    aq_decode_next(a, cache, pos, &walk);
    queries.whole = aq_decode_reads_all(a);
    queries.n = a.kv.n_col;
    if (queries.whole) aq_decode_start(a, cache, walk, g, queries, store);
    aq_decode_take(a, query, first, n_head, &queries);
    if (!queries.whole) aq_decode_start(a, cache, walk, g, queries, store);
    store.take(queries, a.kv.n_col);
    aq_decode_state<D> state;
    state.m = AQ_CUDA_LOWEST;
    state.l = 0.0f;
#pragma unroll
    for (int j = 0; j < D / 8; j++)
        state.o[j] = 0.0f;
    while (walk.tile < a.n_tile) {
        float score[8], keep, factor;
        const uint64_t seen = walk.seen;
        aq_cuda_copies_wait<1>();
        __syncwarp();
        store.score(queries, a.kv.n_col, score);
        aq_decode_next(a, cache, pos, &walk);
        const bool more = walk.tile < a.n_tile;
        __syncwarp();
        if (more) store.copy_keys(aq_cuda_key_block(cache, walk.at, g), a.kv.n_col, queries);
        aq_cuda_copies_end();
        aq_decode_soften<Store>(seen, score, state, &keep, &factor);
        aq_cuda_copies_wait<1>();
        __syncwarp();
        store.mix(score, keep, factor, state.o);
        __syncwarp();
        if (more) store.copy_values(aq_cuda_value_block(cache, walk.at, g));
        aq_cuda_copies_end();
    }
    aq_decode_give<Store>(state, shared, n_head, part);
}

/* Blocks: n_share for the tiles of a KV head, and before them one for the open tile, if any. */
template <class Store>
static __global__ void __launch_bounds__(32 * Store::n_warp, AQ_DECODE_BLOCKS)
    aq_decode(const aq_attn_partial_args a, const aq_cuda_cache cache, int n_block, int n_share,
              float *parts) {
    constexpr int D = Store::width;
    extern __shared__ __align__(128) uint8_t memory[];
    const int group = a.n_head / a.kv.n_kv_head, g = blockIdx.y / n_block;
    const int in_group = blockIdx.y % n_block * AQ_DECODE_HEADS, first = g * group + in_group;
    const int n_head = group - in_group < AQ_DECODE_HEADS ? group - in_group : AQ_DECODE_HEADS;
    const int64_t query = blockIdx.z;
    float *part = parts + (blockIdx.x * a.n_q * a.n_head + query * a.n_head + first) * (D + 2);
    uint8_t *rest = memory + D * (sizeof(float4) + sizeof(int16_t));
    aq_decode_queries queries;
    queries.q = (float4 *)memory;
    queries.dims = (int16_t *)(memory + D * sizeof(float4));
    if (blockIdx.x + n_share < gridDim.x) {
        aq_decode_take(a, query, first, n_head, &queries);
        aq_decode_open<Store>(a, cache, queries, (float4 *)rest, g, a.q_pos[query], n_head, part);
    } else
        aq_decode_tiles<Store>(a, cache, g, query, first, n_head, n_share, queries,
                               rest + threadIdx.x / 32 * Store::warp_bytes, (float *)rest, part);
}

template <class Store>
static void aq_decode_launch(aq_cuda *cuda, const aq_attn_partial_args *args) {
    const aq_kv_view *kv = &args->kv;
    const int n_block = (args->n_head / kv->n_kv_head + AQ_DECODE_HEADS - 1) / AQ_DECODE_HEADS;
    const int64_t n_pair = args->n_q * kv->n_kv_head * n_block;
    const int n_open = kv->open_keys && kv->open_tile >= 0 ? 1 : 0;
    const size_t bytes = Store::width * (sizeof(float4) + sizeof(int16_t)) +
                         (size_t)Store::n_warp * Store::warp_bytes;
    int64_t n_run = (int64_t)(cuda->shared_bytes / bytes);
    if (n_run > AQ_DECODE_BLOCKS) n_run = AQ_DECODE_BLOCKS;
    int64_t n_share = n_run * cuda->n_sm / n_pair - n_open;
    const int64_t most = (args->n_tile + Store::n_warp - 1) / Store::n_warp;
    if (n_share > most) n_share = most;
    if (n_share > AQ_CUDA_SHARES - n_open) n_share = AQ_CUDA_SHARES - n_open;
    if (n_share < 1) n_share = 1;
    const int n_part = (int)n_share + n_open;
    float *parts = n_part > 1 ? (float *)cuda->scratch : args->part;
    const dim3 grid((unsigned)n_part, (unsigned)(kv->n_kv_head * n_block), (unsigned)args->n_q);
    cudaFuncSetAttribute(aq_decode<Store>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    aq_decode<Store><<<grid, 32 * Store::n_warp, bytes, cuda->stream>>>(
        *args, aq_cuda_cache_of(kv), n_block, (int)n_share, parts);
    if (n_part > 1)
        aq_cuda_join_parts(cuda, parts, n_part, args->n_q * args->n_head, kv->d_head, args->part);
}

#endif
