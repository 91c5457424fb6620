/* Private to kernels/: codes of a tile made on the device, by the same steps as on the CPU
 * (codes.c), for files compiled without contraction of products and sums: then the same numbers
 * give the same codes wherever they are made. */
#ifndef AQ_KERNELS_CUDA_CODE_PARTS_H
#define AQ_KERNELS_CUDA_CODE_PARTS_H

#include "kernels/cuda_cache_parts.h"

#define AQ_CODE_THREADS 128

/* Byte `at` of the packed run of n codes; code(i) gives them. */
template <typename Code>
static __device__ uint8_t aq_cuda_packed(int n, int bits, int at, Code code) {
    int shift = 0;
    for (int width = 8; width > 0; width /= 2) {
        if (!(bits & width)) continue;
        const int m = (n * width + 7) / 8;
        if (at < m) {
            int byte = 0;
            for (int i = at, up = 0; i < n; i += m, up += width)
                byte |= (code(i) >> shift & ((1 << width) - 1)) << up;
            return (uint8_t)byte;
        }
        at -= m;
        shift += width;
    }
    return 0;
}

static __device__ float aq_cuda_f16_value(uint16_t bits) {
    return __half2float(__ushort_as_half(bits));
}

/* The largest half that is not above x, or the least there is; and the other way. */
static __device__ uint16_t aq_cuda_f16_below(float x) {
    const uint16_t h = __half_as_ushort(__float2half_rn(x));
    if (aq_cuda_f16_value(h) <= x || h == 0xfbff) return h;
    return (uint16_t)(h & 0x8000 ? h + 1 : h - 1);
}

static __device__ uint16_t aq_cuda_f16_above(float x) {
    return aq_cuda_f16_below(-x) ^ 0x8000;
}

static __device__ void aq_cuda_put_f16(uint8_t *to, int64_t i, uint16_t h) {
    to[2 * i] = (uint8_t)h;
    to[2 * i + 1] = (uint8_t)(h >> 8);
}

/* The whole number nearest to (x - low) * inverse, from 0 to top. */
static __device__ uint8_t aq_cuda_quantised(float x, float low, float inverse, int top) {
    float code = (x - low) * inverse + 0.5f;
    code = code > 0.0f ? code : 0.0f;
    code = code < (float)top ? code : (float)top;
    return (uint8_t)(int)code;
}

static __device__ uint8_t aq_cuda_step8_of(float step, uint32_t up) {
    const int64_t step8 = (((int64_t)__float_as_uint(step) + up) >> 20) - ((127 - 24) << 3);
    return (uint8_t)(step8 < 0 ? 0 : step8 > 255 ? 255 : step8);
}

static __device__ uint8_t aq_cuda_step8_above(float step) {
    const uint8_t step8 = aq_cuda_step8_of(step, 0xfffffu);
    return step8 == 0 && step > 0.0f ? 1 : step8;
}

static __device__ uint8_t aq_cuda_step8_near(float step) {
    const uint8_t step8 = aq_cuda_step8_of(step, 0x7ffffu);
    return step8 == 0 && step > 0.5f * aq_cuda_step8_value(1) ? 1 : step8;
}

#endif
