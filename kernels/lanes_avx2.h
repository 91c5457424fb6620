/* Private to kernels/: lanes of AVX2 with FMA and F16C. What each function does is said in
 * lanes_portable.h. */
#ifndef AQ_KERNELS_LANES_AVX2_H
#define AQ_KERNELS_LANES_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define AQ_LANES 8

typedef __m256 aq_v;
typedef __m256i aq_vi;

static inline aq_v aq_v_load(const float *p) {
    return _mm256_loadu_ps(p);
}

static inline void aq_v_store(float *p, aq_v a) {
    _mm256_storeu_ps(p, a);
}

static inline aq_v aq_v_set1(float a) {
    return _mm256_set1_ps(a);
}

static inline aq_v aq_v_add(aq_v a, aq_v b) {
    return _mm256_add_ps(a, b);
}

static inline aq_v aq_v_sub(aq_v a, aq_v b) {
    return _mm256_sub_ps(a, b);
}

static inline aq_v aq_v_mul(aq_v a, aq_v b) {
    return _mm256_mul_ps(a, b);
}

static inline aq_v aq_v_div(aq_v a, aq_v b) {
    return _mm256_div_ps(a, b);
}

static inline aq_v aq_v_fma(aq_v a, aq_v b, aq_v c) {
    return _mm256_fmadd_ps(a, b, c);
}

static inline aq_v aq_v_max(aq_v a, aq_v b) {
    return _mm256_max_ps(a, b);
}

static inline aq_v aq_v_min(aq_v a, aq_v b) {
    return _mm256_min_ps(a, b);
}

static inline aq_v aq_v_where_negative(aq_v s, aq_v a, aq_v b) {
    return _mm256_blendv_ps(b, a, s);
}

static inline aq_v aq_v_keep_from(aq_v a, aq_v least) {
    return _mm256_and_ps(a, _mm256_cmp_ps(a, least, _CMP_GE_OQ));
}

static inline unsigned aq_v_bits_from(aq_v a, aq_v least) {
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, least, _CMP_GE_OQ));
}

static inline float aq_v_sum(aq_v a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline void aq_v_sum4(const aq_v *a, float *out) {
    const aq_v all = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

static inline float aq_v_largest(aq_v a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

static inline aq_v aq_v_load_f16(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

static inline aq_v aq_v_load_bf16(const uint8_t *p) {
    const __m128i half = _mm_loadu_si128((const __m128i *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
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
    return _mm256_set1_epi32(a);
}

static inline aq_vi aq_vi_load(const int32_t *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline void aq_vi_store(int32_t *p, aq_vi a) {
    _mm256_storeu_si256((__m256i *)p, a);
}

static inline aq_vi aq_vi_load_bytes(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline aq_vi aq_vi_count(void) {
    return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}

static inline aq_vi aq_vi_load_u8(const uint8_t *p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

static inline aq_vi aq_vi_load_i8(const uint8_t *p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

static inline aq_vi aq_vi_add(aq_vi a, aq_vi b) {
    return _mm256_add_epi32(a, b);
}

static inline aq_vi aq_vi_sub(aq_vi a, aq_vi b) {
    return _mm256_sub_epi32(a, b);
}

static inline aq_vi aq_vi_and(aq_vi a, aq_vi b) {
    return _mm256_and_si256(a, b);
}

static inline aq_vi aq_vi_or(aq_vi a, aq_vi b) {
    return _mm256_or_si256(a, b);
}

static inline aq_vi aq_vi_left(aq_vi a, int n) {
    return _mm256_slli_epi32(a, n);
}

static inline aq_vi aq_vi_right(aq_vi a, int n) {
    return _mm256_srli_epi32(a, n);
}

static inline aq_vi aq_vi_half(aq_vi a) {
    return _mm256_srai_epi32(a, 1);
}

static inline aq_vi aq_vi_right_each(aq_vi a, aq_vi n) {
    return _mm256_srlv_epi32(a, n);
}

static inline aq_v aq_v_from_int(aq_vi a) {
    return _mm256_cvtepi32_ps(a);
}

static inline aq_vi aq_vi_round(aq_v a) {
    return _mm256_cvtps_epi32(a);
}

static inline aq_v aq_v_from_bits(aq_vi a) {
    return _mm256_castsi256_ps(a);
}

#include "kernels/lanes_avx2_dot.h"
#include "kernels/lanes_avx2_levels.h"

#endif
