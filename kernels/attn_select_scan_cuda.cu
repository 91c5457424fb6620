/* Selecting attention: scores from the codes.
 *
 * Where all codes have 1, 2 or 4 bits a warp takes whole tiles through the units that multiply
 * bytes. The codes of a token in four columns stand together (kv_append.h), which is how those
 * units want them; of 2 bits, 13 b1 + 7 b0 - 10 = level / 0.151. The query is held to a byte a
 * column (attn_select.h), so that a tile's sums of products are exact.
 *
 * Tiles with tokens that are near, unseen or open, and other codes, are left to the first block of
 * threads of a unit, or to all: a warp sums the columns of one token after the other. */
#include "kernels/cuda_asm_parts.h"
#include "kernels/cuda_select_parts.h"

#define WARPS   8
#define THREADS (32 * WARPS)
#define WHOLE   0xffffffffu

#define TILES_AT_ONCE 1024 /* that are looked through together */

/* What codes of `bits` bits stand for, less the base of a column, in units of its step: unit *
 * (times * code' - half + middle), where code' is the code, of 2 bits 13 b1 + 7 b0. */
typedef struct {
    float unit, half, middle;
    int times;
} code_scale;

static __device__ code_scale scale_of(int bits) {
    if (bits == 1) return code_scale{1.5958f / 16.0f, 8.0f, 0.0f, 16};
    if (bits == 2) return code_scale{0.151f, 10.0f, 0.0f, 1};
    if (bits == 4) return code_scale{0.25f, 30.0f, 30.0f, 4};
    const float half = 0.5f * (float)((1 << bits) - 1);
    return code_scale{1.0f, half, half, 1};
}

/* The softmax of the tokens that a thread has had, of one head. */
typedef struct {
    float m, l;
} softmax;

static __device__ void soften(softmax *sum, float z) {
    if (z == -INFINITY) return;
    const float m = fmaxf(sum->m, z);
    sum->l = sum->l * __expf(sum->m - m) + __expf(z - m);
    sum->m = m;
}

static __device__ softmax join(softmax a, softmax b) {
    if (b.m == -INFINITY) return a;
    if (a.m == -INFINITY) return b;
    const float m = fmaxf(a.m, b.m);
    return softmax{m, a.l * __expf(a.m - m) + b.l * __expf(b.m - m)};
}

/* From four sums of each lane, those of the warp: lanes 8 h to 8 h + 7 get sum h. */
static __device__ float sum_heads(const float sum[AQ_SELECT_HEADS], int lane) {
    const bool upper = lane & 16, second = lane & 8;
    float a = upper ? sum[2] : sum[0], b = upper ? sum[3] : sum[1];
    a += __shfl_xor_sync(WHOLE, upper ? sum[0] : sum[2], 16);
    b += __shfl_xor_sync(WHOLE, upper ? sum[1] : sum[3], 16);
    float x = second ? b : a;
    x += __shfl_xor_sync(WHOLE, second ? a : b, 8);
    for (int apart = 4; apart > 0; apart /= 2)
        x += __shfl_xor_sync(WHOLE, x, apart);
    return x;
}

/* Whether codes alone give the scores of a tile for a query at `pos`: no token of it is near, open
 * or unseen. Of slots with positions of their own the warp looks at all. */
static __device__ bool by_codes(const aq_cuda_select &t, int64_t pos, int64_t tile) {
    const int64_t first = t.a.tile_pos[tile], last = first + AQ_TILE - 1;
    return !aq_cuda_open(t.cache, tile) && last <= pos && first >= t.a.n_sink &&
           last <= pos - t.a.n_recent;
}

static __device__ bool slots_by_codes(const aq_cuda_select &t, int64_t pos, int64_t tile) {
    const int64_t *slot_pos = t.a.slot_pos + tile * AQ_TILE + threadIdx.x % 32;
    const bool plain = slot_pos[0] <= pos && slot_pos[32] <= pos &&
                       !aq_select_near(t, pos, slot_pos[0]) &&
                       !aq_select_near(t, pos, slot_pos[32]);
    return __all_sync(WHOLE, plain) && !aq_cuda_open(t.cache, tile);
}

/* Column c of a selector's block: its code for token s, less the middle; what 1 of that is; and
 * what the middle stands for. */
typedef struct {
    float code, unit, middle;
} token_code;

