/* Private to kernels/, included by cuda_weight_parts.h only: the types with blocks of 32 weights.
 * Part p of a block has the weights 4 p .. 4 p + 3 and those 16 behind, which share its bytes; of
 * Q8_0 it has 8 neighbours. */
#ifndef AQ_KERNELS_CUDA_WEIGHT32_PARTS_H
#define AQ_KERNELS_CUDA_WEIGHT32_PARTS_H

template <int bytes, bool has_base>
struct aq_weight32 : aq_weight_shape<32, bytes, 8, true, has_base> {
    __device__ static int first(int part) {
        return 4 * part;
    }
    __device__ static int second(int part) {
        return 16 + 4 * part;
    }
};

/* Step d for both runs. */
__device__ static inline void aq_one_step(uint32_t d, aq_level *level) {
    level[0] = level[1] = {aq_half_low(d), 0.0f};
}

/* Step and base, as the halves of a word, for both runs. */
__device__ static inline void aq_one_level(uint32_t pair, aq_level *level) {
    level[0] = level[1] = {aq_half_low(pair), aq_half_high(pair)};
}

template <> struct aq_weight<AQ_Q4_0> : aq_weight32<18, false> {
    struct raw {
        uint32_t codes, d;
    };
    __device__ static raw load(const uint8_t *block, int part) {
        return {aq_load_even(block + 2 + 4 * part), aq_load_u16(block)};
    }
    __device__ static void codes(const raw &r, int, float *code) {
        aq_nibbles(r.codes, 8.0f, code, code + 4);
    }
    __device__ static void levels(const raw &r, int, aq_level *level) {
        aq_one_step(r.d, level);
    }
};

template <> struct aq_weight<AQ_Q4_1> : aq_weight32<20, true> {
    struct raw {
        uint32_t codes, pair;
    };
    __device__ static raw load(const uint8_t *block, int part) {
        return {aq_load_u32(block + 4 + 4 * part), aq_load_u32(block)};
    }
    __device__ static void codes(const raw &r, int, float *code) {
        aq_nibbles(r.codes, 0.0f, code, code + 4);
    }
    __device__ static void levels(const raw &r, int, aq_level *level) {
        aq_one_level(r.pair, level);
    }
};

/* Four codes of 5 bits from the low, then from the high halves of four bytes; `fifth` has a bit
 * for each weight of the block. */
__device__ static inline void aq_fives(uint32_t word, uint32_t fifth, int part, float centre,
                                       float *code) {
    aq_bytes((word & 0x0f0f0f0fu) | aq_spread(fifth >> 4 * part), centre, code);
    aq_bytes((word >> 4 & 0x0f0f0f0fu) | aq_spread(fifth >> (16 + 4 * part)), centre, code + 4);
}

template <> struct aq_weight<AQ_Q5_0> : aq_weight32<22, false> {
    struct raw {
        uint32_t codes, fifth, d;
    };
    __device__ static raw load(const uint8_t *block, int part) {
        return {aq_load_even(block + 6 + 4 * part), aq_load_even(block + 2), aq_load_u16(block)};
    }
    __device__ static void codes(const raw &r, int part, float *code) {
        aq_fives(r.codes, r.fifth, part, 16.0f, code);
    }
    __device__ static void levels(const raw &r, int, aq_level *level) {
        aq_one_step(r.d, level);
    }
};

template <> struct aq_weight<AQ_Q5_1> : aq_weight32<24, true> {
    struct raw {
        uint32_t codes, fifth, pair;
    };
    __device__ static raw load(const uint8_t *block, int part) {
        return {aq_load_u32(block + 8 + 4 * part), aq_load_u32(block + 4), aq_load_u32(block)};
    }
    __device__ static void codes(const raw &r, int part, float *code) {
        aq_fives(r.codes, r.fifth, part, 0.0f, code);
    }
    __device__ static void levels(const raw &r, int, aq_level *level) {
        aq_one_level(r.pair, level);
    }
};

template <> struct aq_weight<AQ_Q8_0> : aq_weight_shape<32, 34, 8, true, false> {
    struct raw {
        uint32_t a, b, d;
    };
    __device__ static raw load(const uint8_t *block, int part) {
        const uint8_t *codes = block + 2 + 8 * part;
        return {aq_load_even(codes), aq_load_even(codes + 4), aq_load_u16(block)};
    }
    __device__ static void codes(const raw &r, int, float *code) {
        aq_bytes(r.a ^ 0x80808080u, 128.0f, code);
        aq_bytes(r.b ^ 0x80808080u, 128.0f, code + 4);
    }
    __device__ static void levels(const raw &r, int, aq_level *level) {
        aq_one_step(r.d, level);
    }
    __device__ static int first(int part) {
        return 8 * part;
    }
    __device__ static int second(int part) {
        return 8 * part + 4;
    }
};

#endif
