/* Private to kernels/: the vocabulary the loops are written in, and its portable form.
 *
 * aq_v holds AQ_LANES floats, aq_vi as many 32-bit integers. This file says what each function
 * does; lanes_avx2.h and lanes_avx512.h give the same names in their instructions. Vectors of four
 * are what every 64-bit processor has (SSE2, NEON, VSX): the compiler's vector types reach them. */
#ifndef AQ_KERNELS_LANES_PORTABLE_H
#define AQ_KERNELS_LANES_PORTABLE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "src/base/dtype.h"

#define AQ_LANES 4

typedef float aq_v __attribute__((vector_size(16)));
typedef int32_t aq_vi __attribute__((vector_size(16)));

/* Loads and stores need no alignment. */
static inline aq_v aq_v_load(const float *p) {
    aq_v a;
    memcpy(&a, p, sizeof a);
    return a;
}

static inline void aq_v_store(float *p, aq_v a) {
    memcpy(p, &a, sizeof a);
}

static inline aq_v aq_v_set1(float a) {
    return (aq_v){a, a, a, a};
}

static inline aq_v aq_v_add(aq_v a, aq_v b) {
    return a + b;
}

static inline aq_v aq_v_sub(aq_v a, aq_v b) {
    return a - b;
}

static inline aq_v aq_v_mul(aq_v a, aq_v b) {
    return a * b;
}

static inline aq_v aq_v_div(aq_v a, aq_v b) {
    return a / b;
}

/* a * b + c; rounded once where the processor can. */
static inline aq_v aq_v_fma(aq_v a, aq_v b, aq_v c) {
    return a * b + c;
}

static inline aq_v aq_v_choose(aq_vi mask, aq_v a, aq_v b) {
    return (aq_v)(((aq_vi)a & mask) | ((aq_vi)b & ~mask));
}

/* The larger or smaller; b if either is NaN. */
static inline aq_v aq_v_max(aq_v a, aq_v b) {
    return aq_v_choose(a > b, a, b);
}

static inline aq_v aq_v_min(aq_v a, aq_v b) {
    return aq_v_choose(a < b, a, b);
}

/* a in the lanes where the sign bit of s is set, else b. */
static inline aq_v aq_v_where_negative(aq_v s, aq_v a, aq_v b) {
    return aq_v_choose((aq_vi)s >> 31, a, b);
}

/* a in the lanes that are at least `least`, else 0; and a bit for each lane that is. */
static inline aq_v aq_v_keep_from(aq_v a, aq_v least) {
    return aq_v_choose(a >= least, a, aq_v_set1(0.0f));
}

static inline unsigned aq_v_bits_from(aq_v a, aq_v least) {
    const aq_vi is = (a >= least) & (aq_vi){1, 2, 4, 8};
    return (unsigned)(is[0] | is[1] | is[2] | is[3]);
}

static inline float aq_v_sum(aq_v a) {
    return (a[0] + a[2]) + (a[1] + a[3]);
}

static inline float aq_v_largest(aq_v a) {
    return fmaxf(fmaxf(a[0], a[2]), fmaxf(a[1], a[3]));
}

/* AQ_LANES 16-bit floats at p, of any alignment. */
static inline aq_v aq_v_load_f16(const uint8_t *p) {
    uint16_t h[AQ_LANES];
    memcpy(h, p, sizeof h);
    return (aq_v){aq_f16_to_f32(h[0]), aq_f16_to_f32(h[1]), aq_f16_to_f32(h[2]),
                  aq_f16_to_f32(h[3])};
}

static inline aq_v aq_v_load_bf16(const uint8_t *p) {
    uint16_t h[AQ_LANES];
    memcpy(h, p, sizeof h);
    return (aq_v){aq_bf16_to_f32(h[0]), aq_bf16_to_f32(h[1]), aq_bf16_to_f32(h[2]),
                  aq_bf16_to_f32(h[3])};
}

/* One half float. */
static inline float aq_f16_lane(uint16_t h) {
    return aq_f16_to_f32(h);
}

/* Two half floats at p. */
static inline void aq_f16_pair(const uint8_t *p, float *out) {
    uint16_t h[2];
    memcpy(h, p, sizeof h);
    out[0] = aq_f16_to_f32(h[0]);
    out[1] = aq_f16_to_f32(h[1]);
}

static inline aq_vi aq_vi_set1(int32_t a) {
    return (aq_vi){a, a, a, a};
}

/* AQ_LANES integers at p. */
static inline aq_vi aq_vi_load(const int32_t *p) {
    aq_vi a;
    memcpy(&a, p, sizeof a);
    return a;
}

/* 0, 1, 2, ... */
static inline aq_vi aq_vi_count(void) {
    return (aq_vi){0, 1, 2, 3};
}

/* AQ_LANES bytes at p, unsigned or signed, each widened to a lane. */
static inline aq_vi aq_vi_load_u8(const uint8_t *p) {
    return (aq_vi){p[0], p[1], p[2], p[3]};
}

static inline aq_vi aq_vi_load_i8(const uint8_t *p) {
    return (aq_vi){(int8_t)p[0], (int8_t)p[1], (int8_t)p[2], (int8_t)p[3]};
}

static inline aq_vi aq_vi_add(aq_vi a, aq_vi b) {
    return a + b;
}

static inline aq_vi aq_vi_sub(aq_vi a, aq_vi b) {
    return a - b;
}

static inline aq_vi aq_vi_and(aq_vi a, aq_vi b) {
    return a & b;
}

static inline aq_vi aq_vi_or(aq_vi a, aq_vi b) {
    return a | b;
}

/* Shifts of non-negative lanes by n bits; aq_vi_half also takes negative ones (rounds down). */
static inline aq_vi aq_vi_left(aq_vi a, int n) {
    return a << n;
}

static inline aq_vi aq_vi_right(aq_vi a, int n) {
    return a >> n;
}

static inline aq_vi aq_vi_half(aq_vi a) {
    return a >> 1;
}

/* Each lane shifted right by its own n; zeros come in. */
static inline aq_vi aq_vi_right_each(aq_vi a, aq_vi n) {
    uint32_t b[AQ_LANES];
    for (int i = 0; i < AQ_LANES; i++)
        b[i] = (uint32_t)a[i] >> n[i];
    memcpy(&a, b, sizeof a);
    return a;
}

static inline aq_v aq_v_from_int(aq_vi a) {
    return (aq_v){(float)a[0], (float)a[1], (float)a[2], (float)a[3]};
}

/* To the nearest integer, for abs(a) < 2^22. Adding 1.5 * 2^23 leaves it in the low bits. */
static inline aq_vi aq_vi_round(aq_v a) {
    const aq_v magic = aq_v_set1(12582912.0f);
    return (aq_vi)(a + magic) - (aq_vi)magic;
}

static inline aq_v aq_v_from_bits(aq_vi a) {
    return (aq_v)a;
}

#include "kernels/lanes_portable_tables.h"

#endif