static __device__ token_code code_at(const aq_cuda_select &t, const uint8_t *block, int s, int c) {
    const aq_code_layout &layout = t.a.kv.codes;
    const uint8_t *run = block + 3 * t.cache.n_code;
    int i = 0, left = c;
    for (; left >= layout.segments[i].n; i++) {
        left -= layout.segments[i].n;
        run += layout.segments[i].n * layout.segments[i].bits * AQ_TILE / 8;
    }
    const int bits = layout.segments[i].bits, quad = left / 4;
    const int n = layout.segments[i].n - 4 * quad < 4 ? layout.segments[i].n - 4 * quad : 4;
    const int code =
        aq_cuda_code(run + quad * 4 * bits * AQ_TILE / 8, n * AQ_TILE, bits, s * n + left % 4);
    const code_scale scale = scale_of(bits);
    const float unit = scale.unit * aq_cuda_step8_value(block[2 * t.cache.n_code + c]);
    const int level = bits == 2 ? 13 * (code >> 1) + 7 * (code & 1) : scale.times * code;
    return token_code{(float)level - scale.half, unit,
                      fmaf(scale.middle, unit, aq_cuda_f16_at(block, c))};
}

/* Each lane of a warp gets the largest of all lanes, of each head. */
static __device__ void largest_of(float x[AQ_SELECT_HEADS]) {
#pragma unroll
    for (int h = 0; h < AQ_SELECT_HEADS; h++)
        x[h] = __uint_as_float(aq_cuda_warp_max(__float_as_uint(x[h])));
}

static __device__ float inverse_of(float largest) {
    return largest > 0.0f ? 127.0f / largest : 0.0f;
}

/* z of token s of a tile by its codes, for all heads of the block; every lane takes columns. */
static __device__ float score_by_codes(const aq_cuda_select &t, int64_t unit, int64_t tile, int s,
                                       int lane) {
    const int n_code = t.cache.n_code, g = aq_select_head(t, unit);
    const float *q = t.q + (unit * t.n_block + blockIdx.z) * AQ_SELECT_HEADS * n_code;
    const uint8_t *block =
        (const uint8_t *)t.a.kv.selector + (tile * t.a.kv.n_kv_head + g) * t.cache.selector_bytes;
    float sum[AQ_SELECT_HEADS] = {0.0f, 0.0f, 0.0f, 0.0f};
    float most[AQ_SELECT_HEADS] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int c = lane; c < n_code; c += 32) {
        const float by = code_at(t, block, s, c).unit;
        for (int h = 0; h < AQ_SELECT_HEADS; h++)
            most[h] = fmaxf(most[h], fabsf(q[h * n_code + c] * by));
    }
    largest_of(most);
    for (int c = lane; c < n_code; c += 32) {
        const token_code at = code_at(t, block, s, c);
        for (int h = 0; h < AQ_SELECT_HEADS; h++) {
            const float x = q[h * n_code + c];
            const float rounded = rintf(x * at.unit * inverse_of(most[h]));
            sum[h] = fmaf(x, at.middle, sum[h]);
            sum[h] = fmaf(rounded * at.code, most[h] / 127.0f, sum[h]);
        }
    }
    return sum_heads(sum, lane);
}

/* The same exactly. */
static __device__ float score_exactly(const aq_cuda_select &t, int64_t unit, int64_t tile, int s,
                                      int lane) {
    const int n_col = t.a.kv.n_col, g = aq_select_head(t, unit);
    const int first = blockIdx.z * AQ_SELECT_HEADS;
    const float *q = t.a.q + (aq_select_query(t, unit) * t.a.n_head + g * t.group + first) * n_col;
    float sum[AQ_SELECT_HEADS] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int c = lane; c < n_col; c += 32) {
        const float key = aq_cuda_key(t.cache, tile, g, s, c);
        for (int h = 0; h < AQ_SELECT_HEADS && first + h < t.group; h++)
            sum[h] = fmaf(t.a.scale * q[h * n_col + c], key, sum[h]);
    }
    return sum_heads(sum, lane);
}

