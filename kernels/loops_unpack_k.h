/* Private to kernels/, included by loops_unpack.h only: the types with blocks of 256 elements. */
#ifndef AQ_KERNELS_LOOPS_UNPACK_K_H
#define AQ_KERNELS_LOOPS_UNPACK_K_H

/* Scale and minimum of sub-block s = 0 .. 7 of Q4_K and Q5_K, six bits each in twelve bytes. */
AQ_MELT void k_scale(const uint8_t *packed, int s, int *scale, int *minimum) {
    if (s < 4) {
        *scale = packed[s] & 63;
        *minimum = packed[s + 4] & 63;
    } else {
        *scale = (packed[s + 4] & 15) | ((packed[s - 4] >> 6) << 4);
        *minimum = (packed[s + 4] >> 4) | ((packed[s] >> 6) << 4);
    }
}

AQ_MELT void unpack_q4_k(const uint8_t *block, int group, aq_v *w) {
    int scale, minimum;
    k_scale(block + 4, group, &scale, &minimum);
    const float step = f16_at(block) * (float)scale;
    const float base = -f16_at(block + 2) * (float)minimum;
    const aq_levels levels = aq_levels_make(step, base);
    const uint8_t *codes = block + 16 + GROUP * (group / 2);
    for (int v = 0; v < GROUP_VECTORS; v++)
        w[v] =
            aq_levels_at(levels, aq_vi_right(aq_vi_load_u8(codes + AQ_LANES * v), 4 * (group % 2)));
}

AQ_MELT void unpack_q5_k(const uint8_t *block, int group, aq_v *w) {
    int scale, minimum;
    k_scale(block + 4, group, &scale, &minimum);
    const aq_v step = aq_v_set1(f16_at(block) * (float)scale);
    const aq_v base = aq_v_set1(-f16_at(block + 2) * (float)minimum);
    const aq_vi four = aq_vi_set1(15), one = aq_vi_set1(1);
    const uint8_t *high = block + 16, *codes = block + 48 + GROUP * (group / 2);
    for (int v = 0; v < GROUP_VECTORS; v++) {
        const aq_vi byte = aq_vi_load_u8(codes + AQ_LANES * v);
        const aq_vi bits = aq_vi_right(aq_vi_load_u8(high + AQ_LANES * v), group);
        const aq_vi code = aq_vi_or(aq_vi_and(aq_vi_right(byte, 4 * (group % 2)), four),
                                    aq_vi_left(aq_vi_and(bits, one), 4));
        w[v] = aq_v_fma(aq_v_from_int(code), step, base);
    }
}

/* Groups 0 .. 3 fill the first half of a Q6_K block, 4 .. 7 the second; each 16 elements have a
 * scale of their own. */
AQ_MELT void unpack_q6_k(const uint8_t *block, int group, aq_v *w) {
    const int half = group / 4, part = group % 4;
    const uint8_t *low = block + 64 * half + GROUP * (part % 2);
    const uint8_t *high = block + 128 + 32 * half;
    const int8_t *scales = (const int8_t *)block + 192 + 8 * half + 2 * part;
    const float d = f16_at(block + 208);
    const aq_vi four = aq_vi_set1(15), two = aq_vi_set1(3), centre = aq_vi_set1(32);
    for (int v = 0; v < GROUP_VECTORS; v++) {
        const aq_vi byte = aq_vi_load_u8(low + AQ_LANES * v);
        const aq_vi bits = aq_vi_right(aq_vi_load_u8(high + AQ_LANES * v), 2 * part);
        const aq_vi code = aq_vi_or(aq_vi_and(aq_vi_right(byte, 4 * (part / 2)), four),
                                    aq_vi_left(aq_vi_and(bits, two), 4));
        const aq_v step = aq_v_set1(d * (float)scales[v / HALF_VECTORS]);
        w[v] = aq_v_mul(aq_v_from_int(aq_vi_sub(code, centre)), step);
    }
}

#endif
