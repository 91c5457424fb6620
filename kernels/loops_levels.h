/* Private to kernels/, included by simd.c only: the codes of a selector's block as bytes, and their
 * scales.
 *
 * Columns stand in quads, of which the last of a segment may have places left over. code(s, c) is
 * middle[c] + unit[c] (level(s, c) - half[c]), with whole levels from 0 to 2 half[c]. */
#ifndef AQ_KERNELS_LOOPS_LEVELS_H
#define AQ_KERNELS_LOOPS_LEVELS_H

#include "kernels/codes.h"
#include "kernels/kv_append.h"
#include "kernels/loops_codes.h"
#include "kernels/loops_vector.h"

#define TILE_VECTORS (AQ_TILE / AQ_LANES)

/* Levels of 2 bits are 0, 7, 13, 20. Those of 1 and 4 bits are not the codes but 16 and 4 times
 * these: a step of a column then counts alike in all three, as the bytes of the query have one
 * scale. */
AQ_INLINE int level_factor(int bits) {
    return bits == 1 ? 16 : bits == 4 ? 4 : 1;
}

/* Codes of 2 bits are 0.151 (-10, -3, 3, 10), those of 1 bit 1.5958 (-0.5, 0.5) steps from the
 * base, which is their middle. That of more bits is `half` above it. */
AQ_INLINE float level_unit(int bits) {
    return (bits == 1 ? 1.5958f : bits == 2 ? 0.151f : 1.0f) / (float)level_factor(bits);
}

AQ_INLINE float level_half(int bits) {
    return bits == 2 ? 10.0f : 0.5f * (float)(((1 << bits) - 1) * level_factor(bits));
}

/* Steps of AQ_LANES columns: aq_step8_value. */
AQ_INLINE aq_v load_step8(const uint8_t *step8) {
    const aq_v least = aq_v_set1(0x1.1p-24f); /* between those of 0, if it were one, and of 1 */
    const aq_vi bits = aq_vi_left(aq_vi_load_u8(step8), 20);
    return aq_v_keep_from(aq_v_from_bits(aq_vi_add(bits, aq_vi_set1((127 - 24) << 23))), least);
}

/* Scales of all places; 0 for those without a column. */
typedef struct {
    float *unit, *middle, *half;
} scan_scales;

/* Those of the n columns of a segment, of which base and step8 are given, from `place` on. */
AQ_INLINE void take_segment_scales(const uint8_t *base, const uint8_t *step8, int n, int bits,
                                   int place, const scan_scales *to) {
    const float size = level_unit(bits), half = level_half(bits), above = bits > 2 ? half : 0.0f;
    float *unit = to->unit + place, *middle = to->middle + place;
    int c = 0;
    for (; c + AQ_LANES <= n; c += AQ_LANES) {
        const aq_v u = aq_v_mul(load_step8(step8 + c), aq_v_set1(size));
        aq_v_store(unit + c, u);
        aq_v_store(middle + c, aq_v_fma(u, aq_v_set1(above), aq_v_load_f16(base + 2 * c)));
        aq_v_store(to->half + place + c, aq_v_set1(half));
    }
    for (; c < n; c++) {
        uint16_t bits16;
        memcpy(&bits16, base + 2 * c, sizeof bits16);
        unit[c] = aq_step8_value(step8[c]) * size;
        middle[c] = unit[c] * above + aq_f16_lane(bits16);
        to->half[place + c] = half;
    }
    for (; c % 4 != 0; c++)
        unit[c] = middle[c] = to->half[place + c] = 0.0f;
}

static void take_scales(const aq_scan_args *a, const scan_scales *to) {
    int c = 0, place = 0;
    for (int i = 0; i < a->layout->n_segment; i++) {
        const int n = a->layout->segments[i].n;
        take_segment_scales(a->block + 2 * c, a->block + 2 * a->n_code + c, n,
                            a->layout->segments[i].bits, place, to);
        c += n;
        place += (n + 3) / 4 * 4;
    }
    for (; place < a->n_place; place++)
        to->unit[place] = to->middle[place] = to->half[place] = 0.0f;
}

