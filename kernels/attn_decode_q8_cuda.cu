/* Decode attention over codes of 8 bits on tensor cores. Codes become f16 exactly: the halves
 * 0x6400 | code are 1024 + code, from which 1024 and 128 or the zero of a token are taken. Queries
 * times the steps of a tile, and weights times the steps of its tokens, are two f16 each, after a
 * power of two that brings the greatest possible close to 2^15. */
#include "kernels/cuda_decode_frame_parts.h"

#define SPREAD 0x1p-20f /* weights that two f16 hold at once; others are mixed by themselves */
#define PARTS  7        /* SPREAD^7 is below all weights */

static __device__ __forceinline__ uint32_t bits_of(__half2 x) {
    return *(const uint32_t *)&x;
}

static __device__ __forceinline__ __half2 halves_of(uint32_t x) {
    return *(const __half2 *)&x;
}

/* 2^x. */
static __device__ __forceinline__ float power_of_two(int x) {
    return __uint_as_float((uint32_t)(127 + x) << 23);
}

/* The power of two above an f16 that is not negative, by its bits. */
static __device__ __forceinline__ int above(uint32_t bits) {
    return (int)(bits >> 10) - 14;
}

static __device__ __forceinline__ void split_pair(float x, float y, uint32_t *high, uint32_t *low) {
    const __half2 h = __floats2half2_rn(x, y);
    const float2 of = __half22float2(h);
    *high = bits_of(h);
    *low = bits_of(__floats2half2_rn(x - of.x, y - of.y));
}

/* Two bytes, of x and y as `places` says, as 1024 + code, less `minus`. */
static __device__ __forceinline__ uint32_t code_pair(uint32_t x, uint32_t y, uint32_t places,
                                                     uint32_t minus) {
    const uint32_t both = aq_cuda_and_or(__byte_perm(x, y, places), 0x00ff00ffu, 0x64006400u);
    return bits_of(__hsub2(halves_of(both), halves_of(minus)));
}

/* Lane has rows (columns of keys, tokens of values) of the quarter lane % 4, of each row numbers
 * for lane / 4: so the token at a position is that itself, and o runs on from lane to lane. In
 * shared memory, pieces of 16 bytes of a row are swapped by its quarter, and lanes read odd and
 * even rows in turns, so that what is read together lies in different banks. */
