/* Private to kernels/, included by loops_dot.h only: a token as digits of integers. */
#ifndef AQ_KERNELS_LOOPS_DOT_TOKEN_H
#define AQ_KERNELS_LOOPS_DOT_TOKEN_H

#include <string.h>

#include "kernels/loops_dot_codes.h"

#define DIGITS       3
#define LARGEST_CODE 2097151.0f                  /* 2^21 - 1 */
#define CODED_ALIGN  (8 * AQ_LANES * GROUP / 32) /* elements of the longest step over a row */

/* A coded token: digits in the order in which rows are read, then for each block of 32 its step and
 * the sum of step X. What fills up the last step is zeros. */
typedef struct {
    int8_t *digits; /* [steps over a row, DIGITS, code_vectors, VECTOR_BYTES] */
    float *step;    /* [blocks] */
    float *sum;     /* [blocks] */
} coded_token;

static int64_t coded_length(int64_t n) {
    return (n + CODED_ALIGN - 1) / CODED_ALIGN * CODED_ALIGN;
}

static coded_token coded_at(void *memory, int64_t n) {
    const int64_t length = coded_length(n);
    int8_t *digits = memory;
    float *step = (float *)(digits + DIGITS * length);
    return (coded_token){digits, step, step + length / GROUP};
}

/* X of a block; its step, and the sum of step X. */
AQ_MELT void code_block(const float *x, int32_t *code, float *step, float *sum) {
    aq_v most = aq_v_set1(0.0f);
    for (int v = 0; v < GROUP_VECTORS; v++) {
        const aq_v a = aq_v_load(x + AQ_LANES * v);
        most = aq_v_max(most, aq_v_max(a, aq_v_sub(aq_v_set1(0.0f), a)));
    }
    const float largest = aq_v_largest(most);
    const aq_v scale = aq_v_set1(largest > 0.0f ? LARGEST_CODE / largest : 0.0f);
    int32_t total = 0;
    for (int v = 0; v < GROUP_VECTORS; v++)
        aq_vi_store(code + AQ_LANES * v, aq_vi_round(aq_v_mul(aq_v_load(x + AQ_LANES * v), scale)));
    for (int i = 0; i < GROUP; i++)
        total += code[i];
    *step = largest / LARGEST_CODE;
    *sum = *step * (float)total;
}

/* The highest digits of n numbers, and the next and the last `apart` bytes behind. */
AQ_MELT void write_digits(const int32_t *code, int n, int apart, int8_t *out) {
    for (int i = 0; i < n; i++) {
        const int32_t digits = (code[i] + 0x808080) ^ 0x808080;
        out[i] = (int8_t)(digits >> 16);
        out[apart + i] = (int8_t)(digits >> 8);
        out[2 * apart + i] = (int8_t)digits;
    }
}

/* Each vector of a step has one digit of one part of all its blocks. */
AQ_MELT void code_as(const coded_format f, const float *x, int64_t n, void *memory) {
    const coded_token to = coded_at(memory, n);
    const int run = GROUP / f.code_vectors, blocks = VECTOR_BYTES / run;
    const int digit = f.code_vectors * VECTOR_BYTES;
    memset(memory, 0, AQ_CODED_BYTES((size_t)n));
    for (int64_t b = 0; b < n / GROUP; b++) {
        int32_t code[GROUP];
        int8_t *at = to.digits + b / blocks * DIGITS * digit + b % blocks * run;
        code_block(x + b * GROUP, code, to.step + b, to.sum + b);
        for (int v = 0; v < f.code_vectors; v++)
            write_digits(code + v * run, run, digit, at + v * VECTOR_BYTES);
    }
}

#endif
