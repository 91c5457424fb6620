/* Decode attention over f32: a query reads each tile once for HEADS heads of a KV head, with loads
 * of eight numbers a lane, from where they lie.
 *
 * A warp works by itself, tile after tile. Scores: lanes have 8 tokens each, and every fourth
 * column; sums are traded so that 8 lanes have the tokens of one head. Then a step of the online
 * softmax, and values: lanes have 8 entries each, of one or several tokens. */
#include "kernels/cuda_attn_parts.h"
#include "kernels/cuda_tile_parts.h"

#define HEADS   4
#define WARPS   4
#define THREADS (32 * WARPS)
#define PIECE   64 /* columns that are read are filled up to a multiple of this */
#define WHOLE   0xffffffffu
#define AHEAD   4 /* loads under way of a lane */

struct eight {
    float4 low, high;
    __device__ __forceinline__ void load(const float *from) {
        low = ((const float4 *)from)[0];
        high = ((const float4 *)from)[1];
    }
    __device__ __forceinline__ float at(int k) const {
        const float4 x = k < 4 ? low : high;
        return k % 4 == 0 ? x.x : k % 4 == 1 ? x.y : k % 4 == 2 ? x.z : x.w;
    }
};

/* What a block of threads has in shared memory. */
struct decode_shared {
    float4 *q;     /* [n_read] of all heads, by column that is read */
    int16_t *dims; /* [n_read] which column that is */
    float4 *p;     /* [AQ_TILE + 8] of this warp: weights of a token, at token + token / 8 */
};

template <int D> struct decode_state {
    float o[HEADS][8];
    float m, l; /* of head lane / 8; l over the tokens of this lane */
};

#define WARP_FLOATS (4 * (AQ_TILE + 8))

static __device__ decode_shared shared_of(char *memory, int n_read) {
    decode_shared shared;
    float *own = (float *)memory + 4 * n_read;
    shared.q = (float4 *)memory;
    shared.p = (float4 *)(own + threadIdx.x / 32 * WARP_FLOATS);
    shared.dims = (int16_t *)(own + WARPS * WARP_FLOATS);
    return shared;
}

/* sum of `mine` here and of `other` in the lane `apart` away. */
static __device__ __forceinline__ float trade(bool upper, float low, float high, int apart) {
    const float mine = upper ? high : low, other = upper ? low : high;
    return mine + __shfl_xor_sync(WHOLE, other, apart);
}

/* Queries by the columns that a head of the block reads, in rising order; returns their number,
 * filled up with zeros to a multiple of PIECE. */
static __device__ int take_queries(const aq_attn_partial_args &a, const decode_shared &shared,
                                   int64_t query, int first, int n_head) {
    const int n_col = a.kv.n_col;
    float *q = (float *)shared.q;
    __shared__ int n_before[THREADS / 32 + 1];
    __shared__ uint32_t reads[256 / 32][HEADS];
    for (int i = threadIdx.x; i < 256 / 32 * HEADS; i += THREADS)
        ((uint32_t *)reads)[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; a.dims && i < n_head * a.n_dim; i += THREADS) {
        const int h = i / a.n_dim;
        const int c = a.dims[(query * a.n_head + first + h) * a.n_dim + i % a.n_dim];
        atomicOr(&reads[c / 32][h], 1u << c % 32);
    }
    __syncthreads();
    int n = 0;
    for (int from = 0; from < n_col; from += THREADS) {
        const int c = from + threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        bool any = false, of[HEADS];
        for (int h = 0; h < HEADS; h++) {
            of[h] = c < n_col && h < n_head && (!a.dims || (reads[c / 32][h] >> c % 32 & 1));
            any = any || of[h];
        }
        const uint32_t bits = __ballot_sync(WHOLE, any);
        if (lane == 0) n_before[warp + 1] = __popc(bits);
        __syncthreads();
        int at = n + __popc(bits & ((1u << lane) - 1));
        for (int w = 0; w < warp; w++)
            at += n_before[w + 1];
        for (int w = 0; w < WARPS; w++)
            n += n_before[w + 1];
        __syncthreads();
        if (!any) continue;
        shared.dims[at] = (int16_t)c;
        for (int h = 0; h < HEADS; h++)
            q[HEADS * at + h] =
                of[h] ? a.scale * a.q[(query * a.n_head + first + h) * n_col + c] : 0.0f;
    }
    const int whole = (n + PIECE - 1) / PIECE * PIECE;
    for (int i = n + threadIdx.x; i < whole; i += THREADS) {
        shared.dims[i] = 0;
        for (int h = 0; h < HEADS; h++)
            q[HEADS * i + h] = 0.0f;
    }
    __syncthreads();
    return whole;
}

