/* Partial attention of few queries over keys by column, as in decode: a query reads each tile once
 * for AQ_DECODE_HEADS heads of a KV head, with loads of eight numbers a lane, from where they lie.
 *
 * A warp works by itself, tile after tile. Scores: lanes have 8 tokens each, and every fourth
 * column; sums are traded so that 8 lanes have the tokens of one head. Then a step of the online
 * softmax, and values: lanes have 8 entries each, of one or several tokens. Codes of 8 bits are
 * multiplied as whole numbers less 128, or less the zero of a token, which is exact, and their
 * steps with the query, or with the weights. */
#include "kernels/cuda_attn_parts.h"
#include "kernels/cuda_tile_parts.h"

#define HEADS   4
#define WARPS   4
#define THREADS (32 * WARPS)
#define PIECE   64 /* columns that are read are filled up to a multiple of this */
#define WHOLE   0xffffffffu
#define MOST_Q  8         /* queries that each read the cache for themselves */
#define LOWEST  -0x1p126f /* below all scores, and finite: differences are numbers */

/* A byte in the lowest bits of the float 2^23. */
static __device__ __forceinline__ float float_of_byte(uint32_t word, int k) {
    return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u | (uint32_t)k));
}

/* Eight stored numbers, of each type. */
struct eight_f32 {
    float4 low, high;
    static constexpr int bytes = 32, ahead = 4; /* loads under way of a lane */
    static constexpr bool coded = false;
    __device__ __forceinline__ void load(const uint8_t *from) {
        low = ((const float4 *)from)[0];
        high = ((const float4 *)from)[1];
    }
    __device__ __forceinline__ float at(int k, float) const {
        const float4 x = k < 4 ? low : high;
        return k % 4 == 0 ? x.x : k % 4 == 1 ? x.y : k % 4 == 2 ? x.z : x.w;
    }
};

