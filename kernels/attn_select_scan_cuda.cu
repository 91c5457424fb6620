/* Selecting attention: scores from the codes, in units of ln 2, and the softmax of each head.
 *
 * Where all codes have 1, 2 or 4 bits a warp takes whole tiles through the units that multiply
 * bytes, 16 columns at a time. Lane 4 r + j loads four words of the j'th four columns: word i has
 * codes of the tokens 4 r + i and 4 r + i + 32, others are shifted out. A row of a product is a
 * word, of which both tokens' codes are factors; two columns are a head, and each has zeros in
 * place of the query where it meets the other token. The query is held to a byte a column
 * (attn_select.h), so that sums of products are exact.
 *
 * Of tiles with tokens that are near, unseen or open, those tokens are scored by the whole block of
 * threads, one by a warp; of other codes all are. */
#include "kernels/cuda_asm_parts.h"
#include "kernels/cuda_select_parts.h"

#define HEADS   AQ_SELECT_HEADS
#define WARPS   8
#define THREADS (32 * WARPS)
#define WHOLE   0xffffffffu

#define GROUP         16   /* columns that are multiplied at once */
#define TILES_AT_ONCE 1024 /* of a block, before it looks at those left over */
#define ROUND         4    /* tokens that a warp scores together, column by column */

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

/* The softmax of the tokens that a thread has had, of one head: sum of 2^(z - m). */
typedef struct {
    float m, l;
} softmax;

static __device__ void soften(softmax *sum, float z) {
    const float m = fmaxf(sum->m, z);
    sum->l = sum->l * aq_cuda_exp2(sum->m - m) + aq_cuda_exp2(z - m);
    sum->m = m;
}

static __device__ softmax join(softmax a, softmax b) {
    const float m = fmaxf(a.m, b.m);
    return softmax{m, a.l * aq_cuda_exp2(a.m - m) + b.l * aq_cuda_exp2(b.m - m)};
}

/* From four sums of each lane, those of the warp: lanes 8 h to 8 h + 7 get sum h. */
static __device__ float sum_heads(const float sum[HEADS], int lane) {
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

/* The tokens of a closed tile, as bits, that codes give the scores of: seen, and not near. */
static __device__ uint64_t by_codes(const aq_cuda_select &t, int64_t pos, int64_t tile) {
    uint64_t bits = 0;
    for (int half = 0; half < 2; half++) {
        const int64_t at = aq_select_pos(t, tile * AQ_TILE + 32 * half + threadIdx.x % 32);
        const bool takes = at <= pos && !aq_select_near(t, pos, at);
        bits |= (uint64_t)__ballot_sync(WHOLE, takes) << 32 * half;
    }
    return bits;
}

/* Whether codes alone give the scores of a tile. Of slots with positions of their own the warp
 * looks at all. */
static __device__ bool all_by_codes(const aq_cuda_select &t, int64_t pos, int64_t tile) {
    if (aq_cuda_open(t.cache, tile)) return false;
    if (t.a.slot_pos) return by_codes(t, pos, tile) == UINT64_MAX;
    const int64_t first = t.a.tile_pos[tile], last = first + AQ_TILE - 1;
    return last <= pos && first >= t.a.n_sink && last <= pos - t.a.n_recent;
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
static __device__ void largest_of(float x[HEADS]) {
#pragma unroll
    for (int h = 0; h < HEADS; h++)
        x[h] = __uint_as_float(aq_cuda_warp_max(__float_as_uint(x[h])));
}

/* 127 / largest; finite where all are 0. */
static __device__ float inverse_of(float largest) {
    return __fdividef(127.0f, fmaxf(largest, 0x1p-118f));
}

static __device__ const uint8_t *block_of(const aq_cuda_select &t, int64_t tile, int g) {
    return (const uint8_t *)t.a.kv.selector +
           (tile * t.a.kv.n_kv_head + g) * t.cache.selector_bytes;
}

/* z of token s of a tile by its codes, for all heads of the block; every lane takes columns. */
static __device__ float score_by_codes(const aq_cuda_select &t, int64_t unit, int64_t tile, int s,
                                       int lane) {
    const int n_code = t.cache.n_code;
    const float *q = t.q + (unit * t.n_block + blockIdx.z) * HEADS * n_code;
    const uint8_t *block = block_of(t, tile, aq_select_head(t, unit));
    float sum[HEADS] = {0.0f, 0.0f, 0.0f, 0.0f}, most[HEADS] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int c = lane; c < n_code; c += 32) {
        const float by = code_at(t, block, s, c).unit;
        for (int h = 0; h < HEADS; h++)
            most[h] = fmaxf(most[h], fabsf(q[h * n_code + c] * by));
    }
    largest_of(most);
    for (int c = lane; c < n_code; c += 32) {
        const token_code at = code_at(t, block, s, c);
        for (int h = 0; h < HEADS; h++) {
            const float x = q[h * n_code + c];
            const float rounded = rintf(x * at.unit * inverse_of(most[h]));
            sum[h] = fmaf(x, at.middle, sum[h]);
            sum[h] = fmaf(rounded * at.code, most[h] / 127.0f, sum[h]);
        }
    }
    return sum_heads(sum, lane);
}

/* The same exactly, of ROUND tokens from s on. */
static __device__ void score_exactly(const aq_cuda_select &t, int64_t unit, int64_t tile, int s,
                                     int lane, float score[ROUND]) {
    const int n_col = t.a.kv.n_col, g = aq_select_head(t, unit), first = blockIdx.z * HEADS;
    const float *q = t.a.q + (aq_select_query(t, unit) * t.a.n_head + g * t.group + first) * n_col;
    float sum[ROUND][HEADS] = {};
    for (int c = lane; c < n_col; c += 32) {
        float key[ROUND];
#pragma unroll
        for (int n = 0; n < ROUND; n++)
            key[n] = aq_cuda_key(t.cache, tile, g, s + n, c);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            const float x = first + h < t.group ? t.scale * q[h * n_col + c] : 0.0f;
#pragma unroll
            for (int n = 0; n < ROUND; n++)
                sum[n][h] = fmaf(x, key[n], sum[n][h]);
        }
    }
#pragma unroll
    for (int n = 0; n < ROUND; n++)
        score[n] = sum_heads(sum[n], lane);
}