template <int D> struct q8_store {
    static constexpr int width = D, n_warp = D == 256 ? 2 : 4, n_step = D / 16;
    static constexpr int key_bytes = (4 + AQ_TILE) * D, head_bytes = 3 * AQ_TILE;
    static constexpr int value_bytes = head_bytes + AQ_TILE * D;
    static constexpr int warp_bytes = key_bytes + value_bytes + 8 * AQ_DECODE_ROW;
    static constexpr int quarter = D / 4;
    static constexpr int run = D == 64 ? 8 : 16; /* entries of a lane, again 128 further on */

    uint8_t *keys, *values, *weights;
    uint32_t high[2 * n_step], low[2 * n_step]; /* of the queries of head lane / 8 */
    float back;                                 /* what undoes the power of two of head lane % 4 */

    static __device__ int token(int position) {
        return position;
    }
    static __device__ int entry(int row, int j) {
        return j / run * 128 + run * row + j % run;
    }

    __device__ __forceinline__ q8_store(uint8_t *own)
        : keys(own), values(own + key_bytes), weights(own + key_bytes + value_bytes) {
    }

    __device__ __forceinline__ void take(const aq_decode_queries &q, int n_col) {
        const int lane = threadIdx.x % 32, h = lane / 8;
        uint32_t most[AQ_DECODE_HEADS] = {0, 0, 0, 0};
        for (int c = lane; c < n_col; c += 32)
#pragma unroll
            for (int i = 0; i < AQ_DECODE_HEADS; i++)
                most[i] = max(most[i], __float_as_uint(fabsf(((const float *)(q.q + c))[i])));
        float up = 0.0f;
#pragma unroll
        for (int i = 0; i < AQ_DECODE_HEADS; i++) {
            const int exponent = max((int)(aq_cuda_warp_max(most[i]) >> 23) - 126, -96);
            if (i == h) up = power_of_two(15 - exponent);
            if (i == lane % 4) back = power_of_two(exponent - 15);
        }
#pragma unroll
        for (int i = 0; i < 2 * n_step; i++) {
            const int at = lane % 4 * quarter + 2 * i;
            split_pair(up * aq_decode_query(q, at, h), up * aq_decode_query(q, at + 1, h), &high[i],
                       &low[i]);
        }
    }

    __device__ __forceinline__ void copy_keys(const uint8_t *block, int n_col,
                                              const aq_decode_queries &q) const {
        const int lane = threadIdx.x % 32, piece = lane % 4;
        uint8_t *to = keys + 4 * D + 16 * lane, *swapped = to - 16 * piece + 16 * (piece ^ 2);
        for (int i = lane; i < n_col / 4; i += 32)
            aq_cuda_copy16(keys + 16 * i, block + 16 * i);
        block += 4 * n_col;
        const uint8_t *from = aq_cuda_base(block + 16 * lane);
        if (q.whole)
#pragma unroll
            for (int i = 0; i < D / 8; i++)
                aq_cuda_copy16((i < D / 16 ? to : swapped) + 512 * i, from + 512 * i);
        else
            for (int c = lane / 4, i = 0; c < q.n; c += 8, i++)
                aq_cuda_copy16((i < D / 16 ? to : swapped) + 512 * i,
                               block + AQ_TILE * q.dims[c] + 16 * piece);
    }

    __device__ __forceinline__ void copy_values(const uint8_t *block) const {
        constexpr int pieces = D / 16;
        const int lane = threadIdx.x % 32;
        const uint8_t *from = aq_cuda_base(block + head_bytes + 16 * lane);
        if (lane < head_bytes / 16) aq_cuda_copy16(values + 16 * lane, block + 16 * lane);
#pragma unroll
        for (int i = 0; i < AQ_TILE * pieces; i += 32) {
            const int swap = i / pieces / (D == 64 ? 32 : 16) * 2;
            aq_cuda_copy16(values + head_bytes + D * (lane / pieces) + 16 * (lane % pieces ^ swap) +
                               D * (i / pieces),
                           from + 16 * i);
        }
    }

    /* For head lane % 4: the query times what code 128 stands for. The greatest step's bits. */
    __device__ __forceinline__ float centre(const aq_decode_queries &q, int n_col,
                                            uint32_t *greatest) const {
        const __half *lows = (const __half *)keys, *steps = lows + n_col;
        const int lane = threadIdx.x % 32;
        uint32_t most = 0;
        float sum[AQ_DECODE_HEADS] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
        for (int c = lane; c < n_col; c += 32) {
            const float at = fmaf(128.0f, __half2float(steps[c]), __half2float(lows[c]));
            const float4 x = q.q[c];
            most = max(most, (uint32_t)__half_as_ushort(steps[c]));
            sum[0] = fmaf(x.x, at, sum[0]);
            sum[1] = fmaf(x.y, at, sum[1]);
            sum[2] = fmaf(x.z, at, sum[2]);
            sum[3] = fmaf(x.w, at, sum[3]);
        }
        *greatest = aq_cuda_warp_max(most);
        /* Each trade halves the heads of a lane: bit 1 of it chooses 0, 1 or 2, 3, bit 0 of them.
         */
        const bool upper = lane & 2, odd = lane & 1;
        float x = (upper ? sum[2] : sum[0]) +
                  __shfl_xor_sync(AQ_DECODE_WHOLE, upper ? sum[0] : sum[2], 2);
        float y = (upper ? sum[3] : sum[1]) +
                  __shfl_xor_sync(AQ_DECODE_WHOLE, upper ? sum[1] : sum[3], 2);
        x = (odd ? y : x) + __shfl_xor_sync(AQ_DECODE_WHOLE, odd ? x : y, 1);
        for (int apart = 4; apart < 32; apart *= 2)
            x += __shfl_xor_sync(AQ_DECODE_WHOLE, x, apart);
        return x;
    }

    /* The steps of the columns that are read, and zeros of others. */
    __device__ __forceinline__ const uint8_t *steps_of(const aq_decode_queries &q,
                                                       int n_col) const {
        const __half *steps = (const __half *)keys + n_col;
        if (q.whole) return (const uint8_t *)steps;
        __half *to = (__half *)weights;
        for (int i = threadIdx.x % 32; i < D; i += 32)
            to[i] = i < q.n ? steps[q.dims[i]] : __ushort_as_half(0);
        __syncwarp();
        return weights;
    }

    __device__ __forceinline__ void score(const aq_decode_queries &q, int n_col,
                                          float to[8]) const {
        const int lane = threadIdx.x % 32, part = lane % 4, odd = part % 2;
        const uint8_t *steps = steps_of(q, n_col) + 2 * part * quarter;
        uint32_t greatest;
        const float more = centre(q, n_col, &greatest);
        const float by = back * power_of_two(above(greatest));
        const __half2 up = __float2half2_rn(power_of_two(-above(greatest)));
        const uint8_t *even_row = keys + 4 * D + AQ_TILE * (part * quarter + odd) +
                                  16 * ((lane / 8) ^ (part & 2)) + 8 * (lane / 4 % 2);
        const uint8_t *odd_row = even_row + (odd ? -AQ_TILE : AQ_TILE);
        const uint32_t places = odd ? 0x0004u : 0x0400u, minus = 0x64806480u; /* 1152 */
        float sum[4][4];
#pragma unroll
        for (int b = 0; b < 4; b++)
            sum[b][0] = sum[b][1] = sum[b][2] = sum[b][3] = 0.0f;
#pragma unroll
        for (int i = 0; i < n_step; i++) {
            uint2 row[4];
            uint32_t factor[2];
            const uint2 four = *(const uint2 *)(steps + 8 * i);
#pragma unroll
            for (int k = 0; k < 4; k++)
                row[k] =
                    *(const uint2 *)((k % 2 ? odd_row : even_row) + AQ_TILE * (4 * i + k / 2 * 2));
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const __half2 step = __hmul2(halves_of(k ? four.y : four.x), up);
                const __half2 h = halves_of(high[2 * i + k]), l = halves_of(low[2 * i + k]);
                const __half2 first = __hmul2(h, step);
                const __half2 second = __hfma2(l, step, __hfma2(h, step, __hneg2(first)));
                factor[k] = bits_of(lane / 4 % 2 ? second : first);
            }
#pragma unroll
            for (int b = 0; b < 4; b++) {
                uint32_t key[4];
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    const uint2 x = row[k / 2 * 2], y = row[k / 2 * 2 + 1];
                    key[k] = code_pair(b < 2 ? x.x : x.y, b < 2 ? y.x : y.y,
                                       places + 0x0101u * (b % 2 * 2 + k % 2), minus);
                }
                aq_cuda_mma_f16(sum[b], key, factor[0], factor[1]);
            }
        }
