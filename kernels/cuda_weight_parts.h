/* Private to kernels/, for .cu files: the stored types of weights on the device.
 *
 * A thread reads a piece of a block: `elems` weights in two runs of neighbours, each of which is
 *
 *   weight = code * step + base        (base only if `based`; step 1 if not `scaled`)
 *
 * where codes are small integers, or the numbers themselves. code * step + base in one fma is the
 * value of the format, rounded once, as on the CPU. Block layouts: docs/formats.md. A type has
 *
 *   load    what the piece needs from memory, as few loads as its alignment allows: blocks lie on
 *           multiples of the largest power of two in their size
 *   codes   the codes of both runs, one behind the other
 *   levels  step and base of both runs
 *   first, second   where the runs start in the block */
#ifndef AQ_KERNELS_CUDA_WEIGHT_PARTS_H
#define AQ_KERNELS_CUDA_WEIGHT_PARTS_H

#include <cuda_fp16.h>
#include <stdint.h>

#include "src/base/dtype.h"

template <aq_dtype type> struct aq_weight;

/* Of a run. */
typedef struct {
    float step, base;
} aq_level;

template <int block, int bytes, int piece, bool has_scale, bool has_base> struct aq_weight_shape {
    static constexpr int block_elems = block, block_bytes = bytes, elems = piece;
    static constexpr int block_pieces = block / piece;
    static constexpr bool scaled = has_scale, based = has_base;
};

__device__ static inline uint32_t aq_load_u16(const uint8_t *p) {
    return __ldg((const uint16_t *)p);
}

__device__ static inline uint32_t aq_load_u32(const uint8_t *p) {
    return __ldg((const uint32_t *)p);
}

/* Four bytes that lie on an even address. */
__device__ static inline uint32_t aq_load_even(const uint8_t *p) {
    return aq_load_u16(p) | aq_load_u16(p + 2) << 16;
}

__device__ static inline float aq_half_low(uint32_t pair) {
    return __half2float(__ushort_as_half((unsigned short)pair));
}

__device__ static inline float aq_half_high(uint32_t pair) {
    return __half2float(__ushort_as_half((unsigned short)(pair >> 16)));
}

/* Four bits of a word, at bit AT <= 16, less `centre`: as the lowest digits of a float's fraction
 * they need no conversion. */
template <int AT> __device__ static inline float aq_nibble(uint32_t word, float centre) {
    const uint32_t bits = (word & 15u << AT) | (uint32_t)(150 - AT) << 23;
    return __uint_as_float(bits) - ((float)(1 << (23 - AT)) + centre);
}

/* The low halves of four bytes, less centre; then the high halves. */
__device__ static inline void aq_nibbles(uint32_t word, float centre, float *low, float *high) {
    const uint32_t upper = word >> 16;
    low[0] = aq_nibble<0>(word, centre);
    low[1] = aq_nibble<8>(word, centre);
    low[2] = aq_nibble<0>(upper, centre);
    low[3] = aq_nibble<8>(upper, centre);
    high[0] = aq_nibble<4>(word, centre);
    high[1] = aq_nibble<12>(word, centre);
    high[2] = aq_nibble<4>(upper, centre);
    high[3] = aq_nibble<12>(upper, centre);
}

/* Four bytes, less centre. */
__device__ static inline void aq_bytes(uint32_t word, float centre, float *code) {
#pragma unroll
    for (int k = 0; k < 4; k++) /* bits of the float 2^23 + byte */
        code[k] =
            __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7540u + k)) - (8388608.0f + centre);
}

/* Four bits to bit 4 of four bytes. */
__device__ static inline uint32_t aq_spread(uint32_t bits) {
    return (bits & 15u) * 0x02040810u & 0x10101010u;
}

#include "kernels/cuda_weight1_parts.h"
#include "kernels/cuda_weight256_parts.h"
#include "kernels/cuda_weight32_parts.h"

/* The weights of piece number `piece` of a row, its first run and then its second; *first and
 * *second: where those start in the row. */
template <aq_dtype type>
__device__ static inline void aq_piece_values(const uint8_t *row, int64_t piece, float *value,
                                              int64_t *first, int64_t *second) {
    typedef aq_weight<type> weight;
    const int64_t block = piece / weight::block_pieces;
    const int part = (int)(piece % weight::block_pieces);
    const typename weight::raw raw = weight::load(row + block * weight::block_bytes, part);
    weight::codes(raw, part, value);
    if constexpr (weight::scaled) {
        aq_level level[2];
        weight::levels(raw, part, level);
#pragma unroll
        for (int i = 0; i < weight::elems; i++) {
            const aq_level &run = level[i / (weight::elems / 2)];
            value[i] = fmaf(value[i], run.step, run.base);
        }
    }
    *first = block * weight::block_elems + weight::first(part);
    *second = block * weight::block_elems + weight::second(part);
}

/* Calls fn<type>(...) with the type as a constant. */
#define AQ_WITH_WEIGHT(dtype, fn, ...)                                                             \
    switch (dtype) {                                                                               \
    case AQ_F32:                                                                                   \
        fn<AQ_F32>(__VA_ARGS__);                                                                   \
        break;                                                                                     \
    case AQ_F16:                                                                                   \
        fn<AQ_F16>(__VA_ARGS__);                                                                   \
        break;                                                                                     \
    case AQ_BF16:                                                                                  \
        fn<AQ_BF16>(__VA_ARGS__);                                                                  \
        break;                                                                                     \
    case AQ_Q4_0:                                                                                  \
        fn<AQ_Q4_0>(__VA_ARGS__);                                                                  \
        break;                                                                                     \
    case AQ_Q4_1:                                                                                  \
        fn<AQ_Q4_1>(__VA_ARGS__);                                                                  \
        break;                                                                                     \
    case AQ_Q5_0:                                                                                  \
        fn<AQ_Q5_0>(__VA_ARGS__);                                                                  \
        break;                                                                                     \
    case AQ_Q5_1:                                                                                  \
        fn<AQ_Q5_1>(__VA_ARGS__);                                                                  \
        break;                                                                                     \
    case AQ_Q8_0:                                                                                  \
        fn<AQ_Q8_0>(__VA_ARGS__);                                                                  \
        break;                                                                                     \
    case AQ_Q4_K:                                                                                  \
        fn<AQ_Q4_K>(__VA_ARGS__);                                                                  \
        break;                                                                                     \
    case AQ_Q5_K:                                                                                  \
        fn<AQ_Q5_K>(__VA_ARGS__);                                                                  \
        break;                                                                                     \
    case AQ_Q6_K:                                                                                  \
        fn<AQ_Q6_K>(__VA_ARGS__);                                                                  \
        break;                                                                                     \
    }

#endif