/* The tokens of one tile that codes do not give the scores of, or all, shared by the warps of the
 * block; lanes 8 h keep the sums of head h. Slots without a token of the text score as any. */
static __device__ void scan_tokens(const aq_cuda_select &t, int64_t unit, int64_t pos, int64_t tile,
                                   bool all, float *z, softmax *sum) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bool open = aq_cuda_open(t.cache, tile);
    for (int s = warp * ROUND; s < AQ_TILE; s += WARPS * ROUND) {
        bool exactly[ROUND], any = false;
        float score[ROUND];
        for (int n = 0; n < ROUND; n++) {
            exactly[n] = open || aq_select_near(t, pos, aq_select_pos(t, tile * AQ_TILE + s + n));
            any = any || exactly[n];
        }
        if (any) score_exactly(t, unit, tile, s, lane, score);
        for (int n = 0; n < ROUND; n++) {
            const int64_t token = tile * AQ_TILE + s + n;
            const bool seen = aq_select_pos(t, token) <= pos;
            if (!exactly[n] && !all) continue;
            if (!exactly[n] && seen) score[n] = score_by_codes(t, unit, tile, s + n, lane);
            if (lane % 8 != 0) continue;
            z[aq_select_z(token, lane / 8)] = seen ? score[n] : -INFINITY;
            if (seen) soften(sum, score[n]);
        }
    }
}

/* Joins the sums that the threads of a block have, each of a head by tokens and of one by tiles,
 * and stores them. */
static __device__ void give_sums(const aq_cuda_select &t, int64_t unit, softmax by_tokens,
                                 softmax by_tiles) {
    __shared__ softmax sums[HEADS * THREADS];
    const int lane = threadIdx.x % 32, first = lane % 8 == 0 ? lane / 8 : HEADS;
    for (int h = 0; h < HEADS; h++) {
        softmax sum = {AQ_CUDA_LOWEST, 0.0f};
        if (h == first) sum = by_tokens;
        if (h == lane % HEADS) sum = join(sum, by_tiles);
        sums[h * THREADS + threadIdx.x] = sum;
    }
    __syncthreads();
    for (int n = THREADS / 2; n > 0; n /= 2) {
        for (int i = threadIdx.x; i < HEADS * n; i += THREADS) {
            softmax *to = sums + i / n * THREADS + i % n;
            to[0] = join(to[0], to[n]);
        }
        __syncthreads();
    }
    if (threadIdx.x >= HEADS) return;
    const softmax sum = sums[threadIdx.x * THREADS];
    const int64_t block = (unit * t.n_block + blockIdx.z) * t.n_scan + blockIdx.x;
    t.ml[(block * HEADS + threadIdx.x) * 2] = sum.m == AQ_CUDA_LOWEST ? -INFINITY : sum.m;
    t.ml[(block * HEADS + threadIdx.x) * 2 + 1] = sum.l;
}

