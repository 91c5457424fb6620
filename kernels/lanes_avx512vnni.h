/* Private to kernels/: lanes of AVX-512 with VNNI, which has products of bytes. What the rest does
 * is said in lanes_portable.h. */
#ifndef AQ_KERNELS_LANES_AVX512VNNI_H
#define AQ_KERNELS_LANES_AVX512VNNI_H

#include "kernels/lanes_avx512.h"

#define AQ_DOT_BYTES 1

/* The products of loops_dot.h, and the largest code that they hold. */
#define AQ_DOT_WEIGHTS   1
#define AQ_DOT_MOST_CODE 255

/* sum[i] + the products of the four bytes of u[i], 0 to 255, and of s[i], -128 to 127. As an
 * instruction: around the intrinsic gcc 12 copies the sums back and forth, which takes as long as
 * the products. */
static inline aq_vi aq_vi_dot_bytes(aq_vi sum, aq_vi u, aq_vi s) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(s));
    return sum;
}

/* The same with two vectors of each; u at most 63. */
static inline aq_vi aq_vi_dot_bytes2(aq_vi sum, const aq_vi *u, aq_vi s0, aq_vi s1) {
    return aq_vi_dot_bytes(aq_vi_dot_bytes(sum, u[0], s0), u[1], s1);
}

static inline aq_v aq_v_abs(aq_v a) {
    return _mm512_abs_ps(a);
}

/* Whole numbers of up to 8355711 as three digits of base 256, -128 to 127, the lowest first: in
 * every four lanes, lane d of the result has digit d of them all, the first in its lowest byte. */
static inline aq_vi aq_vi_digits(aq_vi a) {
    const aq_vi turn =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const aq_vi half = _mm512_set1_epi32(0x808080);
    return _mm512_shuffle_epi8(_mm512_xor_si512(_mm512_add_epi32(a, half), half), turn);
}

/* 64 bytes of four rows, from byte `at` on, side by side: byte k of out[i] is rows[k][at + i]. */
static inline void aq_bytes_across(const uint8_t *const *rows, int64_t at, int32_t *out) {
    const aq_vi turn = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    aq_vi row[4];
    for (int k = 0; k < 4; k++)
        row[k] = _mm512_permutexvar_epi32(turn, _mm512_loadu_si512(rows[k] + at));
    const aq_vi low01 = _mm512_unpacklo_epi8(row[0], row[1]);
    const aq_vi low23 = _mm512_unpacklo_epi8(row[2], row[3]);
    const aq_vi high01 = _mm512_unpackhi_epi8(row[0], row[1]);
    const aq_vi high23 = _mm512_unpackhi_epi8(row[2], row[3]);
    _mm512_storeu_si512(out, _mm512_unpacklo_epi16(low01, low23));
    _mm512_storeu_si512(out + 16, _mm512_unpackhi_epi16(low01, low23));
    _mm512_storeu_si512(out + 32, _mm512_unpacklo_epi16(high01, high23));
    _mm512_storeu_si512(out + 48, _mm512_unpackhi_epi16(high01, high23));
}

/* 16 bytes of 16 rows, from byte `at` on, turned by fours: out[k out_stride + j] is the bytes
 * at + 4 k .. of rows[j]. */
static inline void aq_bytes_along(const uint8_t *const *rows, int at, int32_t *out,
                                  int out_stride) {
    aq_vi row[4];
    for (int i = 0; i < 4; i++) {
        row[i] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(rows[i] + at)));
        row[i] =
            _mm512_inserti32x4(row[i], _mm_loadu_si128((const __m128i *)(rows[4 + i] + at)), 1);
        row[i] =
            _mm512_inserti32x4(row[i], _mm_loadu_si128((const __m128i *)(rows[8 + i] + at)), 2);
        row[i] =
            _mm512_inserti32x4(row[i], _mm_loadu_si128((const __m128i *)(rows[12 + i] + at)), 3);
    }
    const aq_vi low01 = _mm512_unpacklo_epi32(row[0], row[1]);
    const aq_vi low23 = _mm512_unpacklo_epi32(row[2], row[3]);
    const aq_vi high01 = _mm512_unpackhi_epi32(row[0], row[1]);
    const aq_vi high23 = _mm512_unpackhi_epi32(row[2], row[3]);
    _mm512_storeu_si512(out, _mm512_unpacklo_epi64(low01, low23));
    _mm512_storeu_si512(out + out_stride, _mm512_unpackhi_epi64(low01, low23));
    _mm512_storeu_si512(out + 2 * out_stride, _mm512_unpacklo_epi64(high01, high23));
    _mm512_storeu_si512(out + 3 * out_stride, _mm512_unpackhi_epi64(high01, high23));
}