/* One tile token by token, shared by the warps of the block; lanes 8 h keep the sums of head h. */
static __device__ void scan_tokens(const aq_cuda_select &t, int64_t unit, int64_t tile, float *z,
                                   softmax *sum) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t pos = t.a.q_pos[aq_select_query(t, unit)];
    for (int s = warp; s < AQ_TILE; s += WARPS) {
        const int64_t token = tile * AQ_TILE + s, at = aq_select_pos(t, token);
        float score = -INFINITY;
        if (at <= pos) {
            const bool exact = aq_cuda_open(t.cache, tile) || aq_select_near(t, pos, at);
            score = exact ? score_exactly(t, unit, tile, s, lane)
                          : score_by_codes(t, unit, tile, s, lane);
        }
        if (lane % 8 != 0) continue;
        z[token * AQ_SELECT_HEADS + lane / 8] = score;
        soften(sum, score);
    }
}

/* Joins the sums that the threads of a block have, each of a head by tokens and of one by tiles,
 * and stores them; `shared` has room for AQ_SELECT_HEADS * THREADS of them. */
static __device__ void give_sums(const aq_cuda_select &t, int64_t unit, softmax by_tokens,
                                 softmax by_tiles, softmax *shared) {
    const int lane = threadIdx.x % 32, first = lane % 8 == 0 ? lane / 8 : AQ_SELECT_HEADS;
    __syncthreads();
    for (int h = 0; h < AQ_SELECT_HEADS; h++) {
        softmax sum = {-INFINITY, 0.0f};
        if (h == first) sum = by_tokens;
        if (h == lane % AQ_SELECT_HEADS) sum = join(sum, by_tiles);
        shared[h * THREADS + threadIdx.x] = sum;
    }
    __syncthreads();
    for (int n = THREADS / 2; n > 0; n /= 2) {
        for (int i = threadIdx.x; i < AQ_SELECT_HEADS * n; i += THREADS) {
            softmax *to = shared + i / n * THREADS + i % n;
            to[0] = join(to[0], to[n]);
        }
        __syncthreads();
    }
    if (threadIdx.x >= AQ_SELECT_HEADS) return;
    const softmax sum = shared[threadIdx.x * THREADS];
    const int64_t block = (unit * t.n_block + blockIdx.z) * t.n_scan + blockIdx.x;
    t.ml[(block * AQ_SELECT_HEADS + threadIdx.x) * 2] = sum.m;
    t.ml[(block * AQ_SELECT_HEADS + threadIdx.x) * 2 + 1] = sum.l;
}

/* Any codes. */
static __global__ void __launch_bounds__(THREADS) scan_any(const aq_cuda_select t) {
    __shared__ softmax sums[AQ_SELECT_HEADS * THREADS];
    const int64_t unit = blockIdx.y;
    softmax sum = {-INFINITY, 0.0f};
    float *z = t.z + (unit * t.n_block + blockIdx.z) * t.n_token * AQ_SELECT_HEADS;
    for (int64_t tile = blockIdx.x; tile < t.a.n_tile; tile += gridDim.x)
        scan_tokens(t, unit, tile, z, &sum);
    give_sums(t, unit, sum, softmax{-INFINITY, 0.0f}, sums);
}

/* What a warp has in shared memory. */
typedef struct {
    uint8_t *block[2]; /* [staged_bytes] the tile at hand, and the next */
    uint32_t *q;       /* [n_quad, HEADS] the bytes of a query in four columns */
} scan_stage;

/* Bytes of a quad, and of the place it is copied to: so far apart that the words which lanes take
 * together lie in different banks. */
static __host__ __device__ int quad_bytes(int bits) {
    return 32 * bits;
}

static __host__ __device__ int place_bytes(int bits) {
    return 32 * bits + (bits > 1 ? 32 : 0);
}

static __host__ __device__ int staged_bytes(const aq_cuda_select &t) {
    int bytes = 3 * t.cache.n_code;
    for (int i = 0; i < t.a.kv.codes.n_segment; i++)
        bytes += t.a.kv.codes.segments[i].n / 4 * place_bytes(t.a.kv.codes.segments[i].bits);
    return bytes;
}

static __host__ __device__ int stage_bytes(const aq_cuda_select &t) {
    return 2 * staged_bytes(t) + t.cache.n_code / 4 * AQ_SELECT_HEADS * 4;
}