/* Any codes. */
static __global__ void __launch_bounds__(THREADS) scan_any(const aq_cuda_select t) {
    const int64_t unit = blockIdx.y, pos = t.a.q_pos[aq_select_query(t, unit)];
    softmax sum = {AQ_CUDA_LOWEST, 0.0f};
    float *z = t.z + (unit * t.n_block + blockIdx.z) * t.n_token * HEADS;
    for (int64_t tile = blockIdx.x; tile < t.a.n_tile; tile += gridDim.x)
        scan_tokens(t, unit, pos, tile, true, z, &sum);
    give_sums(t, unit, sum, softmax{AQ_CUDA_LOWEST, 0.0f});
}

/* Bits of the codes of group g; 0: there is no such group. */
static __device__ __forceinline__ int bits_of_group(const aq_cuda_select &t, int g) {
    return (1 << (t.kinds >> 2 * g & 3)) >> 1;
}

/* What a lane has of a tile: four words of each group of columns, and bases and steps of QUADS
 * times four columns. */
template <int GROUPS> struct tile_codes {
    static constexpr int quads = GROUPS / 8;
    uint4 word[GROUPS];
    uint2 base[quads];
    uint32_t step[quads];
};

/* Loads what is not there from where it does no harm: the query is 0 in such columns. */
template <int GROUPS>
static __device__ __forceinline__ void load_tile(const aq_cuda_select &t, const uint8_t *block,
                                                 tile_codes<GROUPS> &to) {
    const int lane = threadIdx.x % 32, n_code = t.cache.n_code;
    const uint8_t *codes = block + 3 * n_code;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        const int bits = bits_of_group(t, g);
        const int row = lane / 4 & (2 * bits - 1);
        to.word[g] = aq_cuda_load16(bits > 0 ? codes + lane % 4 * 32 * bits + 16 * row : block);
        codes += 128 * bits;
    }
#pragma unroll
    for (int j = 0; j < to.quads; j++) {
        const int quad = min(lane + 32 * j, n_code / 4 - 1);
        to.base[j] = __ldcs((const uint2 *)(block + 8 * quad));
        to.step[j] = __ldcs((const uint32_t *)(block + 2 * n_code + 4 * quad));
    }
}

/* What a lane knows of its columns for all tiles: of QUADS times four. */
template <int QUADS> struct lane_query {
    float4 q[QUADS][HEADS]; /* 0 where there is no column */
    code_scale scale[QUADS];
};

template <int QUADS>
static __device__ void take_query(const aq_cuda_select &t, int64_t unit, lane_query<QUADS> &to) {
    const int n_quad = t.cache.n_code / 4;
    const float4 *q = (const float4 *)(t.q + (unit * t.n_block + blockIdx.z) * HEADS * 4 * n_quad);
    for (int j = 0; j < QUADS; j++) {
        const int quad = threadIdx.x % 32 + 32 * j;
        const bool there = quad < n_quad;
        to.scale[j] = scale_of(bits_of_group(t, there ? 4 * quad / GROUP : 0));
        for (int h = 0; h < HEADS; h++)
            to.q[j][h] = there ? q[h * n_quad + quad] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
}

/* A whole number of less than 2^22 in the lowest bits of 1.5 * 2^23, as bits of a float. */
#define WHOLE_BITS  0x4b400000
#define WHOLE_FLOAT 12582912.0f

/* Four whole numbers from -128 to 127 as bytes. */
static __device__ __forceinline__ uint32_t bytes_of(float a, float b, float c, float d) {
    const uint32_t low = __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x0040);
    const uint32_t high = __byte_perm(__float_as_uint(c), __float_as_uint(d), 0x0040);
    return __byte_perm(low, high, 0x5410);
}

/* Holds the query to bytes for the steps of a tile: those of a head in four columns in
 * bytes[quad][head]. unit[h]: what 1 of them stands for; returns what head lane / 8 has at codes
 * 0. */
