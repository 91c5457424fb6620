/* Private to kernels/, included by simd.c only: runs of codes (src/base/kv_type.h). simd.h says
 * what each does. Unpacking is plain loops, which compilers turn into vectors. */
#ifndef AQ_KERNELS_LOOPS_CODES_H
#define AQ_KERNELS_LOOPS_CODES_H

#include <stdint.h>
#include <string.h>

/* Takes a plane of `width` bits an entry, whose bits are bits `shift` and up of the codes. */
AQ_INLINE void unpack_plane(const uint8_t *plane, int n, int width, int shift, uint8_t *codes) {
    const int m = (n * width + 7) / 8, mask = (1 << width) - 1;
    for (int from = 0, down = 0; from < n; from += m, down += width) {
        const int end = n - from < m ? n - from : m;
        for (int i = 0; i < end; i++) {
            const int digit = (plane[i] >> down & mask) << shift;
            codes[from + i] = (uint8_t)(shift > 0 ? codes[from + i] | digit : digit);
        }
    }
}

AQ_INLINE void unpack_run(const uint8_t *run, int n, int bits, uint8_t *codes) {
    int shift = 0;
    if (bits == 8) {
        memcpy(codes, run, (size_t)n);
        return;
    }
    for (int width = 4; width > 0; width /= 2) {
        if (!(bits & width)) continue;
        unpack_plane(run, n, width, shift, codes);
        run += (n * width + 7) / 8;
        shift += width;
    }
}

static void unpack(const uint8_t *run, int n, int bits, uint8_t *codes) {
    if (n == AQ_TILE) /* a column: all lengths are constants then */
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
