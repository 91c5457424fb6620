/* Private to kernels/: what prefill attention does for any kind of tensor cores. */
#ifndef AQ_KERNELS_CUDA_PREFILL_PARTS_H
#define AQ_KERNELS_CUDA_PREFILL_PARTS_H

#include "kernels/cuda_asm_parts.h"
#include "kernels/cuda_attn_parts.h"
#include "kernels/cuda_tile_parts.h"

#define AQ_PREFILL_LOWEST -0x1p126f /* below all scores, and finite: differences are numbers */
#define AQ_PREFILL_LOG2E  1.44269504f

/* 2^x; 0 where it is less than 2^-126. */
static __device__ __forceinline__ float aq_cuda_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ uint32_t aq_cuda_pair_of(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&pair;
}

static __device__ __forceinline__ uint4 aq_cuda_eight_of(const float x[8]) {
    return make_uint4(aq_cuda_pair_of(x[0], x[1]), aq_cuda_pair_of(x[2], x[3]),
                      aq_cuda_pair_of(x[4], x[5]), aq_cuda_pair_of(x[6], x[7]));
}

/* Eight codes of 8 bits as whole numbers. */
static __device__ __forceinline__ void aq_cuda_codes_of(const uint8_t *from, float x[8]) {
    const uint2 words = *(const uint2 *)from;
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

/* How a tile becomes bf16: it is; it has codes of 8 bits; or a number at a time, whatever it is. */
typedef enum { AQ_PREFILL_COPIED, AQ_PREFILL_BYTES, AQ_PREFILL_ANY } aq_cuda_prefill_source;

static __device__ __forceinline__ aq_cuda_prefill_source
aq_cuda_prefill_source_of(const aq_cuda_cache &cache, int64_t at, aq_kv_type type) {
    if (aq_cuda_open(cache, at)) return AQ_PREFILL_ANY;
    return type == AQ_KV_BF16 ? AQ_PREFILL_COPIED
           : type == AQ_KV_Q8 ? AQ_PREFILL_BYTES
                              : AQ_PREFILL_ANY;
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
    const aq_cuda_prefill_source source = aq_cuda_prefill_source_of(cache, at, cache.kv.key_type);
    const uint8_t *block = aq_cuda_key_block(cache, at, g);
    if (source == AQ_PREFILL_COPIED) {
#pragma unroll
        for (int more = 0; more < n_row; more += rows)
            aq_cuda_copy16(place(row, more, piece), block + 16 * threadIdx.x + 16 * wide * more);
    } else if (source == AQ_PREFILL_BYTES) {
        const __half *low = (const __half *)codes, *step = low + D;
        float x[8], lows[8], steps[8];
        if (!ByColumn) {
            aq_cuda_halves_of(low + 8 * piece, lows);
            aq_cuda_halves_of(step + 8 * piece, steps);
        }
#pragma unroll 4
        for (int more = 0; more < n_row; more += rows) {
            aq_cuda_codes_of(codes + 4 * D + 8 * threadIdx.x + 8 * wide * more, x);
            const float a = ByColumn ? __half2float(step[row + more]) : 0.0f;
            const float b = ByColumn ? __half2float(low[row + more]) : 0.0f;
#pragma unroll
            for (int k = 0; k < 8; k++)
                x[k] = ByColumn ? fmaf(a, x[k], b) : fmaf(steps[k], x[k], lows[k]);
            *(uint4 *)place(row, more, piece) = aq_cuda_eight_of(x);
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
    const aq_cuda_prefill_source source = aq_cuda_prefill_source_of(cache, at, cache.kv.value_type);
    const uint8_t *block = aq_cuda_value_block(cache, at, g);
    if (source == AQ_PREFILL_COPIED) {
#pragma unroll
        for (int more = 0; more < AQ_TILE; more += rows)
            aq_cuda_copy16(place(row, more, piece), block + 16 * threadIdx.x + 16 * wide * more);
    } else if (source == AQ_PREFILL_BYTES) {
#pragma unroll 4
        for (int more = 0; more < AQ_TILE; more += rows) {
            const float step = __half2float(((const __half *)codes)[row + more]);
            const float zero = (float)codes[2 * AQ_TILE + row + more];
            float x[8];
            aq_cuda_codes_of(codes + 3 * AQ_TILE + 8 * threadIdx.x + 8 * wide * more, x);
#pragma unroll
            for (int k = 0; k < 8; k++)
                x[k] = step * (x[k] - zero);
            *(uint4 *)place(row, more, piece) = aq_cuda_eight_of(x);
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
    for (int r = 0; r < n_row && r < n_real; r++) {
        places.least = pos[r] < places.least ? pos[r] : places.least;
        places.most = pos[r] > places.most ? pos[r] : places.most;
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
