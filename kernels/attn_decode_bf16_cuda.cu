/* Decode attention over bf16 on tensor cores. Keys and values are factors as they are; queries and
 * weights are three bf16 each, 24 bits: two side by side in one product, the third in another. */
#include "kernels/cuda_decode_frame_parts.h"

/* A number as bf16, and what that leaves out of it. */
static __device__ __forceinline__ uint32_t split(float *x) {
    const __nv_bfloat16 high = __float2bfloat16_rn(*x);
    *x -= __bfloat162float(high);
    return __bfloat16_as_ushort(high);
}

/* The terms of two numbers, pair by pair. */
static __device__ __forceinline__ void split_pair(float x, float y, uint32_t term[3]) {
#pragma unroll
    for (int i = 0; i < 3; i++) {
        const uint32_t low = split(&x);
        term[i] = low | split(&y) << 16;
    }
}

/* Rows of shared memory are pieces of 16 bytes, which are swapped so that eight rows that are read
 * together lie in different banks. Token 8 k + row is at position 8 row + k. */
template <int D> struct bf16_store {
    static constexpr int width = D, n_warp = D == 64 ? 4 : 2, n_step = D / 16;
    static constexpr int weight_rows = 12; /* two terms of each head, then the third */
    static constexpr int warp_bytes = 4 * AQ_TILE * D + weight_rows * AQ_DECODE_ROW;

    uint8_t *keys, *values, *weights;
    uint32_t first[2 * n_step], third[2 * n_step]; /* terms of the queries, as factors */

    static __device__ int token(int position) {
        return position % 8 * 8 + position / 8;
    }
    static __device__ int entry(int row, int j) {
        return 8 * j + row;
    }

    __device__ __forceinline__ bf16_store(uint8_t *own)
        : keys(own), values(own + 2 * AQ_TILE * D), weights(own + 4 * AQ_TILE * D) {
    }

    /* Columns that are not read are zeros. Lane: head lane / 8; its first or second term; the third
     * in every second lane. */
    __device__ __forceinline__ void take(const aq_decode_queries &q, int) {
        const int lane = threadIdx.x % 32, h = lane / 8, odd = lane / 4 % 2;
        for (int c = q.n + lane / 8; c < D; c += 4)
            *(uint4 *)(keys + 128 * c + lane % 8 * 16) = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < 2 * n_step; i++) {
            uint32_t term[3];
            const int at = 8 * i + lane % 4 * 2;
            split_pair(aq_decode_query(q, at, h), aq_decode_query(q, at + 1, h), term);
            first[i] = odd ? term[1] : term[0];
            third[i] = odd ? 0 : term[2];
        }
    }

    __device__ __forceinline__ void copy_keys(const uint8_t *block, int,
                                              const aq_decode_queries &q) const {
        const int lane = threadIdx.x % 32, piece = lane % 8, row = lane / 8;
        uint8_t *even = keys + 128 * row + 16 * (piece ^ row);
        uint8_t *odd = keys + 128 * row + 16 * (piece ^ (row + 4));
        const uint8_t *from = aq_cuda_base(block + 16 * lane);
        if (q.whole)
#pragma unroll
            for (int i = 0; i < D / 4; i++)
                aq_cuda_copy16((i % 2 ? odd : even) + 512 * i, from + 512 * i);
        else
            for (int c = row, i = 0; c < q.n; c += 4, i++)
                aq_cuda_copy16((i % 2 ? odd : even) + 512 * i,
                               block + 128 * q.dims[c] + 16 * piece);
    }

    __device__ __forceinline__ void copy_values(const uint8_t *block) const {
        constexpr int pieces = D / 8;
        const int lane = threadIdx.x % 32, row = lane / pieces, piece = lane % pieces ^ row / 2;
        const uint8_t *from = aq_cuda_base(block + 16 * lane);
#pragma unroll
        for (int i = 0; i < AQ_TILE * pieces; i += 32)
            aq_cuda_copy16(values + 2 * D * row + 16 * (piece ^ i / pieces / 2 % 8) +
                               2 * D * (i / pieces),
                           from + 16 * i);
    }

    __device__ __forceinline__ void score(const aq_decode_queries &, int, float to[8]) const {
        const int lane = threadIdx.x % 32, row = lane % 8, square = lane / 8;
        const uint8_t *from = keys + 128 * (square / 2 * 8 + row);
        float high[4][4], low[4][4];
#pragma unroll
        for (int b = 0; b < 4; b++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                high[b][k] = low[b][k] = 0.0f;
#pragma unroll
        for (int i = 0; i < n_step; i++) {
#pragma unroll
            for (int b = 0; b < 4; b++) {
                uint32_t key[4];
                aq_cuda_load_turned(key, from + 2048 * i + 16 * ((2 * b + square % 2) ^ row));
                aq_cuda_mma_bf16(high[b], key, first[2 * i], first[2 * i + 1]);
                aq_cuda_mma_bf16(low[b], key, third[2 * i], third[2 * i + 1]);
            }
        }
#pragma unroll
        for (int k = 0; k < 8; k++)
            to[k] = low[k / 2][k % 2 * 2] + high[k / 2][k % 2 * 2 + 1] + high[k / 2][k % 2 * 2];
    }

    /* Puts the weights where the lanes that multiply them find them. */
    __device__ __forceinline__ void give_weights(const float p[8]) const {
        const int lane = threadIdx.x % 32, h = lane % 4;
        uint32_t term[4][3];
#pragma unroll
        for (int k = 0; k < 4; k++)
            split_pair(p[2 * k], p[2 * k + 1], term[k]);
#pragma unroll
        for (int i = 0; i < 3; i++)
            *(uint4 *)(weights + AQ_DECODE_ROW * (i < 2 ? 2 * h + i : 8 + h) + 16 * (lane / 4)) =
                make_uint4(term[0][i], term[1][i], term[2][i], term[3][i]);
        __syncwarp();
    }

    /* Positions 16 (lane % 4) and on of a row. */
    __device__ __forceinline__ void take_weights(int row, uint32_t w[8]) const {
        const uint4 *from = (const uint4 *)(weights + AQ_DECODE_ROW * row + threadIdx.x % 4 * 32);
        const uint4 x = from[0], y = from[1];
        w[0] = x.x, w[1] = x.y, w[2] = x.z, w[3] = x.w;
        w[4] = y.x, w[5] = y.y, w[6] = y.z, w[7] = y.w;
    }

    __device__ __forceinline__ void mix(const float p[8], float keep, float factor,
                                        float o[D / 8]) const {
        const int lane = threadIdx.x % 32, row = lane % 8, square = lane / 8;
        uint32_t w[8], w_third[8];
        give_weights(p);
        take_weights(lane / 4, w);
        take_weights(8 + lane / 8, w_third);
        if (lane / 4 % 2 != 0)
#pragma unroll
            for (int i = 0; i < 8; i++)
                w_third[i] = 0;
        /* Of step i, row `row` of the squares 0 and 1 is position 16 (row / 2) + 4 i + row % 2, of
         * the others that + 2; the token is `own` and 32 (i % 2) + i / 2. */
        const int own = row % 2 * 8 + square / 2 * 16 + row / 2 * 2;
        const int apart = row % 2 * 4 + row / 2;
#pragma unroll
        for (int b = 0; b < D / 16; b++) {
            const uint8_t *from = values + 2 * D * own + 16 * ((2 * b + square % 2) ^ apart);
            float high[4] = {0.0f, 0.0f, 0.0f, 0.0f}, low[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t value[4];
                aq_cuda_load_turned(value, from + 2 * D * (i % 2 * 32 + i / 2));
                aq_cuda_mma_bf16(high, value, w[2 * i], w[2 * i + 1]);
                aq_cuda_mma_bf16(low, value, w_third[2 * i], w_third[2 * i + 1]);
            }
            o[2 * b] = fmaf(low[0] + high[1] + high[0], factor, o[2 * b] * keep);
            o[2 * b + 1] = fmaf(low[2] + high[3] + high[2], factor, o[2 * b + 1] * keep);
        }
    }
};

void aq_cuda_decode_bf16(aq_cuda *cuda, const aq_attn_partial_args *args) {
    if (args->kv.d_head == 64)
        aq_decode_launch<bf16_store<64>>(cuda, args);
    else if (args->kv.d_head == 128)
        aq_decode_launch<bf16_store<128>>(cuda, args);
    else
        aq_decode_launch<bf16_store<256>>(cuda, args);
}
