/* Private to kernels/, included by loops_dot_codes.h only: codes and scales of the types with
 * blocks of 256, as vectors. A block is eight groups of 32; block layouts: docs/formats.md. */
#ifndef AQ_KERNELS_LOOPS_DOT_K_H
#define AQ_KERNELS_LOOPS_DOT_K_H

#include <string.h>

#define K_GROUPS      8
#define K_VECTORS     (K_GROUPS * GROUP / VECTOR_BYTES)
#define VECTOR_GROUPS (VECTOR_BYTES / GROUP)

/* The first group of vector v; the others follow `apart` behind each other. */
AQ_MELT int first_group(int apart, int v) {
    return VECTOR_GROUPS == 1 ? v : v / apart * VECTOR_GROUPS * apart + v % apart;
}

/* Low or high nibbles of a vector of bytes. */
AQ_MELT aq_vi nibbles(const uint8_t *p, bool high) {
    const aq_vi byte = aq_vi_load_bytes(p);
    return aq_vi_and(high ? aq_vi_right(byte, 4) : byte, aq_vi_set1(0x0f0f0f0f));
}

/* Groups 2 p and 2 p + 1 are the nibbles of the same 32 bytes. */
AQ_MELT void codes_q4_k(const uint8_t *block, int total, int n, aq_vi *codes) {
    (void)n;
    codes[0] = nibbles(block + 16 + VECTOR_BYTES * (total / 2), total % 2);
}

/* Bit g of a byte of fifth bits belongs to group g: it goes to bit 4. */
AQ_MELT void codes_q5_k(const uint8_t *block, int total, int n, aq_vi *codes) {
    (void)n;
    const int group = first_group(2, total);
    const aq_vi byte = aq_vi_load_groups(block + 16);
    const aq_vi bits = group < 4 ? aq_vi_left(byte, 4) : byte;
    const aq_vi fifth = aq_vi_right_each(bits, aq_vi_by_group(group % 4, 2));
    codes[0] = aq_vi_or(aq_vi_and(fifth, aq_vi_set1(0x10101010)),
                        nibbles(block + 48 + VECTOR_BYTES * (total / 2), total % 2));
}

/* Of four groups, bits 2 g and 2 g + 1 of a byte of upper bits belong to group g: to bits 4, 5. */
AQ_MELT void codes_q6_k(const uint8_t *block, int total, int n, aq_vi *codes) {
    (void)n;
    const int group = first_group(1, total), half = group / 4, part = group % 4;
    const aq_vi byte = aq_vi_load_groups(block + 128 + GROUP * half);
    const aq_vi bits = part < 2 ? aq_vi_left(byte, 4) : byte;
    const aq_vi upper = aq_vi_right_each(bits, aq_vi_by_group(2 * (part % 2), 2));
    codes[0] = aq_vi_or(aq_vi_and(upper, aq_vi_set1(0x30303030)),
                        nibbles(block + 64 * half + GROUP * (part % 2), part / 2));
}

/* The scales and minimums of a block of Q4_K or Q5_K, as k_scale gives them, all at once. */
AQ_MELT void k_scales(const uint8_t *packed, uint8_t *scale, uint8_t *minimum) {
    uint32_t word[3];
    memcpy(word, packed, sizeof word);
    const uint32_t out[4] = {
        word[0] & 0x3f3f3f3fu,
        (word[2] & 0x0f0f0f0fu) | ((word[0] >> 2) & 0x30303030u),
        word[1] & 0x3f3f3f3fu,
        ((word[2] >> 4) & 0x0f0f0f0fu) | ((word[1] >> 2) & 0x30303030u),
    };
    memcpy(scale, out, K_GROUPS);
    memcpy(minimum, out + 2, K_GROUPS);
}

AQ_MELT void steps_q45_k(const coded_format f, const int T, const uint8_t *block, int n,
                         const coded_token *token, float (*out)[STEPS_A_PART], aq_v *sum) {
    uint8_t scale[GROUPS_A_PART + AQ_LANES], minimum[GROUPS_A_PART + AQ_LANES];
    float d[GROUPS_A_PART / K_GROUPS + 4][2];
    for (int b = 0; b < n / K_GROUPS; b++, block += f.block_bytes) {
        aq_f16_pair(block, d[b]);
        k_scales(block + 4, scale + b * K_GROUPS, minimum + b * K_GROUPS);
    }
    if (n % AQ_LANES) {
        memset(scale + n, 0, AQ_LANES);
        memset(minimum + n, 0, AQ_LANES);
        memset(d[n / K_GROUPS], 0, sizeof d[0]);
    }
    for (int g = 0; g < n; g += AQ_LANES) {
        const float *pair = d[g / K_GROUPS];
        const aq_v s = aq_v_mul(aq_v_from_int(aq_vi_load_u8(scale + g)), aq_v_load_each8(pair, 2));
        const aq_v least = aq_v_sub(aq_v_set1(0.0f), aq_v_load_each8(pair + 1, 2));
        const aq_v m = aq_v_mul(aq_v_from_int(aq_vi_load_u8(minimum + g)), least);
        for (int t = 0; t < T; t++) {
            aq_v_store(out[t] + g, aq_v_mul(s, aq_v_load(token[t].step + g)));
            sum[t] = aq_v_fma(m, aq_v_load(token[t].sum + g), sum[t]);
        }
    }
}

AQ_MELT void steps_q6_k(const coded_format f, const int T, const uint8_t *block, int n,
                        const coded_token *token, float (*out)[STEPS_A_PART], aq_v *sum) {
    for (int b = 0; b < n / K_GROUPS; b++, block += f.block_bytes) {
        const aq_v d = aq_v_set1(f16_at(block + 208));
        for (int i = 0; i < 2 * K_GROUPS; i += AQ_LANES) {
            const int k = 2 * K_GROUPS * b + i;
            const aq_v s = aq_v_mul(aq_v_from_int(aq_vi_load_i8(block + 192 + i)), d);
            const aq_v m = aq_v_mul(s, aq_v_set1(f.centre));
            for (int t = 0; t < T; t++) {
                aq_v_store(out[t] + k, aq_v_mul(s, aq_v_load(token[t].step + k)));
                sum[t] = aq_v_fma(m, aq_v_load(token[t].sum + k), sum[t]);
            }
        }
    }
}

#endif