/* The levels of a quad of four columns, those of a token in the four bytes of a lane: runs of 4, 2
 * and 1 bits. */
AQ_INLINE void open_nibbles(const uint8_t *run, aq_vi *level) {
    const aq_vi mask = aq_vi_set1(0x3c3c3c3c);
    for (int i = 0; i < TILE_VECTORS / 2; i++) {
        const aq_vi byte = aq_vi_load_bytes(run + 4 * AQ_LANES * i);
        level[i] = aq_vi_and(aq_vi_left(byte, 2), mask);
        level[i + TILE_VECTORS / 2] = aq_vi_and(aq_vi_right(byte, 2), mask);
    }
}

AQ_INLINE void open_pairs(const uint8_t *run, aq_vi *level) {
    const int n = TILE_VECTORS / 4;
    for (int i = 0; i < n; i++) {
        const aq_vi byte = aq_vi_load_bytes(run + 4 * AQ_LANES * i);
        for (int k = 0; k < 4; k++)
            level[n * k + i] =
                aq_vi_levels2(aq_vi_and(aq_vi_right(byte, 2 * k), aq_vi_set1(0x03030303)));
    }
}

/* Bit k of every byte, as 16. */
AQ_INLINE aq_vi bit_level(aq_vi byte, int k) {
    const aq_vi moved = k < 4 ? aq_vi_left(byte, 4 - k) : aq_vi_right(byte, k - 4);
    return aq_vi_and(moved, aq_vi_set1(0x10101010));
}

/* Where a vector holds more bytes than a plane, its upper half has them a bit further. */
AQ_INLINE void open_bits(const uint8_t *run, aq_vi *level) {
#if AQ_LANES > 8
    const aq_vi byte = aq_vi_load_twice(run);
    for (int k = 0; k < TILE_VECTORS; k++)
        level[k] = bit_level(byte, 2 * k);
#else
    const int n = TILE_VECTORS / 8;
    for (int i = 0; i < n; i++) {
        const aq_vi byte = aq_vi_load_bytes(run + 4 * AQ_LANES * i);
        for (int k = 0; k < 8; k++)
            level[n * k + i] = bit_level(byte, k);
    }
#endif
}

/* A run of any other kind: codes of `bits` bits in fewer columns, or of other widths. */
static void spread_run(const uint8_t *run, int n, int bits, int32_t *out) {
    uint8_t codes[4 * AQ_TILE];
    unpack(run, n * AQ_TILE, bits, codes);
    for (int s = 0; s < AQ_TILE; s++) {
        out[s] = 0;
        for (int k = 0; k < n; k++) {
            const int code = codes[s * n + k];
            const int level = bits == 2 ? 7 * code - code / 2 : code * level_factor(bits);
            out[s] |= (int32_t)((uint32_t)level << (8 * k));
        }
    }
}

AQ_INLINE void open_any(const uint8_t *run, int n, int bits, aq_vi *level) {
    int32_t spread[AQ_TILE];
    spread_run(run, n, bits, spread);
    for (int v = 0; v < TILE_VECTORS; v++)
        level[v] = aq_vi_load(spread + AQ_LANES * v);
}

/* The kinds of quads; bits of a whole one, or 0. */
AQ_INLINE int quad_kind(const aq_scan_quad *quad) {
    return quad->width == 4 && (quad->bits == 1 || quad->bits == 2 || quad->bits == 4) ? quad->bits
                                                                                       : 0;
}

AQ_INLINE void open_quad(const aq_scan_args *a, const aq_scan_quad *quad, int kind, aq_vi *level) {
    const uint8_t *run = a->block + quad->at;
    if (kind == 4)
        open_nibbles(run, level);
    else if (kind == 2)
        open_pairs(run, level);
    else if (kind == 1)
        open_bits(run, level);
    else
        open_any(run, quad->width, quad->bits, level);
}

#endif
