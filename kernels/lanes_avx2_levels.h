/* Private to kernels/, included by lanes_avx2.h only: tables of levels, and what the scan of codes
 * and the choice of tokens need. */
#ifndef AQ_KERNELS_LANES_AVX2_LEVELS_H
#define AQ_KERNELS_LANES_AVX2_LEVELS_H

/* A register has no room for 16 levels: they are computed from the index. */
typedef struct {
    __m256 step, base;
} aq_levels;

static inline aq_levels aq_levels_make(float step, float base) {
    return (aq_levels){_mm256_set1_ps(step), _mm256_set1_ps(base)};
}

static inline aq_v aq_levels_at(aq_levels levels, aq_vi index) {
    const __m256i low = _mm256_and_si256(index, _mm256_set1_epi32(15));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(low), levels.step, levels.base);
}

static inline aq_v aq_v_add_from(aq_v sum, aq_v a, aq_v least) {
    return _mm256_add_ps(sum, aq_v_keep_from(a, least));
}

static inline aq_vi aq_v_bits(aq_v a) {
    return _mm256_castps_si256(a);
}

static inline aq_vi aq_vi_levels2(aq_vi a) {
    return _mm256_shuffle_epi8(_mm256_set1_epi32(20 << 24 | 13 << 16 | 7 << 8), a);
}

#define AQ_DOT_LEVELS 1

/* sum[i] + the products of the four bytes of u[i], 0 to 128, and of s[i], -127 to 127. */
static inline aq_vi aq_vi_dot_levels(aq_vi sum, aq_vi u, aq_vi s) {
    const __m256i pairs = _mm256_maddubs_epi16(u, s);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* The lowest byte of each lane to p. */
static inline void aq_vi_store_i8(int8_t *p, aq_vi a) {
    const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(half, half));
}

#endif
