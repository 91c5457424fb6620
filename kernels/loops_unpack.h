/* Private to kernels/, included by simd.c only: the stored types of weights.
 *
 * Every type is read in groups of 32 elements. One `unpack_` function per type turns a group into
 * the floats the format defines; all of them round once (the products of a scale and a code fit 24
 * bits), so the values are the same on every instruction set. Block layouts: docs/formats.md. */
#ifndef AQ_KERNELS_LOOPS_UNPACK_H
#define AQ_KERNELS_LOOPS_UNPACK_H

#include <string.h>

#define GROUP         32
#define GROUP_VECTORS (GROUP / AQ_LANES)
#define HALF_VECTORS  (GROUP_VECTORS / 2)

/* The unpacking must melt into the loops around it, with `format` a constant. */
#define AQ_MELT static inline __attribute__((always_inline))

typedef struct {
    int block_groups; /* groups in a block */
    int block_bytes;
    bool any_length; /* one element a block: a row may end inside a group */
    void (*unpack)(const uint8_t *block, int group, aq_v *w); /* w [GROUP_VECTORS] */
} weight_format;

AQ_MELT float f16_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return aq_f16_lane(h);
}

AQ_MELT void unpack_f32(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    for (int v = 0; v < GROUP_VECTORS; v++) {
        float lane[AQ_LANES];
        memcpy(lane, block + v * (int)sizeof lane, sizeof lane);
        w[v] = aq_v_load(lane);
    }
}

AQ_MELT void unpack_f16(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    for (int v = 0; v < GROUP_VECTORS; v++)
        w[v] = aq_v_load_f16(block + 2 * AQ_LANES * v);
}

AQ_MELT void unpack_bf16(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    for (int v = 0; v < GROUP_VECTORS; v++)
        w[v] = aq_v_load_bf16(block + 2 * AQ_LANES * v);
}

/* Types of 4 bits with 32 elements a block: the low halves of 16 bytes, then the high halves. */
AQ_MELT void unpack_nibbles(const uint8_t *codes, aq_levels levels, aq_v *w) {
    for (int v = 0; v < HALF_VECTORS; v++) {
        const aq_vi byte = aq_vi_load_u8(codes + AQ_LANES * v);
        w[v] = aq_levels_at(levels, byte);
        w[HALF_VECTORS + v] = aq_levels_at(levels, aq_vi_right(byte, 4));
    }
}

AQ_MELT void unpack_q4_0(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    const float d = f16_at(block);
    unpack_nibbles(block + 2, aq_levels_make(d, -8.0f * d), w);
}

AQ_MELT void unpack_q4_1(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    float pair[2];
    aq_f16_pair(block, pair);
    unpack_nibbles(block + 4, aq_levels_make(pair[0], pair[1]), w);
}

/* The same with a fifth bit for each element, in `high`. */
AQ_MELT void unpack_5bit(const uint8_t *high, const uint8_t *codes, float step, float base,
                         aq_v *w) {
    uint32_t bits;
    memcpy(&bits, high, sizeof bits);
    const aq_vi fifth = aq_vi_set1((int32_t)bits), four = aq_vi_set1(15), one = aq_vi_set1(1);
    for (int v = 0; v < GROUP_VECTORS; v++) {
        const aq_vi byte = aq_vi_load_u8(codes + AQ_LANES * (v % HALF_VECTORS));
        const aq_vi low = aq_vi_and(v < HALF_VECTORS ? byte : aq_vi_right(byte, 4), four);
        const aq_vi at = aq_vi_add(aq_vi_count(), aq_vi_set1(AQ_LANES * v));
        const aq_vi top = aq_vi_left(aq_vi_and(aq_vi_right_each(fifth, at), one), 4);
        w[v] = aq_v_fma(aq_v_from_int(aq_vi_or(low, top)), aq_v_set1(step), aq_v_set1(base));
    }
}

AQ_MELT void unpack_q5_0(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    const float d = f16_at(block);
    unpack_5bit(block + 2, block + 6, d, -16.0f * d, w);
}

AQ_MELT void unpack_q5_1(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    float pair[2];
    aq_f16_pair(block, pair);
    unpack_5bit(block + 4, block + 8, pair[0], pair[1], w);
}

AQ_MELT void unpack_q8_0(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    const aq_v d = aq_v_set1(f16_at(block));
    for (int v = 0; v < GROUP_VECTORS; v++)
        w[v] = aq_v_mul(aq_v_from_int(aq_vi_load_i8(block + 2 + AQ_LANES * v)), d);
}

#include "kernels/loops_unpack_k.h"

static const weight_format format_f32 = {1, 4 * GROUP, true, unpack_f32};
static const weight_format format_f16 = {1, 2 * GROUP, true, unpack_f16};
static const weight_format format_bf16 = {1, 2 * GROUP, true, unpack_bf16};
static const weight_format format_q4_0 = {1, 18, false, unpack_q4_0};
static const weight_format format_q4_1 = {1, 20, false, unpack_q4_1};
static const weight_format format_q5_0 = {1, 22, false, unpack_q5_0};
static const weight_format format_q5_1 = {1, 24, false, unpack_q5_1};
static const weight_format format_q8_0 = {1, 34, false, unpack_q8_0};
static const weight_format format_q4_k = {8, 144, false, unpack_q4_k};
static const weight_format format_q5_k = {8, 176, false, unpack_q5_k};
static const weight_format format_q6_k = {8, 210, false, unpack_q6_k};

/* Calls fn(format, ...) with the format of `dtype` as a constant. */
#define WITH_FORMAT(dtype, fn, ...)                                                                \
    switch (dtype) {                                                                               \
    case AQ_F32:                                                                                   \
        fn(format_f32, __VA_ARGS__);                                                               \
        break;                                                                                     \
    case AQ_F16:                                                                                   \
        fn(format_f16, __VA_ARGS__);                                                               \
        break;                                                                                     \
    case AQ_BF16:                                                                                  \
        fn(format_bf16, __VA_ARGS__);                                                              \
        break;                                                                                     \
    case AQ_Q4_0:                                                                                  \
        fn(format_q4_0, __VA_ARGS__);                                                              \
        break;                                                                                     \
    case AQ_Q4_1:                                                                                  \
        fn(format_q4_1, __VA_ARGS__);                                                              \
        break;                                                                                     \
    case AQ_Q5_0:                                                                                  \
        fn(format_q5_0, __VA_ARGS__);                                                              \
        break;                                                                                     \
    case AQ_Q5_1:                                                                                  \
        fn(format_q5_1, __VA_ARGS__);                                                              \
        break;                                                                                     \
    case AQ_Q8_0:                                                                                  \
        fn(format_q8_0, __VA_ARGS__);                                                              \
        break;                                                                                     \
    case AQ_Q4_K:                                                                                  \
        fn(format_q4_k, __VA_ARGS__);                                                              \
        break;                                                                                     \
    case AQ_Q5_K:                                                                                  \
        fn(format_q5_k, __VA_ARGS__);                                                              \
        break;                                                                                     \
    case AQ_Q6_K:                                                                                  \
        fn(format_q6_k, __VA_ARGS__);                                                              \
        break;                                                                                     \
    }

#endif