template <int GROUPS>
static __device__ float fold_query(const lane_query<GROUPS / 8> &query,
                                   const tile_codes<GROUPS> &codes, uint4 *bytes,
                                   float unit[HEADS]) {
    constexpr int quads = GROUPS / 8;
    float product[quads][HEADS][4], sum[HEADS] = {0.0f, 0.0f, 0.0f, 0.0f};
    float most[HEADS] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < quads; j++) {
        const float2 low = __half22float2(*(const __half2 *)&codes.base[j].x);
        const float2 high = __half22float2(*(const __half2 *)&codes.base[j].y);
        float by[4], middle[4] = {low.x, low.y, high.x, high.y};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            by[k] = query.scale[j].unit *
                    aq_cuda_step8_value((uint8_t)__byte_perm(codes.step[j], 0, 0x4440 | k));
            middle[k] = fmaf(query.scale[j].middle, by[k], middle[k]);
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            const float4 x = query.q[j][h];
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
    float inverse[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        inverse[h] = inverse_of(most[h]);
        unit[h] = most[h] * (1.0f / 127.0f);
    }
#pragma unroll
    for (int j = 0; j < quads; j++) {
        uint32_t word[HEADS];
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            const float *x = product[j][h];
            word[h] =
                bytes_of(fmaf(x[0], inverse[h], WHOLE_FLOAT), fmaf(x[1], inverse[h], WHOLE_FLOAT),
                         fmaf(x[2], inverse[h], WHOLE_FLOAT), fmaf(x[3], inverse[h], WHOLE_FLOAT));
            const int all = __dp4a((int)word[h], 0x01010101, WHOLE_BITS);
            sum[h] =
                fmaf(-query.scale[j].half * (__int_as_float(all) - WHOLE_FLOAT), unit[h], sum[h]);
        }
        bytes[threadIdx.x % 32 + 32 * j] = make_uint4(word[0], word[1], word[2], word[3]);
    }
    __syncwarp();
    return sum_heads(sum, threadIdx.x % 32);
}

/* The codes of both tokens of a word, shifted to its lowest bits and those four higher, as the
 * factors of a row; the levels of 2 bits stand in the order column, token, those of others in the
 * order token, column. */
template <int BITS> static __device__ __forceinline__ void open_word(uint32_t word, uint32_t a[2]) {
    if (BITS == 4) {
        a[0] = word << 2 & 0x3c3c3c3cu;
        a[1] = word >> 2 & 0x3c3c3c3cu;
    } else if (BITS == 2) {
        const uint32_t both = word & 0x33333333u;
        a[0] = __byte_perm(0x140d0700u, 0, both);
        a[1] = __byte_perm(0x140d0700u, 0, both >> 16);
    } else {
        a[0] = word << 4 & 0x10101010u;
        a[1] = word & 0x10101010u;
    }
}

/* Adds the products of a group: `query` of the head and columns of this lane, in the columns of
 * the product with zeros where it meets the other token. */
template <int BITS>
static __device__ __forceinline__ void multiply_group(uint4 word, uint32_t query, int sum[2][4]) {
    const int row = threadIdx.x % 32 / 4, shift = BITS == 2 ? row / 4 * 2 : BITS == 1 ? row / 2 : 0;
    const bool second = threadIdx.x & 4;
    uint32_t a[4][2], b[2] = {second ? 0u : query, second ? query : 0u};
    if (BITS == 2) {
        b[0] = __byte_perm(query, 0, second ? 0x1404 : 0x4140);
        b[1] = __byte_perm(query, 0, second ? 0x3424 : 0x4342);
    }
    open_word<BITS>(word.x >> shift, a[0]);
    open_word<BITS>(word.y >> shift, a[1]);
    open_word<BITS>(word.z >> shift, a[2]);
    open_word<BITS>(word.w >> shift, a[3]);
    aq_cuda_mma_bytes(sum[0], a[0][0], a[1][0], a[0][1], a[1][1], b);
    aq_cuda_mma_bytes(sum[1], a[2][0], a[3][0], a[2][1], a[3][1], b);
}

/* sum[half][k]: of head lane % 4 and tokens 4 (lane / 4) + 2 half + k / 2, those with odd k 32
 * later; as WHOLE_BITS and more. */
