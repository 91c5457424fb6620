/* Element types of stored tensors: names, block sizes, and the 16-bit float conversions.
 *
 * Quantised types store blocks of `block_elems` elements in `block_bytes` bytes; the numbers are
 * GGML's type ids, because that is what model files hold. Block layouts: docs/formats.md. */
#ifndef AQ_BASE_DTYPE_H
#define AQ_BASE_DTYPE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    AQ_F32 = 0,
    AQ_F16 = 1,
    AQ_Q4_0 = 2,
    AQ_Q4_1 = 3,
    AQ_Q5_0 = 6,
    AQ_Q5_1 = 7,
    AQ_Q8_0 = 8,
    AQ_Q4_K = 12,
    AQ_Q5_K = 13,
    AQ_Q6_K = 14,
    AQ_BF16 = 30
} aq_dtype;

/* The numbers of one type. `name` is what files and flags call it ("Q4_1"). */
typedef struct {
    aq_dtype dtype;
    const char *name;
    int block_elems;
    int block_bytes;
} aq_dtype_info;

/* The entry of a supported type, or NULL. Static. Local. */
const aq_dtype_info *aq_dtype_find(uint32_t ggml_type);

/* The entry whose name equals `name` without regard to case ("bf16"), or NULL. Static. Local. */
const aq_dtype_info *aq_dtype_find_name(const char *name);

/* The name of any GGML type, also of those we refuse ("IQ2_XS"); "type N" if unknown to us. The
 * text is static or thread-local, valid until the next call. Local. */
const char *aq_dtype_any_name(uint32_t ggml_type);

/* Bytes of a row of n elements; n must be a multiple of the type's block. Local. */
int64_t aq_dtype_row_bytes(aq_dtype dtype, int64_t n);

/* bfloat16 <-> float; rounding to nearest even, NaN stays NaN. */
static inline float aq_bf16_to_f32(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint16_t aq_f32_to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* IEEE half -> float, exact for every bit pattern. */
static inline float aq_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1fu;
    uint32_t fraction = h & 0x3ffu;
    uint32_t bits;
    float f;
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24 */
        f = (float)fraction * (1.0f / 16777216.0f);
        memcpy(&bits, &f, sizeof bits);
        bits |= sign;
    } else if (exponent == 31) {
        bits = sign | 0x7f800000u | (fraction << 13);
    } else {
        bits = sign | ((exponent + 112u) << 23) | (fraction << 13);
    }
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Float -> IEEE half, rounded to nearest even; what is too large becomes the largest finite half,
 * NaN stays NaN. */
static inline uint16_t aq_f32_to_f16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7bffu); /* 65520 and up */
    if (bits < 0x38800000u) { /* subnormal: the last place of 0.5 + f is 2^-24 */
        float size;
        memcpy(&size, &bits, sizeof size);
        size += 0.5f;
        memcpy(&bits, &size, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    bits += 0xfffu + (bits >> 13 & 1u);
    return (uint16_t)(sign | (bits - 0x38000000u) >> 13);
}

#ifdef __cplusplus
}
#endif
#endif