/* The tokens of a tile that a query at `pos` sees, as bits. */
static __device__ uint64_t seen_tokens(const aq_attn_partial_args &a, int64_t tile, int64_t pos) {
    const int lane = threadIdx.x % 32;
    const bool low = aq_cuda_sees(a, pos, aq_cuda_token_pos(a, tile, lane));
    const bool high = aq_cuda_sees(a, pos, aq_cuda_token_pos(a, tile, lane + 32));
    return __ballot_sync(WHOLE, low) | (uint64_t)__ballot_sync(WHOLE, high) << 32;
}

/* score[k] = that of head lane / 8 and token 8 (lane % 8) + k. */
static __device__ __forceinline__ void score_tile(const decode_shared &shared, const float *keys,
                                                  int n_read, float score[8]) {
    const int lane = threadIdx.x % 32;
    keys += lane % 8 * 8;
    float sum[HEADS][8];
#pragma unroll
    for (int k = 0; k < 8; k++)
        sum[0][k] = sum[1][k] = sum[2][k] = sum[3][k] = 0.0f;
    for (int from = lane / 8; from < n_read; from += 4 * AHEAD) {
        eight key[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            key[j].load(keys + shared.dims[from + 4 * j] * AQ_TILE);
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            const float4 q = shared.q[from + 4 * j];
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float x = key[j].at(k);
                sum[0][k] = fmaf(q.x, x, sum[0][k]);
                sum[1][k] = fmaf(q.y, x, sum[1][k]);
                sum[2][k] = fmaf(q.z, x, sum[2][k]);
                sum[3][k] = fmaf(q.w, x, sum[3][k]);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < 8; k++)
        score[k] = trade(lane & 8, trade(lane & 16, sum[0][k], sum[2][k], 16),
                         trade(lane & 16, sum[1][k], sum[3][k], 16), 8);
}

/* Scores become weights in shared.p. */
template <int D>
static __device__ __forceinline__ void soften(const decode_shared &shared, uint64_t seen,
                                              float score[8], decode_state<D> &to) {
    const int lane = threadIdx.x % 32, first = 8 * (lane % 8);
    float most = AQ_CUDA_LOWEST;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        if (!(seen >> (first + k) & 1)) score[k] = -INFINITY;
        most = fmaxf(most, score[k]);
    }
    for (int apart = 1; apart < 8; apart *= 2)
        most = fmaxf(most, __shfl_xor_sync(WHOLE, most, apart));
    most = fmaxf(most, to.m);
    const float keep = __expf(to.m - most);
    to.m = most;
    to.l *= keep;
    float *p = (float *)(shared.p + first + first / 8) + lane / 8;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const float weight = __expf(score[k] - most);
        to.l += weight;
        p[HEADS * k] = weight;
    }
    if (__any_sync(WHOLE, keep < 1.0f)) {
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            const float of = __shfl_sync(WHOLE, keep, 8 * h);
#pragma unroll
            for (int k = 0; k < 8; k++)
                to.o[h][k] *= of;
        }
    }
    __syncwarp();
}

/* Adds the weighted values: lanes have entries 8 (lane % (D / 8)) and on, of every 256 / D-th
 * token. */
template <int D>
static __device__ __forceinline__ void mix_tile(const decode_shared &shared, const float *values,
                                                decode_state<D> &to) {
    constexpr int lanes = D / 8, tokens = 32 / lanes;
    const int lane = threadIdx.x % 32, own = lane / lanes;
    values += 8 * lane;
    for (int from = 0; from < AQ_TILE; from += tokens * AHEAD) {
        eight value[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            value[j].load(values + (from + tokens * j) * D);
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            const int token = from + tokens * j + own;
            const float4 p = shared.p[token + token / 8];
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float x = value[j].at(k);
                to.o[0][k] = fmaf(p.x, x, to.o[0][k]);
                to.o[1][k] = fmaf(p.y, x, to.o[1][k]);
                to.o[2][k] = fmaf(p.z, x, to.o[2][k]);
                to.o[3][k] = fmaf(p.w, x, to.o[3][k]);
            }
        }
    }
    __syncwarp();
}

