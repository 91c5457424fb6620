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

/* a in the lanes that are at least `least`, else 0. */
static inline aq_v aq_v_keep_from(aq_v a, aq_v least) {
    return aq_v_choose(a >= least, a, aq_v_set1(0.0f));
}

/* sum + a in the lanes where a is at least `least`, else sum. */
static inline aq_v aq_v_add_from(aq_v sum, aq_v a, aq_v least) {
    return sum + aq_v_keep_from(a, least);
}

/* A bit for each lane of a that is at least `least`. */
static inline unsigned aq_v_bits_from(aq_v a, aq_v least) {
    const aq_vi is = (a >= least) & (aq_vi){1, 2, 4, 8};
    return (unsigned)(is[0] | is[1] | is[2] | is[3]);
}

static inline float aq_v_sum(aq_v a) {
    return (a[0] + a[2]) + (a[1] + a[3]);
}

/* out[r] = the sum of the lanes of a[r], r = 0 .. 3. */
static inline void aq_v_sum4(const aq_v *a, float *out) {
    for (int r = 0; r < 4; r++)
        out[r] = aq_v_sum(a[r]);
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

#include "kernels/lanes_portable_int.h"
#include "kernels/lanes_portable_tables.h"

#endif