static inline aq_vi aq_vi_xor(aq_vi a, aq_vi b) {
    return _mm512_xor_si512(a, b);
}

/* The n <= AQ_LANES / 4 runs of 16 bytes at p, p + stride, ..., one behind the other, and as many
 * zeros as there is room. Reads no byte behind the last run. */
static inline aq_vi aq_vi_load_runs16(const uint8_t *p, int stride, int n) {
    if (stride == 20 && n == 4) {
        const __m512i at =
            _mm512_setr_epi32(0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 29, 30, 31);
        return _mm512_permutex2var_epi32(_mm512_loadu_si512(p), at, _mm512_loadu_si512(p + 12));
    }
    __m512i a = _mm512_zextsi128_si512(_mm_loadu_si128((const __m128i *)p));
    if (n > 1) a = _mm512_inserti32x4(a, _mm_loadu_si128((const __m128i *)(p + stride)), 1);
    if (n > 2) a = _mm512_inserti32x4(a, _mm_loadu_si128((const __m128i *)(p + 2 * stride)), 2);
    if (n > 3) a = _mm512_inserti32x4(a, _mm_loadu_si128((const __m128i *)(p + 3 * stride)), 3);
    return a;
}

/* The same of n <= AQ_LANES / 8 runs of 32 bytes. */
static inline aq_vi aq_vi_load_runs32(const uint8_t *p, int stride, int n) {
    const __m512i a = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)p));
    if (n < 2) return a;
    return _mm512_inserti64x4(a, _mm256_loadu_si256((const __m256i *)(p + stride)), 1);
}

/* 16 more in each byte of a whose bit is set: of n <= AQ_LANES / 4 runs of 16 bits at p, p +
 * stride,
 * ..., the lowest bit first. */
static inline aq_vi aq_vi_add_fifth(aq_vi a, const uint8_t *p, int stride, int n) {
    __mmask64 set = 0;
    for (int i = 0; i < AQ_LANES / 4; i++) {
        uint16_t run = 0;
        if (i < n) memcpy(&run, p + i * stride, sizeof run);
        set |= (__mmask64)run << 16 * i;
    }
    return _mm512_mask_add_epi8(a, set, a, _mm512_set1_epi8(16));
}

/* The n <= AQ_LANES half floats at p, p + stride, ..., stride at least 18; zeros in the other
 * lanes. A vector of memory holds two or four of them: this is faster than the instruction that
 * gathers. Reads no byte behind the last half. */
static inline aq_v aq_v_gather_f16(const uint8_t *p, int stride, int n) {
    const int held = 3 * stride <= 60 ? 4 : 2;
    const __m512i which = _mm512_and_si512(aq_vi_count(), _mm512_set1_epi32(held - 1));
    const __m512i at = _mm512_castsi256_si512(
        _mm512_cvtepi32_epi16(_mm512_mullo_epi32(which, _mm512_set1_epi32(stride / 2))));
    __m512i all = _mm512_setzero_si512();
    for (int i = 0; i < n; i += held) {
        const bool more = i + held < n;
        const __m512i some =
            more ? _mm512_loadu_si512(p + i * stride)
                 : _mm512_maskz_loadu_epi16((2u << (n - i - 1) * stride / 2) - 1, p + i * stride);
        all = _mm512_mask_permutexvar_epi16(all, ((1u << held) - 1) << i, at, some);
    }
    return _mm512_cvtph_ps(_mm512_castsi512_si256(all));
}

/* Lane i has p[i / 4]. */
static inline aq_v aq_v_load_each4(const float *p) {
    const __m512 a = _mm512_broadcast_f32x4(_mm_loadu_ps(p));
    return _mm512_permutexvar_ps(_mm512_srli_epi32(aq_vi_count(), 2), a);
}

/* Lane i has p[apart * (i / 8)], apart 1 or 2. Reads four floats. */
static inline aq_v aq_v_load_each8(const float *p, int apart) {
    const __m512i at = _mm512_srli_epi32(aq_vi_count(), 3);
    const __m512 a = _mm512_broadcast_f32x4(_mm_loadu_ps(p));
    return _mm512_permutexvar_ps(apart == 2 ? _mm512_slli_epi32(at, 1) : at, a);
}

/* The same 32 bytes for each eight lanes; and a number of each eight lanes, a, a + step. */
static inline aq_vi aq_vi_load_groups(const uint8_t *p) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p));
}

static inline aq_vi aq_vi_by_group(int32_t a, int32_t step) {
    return _mm512_mask_set1_epi32(_mm512_set1_epi32(a), 0xff00, a + step);
}

#endif