/* Starts to copy a tile's block. */
static __device__ void stage_tile(const aq_cuda_select &t, int64_t tile, int g, uint8_t *to) {
    const int lane = threadIdx.x % 32, head = 3 * t.cache.n_code / 16;
    const uint8_t *from =
        (const uint8_t *)t.a.kv.selector + (tile * t.a.kv.n_kv_head + g) * t.cache.selector_bytes;
    for (int i = lane; i < head; i += 32)
        aq_cuda_copy16(to + 16 * i, from + 16 * i);
    from += 16 * head;
    to += 16 * head;
    for (int i = 0; i < t.a.kv.codes.n_segment; i++) {
        const int bits = t.a.kv.codes.segments[i].bits, n_quad = t.a.kv.codes.segments[i].n / 4;
        const int pieces = quad_bytes(bits) / 16, apart = place_bytes(bits) / 16 - pieces;
        for (int j = lane; j < n_quad * pieces; j += 32)
            aq_cuda_copy16(to + 16 * (j + j / pieces * apart), from + 16 * j);
        from += n_quad * quad_bytes(bits);
        to += n_quad * place_bytes(bits);
    }
}

static __device__ int bits_of_column(const aq_code_layout &layout, int c) {
    int i = 0;
    for (; c >= layout.segments[i].n; i++)
        c -= layout.segments[i].n;
    return layout.segments[i].bits;
}

static __device__ uint32_t bytes_of(const int v[4]) {
    return __byte_perm(__byte_perm(v[0], v[1], 0x0040), __byte_perm(v[2], v[3], 0x0040), 0x5410);
}

/* Holds the queries, q[HEADS, n_code], to bytes in stage.q, for the steps of the staged tile and
 * QUADS quads of columns a lane. unit[h]: what 1 of them stands for; returns what head lane / 8 has
 * at codes 0. */
template <int QUADS>
static __device__ float fold_queries(const aq_cuda_select &t, const float4 *q, const uint8_t *block,
                                     const scan_stage &stage, float unit[AQ_SELECT_HEADS]) {
    const int lane = threadIdx.x % 32, n_quad = t.cache.n_code / 4;
    float product[QUADS][AQ_SELECT_HEADS][4], sum[AQ_SELECT_HEADS] = {0.0f, 0.0f, 0.0f, 0.0f};
    float most[AQ_SELECT_HEADS] = {0.0f, 0.0f, 0.0f, 0.0f}, half[QUADS];
#pragma unroll
    for (int j = 0; j < QUADS; j++) {
        const int quad = lane + 32 * j;
        if (quad >= n_quad) continue;
        const code_scale scale = scale_of(bits_of_column(t.a.kv.codes, 4 * quad));
        const uint32_t steps = *(const uint32_t *)(block + 2 * t.cache.n_code + 4 * quad);
        const uint2 bases = *(const uint2 *)(block + 8 * quad);
        const float2 low = __half22float2(*(const __half2 *)&bases.x);
        const float2 high = __half22float2(*(const __half2 *)&bases.y);
        float by[4], middle[4] = {low.x, low.y, high.x, high.y};
        half[j] = scale.half;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            by[k] = scale.unit * aq_cuda_step8_value((uint8_t)(steps >> 8 * k));
            middle[k] = fmaf(scale.middle, by[k], middle[k]);
        }
#pragma unroll
        for (int h = 0; h < AQ_SELECT_HEADS; h++) {
            const float4 x = q[h * n_quad + quad];
            const float of[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                product[j][h][k] = of[k] * by[k];
                sum[h] = fmaf(of[k], middle[k], sum[h]);
                most[h] = fmaxf(most[h], fabsf(product[j][h][k]));
            }
        }
    }
    largest_of(most);
#pragma unroll
    for (int h = 0; h < AQ_SELECT_HEADS; h++) {
        const float inverse = inverse_of(most[h]);
        unit[h] = most[h] / 127.0f;
#pragma unroll
        for (int j = 0; j < QUADS; j++) {
            const int quad = lane + 32 * j;
            if (quad >= n_quad) continue;
            int v[4];
#pragma unroll
            for (int k = 0; k < 4; k++)
                v[k] = __float2int_rn(product[j][h][k] * inverse);
            stage.q[quad * AQ_SELECT_HEADS + h] = bytes_of(v);
            sum[h] = fmaf(-half[j] * (float)(v[0] + v[1] + v[2] + v[3]), unit[h], sum[h]);
        }
    }
    __syncwarp();
    return sum_heads(sum, lane);
}