#pragma unroll
        for (int k = 0; k < 8; k++)
            to[k] = fmaf(sum[k / 2][k % 2 * 2] + sum[k / 2][k % 2 * 2 + 1], by, more);
    }

    /* Puts the weights where the lanes that multiply them find them. */
    __device__ __forceinline__ void give_weights(const float w[8]) const {
        uint32_t first[4], second[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            split_pair(w[2 * k], w[2 * k + 1], &first[k], &second[k]);
        const int lane = threadIdx.x % 32;
        uint8_t *to = weights + 2 * AQ_DECODE_ROW * (lane % 4) + 16 * (lane / 4);
        *(uint4 *)to = make_uint4(first[0], first[1], first[2], first[3]);
        *(uint4 *)(to + AQ_DECODE_ROW) = make_uint4(second[0], second[1], second[2], second[3]);
        __syncwarp();
    }

    /* o += keep o + factor * (weights, of all tokens, times codes less zeros). */
    __device__ __forceinline__ void mix_weights(float keep, float factor, float o[D / 8]) const {
        constexpr int words = run / 4;
        const int lane = threadIdx.x % 32, row = lane / 4, part = lane % 4;
        const uint8_t *tokens = values + head_bytes + 16 * part * D;
        uint32_t w[8], zero[8];
        *(uint4 *)w = *(const uint4 *)(weights + AQ_DECODE_ROW * row + 32 * part);
        *(uint4 *)(w + 4) = *(const uint4 *)(weights + AQ_DECODE_ROW * row + 32 * part + 16);
        const uint4 zeros = *(const uint4 *)(values + 2 * AQ_TILE + 16 * part);
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const uint32_t four = k < 2 ? zeros.x : k < 4 ? zeros.y : k < 6 ? zeros.z : zeros.w;
            zero[k] = __byte_perm(four, 0x64646464u, k % 2 ? 0x4342u : 0x4140u);
        }
#pragma unroll
        for (int from = 0; from < D; from += 8 * run) {
            float sum[2 * words][4];
#pragma unroll
            for (int b = 0; b < 2 * words; b++)
                sum[b][0] = sum[b][1] = sum[b][2] = sum[b][3] = 0.0f;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t code[4][words];
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    const uint8_t *at = tokens + D * (4 * i + k) + from;
                    if (D == 64)
                        *(uint2 *)code[k] =
                            *(const uint2 *)(at + 16 * ((row / 2) ^ (part & 2)) + 8 * (row % 2));
                    else
                        *(uint4 *)code[k] = *(const uint4 *)(at + 16 * (row ^ (2 * part)));
                }
#pragma unroll
                for (int b = 0; b < 2 * words; b++) {
                    uint32_t value[4];
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        value[k] =
                            code_pair(code[k / 2 * 2][b / 2], code[k / 2 * 2 + 1][b / 2],
                                      0x0400u + 0x0101u * (b % 2 * 2 + k % 2), zero[2 * i + k / 2]);
                    aq_cuda_mma_f16(sum[b], value, w[2 * i], w[2 * i + 1]);
                }
            }
