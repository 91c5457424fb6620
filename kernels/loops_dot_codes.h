/* Private to kernels/, included by loops_dot_token.h only: the codes of the stored types whose
 * product is taken in integers, as vectors of bytes. Block layouts: docs/formats.md. */
#ifndef AQ_KERNELS_LOOPS_DOT_CODES_H
#define AQ_KERNELS_LOOPS_DOT_CODES_H

#include "kernels/loops_unpack.h"

#define VECTOR_BYTES (4 * AQ_LANES)

/* A type of weights with blocks of 32. A step over a row takes as many blocks as fill
 * code_vectors vectors with their codes, each block `spread` lanes of each vector. */
typedef struct {
    int block_bytes;
    int code_vectors, spread;
    bool has_base; /* two bytes behind d; else m = centre d */
    float centre;
    /* The codes of n blocks, zeros for those that are missing to a step. */
    void (*codes)(const uint8_t *block, int n, aq_vi *codes);
} coded_format;

AQ_MELT void codes_nibbles(const uint8_t *runs, int stride, int n, aq_vi *codes) {
    const aq_vi byte = aq_vi_load_runs16(runs, stride, n), four = aq_vi_set1(0x0f0f0f0f);
    codes[0] = aq_vi_and(byte, four);
    codes[1] = aq_vi_and(aq_vi_right(byte, 4), four);
}

AQ_MELT void codes_q4_0(const uint8_t *block, int n, aq_vi *codes) {
    codes_nibbles(block + 2, 18, n, codes);
}

AQ_MELT void codes_q4_1(const uint8_t *block, int n, aq_vi *codes) {
    codes_nibbles(block + 4, 20, n, codes);
}

/* Each block has a word of fifth bits, the lowest that of element 0. */
AQ_MELT void codes_q5_0(const uint8_t *block, int n, aq_vi *codes) {
    codes_nibbles(block + 6, 22, n, codes);
    codes[0] = aq_vi_add_fifth(codes[0], block + 2, 22, n);
    codes[1] = aq_vi_add_fifth(codes[1], block + 4, 22, n);
}

AQ_MELT void codes_q5_1(const uint8_t *block, int n, aq_vi *codes) {
    codes_nibbles(block + 8, 24, n, codes);
    codes[0] = aq_vi_add_fifth(codes[0], block + 4, 24, n);
    codes[1] = aq_vi_add_fifth(codes[1], block + 6, 24, n);
}

/* From -128 .. 127 to 0 .. 255. */
AQ_MELT void codes_q8_0(const uint8_t *block, int n, aq_vi *codes) {
    codes[0] = aq_vi_xor(aq_vi_load_runs32(block + 2, 34, n), aq_vi_set1((int32_t)0x80808080u));
}

static const coded_format coded_q4_0 = {18, 2, 4, false, -8.0f, codes_q4_0};
static const coded_format coded_q4_1 = {20, 2, 4, true, 0.0f, codes_q4_1};
static const coded_format coded_q5_0 = {22, 2, 4, false, -16.0f, codes_q5_0};
static const coded_format coded_q5_1 = {24, 2, 4, true, 0.0f, codes_q5_1};
static const coded_format coded_q8_0 = {34, 1, 8, false, -128.0f, codes_q8_0};

/* Calls fn(format, ...) with the format of `dtype` as a constant, of those types. */
#define WITH_CODED(dtype, fn, ...)                                                                 \
    switch (dtype) {                                                                               \
    case AQ_Q4_0:                                                                                  \
        fn(coded_q4_0, __VA_ARGS__);                                                               \
        break;                                                                                     \
    case AQ_Q4_1:                                                                                  \
        fn(coded_q4_1, __VA_ARGS__);                                                               \
        break;                                                                                     \
    case AQ_Q5_0:                                                                                  \
        fn(coded_q5_0, __VA_ARGS__);                                                               \
        break;                                                                                     \
    case AQ_Q5_1:                                                                                  \
        fn(coded_q5_1, __VA_ARGS__);                                                               \
        break;                                                                                     \
    case AQ_Q8_0:                                                                                  \
        fn(coded_q8_0, __VA_ARGS__);                                                               \
        break;                                                                                     \
    default:                                                                                       \
        break;                                                                                     \
    }

static bool is_coded(aq_dtype dtype) {
    return dtype == AQ_Q4_0 || dtype == AQ_Q4_1 || dtype == AQ_Q5_0 || dtype == AQ_Q5_1 ||
           dtype == AQ_Q8_0;
}

#endif