/* Tokens lane / 4 + 8 i of four quads of columns, whose words begin at `at`, as bytes. */
static __device__ __forceinline__ void take_codes(const uint32_t *at, int bits, uint32_t a[8]) {
    if (bits == 4) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[i] = at[8 * i] << 2 & 0x3c3c3c3cu;
            a[i + 4] = at[8 * i] >> 2 & 0x3c3c3c3cu;
        }
    } else if (bits == 2) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t code = at[8 * (i % 2)] >> (i / 2 * 2) & 0x03030303u;
            a[i] = 7 * code - (code >> 1 & 0x01010101u);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            a[i] = (i < 4 ? *at << (4 - i) : *at >> (i - 4)) & 0x10101010u;
    }
}

/* sum[i]: over all columns, of 16 tokens; columns of the product with even numbers are heads, the
 * others are left at 0, so that each lane has sums of one head. */
static __device__ void multiply_codes(const aq_cuda_select &t, const uint8_t *codes,
                                      const scan_stage &stage, int sum[4][4]) {
    const int lane = threadIdx.x % 32;
    const uint32_t *q = stage.q + lane % 4 * AQ_SELECT_HEADS + lane / 8;
    const uint32_t mask = lane & 4 ? 0u : 0xffffffffu;
#pragma unroll
    for (int i = 0; i < 16; i++)
        sum[i / 4][i % 4] = 0;
    for (int i = 0; i < t.a.kv.codes.n_segment; i++) {
        const int bits = t.a.kv.codes.segments[i].bits, n = t.a.kv.codes.segments[i].n / 16;
        const uint8_t *at = codes + lane % 4 * place_bytes(bits) + lane / 4 * 4;
        for (int j = 0; j < n; j++) {
            uint32_t a[8];
            take_codes((const uint32_t *)at, bits, a);
            const uint32_t b = *q & mask;
#pragma unroll
            for (int m = 0; m < 4; m++)
                aq_cuda_mma_bytes(sum[m], a[2 * m], a[2 * m + 1], b);
            at += 4 * place_bytes(bits);
            q += 4 * AQ_SELECT_HEADS;
        }
        codes += 4 * n * place_bytes(bits);
    }
}

/* z of a staged tile; goes on with the softmax of head lane % 4. */
template <int QUADS>
static __device__ void scan_tile(const aq_cuda_select &t, const float4 *q, const uint8_t *block,
                                 const scan_stage &stage, float *z, softmax *to) {
    const int lane = threadIdx.x % 32;
    int sum[4][4];
    float units[AQ_SELECT_HEADS], score[8], most = to->m;
    float base = fold_queries<QUADS>(t, q, block, stage, units);
    base = __shfl_sync(WHOLE, base, 8 * (lane % 4));
    const float unit = lane & 2 ? (lane & 1 ? units[3] : units[2]) : lane & 1 ? units[1] : units[0];
    multiply_codes(t, block + 3 * t.cache.n_code, stage, sum);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        score[i] = fmaf((float)sum[i / 2][2 * (i % 2)], unit, base);
        most = fmaxf(most, score[i]);
        z[(lane / 4 + 8 * i) * AQ_SELECT_HEADS + lane % 4] = score[i];
    }
    float l = to->l * __expf(to->m - most);
#pragma unroll
    for (int i = 0; i < 8; i++)
        l += __expf(score[i] - most);
    to->m = most;
    to->l = l;
    __syncwarp();
}

/* All tiles that codes alone do not give, token by token, by the whole block of threads. */
static __device__ void scan_rest(const aq_cuda_select &t, int64_t unit, int64_t pos, float *z,
                                 softmax *sum) {
    __shared__ uint32_t rest[TILES_AT_ONCE / 32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int64_t from = 0; from < t.a.n_tile; from += TILES_AT_ONCE) {
        __syncthreads();
        for (int i = warp; i < TILES_AT_ONCE / 32; i += WARPS) {
            const int64_t first = from + 32 * i;
            uint32_t bits = 0;
            if (!t.a.slot_pos) {
                const bool there = first + lane < t.a.n_tile;
                bits = __ballot_sync(WHOLE, there && !by_codes(t, pos, first + lane));
            }
            for (int j = 0; t.a.slot_pos && j < 32 && first + j < t.a.n_tile; j++)
                bits |= (uint32_t)!slots_by_codes(t, pos, first + j) << j;
            if (lane == 0) rest[i] = bits;
        }
        __syncthreads();
        for (int i = 0; i < TILES_AT_ONCE / 32; i++)
            for (uint32_t bits = rest[i]; bits != 0; bits &= bits - 1)
                scan_tokens(t, unit, from + 32 * i + __ffs((int)bits) - 1, z, sum);
    }
}