#pragma unroll
            for (int b = 0; b < 2 * words; b++) {
                float *to = o + from / 8 + 2 * b;
                to[0] = fmaf(sum[b][0] + sum[b][1], factor, to[0] * keep);
                to[1] = fmaf(sum[b][2] + sum[b][3], factor, to[1] * keep);
            }
        }
    }

    /* Weights so far apart that two f16 do not hold all of them are mixed part after part. */
    __device__ __forceinline__ void mix(const float p[8], float keep, float factor,
                                        float o[D / 8]) const {
        const uint4 pairs = *(const uint4 *)(values + threadIdx.x % 32 / 4 * 16);
        const __half2 step[4] = {halves_of(pairs.x), halves_of(pairs.y), halves_of(pairs.z),
                                 halves_of(pairs.w)};
        const __half2 most = __hmax2(__hmax2(step[0], step[1]), __hmax2(step[2], step[3]));
        const uint32_t both = bits_of(most);
        const int high = above(aq_cuda_warp_max(max(both & 0xffffu, both >> 16)));
        const float up = power_of_two(15 - high);
        float scaled[8], least = 1.0f;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const float2 two = __half22float2(step[k / 2]);
            scaled[k] = p[k] * (up * (k % 2 ? two.y : two.x));
            least = fminf(least, p[k] == 0.0f ? 1.0f : p[k]);
        }
        factor *= power_of_two(high - 15);
        const int n_part = __any_sync(AQ_DECODE_WHOLE, least < SPREAD) ? PARTS : 1;
        float top = 1.0f, raise = 1.0f;
        for (int part = 0; part < n_part; part++) {
            float w[8];
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const bool now = p[k] <= top && p[k] > top * SPREAD;
                w[k] = n_part == 1 || now ? scaled[k] * raise : 0.0f;
            }
            give_weights(w);
            mix_weights(part == 0 ? keep : 1.0f, factor, o);
            __syncwarp();
            top *= SPREAD;
            raise *= 1.0f / SPREAD;
            factor *= SPREAD;
        }
    }
};

void aq_cuda_decode_q8(aq_cuda *cuda, const aq_attn_partial_args *args) {
    if (args->kv.d_head == 64)
        aq_decode_launch<q8_store<64>>(cuda, args);
    else if (args->kv.d_head == 128)
        aq_decode_launch<q8_store<128>>(cuda, args);
    else
        aq_decode_launch<q8_store<256>>(cuda, args);
}
