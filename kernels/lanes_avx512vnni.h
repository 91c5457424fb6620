/* Private to kernels/: lanes of AVX-512 with VNNI, which has products of bytes. What the rest does
 * is said in lanes_portable.h. */
#ifndef AQ_KERNELS_LANES_AVX512VNNI_H
#define AQ_KERNELS_LANES_AVX512VNNI_H

#include "kernels/lanes_avx512.h"

#define AQ_DOT_BYTES 1

/* sum[i] + the products of the four bytes of u[i], 0 to 255, and of s[i], -128 to 127. */
static inline aq_vi aq_vi_dot_bytes(aq_vi sum, aq_vi u, aq_vi s) {
    return _mm512_dpbusd_epi32(sum, u, s);
}

#endif
