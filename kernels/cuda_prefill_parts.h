/* Private to kernels/: what prefill attention does for any kind of tensor cores. */
#ifndef AQ_KERNELS_CUDA_PREFILL_PARTS_H
#define AQ_KERNELS_CUDA_PREFILL_PARTS_H

#include "kernels/cuda_asm_parts.h"
#include "kernels/cuda_attn_parts.h"
#include "kernels/cuda_tile_parts.h"

#define AQ_PREFILL_BATCH 4 /* pieces of codes that a thread has under way */

static __device__ __forceinline__ uint32_t aq_cuda_pair_of(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&pair;
}

static __device__ __forceinline__ uint4 aq_cuda_eight_of(const float x[8]) {
    return make_uint4(aq_cuda_pair_of(x[0], x[1]), aq_cuda_pair_of(x[2], x[3]),
                      aq_cuda_pair_of(x[4], x[5]), aq_cuda_pair_of(x[6], x[7]));
}

/* Eight codes of 8 bits as whole numbers. */
static __device__ __forceinline__ void aq_cuda_codes_of(uint2 words, float x[8]) {
#pragma unroll
    for (int k = 0; k < 8; k++)
        x[k] = __uint_as_float(__byte_perm(k < 4 ? words.x : words.y, 0x4b000000u,
                                           0x7440u | (uint32_t)(k % 4))) -
               8388608.0f;
}

/* Eight halves. */
static __device__ __forceinline__ void aq_cuda_halves_of(const __half *from, float x[8]) {
    const uint4 words = *(const uint4 *)from;
    const __half2 *pairs = (const __half2 *)&words;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const float2 pair = __half22float2(pairs[k]);
        x[2 * k] = pair.x;
        x[2 * k + 1] = pair.y;
    }
}

/* A tile of keys to shared memory as bf16, by `Threads` threads, in pieces of eight, in the rows in
 * which it is stored: by column a row has the tokens of a column, else the columns of a token.
 * Blocks of bf16 arrive later; of bytes `codes` is the block in the cache, or a copy of it. A row
 * is `row` + `more`, a multiple of how many rows the threads do at once; place(row, more, piece) is
 * where its piece is to be. */
template <int D, bool ByColumn, int Threads, typename Place>
static __device__ __forceinline__ void aq_cuda_put_keys(const aq_cuda_cache &cache, int64_t at,
                                                        int g, const uint8_t *codes, Place place) {
    constexpr int wide = ByColumn ? AQ_TILE / 8 : D / 8, rows = Threads / wide;
    constexpr int n_row = ByColumn ? D : AQ_TILE;
    const int row = threadIdx.x % Threads / wide, piece = threadIdx.x % wide;
    const bool open = aq_cuda_open(cache, at);
    const uint8_t *block = aq_cuda_key_block(cache, at, g);
    if (!open && cache.kv.key_type == AQ_KV_BF16) {
#pragma unroll
        for (int more = 0; more < n_row; more += rows)
            aq_cuda_copy16(place(row, more, piece), block + 16 * threadIdx.x + 16 * wide * more);
    } else if (!open && cache.kv.key_type == AQ_KV_Q8) {
        const __half *low = (const __half *)codes, *step = low + D;
        float lows[8], steps[8];
        if (!ByColumn) {
            aq_cuda_halves_of(low + 8 * piece, lows);
            aq_cuda_halves_of(step + 8 * piece, steps);
        }
#pragma unroll 1
        for (int begin = 0; begin < n_row; begin += AQ_PREFILL_BATCH * rows) {
            uint2 words[AQ_PREFILL_BATCH];
            float of_low[AQ_PREFILL_BATCH], of_step[AQ_PREFILL_BATCH], x[8];
#pragma unroll
            for (int j = 0; j < AQ_PREFILL_BATCH; j++) {
                const int c = row + begin + j * rows;
                words[j] = ((const uint2 *)(codes + 4 * D))[wide * c + piece];
                of_low[j] = ByColumn ? __half2float(low[c]) : 0.0f;
                of_step[j] = ByColumn ? __half2float(step[c]) : 0.0f;
            }
#pragma unroll
            for (int j = 0; j < AQ_PREFILL_BATCH; j++) {
                aq_cuda_codes_of(words[j], x);
#pragma unroll
                for (int k = 0; k < 8; k++)
                    x[k] = ByColumn ? fmaf(of_step[j], x[k], of_low[j])
                                    : fmaf(steps[k], x[k], lows[k]);
                *(uint4 *)place(row, begin + j * rows, piece) = aq_cuda_eight_of(x);
            }
        }
    } else {
#pragma unroll 1
        for (int more = 0; more < n_row; more += rows) {
            float x[8];
            for (int k = 0; k < 8; k++)
                x[k] = ByColumn ? aq_cuda_key(cache, at, g, 8 * piece + k, row + more)
                                : aq_cuda_key(cache, at, g, row + more, 8 * piece + k);
            *(uint4 *)place(row, more, piece) = aq_cuda_eight_of(x);
        }
    }
}