/* Joins the results of the warps into part[n_head, D + 2]. */
template <int D>
static __device__ void give_state(decode_state<D> &from, float *shared, int n_head, float *part) {
    constexpr int lanes = D / 8, width = D + 2;
    const int lane = threadIdx.x % 32;
    float *own = shared + threadIdx.x / 32 * HEADS * width;
    for (int apart = 1; apart < 8; apart *= 2)
        from.l += __shfl_xor_sync(WHOLE, from.l, apart);
    __syncthreads();
#pragma unroll
    for (int h = 0; h < HEADS; h++)
#pragma unroll
        for (int k = 0; k < 8; k++) {
            for (int apart = lanes; apart < 32; apart *= 2)
                from.o[h][k] += __shfl_xor_sync(WHOLE, from.o[h][k], apart);
            if (lane < lanes) own[h * width + 8 * lane + k] = from.o[h][k];
        }
    if (lane % 8 == 0) {
        own[lane / 8 * width + D] = from.m == AQ_CUDA_LOWEST ? -INFINITY : from.m;
        own[lane / 8 * width + D + 1] = from.l;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n_head * width; i += THREADS) {
        const int h = i / width, c = i % width;
        float m = -INFINITY, sum = 0.0f;
        for (int w = 0; w < WARPS; w++)
            m = fmaxf(m, shared[(w * HEADS + h) * width + D]);
        for (int w = 0; w < WARPS && m > -INFINITY; w++) {
            const float *of = shared + (w * HEADS + h) * width;
            sum += __expf(of[D] - m) * of[c];
        }
        part[i] = c == D ? m : sum;
    }
}

template <int D>
static __global__ void __launch_bounds__(THREADS)
    decode(const aq_attn_partial_args a, const aq_cuda_cache cache, int n_block, float *parts) {
    extern __shared__ __align__(16) char memory[];
    const int group = a.n_head / a.kv.n_kv_head, g = blockIdx.y / n_block;
    const int in_group = blockIdx.y % n_block * HEADS, first = g * group + in_group;
    const int n_head = group - in_group < HEADS ? group - in_group : HEADS;
    const int64_t query = blockIdx.z, pos = a.q_pos[query];
    const decode_shared shared = shared_of(memory, (a.kv.n_col + PIECE - 1) / PIECE * PIECE);
    const int n_read = take_queries(a, shared, query, first, n_head);
    decode_state<D> state;
    state.m = AQ_CUDA_LOWEST;
    state.l = 0.0f;
#pragma unroll
    for (int k = 0; k < 8; k++)
        state.o[0][k] = state.o[1][k] = state.o[2][k] = state.o[3][k] = 0.0f;
    for (int64_t tile = blockIdx.x * WARPS + threadIdx.x / 32; tile < a.n_tile;
         tile += gridDim.x * WARPS) {
        const uint64_t seen = seen_tokens(a, tile, pos);
        if (seen == 0) continue;
        const int64_t at = aq_cuda_place(a, tile);
        const bool open = aq_cuda_open(cache, at);
        const void *keys = open ? a.kv.open_keys + (int64_t)g * a.kv.n_col * AQ_TILE
                                : (const void *)aq_cuda_key_block(cache, at, g);
        const void *values = open ? a.kv.open_values + (int64_t)g * D * AQ_TILE
                                  : (const void *)aq_cuda_value_block(cache, at, g);
        float score[8];
        score_tile(shared, (const float *)keys, n_read, score);
        soften<D>(shared, seen, score, state);
        mix_tile<D>(shared, (const float *)values, state);
    }
    float *part = parts + (blockIdx.x * a.n_q * a.n_head + query * a.n_head + first) * (D + 2);
    give_state<D>(state, (float *)memory, n_head, part);
}

/* Warps find tiles in turns; there are as many as the device can run. */
void aq_cuda_decode_f32(aq_cuda *cuda, const aq_attn_partial_args *args) {
    const aq_kv_view *kv = &args->kv;
    const int n_block = (args->n_head / kv->n_kv_head + HEADS - 1) / HEADS;
    const int64_t n_row = args->n_q * args->n_head, n_pair = args->n_q * kv->n_kv_head * n_block;
    const int n_read = (kv->n_col + PIECE - 1) / PIECE * PIECE;
    const size_t floats = (size_t)(4 * n_read + WARPS * WARP_FLOATS) + (size_t)n_read / 2;
    const size_t give = (size_t)(WARPS * HEADS * (kv->d_head + 2));
    const size_t bytes = (floats > give ? floats : give) * sizeof(float);
    void (*kernel)(const aq_attn_partial_args, const aq_cuda_cache, int, float *) =
        kv->d_head == 64    ? decode<64>
        : kv->d_head == 128 ? decode<128>
                            : decode<256>;
    int64_t n_share = 4 * cuda->n_sm / n_pair;
    if (n_share > args->n_tile / WARPS) n_share = args->n_tile / WARPS;
    if (n_share > AQ_CUDA_SHARES) n_share = AQ_CUDA_SHARES;
    if (n_share < 1) n_share = 1;
    float *parts = n_share > 1 ? (float *)cuda->scratch : args->part;
    const dim3 grid((unsigned)n_share, (unsigned)(kv->n_kv_head * n_block), (unsigned)args->n_q);
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    kernel<<<grid, THREADS, bytes, cuda->stream>>>(*args, aq_cuda_cache_of(kv), n_block, parts);
    if (n_share > 1) aq_cuda_join_parts(cuda, parts, (int)n_share, n_row, kv->d_head, args->part);
}
