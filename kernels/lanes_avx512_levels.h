/* Private to kernels/, included by lanes_avx512.h only: what the scan of codes and the choice of
 * tokens need. */
#ifndef AQ_KERNELS_LANES_AVX512_LEVELS_H
#define AQ_KERNELS_LANES_AVX512_LEVELS_H

static inline aq_v aq_v_add_from(aq_v sum, aq_v a, aq_v least) {
    return _mm512_mask_add_ps(sum, _mm512_cmp_ps_mask(a, least, _CMP_GE_OQ), sum, a);
}

static inline aq_vi aq_v_bits(aq_v a) {
    return _mm512_castps_si512(a);
}

static inline aq_vi aq_vi_levels2(aq_vi a) {
    return _mm512_shuffle_epi8(_mm512_set1_epi32(20 << 24 | 13 << 16 | 7 << 8), a);
}

/* 32 bytes at p, and behind them the same one bit further. */
static inline aq_vi aq_vi_load_twice(const uint8_t *p) {
    const __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1));
}

#define AQ_DOT_LEVELS 1

static inline aq_vi aq_vi_dot_levels(aq_vi sum, aq_vi u, aq_vi s) {
    const __m512i pairs = _mm512_maddubs_epi16(u, s);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

static inline void aq_vi_store_i8(int8_t *p, aq_vi a) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a));
}

#endif