template <int GROUPS>
static __device__ __forceinline__ void multiply_codes(const aq_cuda_select &t,
                                                      const tile_codes<GROUPS> &codes,
                                                      const uint4 *bytes, int sum[2][4]) {
    const int lane = threadIdx.x % 32;
    const uint32_t *q = (const uint32_t *)bytes + lane % 4 * HEADS + lane / 8;
#pragma unroll
    for (int k = 0; k < 4; k++)
        sum[0][k] = sum[1][k] = WHOLE_BITS;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        const int bits = bits_of_group(t, g);
        const uint32_t query = q[4 * HEADS * g];
        if (bits == 4)
            multiply_group<4>(codes.word[g], query, sum);
        else if (bits == 2)
            multiply_group<2>(codes.word[g], query, sum);
        else if (bits == 1)
            multiply_group<1>(codes.word[g], query, sum);
    }
}

/* z of a tile; goes on with the softmax of head lane % 4. `takes`: the tokens that count, others
 * get -infinity; not looked at if ALL. */
template <int GROUPS, bool ALL>
static __device__ void scan_tile(const aq_cuda_select &t, const lane_query<GROUPS / 8> &query,
                                 const tile_codes<GROUPS> &codes, uint64_t takes, uint4 *bytes,
                                 float4 *z, softmax *to) {
    const int lane = threadIdx.x % 32;
    int sum[2][4];
    float units[HEADS], score[8], most = to->m;
    float base = fold_query<GROUPS>(query, codes, bytes, units);
    base = __shfl_sync(WHOLE, base, 8 * (lane % 4));
    const float unit = lane & 2 ? (lane & 1 ? units[3] : units[2]) : lane & 1 ? units[1] : units[0];
    multiply_codes<GROUPS>(t, codes, bytes, sum);
#pragma unroll
    for (int k = 0; k < 8; k++) { /* tokens 4 (lane / 4) + k, from k = 4 on 28 + k */
        const float of = __int_as_float(sum[k % 4 / 2][k % 2 * 2 + k / 4]) - WHOLE_FLOAT;
        score[k] = fmaf(of, unit, base);
        if (!ALL && !(takes >> (lane / 4 * 4 + k % 4 + k / 4 * 32) & 1)) score[k] = -INFINITY;
        most = fmaxf(most, score[k]);
    }
    z[lane] = make_float4(score[0], score[1], score[2], score[3]);
    z[lane + 32] = make_float4(score[4], score[5], score[6], score[7]);
    float l = to->l * aq_cuda_exp2(to->m - most);
#pragma unroll
    for (int k = 0; k < 8; k++)
        l += aq_cuda_exp2(score[k] - most);
    to->m = most;
    to->l = l;
    __syncwarp();
}

/* What a thread has of the tiles left over. */
typedef struct {
    softmax by_tokens, by_tiles;
} rest_sums;

/* Tiles left over: those with a bit in rest[], bit i for tile first + i gridDim.x. Apart from the
 * loop over whole tiles, which needs the registers. */
template <int GROUPS>
static __device__ __noinline__ rest_sums scan_rest(const aq_cuda_select &t, int64_t unit,
                                                   int64_t first, const uint32_t *rest,
                                                   uint4 *bytes, rest_sums sums) {
    const int64_t pos = t.a.q_pos[aq_select_query(t, unit)];
    float *z = t.z + (unit * t.n_block + blockIdx.z) * t.n_token * HEADS;
    for (int i = 0; i < TILES_AT_ONCE / 32; i++)
        for (uint32_t bits = rest[i]; bits != 0; bits &= bits - 1) {
            const int64_t tile = first + (32 * i + __ffs((int)bits) - 1) * (int64_t)gridDim.x;
            if (threadIdx.x < 32 && !aq_cuda_open(t.cache, tile)) {
                lane_query<GROUPS / 8> query;
                tile_codes<GROUPS> codes;
                take_query<GROUPS / 8>(t, unit, query);
                load_tile<GROUPS>(t, block_of(t, tile, aq_select_head(t, unit)), codes);
                scan_tile<GROUPS, false>(t, query, codes, by_codes(t, pos, tile), bytes,
                                         (float4 *)(z + tile * AQ_TILE * HEADS), &sums.by_tiles);
            }
            __syncthreads();
            scan_tokens(t, unit, pos, tile, false, z, &sums.by_tokens);
        }
    return sums;
}

