/* Private to kernels/: lanes of AVX-512 (F, BW, VL, DQ). What each function does is said in
 * lanes_portable.h. */
#ifndef AQ_KERNELS_LANES_AVX512_H
#define AQ_KERNELS_LANES_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define AQ_LANES 16

typedef __m512 aq_v;
typedef __m512i aq_vi;

static inline aq_v aq_v_load(const float *p) {
    return _mm512_loadu_ps(p);
}

static inline void aq_v_store(float *p, aq_v a) {
    _mm512_storeu_ps(p, a);
}

static inline aq_v aq_v_set1(float a) {
    return _mm512_set1_ps(a);
}

static inline aq_v aq_v_add(aq_v a, aq_v b) {
    return _mm512_add_ps(a, b);
}

static inline aq_v aq_v_sub(aq_v a, aq_v b) {
    return _mm512_sub_ps(a, b);
}

static inline aq_v aq_v_mul(aq_v a, aq_v b) {
    return _mm512_mul_ps(a, b);
}

static inline aq_v aq_v_div(aq_v a, aq_v b) {
    return _mm512_div_ps(a, b);
}

static inline aq_v aq_v_fma(aq_v a, aq_v b, aq_v c) {
    return _mm512_fmadd_ps(a, b, c);
}

static inline aq_v aq_v_max(aq_v a, aq_v b) {
    return _mm512_max_ps(a, b);
}

static inline aq_v aq_v_min(aq_v a, aq_v b) {
    return _mm512_min_ps(a, b);
}

static inline aq_v aq_v_where_negative(aq_v s, aq_v a, aq_v b) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(s)), b, a);
}

static inline aq_v aq_v_keep_from(aq_v a, aq_v least) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, least, _CMP_GE_OQ), a);
}

static inline unsigned aq_v_bits_from(aq_v a, aq_v least) {
    return _mm512_cmp_ps_mask(a, least, _CMP_GE_OQ);
}

static inline float aq_v_sum(aq_v a) {
    return _mm512_reduce_add_ps(a);
}

static inline void aq_v_sum4(const aq_v *a, float *out) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
    const __m512 all =
        _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

static inline float aq_v_largest(aq_v a) {
    return _mm512_reduce_max_ps(a);
}

static inline aq_v aq_v_load_f16(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

static inline aq_v aq_v_load_bf16(const uint8_t *p) {
    const __m256i half = _mm256_loadu_si256((const __m256i *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

static inline float aq_f16_lane(uint16_t h) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}

/* By way of memory: the two are then fetched by broadcasting loads, which cost no shuffle. */
static inline void aq_f16_pair(const uint8_t *p, float *out) {
    int32_t both;
    memcpy(&both, p, sizeof both);
    _mm_storel_pi((__m64 *)out, _mm_cvtph_ps(_mm_cvtsi32_si128(both)));
}

static inline aq_vi aq_vi_set1(int32_t a) {
    return _mm512_set1_epi32(a);
}

static inline aq_vi aq_vi_load(const int32_t *p) {
    return _mm512_loadu_si512(p);
}

static inline void aq_vi_store(int32_t *p, aq_vi a) {
    _mm512_storeu_si512(p, a);
}

static inline aq_vi aq_vi_load_bytes(const uint8_t *p) {
    return _mm512_loadu_si512(p);
}

static inline aq_vi aq_vi_count(void) {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

static inline aq_vi aq_vi_load_u8(const uint8_t *p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}

static inline aq_vi aq_vi_load_i8(const uint8_t *p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
}

static inline aq_vi aq_vi_add(aq_vi a, aq_vi b) {
    return _mm512_add_epi32(a, b);
}

static inline aq_vi aq_vi_sub(aq_vi a, aq_vi b) {
    return _mm512_sub_epi32(a, b);
}

static inline aq_vi aq_vi_and(aq_vi a, aq_vi b) {
    return _mm512_and_si512(a, b);
}

static inline aq_vi aq_vi_or(aq_vi a, aq_vi b) {
    return _mm512_or_si512(a, b);
}

static inline aq_vi aq_vi_left(aq_vi a, int n) {
    return _mm512_slli_epi32(a, (unsigned)n);
}

static inline aq_vi aq_vi_right(aq_vi a, int n) {
    return _mm512_srli_epi32(a, (unsigned)n);
}

static inline aq_vi aq_vi_half(aq_vi a) {
    return _mm512_srai_epi32(a, 1);
}

static inline aq_vi aq_vi_right_each(aq_vi a, aq_vi n) {
    return _mm512_srlv_epi32(a, n);
}

static inline aq_v aq_v_from_int(aq_vi a) {
    return _mm512_cvtepi32_ps(a);
}

static inline aq_vi aq_vi_round(aq_v a) {
    return _mm512_cvtps_epi32(a);
}

static inline aq_v aq_v_from_bits(aq_vi a) {
    return _mm512_castsi512_ps(a);
}

/* All 16 levels in one register: a lookup is one permutation, which reads only 4 bits an index. */
typedef __m512 aq_levels;

static inline aq_levels aq_levels_make(float step, float base) {
    return _mm512_fmadd_ps(_mm512_set1_ps(step), _mm512_cvtepi32_ps(aq_vi_count()),
                           _mm512_set1_ps(base));
}

static inline aq_v aq_levels_at(aq_levels levels, aq_vi index) {
    return _mm512_permutexvar_ps(index, levels);
}

#include "kernels/lanes_avx512_levels.h"

#endif
