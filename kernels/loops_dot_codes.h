/* Private to kernels/, included by loops_dot_token.h only: the codes of the stored types whose
 * product is taken in integers, as vectors of bytes. Block layouts: docs/formats.md. */
#ifndef AQ_KERNELS_LOOPS_DOT_CODES_H
#define AQ_KERNELS_LOOPS_DOT_CODES_H

#include <stdbool.h>

#include "kernels/loops_unpack.h"

#define VECTOR_BYTES  (4 * AQ_LANES)
#define GROUPS_A_PART 64 /* whose steps are made at once; a multiple of AQ_LANES */
#define STEPS_A_PART  (2 * GROUPS_A_PART + 16) /* more: what is read past a scale; whole lines */

/* A token as digits: loops_dot_token.h. */
typedef struct {
    int8_t *digits; /* [steps over a row, totals, DIGITS, code_vectors, VECTOR_BYTES] */
    float *step;    /* [scales of a row] */
    float *sum;     /* [scales of a row] */
} coded_token;

typedef struct coded_format coded_format;

/* A type of weights. A step over a row takes as many blocks of 32 as fill code_vectors vectors with
 * their codes, each block `spread` lanes of each vector; or one block of 256, code_vectors vectors
 * for each of its totals. Each lane of a total has one scale, so `spread` lanes after each other
 * have the same. */
struct coded_format {
    int block_bytes, block_groups;
    int totals, code_vectors, spread;
    int group_scales; /* scales of a group of 32 */
    int apart;        /* of two groups of one vector, in groups */
    bool has_base;    /* two bytes behind d; else m = centre d */
    float centre;
    /* The codes of one total of n blocks, zeros for those that are missing to a step. */
    void (*codes)(const uint8_t *block, int total, int n, aq_vi *codes);
    /* Of n groups of a row from `block` on: out[t][k] = the scale k times its step in token t < T;
     * sum[t] += what their m add to the product. */
    void (*steps)(const coded_format f, int T, const uint8_t *block, int n,
                  const coded_token *token, float (*out)[STEPS_A_PART], aq_v *sum);
};

/* d step of n <= AQ_LANES blocks from b on. */
AQ_MELT void some_steps(const coded_format f, const int T, const uint8_t *block, int b, int n,
                        const coded_token *token, float (*out)[STEPS_A_PART], aq_v *sum) {
    const uint8_t *head = block + b * f.block_bytes;
    const aq_v d = aq_v_gather_f16(head, f.block_bytes, n);
    const aq_v m =
        f.has_base ? aq_v_gather_f16(head + 2, f.block_bytes, n) : aq_v_mul(d, aq_v_set1(f.centre));
    for (int t = 0; t < T; t++) {
        aq_v_store(out[t] + b, aq_v_mul(d, aq_v_load(token[t].step + b)));
        sum[t] = aq_v_fma(m, aq_v_load(token[t].sum + b), sum[t]);
    }
}

AQ_MELT void steps_32(const coded_format f, const int T, const uint8_t *block, int n,
                      const coded_token *token, float (*out)[STEPS_A_PART], aq_v *sum) {
    int b = 0;
    for (; b + AQ_LANES <= n; b += AQ_LANES)
        some_steps(f, T, block, b, AQ_LANES, token, out, sum);
    if (b < n) some_steps(f, T, block, b, n - b, token, out, sum);
}

AQ_MELT void codes_nibbles(const uint8_t *runs, int stride, int n, aq_vi *codes) {
    const aq_vi byte = aq_vi_load_runs16(runs, stride, n), four = aq_vi_set1(0x0f0f0f0f);
    codes[0] = aq_vi_and(byte, four);
    codes[1] = aq_vi_and(aq_vi_right(byte, 4), four);
}

AQ_MELT void codes_q4_0(const uint8_t *block, int total, int n, aq_vi *codes) {
    (void)total;
    codes_nibbles(block + 2, 18, n, codes);
}

AQ_MELT void codes_q4_1(const uint8_t *block, int total, int n, aq_vi *codes) {
    (void)total;
    codes_nibbles(block + 4, 20, n, codes);
}

/* Each block has a word of fifth bits, the lowest that of element 0. */
AQ_MELT void codes_q5_0(const uint8_t *block, int total, int n, aq_vi *codes) {
    (void)total;
    codes_nibbles(block + 6, 22, n, codes);
    codes[0] = aq_vi_add_fifth(codes[0], block + 2, 22, n);
    codes[1] = aq_vi_add_fifth(codes[1], block + 4, 22, n);
}

AQ_MELT void codes_q5_1(const uint8_t *block, int total, int n, aq_vi *codes) {
    (void)total;
    codes_nibbles(block + 8, 24, n, codes);
    codes[0] = aq_vi_add_fifth(codes[0], block + 4, 24, n);
    codes[1] = aq_vi_add_fifth(codes[1], block + 6, 24, n);
}

/* From -128 .. 127 to 0 .. 255. */
AQ_MELT void codes_q8_0(const uint8_t *block, int total, int n, aq_vi *codes) {
    (void)total;
    codes[0] = aq_vi_xor(aq_vi_load_runs32(block + 2, 34, n), aq_vi_set1((int32_t)0x80808080u));
}

#include "kernels/loops_dot_k.h"

static const coded_format coded_q4_0 = {18, 1, 1, 2, 4, 1, 1, false, -8.0f, codes_q4_0, steps_32};
static const coded_format coded_q4_1 = {20, 1, 1, 2, 4, 1, 1, true, 0.0f, codes_q4_1, steps_32};
static const coded_format coded_q5_0 = {22, 1, 1, 2, 4, 1, 1, false, -16.0f, codes_q5_0, steps_32};
static const coded_format coded_q5_1 = {24, 1, 1, 2, 4, 1, 1, true, 0.0f, codes_q5_1, steps_32};
static const coded_format coded_q8_0 = {34, 1, 1, 1, 8, 1, 1, false, -128.0f, codes_q8_0, steps_32};
static const coded_format coded_q4_k = {144, 8,    K_VECTORS, 1,          8,          1,
                                        2,   true, 0.0f,      codes_q4_k, steps_q45_k};
static const coded_format coded_q5_k = {176, 8,    K_VECTORS, 1,          8,          1,
                                        2,   true, 0.0f,      codes_q5_k, steps_q45_k};
static const coded_format coded_q6_k = {210, 8,     K_VECTORS, 1,          4,         2,
                                        1,   false, -32.0f,    codes_q6_k, steps_q6_k};

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
    case AQ_Q4_K:                                                                                  \
        fn(coded_q4_k, __VA_ARGS__);                                                               \
        break;                                                                                     \
    case AQ_Q5_K:                                                                                  \
        fn(coded_q5_k, __VA_ARGS__);                                                               \
        break;                                                                                     \
    case AQ_Q6_K:                                                                                  \
        fn(coded_q6_k, __VA_ARGS__);                                                               \
        break;                                                                                     \
    default:                                                                                       \
        break;                                                                                     \
    }

#endif
