/* Private to kernels/, included by simd.c only: runs of codes (src/base/kv_type.h). simd.h says
 * what each does. */
#ifndef AQ_KERNELS_LOOPS_CODES_H
#define AQ_KERNELS_LOOPS_CODES_H

#include <stdint.h>
#include <string.h>

/* Takes a plane of `width` bits an entry, whose bits are bits `shift` and up of the codes: eight
 * bytes at once, as one number, of which the bits that cross into a neighbour are masked out. */
AQ_INLINE void unpack_plane(const uint8_t *restrict plane, int n, int width, int shift,
                            uint8_t *restrict codes) {
    const int m = (n * width + 7) / 8, mask = (1 << width) - 1;
    const uint64_t masks = UINT64_C(0x0101010101010101) * (uint64_t)mask;
    for (int from = 0, down = 0; from < n; from += m, down += width) {
        const int end = n - from < m ? n - from : m;
        uint8_t *to = codes + from;
        int i = 0;
        for (; i + 8 <= end; i += 8) {
            uint64_t digits, before = 0;
            memcpy(&digits, plane + i, sizeof digits);
            if (shift > 0) memcpy(&before, to + i, sizeof before);
            digits = before | (digits >> down & masks) << shift;
            memcpy(to + i, &digits, sizeof digits);
        }
        for (; i < end; i++) {
            const int digit = (plane[i] >> down & mask) << shift;
            to[i] = (uint8_t)(shift > 0 ? to[i] | digit : digit);
        }
    }
}

/* With n and bits constant, all of this is straight vectors. */
AQ_INLINE void unpack_bits(const uint8_t *run, int n, int bits, uint8_t *codes) {
    const uint8_t *twos = run + (bits & 4 ? (n * 4 + 7) / 8 : 0);
    const uint8_t *ones = twos + (bits & 2 ? (n * 2 + 7) / 8 : 0);
    if (bits & 8) memcpy(codes, run, (size_t)n);
    if (bits & 4) unpack_plane(run, n, 4, 0, codes);
    if (bits & 2) unpack_plane(twos, n, 2, bits & 4, codes);
    if (bits & 1) unpack_plane(ones, n, 1, bits & 6, codes);
}

AQ_INLINE void unpack_run(const uint8_t *run, int n, int bits, uint8_t *codes) {
    switch (bits) {
    case 1:
        unpack_bits(run, n, 1, codes);
        break;
    case 2:
        unpack_bits(run, n, 2, codes);
        break;
    case 3:
        unpack_bits(run, n, 3, codes);
        break;
    case 4:
        unpack_bits(run, n, 4, codes);
        break;
    case 5:
        unpack_bits(run, n, 5, codes);
        break;
    case 6:
        unpack_bits(run, n, 6, codes);
        break;
    default:
        unpack_bits(run, n, 8, codes);
        break;
    }
}

static void unpack(const uint8_t *run, int n, int bits, uint8_t *codes) {
    if (n == AQ_TILE)
        unpack_run(run, AQ_TILE, bits, codes);
    else
        unpack_run(run, n, bits, codes);
}

static void widen(const uint8_t *codes, int n, float step, float low, float *out) {
    int i = 0;
    for (; i + AQ_LANES <= n; i += AQ_LANES) {
        const aq_v code = aq_v_from_int(aq_vi_load_u8(codes + i));
        aq_v_store(out + i, aq_v_fma(aq_v_set1(step), code, aq_v_set1(low)));
    }
    for (; i < n; i++)
        out[i] = step * (float)codes[i] + low;
}

static void widen_each(const uint8_t *codes, int n, const float *step, const float *low,
                       float *out) {
    int i = 0;
    for (; i + AQ_LANES <= n; i += AQ_LANES) {
        const aq_v code = aq_v_from_int(aq_vi_load_u8(codes + i));
        aq_v_store(out + i, aq_v_fma(aq_v_load(step + i), code, aq_v_load(low + i)));
    }
    for (; i < n; i++)
        out[i] = step[i] * (float)codes[i] + low[i];
}

#endif
