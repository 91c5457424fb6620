/* Private to kernels/, included by simd.c only: the codes of a selector's block as bytes, and their
 * scales.
 *
 * Columns stand in quads, of which the last of a segment may have places left over. code(s, c) is
 * origin[c] + unit[c] level(s, c), with whole levels from 0 on. */
#ifndef AQ_KERNELS_LOOPS_LEVELS_H
#define AQ_KERNELS_LOOPS_LEVELS_H

#include "kernels/codes.h"
#include "kernels/kv_append.h"
#include "kernels/loops_codes.h"
#include "kernels/loops_vector.h"

/* Levels of 2 bits are 0.151 (-10, -3, 3, 10), those of 1 bit 1.5958 (-0.5, 0.5). */
AQ_INLINE float level_unit(int bits) {
    return bits == 1 ? 1.5958f : bits == 2 ? 0.151f : 1.0f;
}

AQ_INLINE float level_start(int bits) {
    return bits == 1 ? -0.5f : bits == 2 ? -10.0f : 0.0f;
}

/* Steps of AQ_LANES columns: aq_step8_value. */
AQ_INLINE aq_v load_step8(const uint8_t *step8) {
    const aq_v least = aq_v_set1(0x1.1p-24f); /* between those of 0, if it were one, and of 1 */
    const aq_vi bits = aq_vi_left(aq_vi_load_u8(step8), 20);
    return aq_v_keep_from(aq_v_from_bits(aq_vi_add(bits, aq_vi_set1((127 - 24) << 23))), least);
}

/* Unit and origin of the n columns of a segment, and of the places left over. */
AQ_INLINE void take_segment_scales(const uint8_t *base, const uint8_t *step8, int n, int bits,
                                   float *unit, float *origin) {
    const float size = level_unit(bits), start = level_start(bits);
    int c = 0;
    for (; c + AQ_LANES <= n; c += AQ_LANES) {
        const aq_v u = aq_v_mul(load_step8(step8 + c), aq_v_set1(size));
        aq_v_store(unit + c, u);
        aq_v_store(origin + c, aq_v_fma(u, aq_v_set1(start), aq_v_load_f16(base + 2 * c)));
    }
    for (; c < n; c++) {
        uint16_t half;
        memcpy(&half, base + 2 * c, sizeof half);
        unit[c] = aq_step8_value(step8[c]) * size;
        origin[c] = unit[c] * start + aq_f16_lane(half);
    }
    for (; c % 4 != 0; c++)
        unit[c] = origin[c] = 0.0f;
}

/* Four vectors' worth of bytes, which hold codes of 1 or 2 bits at bits 0, 2, 4 and 6, to four rows
 * of levels. Codes 0 .. 3 of 2 bits have the levels 0, 7, 13, 20. */
AQ_INLINE void spread_pairs(const uint8_t *bytes, int bits, int32_t *out) {
    for (int i = 0; i < 16; i += AQ_LANES) {
        const aq_vi byte = aq_vi_load_bytes(bytes + 4 * i);
        for (int k = 0; k < 4; k++) {
            aq_vi level = aq_vi_right(byte, 2 * k);
            if (bits == 1) {
                level = aq_vi_and(level, aq_vi_set1(0x01010101));
            } else {
                const aq_vi code = aq_vi_and(level, aq_vi_set1(0x03030303));
                const aq_vi half = aq_vi_and(aq_vi_right(code, 1), aq_vi_set1(0x01010101));
                level = aq_vi_sub(aq_vi_sub(aq_vi_left(code, 3), code), half);
            }
            aq_vi_store(out + 16 * k + i, level);
        }
    }
}

/* The plane above is the same bytes, a bit further. */
AQ_INLINE void spread_bits(const uint8_t *run, int32_t *out) {
    uint64_t twice[8];
    memcpy(twice, run, 32);
    for (int i = 0; i < 4; i++)
        twice[4 + i] = twice[i] >> 1;
    spread_pairs((const uint8_t *)twice, 1, out);
}

AQ_INLINE void spread_nibbles(const uint8_t *run, int32_t *out) {
    const aq_vi low = aq_vi_set1(0x0f0f0f0f);
    for (int i = 0; i < 32; i += AQ_LANES) {
        const aq_vi byte = aq_vi_load_bytes(run + 4 * i);
        aq_vi_store(out + i, aq_vi_and(byte, low));
        aq_vi_store(out + 32 + i, aq_vi_and(aq_vi_right(byte, 4), low));
    }
}

/* A run of any other kind: codes of `bits` bits in fewer columns, or of other widths. */
static void spread_run(const uint8_t *run, int n, int bits, int32_t *out) {
    uint8_t codes[4 * AQ_TILE];
    unpack(run, n * AQ_TILE, bits, codes);
    for (int s = 0; s < AQ_TILE; s++) {
        out[s] = 0;
        for (int k = 0; k < n; k++) {
            const int code = codes[s * n + k], level = bits == 2 ? 7 * code - code / 2 : code;
            out[s] |= (int32_t)((uint32_t)level << (8 * k));
        }
    }
}

/* The levels of a quad of n columns, those of a token in the bytes of out[s]. */
AQ_INLINE void spread_quad(const uint8_t *run, int n, int bits, int32_t *out) {
    if (n == 4 && bits == 4)
        spread_nibbles(run, out);
    else if (n == 4 && bits == 2)
        spread_pairs(run, 2, out);
    else if (n == 4 && bits == 1)
        spread_bits(run, out);
    else
        spread_run(run, n, bits, out);
}

/* Asks memory for `bytes` bytes. */
AQ_INLINE void fetch(const uint8_t *from, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 64)
        __builtin_prefetch(from + at);
}

/* Scales of all columns to unit and origin, levels of the quads that are read to `level`. */
static void open_codes(const aq_scan_args *a, float *unit, float *origin, int32_t *level) {
    const int n_code = a->n_code;
    const uint8_t *run = a->block + 3 * n_code;
    int c = 0, quad = 0, n_read = 0;
    fetch(a->next, 3 * n_code);
    for (int i = 0; i < a->layout->n_segment; i++) {
        const int n = a->layout->segments[i].n, bits = a->layout->segments[i].bits;
        take_segment_scales(a->block + 2 * c, a->block + 2 * n_code + c, n, bits, unit + 4 * quad,
                            origin + 4 * quad);
        for (int at = 0; at < n; at += 4, quad++) {
            const int width = n - at < 4 ? n - at : 4;
            const int bytes = width * bits * (AQ_TILE / 8);
            if (n_read < a->n_quad && a->quads[n_read] == quad) {
                fetch(a->next + (run - a->block), bytes);
                spread_quad(run, width, bits, level + AQ_TILE * n_read++);
            }
            run += bytes;
        }
        c += n;
    }
    for (int place = 4 * quad; place < a->n_place; place++)
        unit[place] = origin[place] = 0.0f;
}

#endif
