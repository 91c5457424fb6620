/* Private to kernels/, included by lanes_avx2.h only: what products of quantised weights in
 * integers take (loops_dot.h). Each function does what its namesake in lanes_avx512vnni.h does. */
#ifndef AQ_KERNELS_LANES_AVX2_DOT_H
#define AQ_KERNELS_LANES_AVX2_DOT_H

#define AQ_DOT_WEIGHTS 1

/* Bytes are multiplied in two steps, and the first holds sums of two products in 16 bits. */
#define AQ_DOT_MOST_CODE 127

static inline aq_vi aq_vi_dot_bytes(aq_vi sum, aq_vi u, aq_vi s) {
    const __m256i pairs = _mm256_maddubs_epi16(u, s);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* Codes of at most 63: four products still fit. */
static inline aq_vi aq_vi_dot_bytes2(aq_vi sum, const aq_vi *u, aq_vi s0, aq_vi s1) {
    const __m256i fours =
        _mm256_add_epi16(_mm256_maddubs_epi16(u[0], s0), _mm256_maddubs_epi16(u[1], s1));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(fours, _mm256_set1_epi16(1)));
}

static inline aq_vi aq_vi_xor(aq_vi a, aq_vi b) {
    return _mm256_xor_si256(a, b);
}

static inline aq_vi aq_vi_load_runs16(const uint8_t *p, int stride, int n) {
    const __m256i a = _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i *)p));
    if (n < 2) return a;
    return _mm256_inserti128_si256(a, _mm_loadu_si128((const __m128i *)(p + stride)), 1);
}

static inline aq_vi aq_vi_load_runs32(const uint8_t *p, int stride, int n) {
    (void)stride;
    (void)n;
    return _mm256_loadu_si256((const __m256i *)p);
}

/* Each byte sees the byte that its bit is in, and leaves nothing but the bit. */
static inline aq_vi aq_vi_add_fifth(aq_vi a, const uint8_t *p, int stride, int n) {
    uint16_t run[2] = {0, 0};
    for (int i = 0; i < n; i++)
        memcpy(&run[i], p + i * stride, sizeof run[i]);
    const __m256i all = _mm256_set1_epi32((int32_t)(run[0] | (uint32_t)run[1] << 16));
    const __m256i from =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    const __m256i clear = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(all, from), bit),
                                            _mm256_setzero_si256());
    return _mm256_or_si256(a, _mm256_andnot_si256(clear, _mm256_set1_epi8(16)));
}

static inline short aq_f16_bits(const uint8_t *p) {
    short h;
    memcpy(&h, p, sizeof h);
    return h;
}

static inline aq_v aq_v_gather_f16(const uint8_t *p, int stride, int n) {
    if (n == AQ_LANES)
        return _mm256_cvtph_ps(_mm_setr_epi16(
            aq_f16_bits(p), aq_f16_bits(p + stride), aq_f16_bits(p + 2 * stride),
            aq_f16_bits(p + 3 * stride), aq_f16_bits(p + 4 * stride), aq_f16_bits(p + 5 * stride),
            aq_f16_bits(p + 6 * stride), aq_f16_bits(p + 7 * stride)));
    short half[AQ_LANES] = {0};
    for (int i = 0; i < n; i++)
        half[i] = aq_f16_bits(p + i * stride);
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)half));
}

static inline aq_v aq_v_load_each4(const float *p) {
    double pair;
    memcpy(&pair, p, sizeof pair);
    return _mm256_permutevar8x32_ps(_mm256_castpd_ps(_mm256_set1_pd(pair)),
                                    _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}

static inline aq_v aq_v_load_each8(const float *p, int apart) {
    (void)apart;
    return _mm256_broadcast_ss(p);
}

static inline aq_vi aq_vi_load_groups(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline aq_vi aq_vi_by_group(int32_t a, int32_t step) {
    (void)step;
    return _mm256_set1_epi32(a);
}

#endif