/* Codes of 1, 2 and 4 bits. */
template <int QUADS>
static __global__ void __launch_bounds__(THREADS, QUADS == 1 ? 3 : 2)
    scan_bytes(const aq_cuda_select t) {
    extern __shared__ __align__(16) uint8_t shared[];
    const int64_t unit = blockIdx.y, pos = t.a.q_pos[aq_select_query(t, unit)];
    const int n_code = t.cache.n_code, staged = staged_bytes(t), g = aq_select_head(t, unit);
    float4 *q = (float4 *)shared;
    float *z = t.z + (unit * t.n_block + blockIdx.z) * t.n_token * AQ_SELECT_HEADS;
    const float *from = t.q + (unit * t.n_block + blockIdx.z) * AQ_SELECT_HEADS * n_code;
    uint8_t *own = shared + AQ_SELECT_HEADS * n_code * 4 + threadIdx.x / 32 * stage_bytes(t);
    const scan_stage stage = {{own, own + staged}, (uint32_t *)(own + 2 * staged)};
    softmax by_tokens = {-INFINITY, 0.0f}, by_tiles = {-INFINITY, 0.0f};
    for (int i = threadIdx.x; i < AQ_SELECT_HEADS * n_code; i += THREADS)
        ((float *)q)[i] = from[i];
    __syncthreads();
    if (blockIdx.x == 0) scan_rest(t, unit, pos, z, &by_tokens);
    /* The first block has the rest for itself, where there are others. */
    const bool takes = blockIdx.x > 0 || gridDim.x == 1;
    const int64_t step = WARPS * (gridDim.x > 1 ? gridDim.x - 1 : 1);
    int64_t tile = (gridDim.x > 1 ? blockIdx.x - 1 : 0) * (int64_t)WARPS + threadIdx.x / 32;
    if (takes && tile < t.a.n_tile) stage_tile(t, tile, g, stage.block[0]);
    aq_cuda_copies_end();
    for (int turn = 0; takes && tile < t.a.n_tile; tile += step, turn ^= 1) {
        if (tile + step < t.a.n_tile) stage_tile(t, tile + step, g, stage.block[turn ^ 1]);
        aq_cuda_copies_end();
        const bool plain = t.a.slot_pos ? slots_by_codes(t, pos, tile) : by_codes(t, pos, tile);
        aq_cuda_copies_wait<1>();
        __syncwarp();
        if (plain)
            scan_tile<QUADS>(t, q, stage.block[turn], stage, z + tile * AQ_TILE * AQ_SELECT_HEADS,
                             &by_tiles);
        __syncwarp();
    }
    aq_cuda_copies_wait<0>();
    give_sums(t, unit, by_tokens, by_tiles, (softmax *)shared);
}

typedef void (*scan_kernel)(const aq_cuda_select);

static bool takes_bytes(const aq_cuda_select *t) {
    const aq_code_layout *layout = &t->a.kv.codes;
    bool takes =
        t->cache.n_code <= 256 && aq_cuda_aligned(t->a.kv.selector, t->cache.selector_bytes, 16);
    for (int i = 0; i < layout->n_segment; i++) {
        const int bits = layout->segments[i].bits;
        takes = takes && layout->segments[i].n % 16 == 0 && (bits == 1 || bits == 2 || bits == 4);
    }
    return takes;
}

void aq_cuda_select_scan(aq_cuda *cuda, const aq_cuda_select *t) {
    const dim3 grid((unsigned)t->n_scan, (unsigned)t->n_unit, (unsigned)t->n_block);
    if (!takes_bytes(t)) {
        scan_any<<<grid, THREADS, 0, cuda->stream>>>(*t);
        return;
    }
    const size_t own = (size_t)(AQ_SELECT_HEADS * t->cache.n_code * 4 + WARPS * stage_bytes(*t));
    const size_t sums = AQ_SELECT_HEADS * THREADS * sizeof(softmax),
                 bytes = own > sums ? own : sums;
    const scan_kernel kernel = t->cache.n_code <= 128 ? scan_bytes<1> : scan_bytes<2>;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    kernel<<<grid, THREADS, bytes, cuda->stream>>>(*t);
}
