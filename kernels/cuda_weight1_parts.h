/* Private to kernels/, included by cuda_weight_parts.h only: numbers, 8 neighbours a piece where
 * rows allow that, one by one elsewhere. */
#ifndef AQ_KERNELS_CUDA_WEIGHT1_PARTS_H
#define AQ_KERNELS_CUDA_WEIGHT1_PARTS_H

/* `bytes` are those of 8 numbers. */
template <int bytes> struct aq_weight_numbers : aq_weight_shape<8, bytes, 8, false, false> {
    template <typename Raw> __device__ static void levels(const Raw &, int, aq_level *) {
    }
    __device__ static int first(int) {
        return 0;
    }
    __device__ static int second(int) {
        return 4;
    }
};

template <> struct aq_weight<AQ_F32> : aq_weight_numbers<32> {
    struct raw {
        float4 a, b;
    };
    __device__ static raw load(const uint8_t *block, int) {
        return {__ldg((const float4 *)block), __ldg((const float4 *)block + 1)};
    }
    __device__ static void codes(const raw &r, int, float *code) {
        *(float4 *)code = r.a;
        *(float4 *)(code + 4) = r.b;
    }
};

template <> struct aq_weight<AQ_F16> : aq_weight_numbers<16> {
    typedef uint4 raw;
    __device__ static raw load(const uint8_t *block, int) {
        return __ldg((const uint4 *)block);
    }
    __device__ static void codes(const raw &r, int, float *code) {
        const uint32_t word[] = {r.x, r.y, r.z, r.w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            code[2 * k] = aq_half_low(word[k]);
            code[2 * k + 1] = aq_half_high(word[k]);
        }
    }
};

template <> struct aq_weight<AQ_BF16> : aq_weight_numbers<16> {
    typedef uint4 raw;
    __device__ static raw load(const uint8_t *block, int) {
        return __ldg((const uint4 *)block);
    }
    __device__ static void codes(const raw &r, int, float *code) {
        const uint32_t word[] = {r.x, r.y, r.z, r.w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            code[2 * k] = __uint_as_float(word[k] << 16);
            code[2 * k + 1] = __uint_as_float(word[k] & 0xffff0000u);
        }
    }
};

/* Element i of a row of numbers, which may start on any of them. */
template <aq_dtype type> __device__ static inline float aq_element(const uint8_t *row, int64_t i) {
    if (type == AQ_F32) return __ldg((const float *)row + i);
    const uint32_t bits = aq_load_u16(row + 2 * i);
    return type == AQ_F16 ? aq_half_low(bits) : __uint_as_float(bits << 16);
}

#endif