/* rest[]: of n tiles, every gridDim.x-th from `first` on, those that codes alone do not give. */
static __device__ void find_rest(const aq_cuda_select &t, int64_t pos, int64_t first, int n,
                                 uint32_t rest[TILES_AT_ONCE / 32]) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = warp; i < TILES_AT_ONCE / 32; i += WARPS) {
        uint32_t bits = 0;
        for (int j = 0; t.a.slot_pos && j < 32 && 32 * i + j < n; j++)
            bits |= (uint32_t)!all_by_codes(t, pos, first + (32 * i + j) * (int64_t)gridDim.x) << j;
        const bool looks = !t.a.slot_pos && 32 * i + lane < n;
        bits |= __ballot_sync(
            WHOLE, looks && !all_by_codes(t, pos, first + (32 * i + lane) * (int64_t)gridDim.x));
        if (lane == 0) rest[i] = bits;
    }
    __syncthreads();
}

/* Codes of 1, 2 and 4 bits. A block has every gridDim.x-th tile, its warps share them. */
template <int GROUPS>
static __global__ void __launch_bounds__(THREADS, GROUPS == 8 ? 2 : 1)
    scan_bytes(const __grid_constant__ aq_cuda_select t) {
    __shared__ uint4 bytes[WARPS][4 * GROUPS];
    __shared__ uint32_t rest[TILES_AT_ONCE / 32];
    const int64_t unit = blockIdx.y, pos = t.a.q_pos[aq_select_query(t, unit)];
    const int64_t n_own = (t.a.n_tile - blockIdx.x + gridDim.x - 1) / gridDim.x;
    rest_sums sums = {{AQ_CUDA_LOWEST, 0.0f}, {AQ_CUDA_LOWEST, 0.0f}};
    softmax sum = {AQ_CUDA_LOWEST, 0.0f};
    for (int64_t from = 0; from < n_own; from += TILES_AT_ONCE) {
        const int n = n_own - from < TILES_AT_ONCE ? (int)(n_own - from) : TILES_AT_ONCE;
        const int64_t first = blockIdx.x + from * gridDim.x;
        find_rest(t, pos, first, n, rest);
        sums = scan_rest<GROUPS>(t, unit, first, rest, bytes[0], sums);
        __syncthreads();
        const int g = aq_select_head(t, unit), warp = threadIdx.x / 32;
        float *z = t.z + (unit * t.n_block + blockIdx.z) * t.n_token * HEADS;
        lane_query<GROUPS / 8> query;
        take_query<GROUPS / 8>(t, unit, query);
        for (int i = warp; i < n; i += WARPS) {
            if (rest[i / 32] >> i % 32 & 1) continue;
            const int64_t tile = first + (int64_t)i * gridDim.x;
            tile_codes<GROUPS> codes;
            load_tile<GROUPS>(t, block_of(t, tile, g), codes);
            scan_tile<GROUPS, true>(t, query, codes, 0, bytes[warp],
                                    (float4 *)(z + tile * AQ_TILE * HEADS), &sum);
        }
        __syncthreads();
    }
    give_sums(t, unit, sums.by_tokens, join(sum, sums.by_tiles));
}

/* The groups of columns, if scan_bytes takes their codes; else 0. */
static uint32_t kinds_of(const aq_cuda_select *t) {
    const aq_code_layout *layout = &t->a.kv.codes;
    uint32_t kinds = 0;
    int n_group = 0;
    if (t->cache.n_code > 16 * GROUP) return 0;
    if (!aq_cuda_aligned(t->a.kv.selector, t->cache.selector_bytes, 16)) return 0;
    for (int i = 0; i < layout->n_segment; i++) {
        const int bits = layout->segments[i].bits, n = layout->segments[i].n;
        if (n % GROUP != 0 || (bits != 1 && bits != 2 && bits != 4)) return 0;
        for (int j = 0; j < n / GROUP; j++)
            kinds |= (uint32_t)(bits == 4 ? 3 : bits) << 2 * n_group++;
    }
    return kinds;
}

void aq_cuda_select_scan(aq_cuda *cuda, aq_cuda_select *t) {
    const dim3 grid((unsigned)t->n_scan, (unsigned)t->n_unit, (unsigned)t->n_block);
    t->kinds = kinds_of(t);
    if (t->kinds == 0)
        scan_any<<<grid, THREADS, 0, cuda->stream>>>(*t);
    else if (t->cache.n_code <= 8 * GROUP)
        scan_bytes<8><<<grid, THREADS, 0, cuda->stream>>>(*t);
    else
        scan_bytes<16><<<grid, THREADS, 0, cuda->stream>>>(*t);
}
