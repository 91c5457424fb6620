/* Private to kernels/, included by cuda_weight_parts.h only: the types with blocks of 256 weights.
 * A piece is two runs of 8 that share their bytes: of Q4_K and Q5_K in groups of 32 weights that
 * follow each other, of Q6_K in groups that are two apart. */
#ifndef AQ_KERNELS_CUDA_WEIGHT256_PARTS_H
#define AQ_KERNELS_CUDA_WEIGHT256_PARTS_H

/* Levels of groups 2 pair and 2 pair + 1 of Q4_K and Q5_K. The header: d and dmin as halves, then
 * six bits for each scale and minimum in twelve bytes. */
__device__ static inline void aq_pair_levels(const uint4 &header, int pair, aq_level *level) {
    const int shift = 16 * (pair % 2); /* two bytes of each word are these groups' */
    const uint32_t a = header.y >> shift, b = header.z >> shift, c = header.w >> shift;
    uint32_t scales = a & 0x3f3fu, minima = b & 0x3f3fu;
    if (pair >= 2) {
        scales = (c & 0x0f0fu) | (a >> 2 & 0x3030u);
        minima = (c >> 4 & 0x0f0fu) | (b >> 2 & 0x3030u);
    }
    const float d = aq_half_low(header.x), dmin = aq_half_high(header.x);
    level[0] = {d * (float)(scales & 255u), -dmin * (float)(minima & 255u)};
    level[1] = {d * (float)(scales >> 8), -dmin * (float)(minima >> 8)};
}

struct aq_weight_pairs {
    __device__ static int first(int part) {
        return part / 4 * 64 + part % 4 * 8;
    }
    __device__ static int second(int part) {
        return first(part) + 32;
    }
};

template <> struct aq_weight<AQ_Q4_K> : aq_weight_shape<256, 144, 16, true, true>, aq_weight_pairs {
    struct raw {
        uint4 header;
        uint2 codes;
    };
    __device__ static raw load(const uint8_t *block, int part) {
        return {__ldg((const uint4 *)block), __ldg((const uint2 *)(block + 16) + part)};
    }
    __device__ static void codes(const raw &r, int, float *code) {
        aq_nibbles(r.codes.x, 0.0f, code, code + 8);
        aq_nibbles(r.codes.y, 0.0f, code + 4, code + 12);
    }
    __device__ static void levels(const raw &r, int part, aq_level *level) {
        aq_pair_levels(r.header, part / 4, level);
    }
};

template <> struct aq_weight<AQ_Q5_K> : aq_weight_shape<256, 176, 16, true, true>, aq_weight_pairs {
    struct raw {
        uint4 header;
        uint2 fifths, codes;
    };
    __device__ static raw load(const uint8_t *block, int part) {
        return {__ldg((const uint4 *)block), __ldg((const uint2 *)(block + 16) + part % 4),
                __ldg((const uint2 *)(block + 48) + part)};
    }
    __device__ static void codes(const raw &r, int part, float *code) {
        const int group = part / 4 * 2; /* a bit of each byte of fifths is this group's */
        four(r.codes.x, r.fifths.x >> group, code);
        four(r.codes.y, r.fifths.y >> group, code + 4);
        four(r.codes.x >> 4, r.fifths.x >> (group + 1), code + 8);
        four(r.codes.y >> 4, r.fifths.y >> (group + 1), code + 12);
    }
    __device__ static void four(uint32_t low, uint32_t fifths, float *code) {
        aq_bytes((low & 0x0f0f0f0fu) | (fifths & 0x01010101u) << 4, 0.0f, code);
    }
    __device__ static void levels(const raw &r, int part, aq_level *level) {
        aq_pair_levels(r.header, part / 4, level);
    }
};

/* Part 8 h + 4 k + j: bytes 8 j .. 8 j + 7 of run k of half h, whose low halves belong to group
 * 4 h + k and whose high halves belong to group 4 h + k + 2. */
template <> struct aq_weight<AQ_Q6_K> : aq_weight_shape<256, 210, 16, true, false> {
    struct raw {
        uint32_t low[2], high[2];
        int8_t scales[2];
        uint16_t d;
    };
    __device__ static raw load(const uint8_t *block, int part) {
        const int half = part / 8, run = part / 4 % 2, at = part % 4 * 8;
        const uint8_t *low = block + 64 * half + 32 * run + at;
        const uint8_t *high = block + 128 + 32 * half + at;
        const int8_t *scales = (const int8_t *)block + 192 + 8 * half + 2 * run + at / 16;
        return {{aq_load_even(low), aq_load_even(low + 4)},
                {aq_load_even(high), aq_load_even(high + 4)},
                {__ldg(scales), __ldg(scales + 4)},
                (uint16_t)aq_load_u16(block + 208)};
    }
    __device__ static void codes(const raw &r, int part, float *code) {
        const int run = part / 4 % 2;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            four(r.low[k], r.high[k] >> 2 * run, code + 4 * k);
            four(r.low[k] >> 4, r.high[k] >> (2 * run + 4), code + 8 + 4 * k);
        }
    }
    __device__ static void four(uint32_t low, uint32_t high, float *code) {
        aq_bytes((low & 0x0f0f0f0fu) | (high & 0x03030303u) << 4, 32.0f, code);
    }
    __device__ static void levels(const raw &r, int, aq_level *level) {
        const float d = aq_half_low(r.d);
        level[0] = {d * (float)r.scales[0], 0.0f};
        level[1] = {d * (float)r.scales[1], 0.0f};
    }
    __device__ static int first(int part) {
        return part / 8 * 128 + part / 4 % 2 * 32 + part % 4 * 8;
    }
    __device__ static int second(int part) {
        return first(part) + 64;
    }
};

#endif