/* The same of values, whose rows are tokens. */
template <int D, int Threads, typename Place>
static __device__ __forceinline__ void aq_cuda_put_values(const aq_cuda_cache &cache, int64_t at,
                                                          int g, const uint8_t *codes,
                                                          Place place) {
    constexpr int wide = D / 8, rows = Threads / wide;
    const int row = threadIdx.x % Threads / wide, piece = threadIdx.x % wide;
    const bool open = aq_cuda_open(cache, at);
    const uint8_t *block = aq_cuda_value_block(cache, at, g);
    if (!open && cache.kv.value_type == AQ_KV_BF16) {
#pragma unroll
        for (int more = 0; more < AQ_TILE; more += rows)
            aq_cuda_copy16(place(row, more, piece), block + 16 * threadIdx.x + 16 * wide * more);
    } else if (!open && cache.kv.value_type == AQ_KV_Q8) {
#pragma unroll 1
        for (int begin = 0; begin < AQ_TILE; begin += AQ_PREFILL_BATCH * rows) {
            uint2 words[AQ_PREFILL_BATCH];
            float of_step[AQ_PREFILL_BATCH], of_zero[AQ_PREFILL_BATCH], x[8];
#pragma unroll
            for (int j = 0; j < AQ_PREFILL_BATCH; j++) {
                const int s = row + begin + j * rows;
                words[j] = ((const uint2 *)(codes + 3 * AQ_TILE))[wide * s + piece];
                of_step[j] = __half2float(((const __half *)codes)[s]);
                of_zero[j] = (float)codes[2 * AQ_TILE + s];
            }
#pragma unroll
            for (int j = 0; j < AQ_PREFILL_BATCH; j++) {
                aq_cuda_codes_of(words[j], x);
#pragma unroll
                for (int k = 0; k < 8; k++)
                    x[k] = of_step[j] * (x[k] - of_zero[j]);
                *(uint4 *)place(row, begin + j * rows, piece) = aq_cuda_eight_of(x);
            }
        }
    } else {
#pragma unroll 1
        for (int more = 0; more < AQ_TILE; more += rows) {
            float x[8];
            for (int k = 0; k < 8; k++)
                x[k] = aq_cuda_value(cache, at, g, row + more, 8 * piece + k);
            *(uint4 *)place(row, more, piece) = aq_cuda_eight_of(x);
        }
    }
}

/* What threads know of the rows of a block. */
typedef struct {
    const int64_t *pos; /* [n_row] in shared memory; INT64_MIN behind the last */
    int n_row;
    int64_t least, most; /* position of a query */
} aq_cuda_row_places;

/* n_row places in shared memory, of which the first n_real are rows. */
static __device__ aq_cuda_row_places aq_cuda_places_of(const int64_t *pos, int n_row,
                                                       int64_t n_real) {
    aq_cuda_row_places places = {pos, n_row, INT64_MAX, INT64_MIN};
    for (int r = threadIdx.x % 32; r < n_row && r < n_real; r += 32) {
        places.least = pos[r] < places.least ? pos[r] : places.least;
        places.most = pos[r] > places.most ? pos[r] : places.most;
    }
    for (int apart = 1; apart < 32; apart *= 2) {
        const int64_t least = __shfl_xor_sync(0xffffffffu, places.least, apart);
        const int64_t most = __shfl_xor_sync(0xffffffffu, places.most, apart);
        places.least = least < places.least ? least : places.least;
        places.most = most > places.most ? most : places.most;
    }
    return places;
}

/* The next tile from `tile` on, `step` apart, that any row sees a token of; *whole if all rows see
 * all of it. n_tile if there is none. any(says): whether any of n_thread threads says so. */
template <typename Any>
static __device__ int64_t aq_cuda_next_tile(const aq_attn_partial_args &a,
                                            const aq_cuda_row_places &rows, int64_t tile, int step,
                                            int n_thread, Any any, bool *whole) {
    for (; tile < a.n_tile; tile += step) {
        const int64_t first = a.tile_pos[tile], last = first + AQ_TILE - 1;
        if (first > rows.most && !a.slot_pos) return a.n_tile;
        if (first > rows.most) continue;
        if (a.window > 0 && last <= rows.least - a.window) continue;
        *whole =
            !a.slot_pos && last <= rows.least && (a.window == 0 || first > rows.most - a.window);
        if (*whole) return tile;
        bool sees = false;
        for (int i = threadIdx.x; i < rows.n_row * AQ_TILE && !sees; i += n_thread)
            sees = aq_cuda_sees(a, rows.pos[i / AQ_TILE], aq_cuda_token_pos(a, tile, i % AQ_TILE));
        if (any(sees)) return tile;
    }
    return a.n_tile;
}

#endif
