/* Private to kernels/: what kernels of decode attention on tensor cores share. A warp works by
 * itself, tile after tile; the keys of the next tile are on their way to shared memory while the
 * values of one are weighted, and its values while the next is scored.
 *
 * Queries and weights are the columns of the right factor of a product, four heads of a KV head
 * with the terms that each number is split into side by side, so that of a result [16, 8] lane has
 * both terms of head lane % 4. A lane has eight scores and as many weights, of positions
 * 8 (lane / 4) + k of the tile; which token a position is, is up to the cache (token). */
#ifndef AQ_KERNELS_CUDA_DECODE_PARTS_H
#define AQ_KERNELS_CUDA_DECODE_PARTS_H

#include "kernels/cuda_attn_parts.h"
#include "kernels/cuda_tile_parts.h"

#define AQ_DECODE_HEADS 4
#define AQ_DECODE_WHOLE 0xffffffffu
#define AQ_DECODE_ROW   144 /* bytes of the weights of a tile: 64 halves, and rows lie apart */

/* The columns that a block of heads reads, in shared memory. */
typedef struct {
    float4 *q;     /* [n_col] scaled, of all heads; 0 in columns that a head does not read */
    int16_t *dims; /* [n] columns that a head reads, rising */
    int n;
    bool whole; /* n = d_head: all columns */
} aq_decode_queries;

/* Of a warp, o being that of head lane % 4, and l over the tokens of this lane. */
template <int D> struct aq_decode_state {
    float o[D / 8];
    float m, l;
};

static __device__ bool aq_decode_reads_all(const aq_attn_partial_args &a) {
    return !a.dims && a.kv.n_col == a.kv.d_head;
}

/* Takes up the queries of heads first .. first + n_head; the same for all threads. */
static __device__ void aq_decode_take(const aq_attn_partial_args &a, int64_t query, int first,
                                      int n_head, aq_decode_queries *to) {
    const int n_col = a.kv.n_col, lane = threadIdx.x % 32;
    const float *q = a.q + (query * a.n_head + first) * n_col;
    float *own = (float *)to->q;
    __shared__ int n_any;
    for (int i = threadIdx.x; i < AQ_DECODE_HEADS * n_col; i += blockDim.x) {
        const int h = i / n_col, c = i % n_col;
        own[AQ_DECODE_HEADS * c + h] = h < n_head && !a.dims ? a.scale * q[i] : 0.0f;
    }
    __syncthreads();
    for (int i = threadIdx.x; a.dims && i < n_head * a.n_dim; i += blockDim.x) {
        const int c = a.dims[(query * a.n_head + first) * a.n_dim + i];
        own[AQ_DECODE_HEADS * c + i / a.n_dim] = a.scale * q[i / a.n_dim * n_col + c];
    }
    __syncthreads();
    to->whole = aq_decode_reads_all(a);
    if (threadIdx.x < 32) {
        int n = 0;
        for (int from = 0; from < n_col; from += 32) {
            const float4 x = from + lane < n_col ? to->q[from + lane] : make_float4(0, 0, 0, 0);
            const bool any = to->whole || (x.x != 0 || x.y != 0 || x.z != 0 || x.w != 0);
            const uint32_t bits = __ballot_sync(AQ_DECODE_WHOLE, any && from + lane < n_col);
            if (bits >> lane & 1)
                to->dims[n + __popc(bits & ((1u << lane) - 1))] = (int16_t)(from + lane);
            n += __popc(bits);
        }
        n_any = n;
    }
    __syncthreads();
    to->n = n_any;
}

/* The query of head h at place i of those that are read. */
static __device__ __forceinline__ float aq_decode_query(const aq_decode_queries &from, int i,
                                                        int h) {
    return i < from.n ? ((const float *)(from.q + from.dims[i]))[h] : 0.0f;
}

/* The tiles of a warp that its query sees. What tells about the tile after is fetched ahead. */
typedef struct {
    int64_t tile, at, step;                /* at: its place */
    uint64_t seen;                         /* tokens, as bits */
    int64_t next_at, next_pos, next_other; /* its first position; with slot_pos, of two slots */
} aq_decode_walk;

static __device__ __forceinline__ void aq_decode_peek(const aq_attn_partial_args &a, int64_t tile,
                                                      aq_decode_walk *walk) {
    if (tile >= a.n_tile) return;
    walk->next_at = aq_cuda_place(a, tile);
    walk->next_pos = a.tile_pos[tile];
    if (!a.slot_pos) return;
    const int64_t *slots = a.slot_pos + walk->next_at * AQ_TILE + threadIdx.x % 32;
    walk->next_pos = slots[0];
    walk->next_other = slots[32];
}

