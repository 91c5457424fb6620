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

/* Eight keys of the tile at place `at` to 16 bytes of shared memory, as bf16; copied ones arrive
 * later. By column: of column `row`, tokens 8 piece and on; else of token `row`, columns 8 piece
 * and on. */
template <int D, bool ByColumn, aq_cuda_prefill_source Source>
static __device__ __forceinline__ void aq_cuda_key_piece(const aq_cuda_cache &cache, int64_t at,
                                                         int g, int row, int piece, char *to) {
    const uint8_t *block = aq_cuda_key_block(cache, at, g);
    const int i = row * (ByColumn ? AQ_TILE / 8 : D / 8) + piece;
    if (Source == AQ_PREFILL_COPIED) {
        aq_cuda_copy16(to, block + 16 * i);
        return;
    }
    float x[8];
    if (Source == AQ_PREFILL_BYTES) {
        const __half *low = (const __half *)block, *step = low + D;
        float lows[8], steps[8];
        aq_cuda_codes_of(block + 4 * D + 8 * i, x);
        if (!ByColumn) {
            aq_cuda_halves_of(low + 8 * piece, lows);
            aq_cuda_halves_of(step + 8 * piece, steps);
        }
#pragma unroll
        for (int k = 0; k < 8; k++)
            x[k] = ByColumn ? fmaf(__half2float(step[row]), x[k], __half2float(low[row]))
                            : fmaf(steps[k], x[k], lows[k]);
    } else {
        for (int k = 0; k < 8; k++)
            x[k] = ByColumn ? aq_cuda_key(cache, at, g, 8 * piece + k, row)
                            : aq_cuda_key(cache, at, g, row, 8 * piece + k);
    }
    *(uint4 *)to = aq_cuda_eight_of(x);
}

/* The same of values: of token s, entries 8 piece and on. */
template <int D, aq_cuda_prefill_source Source>
static __device__ __forceinline__ void aq_cuda_value_piece(const aq_cuda_cache &cache, int64_t at,
                                                           int g, int s, int piece, char *to) {
    const uint8_t *block = aq_cuda_value_block(cache, at, g);
    const int i = s * (D / 8) + piece;
    if (Source == AQ_PREFILL_COPIED) {
        aq_cuda_copy16(to, block + 16 * i);
        return;
    }
    float x[8];
    if (Source == AQ_PREFILL_BYTES) {
        const float step = __half2float(((const __half *)block)[s]);
        const float zero = (float)block[2 * AQ_TILE + s];
        aq_cuda_codes_of(block + 3 * AQ_TILE + 8 * i, x);
#pragma unroll
        for (int k = 0; k < 8; k++)
            x[k] = step * (x[k] - zero);
    } else {
        for (int k = 0; k < 8; k++)
            x[k] = aq_cuda_value(cache, at, g, s, 8 * piece + k);
    }
    *(uint4 *)to = aq_cuda_eight_of(x);
}

/* A tile of keys or values by n_thread threads: place(row, piece) is where in shared memory. */
template <int D, bool ByColumn, typename Place>
static __device__ __forceinline__ void aq_cuda_load_key_tile(const aq_cuda_cache &cache, int64_t at,
                                                             int g, int n_thread, Place place) {
    constexpr int n = AQ_TILE * D / 8, wide = ByColumn ? AQ_TILE / 8 : D / 8;
    const aq_cuda_prefill_source source = aq_cuda_prefill_source_of(cache, at, cache.kv.key_type);
    if (source == AQ_PREFILL_COPIED) {
#pragma unroll 4
        for (int i = threadIdx.x; i < n; i += n_thread)
            aq_cuda_key_piece<D, ByColumn, AQ_PREFILL_COPIED>(cache, at, g, i / wide, i % wide,
                                                              place(i / wide, i % wide));
    } else if (source == AQ_PREFILL_BYTES) {
#pragma unroll 4
        for (int i = threadIdx.x; i < n; i += n_thread)
            aq_cuda_key_piece<D, ByColumn, AQ_PREFILL_BYTES>(cache, at, g, i / wide, i % wide,
                                                             place(i / wide, i % wide));
    } else {
#pragma unroll 1
        for (int i = threadIdx.x; i < n; i += n_thread)
            aq_cuda_key_piece<D, ByColumn, AQ_PREFILL_ANY>(cache, at, g, i / wide, i % wide,
                                                           place(i / wide, i % wide));
    }
}

template <int D, typename Place>
static __device__ __forceinline__ void
aq_cuda_load_value_tile(const aq_cuda_cache &cache, int64_t at, int g, int n_thread, Place place) {
    constexpr int n = AQ_TILE * D / 8, wide = D / 8;
    const aq_cuda_prefill_source source = aq_cuda_prefill_source_of(cache, at, cache.kv.value_type);
    if (source == AQ_PREFILL_COPIED) {
#pragma unroll 4
        for (int i = threadIdx.x; i < n; i += n_thread)
            aq_cuda_value_piece<D, AQ_PREFILL_COPIED>(cache, at, g, i / wide, i % wide,
                                                      place(i / wide, i % wide));
    } else if (source == AQ_PREFILL_BYTES) {
#pragma unroll 4
        for (int i = threadIdx.x; i < n; i += n_thread)
            aq_cuda_value_piece<D, AQ_PREFILL_BYTES>(cache, at, g, i / wide, i % wide,
                                                     place(i / wide, i % wide));
    } else {
#pragma unroll 1
        for (int i = threadIdx.x; i < n; i += n_thread)
            aq_cuda_value_piece<D, AQ_PREFILL_ANY>(cache, at, g, i / wide, i % wide,
                                                   place(i / wide, i % wide));
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
