/* Private to kernels/, included by loops_dot.h only: a token as digits of integers. */
#ifndef AQ_KERNELS_LOOPS_DOT_TOKEN_H
#define AQ_KERNELS_LOOPS_DOT_TOKEN_H

#include <string.h>

#include "kernels/loops_dot_codes.h"

#define DIGITS       3
#define LARGEST_CODE 2097151.0f         /* 2^21 - 1 */
#define CODED_ALIGN  (K_GROUPS * GROUP) /* a multiple of the elements of every step */

_Static_assert(CODED_ALIGN % (AQ_LANES * GROUP / 4) == 0 && CODED_ALIGN <= 256, "room for a token");

AQ_MELT int step_groups(const coded_format f) {
    return f.block_groups > 1 ? f.block_groups : AQ_LANES / f.spread;
}

/* Of the scales of a step, the first one of total k. */
AQ_MELT int first_scale(const coded_format f, int k) {
    return f.apart > 1 ? first_group(f.apart, k) : k * (AQ_LANES / f.spread);
}

/* Of a token of n elements in memory of AQ_CODED_BYTES(n). What fills up is zeros. */
AQ_MELT coded_token coded_at(const coded_format f, void *memory, int64_t n) {
    const int64_t length = (n + CODED_ALIGN - 1) / CODED_ALIGN * CODED_ALIGN;
    const int64_t n_scale = length / GROUP * f.group_scales + 16;
    int8_t *digits = memory;
    float *step = (float *)(digits + DIGITS * length);
    return (coded_token){digits, step, step + n_scale};
}

/* X of a group, its step, and for each of n_scale runs of it the sum of step X. */
AQ_MELT void code_group(const float *x, int n_scale, int32_t *code, float *step, float *sum) {
    aq_v most = aq_v_set1(0.0f);
    for (int v = 0; v < GROUP_VECTORS; v++) {
        const aq_v a = aq_v_load(x + AQ_LANES * v);
        most = aq_v_max(most, aq_v_max(a, aq_v_sub(aq_v_set1(0.0f), a)));
    }
    const float largest = aq_v_largest(most);
    const aq_v scale = aq_v_set1(largest > 0.0f ? LARGEST_CODE / largest : 0.0f);
    for (int v = 0; v < GROUP_VECTORS; v++)
        aq_vi_store(code + AQ_LANES * v, aq_vi_round(aq_v_mul(aq_v_load(x + AQ_LANES * v), scale)));
    for (int k = 0; k < n_scale; k++) {
        int32_t total = 0;
        for (int i = 0; i < GROUP / n_scale; i++)
            total += code[GROUP / n_scale * k + i];
        step[k] = largest / LARGEST_CODE;
        sum[k] = step[k] * (float)total;
    }
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

/* Where a step has the first digit of the first code of group g: each vector has one digit. */
AQ_MELT int digit_at(const coded_format f, int g) {
    if (f.block_groups == 1) return GROUP / f.code_vectors * g;
    if (VECTOR_GROUPS == 1) return g * DIGITS * VECTOR_BYTES;
    const int total = g / (f.apart * VECTOR_GROUPS) * f.apart + g % f.apart;
    return total * DIGITS * VECTOR_BYTES + g / f.apart % VECTOR_GROUPS * GROUP;
}

AQ_MELT void code_as(const coded_format f, const float *x, int64_t n, void *memory) {
    const coded_token to = coded_at(f, memory, n);
    const int run = GROUP / f.code_vectors, groups = step_groups(f);
    memset(memory, 0, AQ_CODED_BYTES((size_t)n));
    for (int64_t g = 0; g < n / GROUP; g++) {
        int32_t code[GROUP];
        const int64_t scale = g * f.group_scales;
        int8_t *at =
            to.digits + g / groups * groups * DIGITS * GROUP + digit_at(f, (int)(g % groups));
        code_group(x + g * GROUP, f.group_scales, code, to.step + scale, to.sum + scale);
        for (int v = 0; v < f.code_vectors; v++)
            write_digits(code + v * run, run, f.code_vectors * VECTOR_BYTES, at + v * VECTOR_BYTES);
    }
}

#endif