struct eight_bf16 {
    uint4 pairs;
    static constexpr int bytes = 16, ahead = 8;
    static constexpr bool coded = false;
    __device__ __forceinline__ void load(const uint8_t *from) {
        pairs = *(const uint4 *)from;
    }
    __device__ __forceinline__ float at(int k, float) const {
        const uint32_t pair = k < 2 ? pairs.x : k < 4 ? pairs.y : k < 6 ? pairs.z : pairs.w;
        return __uint_as_float(k % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
    }
};

struct eight_q8 {
    uint2 quads;
    static constexpr int bytes = 8, ahead = 16;
    static constexpr bool coded = true;
    __device__ __forceinline__ void load(const uint8_t *from) {
        quads = *(const uint2 *)from;
    }
    __device__ __forceinline__ float at(int k, float minus) const {
        return float_of_byte(k < 4 ? quads.x : quads.y, k % 4) - minus;
    }
};

/* What a block of threads has in shared memory. */
struct decode_shared {
    float4 *q;     /* [n_read] of all heads, by column that is read */
    int16_t *dims; /* [n_read] which column that is */
    float4 *q_now; /* [n_read] of this warp: times the steps of the tile */
    float4 *p;     /* [AQ_TILE + 8] of this warp: weights of a token, at token + token / 8 */
    float *minus;  /* [AQ_TILE + 8] of this warp */
};

template <int D> struct decode_state {
    float o[HEADS][8];
    float m, l; /* of head lane / 8; l over the tokens of this lane */
};

static __host__ __device__ int64_t warp_floats(int n_read) {
    return 4 * n_read + 5 * (AQ_TILE + 8);
}

static __device__ decode_shared shared_of(char *memory, int n_read) {
    decode_shared shared;
    float *own = (float *)memory + 4 * n_read + threadIdx.x / 32 * warp_floats(n_read);
    shared.q = (float4 *)memory;
    shared.q_now = (float4 *)own;
    shared.p = (float4 *)(own + 4 * n_read);
    shared.minus = own + 4 * n_read + 4 * (AQ_TILE + 8);
    shared.dims = (int16_t *)((float *)memory + 4 * n_read + WARPS * warp_floats(n_read));
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

/* Queries times the steps of a block of codes; returns the sum of the query of head lane / 8 times
 * what code 128 stands for. */
static __device__ float scale_queries(const decode_shared &shared, const uint8_t *block, int n_col,
                                      int n_read) {
    const __half *low = (const __half *)block, *step = low + n_col;
    const int lane = threadIdx.x % 32;
    float sum[HEADS] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int i = lane; i < n_read; i += 32) {
        const int c = shared.dims[i];
        const float by = __half2float(step[c]), at = fmaf(128.0f, by, __half2float(low[c]));
        const float4 q = shared.q[i];
        shared.q_now[i] = make_float4(q.x * by, q.y * by, q.z * by, q.w * by);
        sum[0] = fmaf(q.x, at, sum[0]);
        sum[1] = fmaf(q.y, at, sum[1]);
        sum[2] = fmaf(q.z, at, sum[2]);
        sum[3] = fmaf(q.w, at, sum[3]);
    }
    __syncwarp();
    float x = trade(lane & 8, trade(lane & 16, sum[0], sum[2], 16),
                    trade(lane & 16, sum[1], sum[3], 16), 8);
    for (int apart = 4; apart > 0; apart /= 2)
        x += __shfl_xor_sync(WHOLE, x, apart);
    return x;
}

/* score[k] = that of head lane / 8 and token 8 (lane % 8) + k. */
template <class Eight>
static __device__ __forceinline__ void score_tile(const decode_shared &shared, const uint8_t *block,
                                                  int n_col, int n_read, float score[8]) {
    constexpr int ahead = Eight::ahead;
    const int lane = threadIdx.x % 32;
    const float extra = Eight::coded ? scale_queries(shared, block, n_col, n_read) : 0.0f;
    const float4 *queries = Eight::coded ? shared.q_now : shared.q;
    const uint8_t *keys = block + (Eight::coded ? 4 * n_col : 0) + lane % 8 * Eight::bytes;
    float sum[HEADS][8];
#pragma unroll
    for (int k = 0; k < 8; k++)
        sum[0][k] = sum[1][k] = sum[2][k] = sum[3][k] = 0.0f;
    for (int from = lane / 8; from < n_read; from += 4 * ahead) {
        Eight key[ahead];
#pragma unroll
        for (int j = 0; j < ahead; j++)
            key[j].load(keys + shared.dims[from + 4 * j] * (8 * Eight::bytes));
#pragma unroll
        for (int j = 0; j < ahead; j++) {
            const float4 q = queries[from + 4 * j];
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float x = key[j].at(k, 8388608.0f + 128.0f);
                sum[0][k] = fmaf(q.x, x, sum[0][k]);
                sum[1][k] = fmaf(q.y, x, sum[1][k]);
                sum[2][k] = fmaf(q.z, x, sum[2][k]);
                sum[3][k] = fmaf(q.w, x, sum[3][k]);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < 8; k++)
        score[k] = extra + trade(lane & 8, trade(lane & 16, sum[0][k], sum[2][k], 16),
                                 trade(lane & 16, sum[1][k], sum[3][k], 16), 8);
}

/* Scores become weights in shared.p, times the steps of a block of values. */
template <class Eight, int D>
static __device__ __forceinline__ void soften(const decode_shared &shared, const uint8_t *block,
                                              uint64_t seen, float score[8], decode_state<D> &to) {
    const int lane = threadIdx.x % 32, first = 8 * (lane % 8);
    float most = LOWEST;
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
        const float step = Eight::coded ? __half2float(((const __half *)block)[first + k]) : 1.0f;
        to.l += weight;
        p[HEADS * k] = weight * step;
        if (Eight::coded && lane < 8)
            shared.minus[first + first / 8 + k] =
                8388608.0f + (float)block[2 * AQ_TILE + first + k];
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
template <class Eight, int D>
static __device__ __forceinline__ void mix_tile(const decode_shared &shared, const uint8_t *block,
                                                decode_state<D> &to) {
    constexpr int lanes = D / 8, tokens = 32 / lanes, ahead = Eight::ahead;
    const int lane = threadIdx.x % 32, own = lane / lanes;
    const uint8_t *values =
        block + (Eight::coded ? 3 * AQ_TILE : 0) + (own * lanes + lane % lanes) * Eight::bytes;
    for (int from = 0; from < AQ_TILE; from += tokens * ahead) {
        Eight value[ahead];
#pragma unroll
        for (int j = 0; j < ahead; j++)
            value[j].load(values + (from + tokens * j) * (lanes * Eight::bytes));
#pragma unroll
        for (int j = 0; j < ahead; j++) {
            const int token = from + tokens * j + own;
            const float4 p = shared.p[token + token / 8];
            const float minus = Eight::coded ? shared.minus[token + token / 8] : 0.0f;
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float x = value[j].at(k, minus);
                to.o[0][k] = fmaf(p.x, x, to.o[0][k]);
                to.o[1][k] = fmaf(p.y, x, to.o[1][k]);
                to.o[2][k] = fmaf(p.z, x, to.o[2][k]);
                to.o[3][k] = fmaf(p.w, x, to.o[3][k]);
            }
        }
    }
    __syncwarp();
}

template <class Eight, int D>
static __device__ __forceinline__ void attend_tile(const decode_shared &shared, const uint8_t *keys,
                                                   const uint8_t *values, uint64_t seen, int n_col,
                                                   int n_read, decode_state<D> &to) {
    float score[8];
    score_tile<Eight>(shared, keys, n_col, n_read, score);
    soften<Eight, D>(shared, values, seen, score, to);
    mix_tile<Eight, D>(shared, values, to);
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
        own[lane / 8 * width + D] = from.m == LOWEST ? -INFINITY : from.m;
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

template <class Eight, int D>
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
    state.m = LOWEST;
    state.l = 0.0f;
#pragma unroll
    for (int k = 0; k < 8; k++)
        state.o[0][k] = state.o[1][k] = state.o[2][k] = state.o[3][k] = 0.0f;
    for (int64_t tile = blockIdx.x * WARPS + threadIdx.x / 32; tile < a.n_tile;
         tile += gridDim.x * WARPS) {
        const uint64_t seen = seen_tokens(a, tile, pos);
        if (seen == 0) continue;
        const int64_t at = aq_cuda_place(a, tile);
        if (aq_cuda_open(cache, at))
            attend_tile<eight_f32, D>(
                shared, (const uint8_t *)(a.kv.open_keys + (int64_t)g * a.kv.n_col * AQ_TILE),
                (const uint8_t *)(a.kv.open_values + (int64_t)g * D * AQ_TILE), seen, a.kv.n_col,
                n_read, state);
        else
            attend_tile<Eight, D>(shared, aq_cuda_key_block(cache, at, g),
                                  aq_cuda_value_block(cache, at, g), seen, a.kv.n_col, n_read,
                                  state);
    }
    float *part = parts + (blockIdx.x * a.n_q * a.n_head + query * a.n_head + first) * (D + 2);
    give_state<D>(state, (float *)memory, n_head, part);
}

typedef void (*decode_kernel)(const aq_attn_partial_args, const aq_cuda_cache, int, float *);

template <class Eight> static decode_kernel kernel_of(int d_head) {
    return d_head == 64    ? decode<Eight, 64>
           : d_head == 128 ? decode<Eight, 128>
                           : decode<Eight, 256>;
}

bool aq_cuda_decode_takes(const aq_attn_partial_args *args) {
    const aq_kv_view *kv = &args->kv;
    const bool wide = kv->d_head == 64 || kv->d_head == 128 || kv->d_head == 256;
    return args->n_q <= MOST_Q && kv->key_order == AQ_KEYS_BY_COLUMN && wide &&
           kv->key_type == kv->value_type && kv->key_type <= AQ_KV_Q8 && kv->n_col % 4 == 0 &&
           kv->n_col <= 256 && aq_cuda_aligned(kv->keys, aq_kv_key_bytes(kv), 16) &&
           aq_cuda_aligned(kv->values, aq_kv_value_bytes(kv), 16);
}

/* Warps find tiles in turns; there are as many as the device can run. */
void aq_cuda_decode(aq_cuda *cuda, const aq_attn_partial_args *args) {
    const aq_kv_view *kv = &args->kv;
    const int n_block = (args->n_head / kv->n_kv_head + HEADS - 1) / HEADS;
    const int64_t n_row = args->n_q * args->n_head, n_pair = args->n_q * kv->n_kv_head * n_block;
    const int n_read = (kv->n_col + PIECE - 1) / PIECE * PIECE;
    const size_t floats = (size_t)(4 * n_read + WARPS * warp_floats(n_read)) + (size_t)n_read / 2;
    const size_t give = (size_t)(WARPS * HEADS * (kv->d_head + 2));
    const size_t bytes = (floats > give ? floats : give) * sizeof(float);
    const decode_kernel kernel = kv->key_type == AQ_KV_F32    ? kernel_of<eight_f32>(kv->d_head)
                                 : kv->key_type == AQ_KV_BF16 ? kernel_of<eight_bf16>(kv->d_head)
                                                              : kernel_of<eight_q8>(kv->d_head);
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