/* Bits 0 .. n - 1. */
static __device__ __forceinline__ uint64_t aq_decode_bits(int64_t n) {
    return n <= 0 ? 0 : n >= AQ_TILE ? ~0ull : (1ull << (int)n) - 1;
}

/* The tokens of the tile after that a query at `pos` sees. */
static __device__ __forceinline__ uint64_t aq_decode_sees(const aq_attn_partial_args &a,
                                                          int64_t pos, const aq_decode_walk &walk) {
    if (a.slot_pos)
        return __ballot_sync(AQ_DECODE_WHOLE, walk.next_pos <= pos) |
               (uint64_t)__ballot_sync(AQ_DECODE_WHOLE, walk.next_other <= pos) << 32;
    const int64_t n = pos + 1 - walk.next_pos;
    return aq_decode_bits(n) & (a.window ? ~aq_decode_bits(n - a.window) : ~0ull);
}

/* Goes on to the next tile; tile >= n_tile: there is none. The open one is left out. */
static __device__ __forceinline__ void aq_decode_next(const aq_attn_partial_args &a,
                                                      const aq_cuda_cache &cache, int64_t pos,
                                                      aq_decode_walk *walk) {
    for (walk->tile += walk->step; walk->tile < a.n_tile; walk->tile += walk->step) {
        walk->seen = aq_decode_sees(a, pos, *walk);
        walk->at = walk->next_at;
        aq_decode_peek(a, walk->tile + walk->step, walk);
        if (walk->seen != 0 && !aq_cuda_open(cache, walk->at)) return;
    }
}

/* Scores become weights relative to the greatest of the tile. o becomes
 * keep o + factor * (sum of weights times values). */
template <class Store, int D>
static __device__ __forceinline__ void aq_decode_soften(uint64_t seen, float score[8],
                                                        aq_decode_state<D> &to, float *keep,
                                                        float *factor) {
    float most = AQ_CUDA_LOWEST, sum = 0.0f;
    if (seen != ~0ull)
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (!(seen >> Store::token(8 * (threadIdx.x % 32 / 4) + k) & 1)) score[k] = -INFINITY;
#pragma unroll
    for (int k = 0; k < 8; k++)
        most = fmaxf(most, score[k]);
    for (int apart = 4; apart < 32; apart *= 2)
        most = fmaxf(most, __shfl_xor_sync(AQ_DECODE_WHOLE, most, apart));
#pragma unroll
    for (int k = 0; k < 8; k++) {
        score[k] = __expf(score[k] - most);
        sum += score[k];
    }
    const float m = fmaxf(most, to.m);
    *keep = __expf(to.m - m);
    *factor = __expf(most - m);
    to.m = m;
    to.l = fmaf(sum, *factor, to.l * *keep);
}

/* Joins the results of the warps into part[n_head, D + 2]. */
template <class Store, int D>
static __device__ void aq_decode_give(aq_decode_state<D> &from, float *shared, int n_head,
                                      float *part) {
    constexpr int width = D + 2, n_warp = Store::n_warp;
    const int lane = threadIdx.x % 32, h = lane % 4;
    float *own = shared + (threadIdx.x / 32 * AQ_DECODE_HEADS + h) * width;
    for (int apart = 4; apart < 32; apart *= 2)
        from.l += __shfl_xor_sync(AQ_DECODE_WHOLE, from.l, apart);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < D / 8; j++)
        own[Store::entry(lane / 4, j)] = from.o[j];
    if (lane < 4) {
        own[D] = from.m == AQ_CUDA_LOWEST ? -INFINITY : from.m;
        own[D + 1] = from.l;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n_head * width; i += 32 * n_warp) {
        const float *of = shared + i / width * width;
        const int c = i % width;
        float m = -INFINITY, sum = 0.0f;
        for (int w = 0; w < n_warp; w++)
            m = fmaxf(m, of[w * AQ_DECODE_HEADS * width + D]);
        for (int w = 0; w < n_warp && m > -INFINITY; w++)
            sum = fmaf(__expf(of[w * AQ_DECODE_HEADS * width + D] - m),
                       of[w * AQ_DECODE_HEADS * width + c], sum);
        part[i] = c == D ? m : sum;
    }
}

#endif
