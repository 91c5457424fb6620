/* Private to kernels/, included by simd.c only: the loops of selecting attention. simd.h says what
 * each does. Lengths are whole tiles, so no loop has a rest. */
#ifndef AQ_KERNELS_LOOPS_SELECT_H
#define AQ_KERNELS_LOOPS_SELECT_H

#include <math.h>

#include "kernels/codes.h"
#include "kernels/kv_append.h"
#include "kernels/loops_codes.h"
#include "kernels/loops_vector.h"

/* 64 codes of 2 bits: byte i holds codes i, i + 16, i + 32, i + 48. */
AQ_INLINE void look_up_quads(const uint8_t *plane, aq_v quad, float *out) {
    for (int i = 0; i < 16; i += AQ_LANES) {
        const aq_vi byte = aq_vi_load_u8(plane + i);
        for (int k = 0; k < 4; k++)
            aq_v_store(out + 16 * k + i, aq_quad_at(quad, aq_vi_right(byte, 2 * k)));
    }
}

/* 64 codes of 1 bit: byte i holds codes i, i + 8, ... The same bytes again, a bit further, make the
 * plane above, of whose codes only the low bit counts. */
AQ_INLINE void look_up_pairs(const uint8_t *plane, const float *level, float *out) {
    const float quad[4] = {level[0], level[1], level[0], level[1]};
    uint64_t twice[2];
    memcpy(twice, plane, sizeof twice[0]);
    twice[1] = twice[0] >> 1;
    look_up_quads((const uint8_t *)twice, aq_quad_make(quad), out);
}

AQ_INLINE void look_up_nibbles(const uint8_t *plane, aq_levels levels, float *out) {
    for (int i = 0; i < 32; i += AQ_LANES) {
        const aq_vi byte = aq_vi_load_u8(plane + i);
        aq_v_store(out + i, aq_levels_at(levels, byte));
        aq_v_store(out + 32 + i, aq_levels_at(levels, aq_vi_right(byte, 4)));
    }
}

static void code_column(const uint8_t *run, int bits, float base, float step, float *out) {
    uint8_t codes[AQ_TILE];
    float level[4];
    for (int i = 0; i < 4 && bits <= 2; i++)
        level[i] = base + step * aq_code_levels[bits - 1][i];
    if (bits == 1) {
        look_up_pairs(run, level, out);
    } else if (bits == 2) {
        look_up_quads(run, aq_quad_make(level), out);
    } else if (bits == 4) {
        look_up_nibbles(run, aq_levels_make(step, base), out);
    } else {
        unpack_run(run, AQ_TILE, bits, codes);
        widen(codes, AQ_TILE, step, base, out);
    }
}

static void code_columns(const aq_code_columns_args *a) {
    const aq_code_segment *segment = a->layout->segments;
    const uint8_t *step8 = a->block + 2 * a->n, *run = step8 + a->n;
    int first = 0; /* column of the segment */
    for (int j = 0; j < a->n_column; j++) {
        const int c = a->columns[j];
        uint16_t base;
        for (; c >= first + segment->n; segment++) {
            run += segment->n * segment->bits * AQ_TILE / 8;
            first += segment->n;
        }
        memcpy(&base, a->block + 2 * c, sizeof base);
        code_column(run + (c - first) * segment->bits * AQ_TILE / 8, segment->bits,
                    aq_f16_lane(base), aq_step8_value(step8[c]), a->out + j * AQ_TILE);
    }
}

static void soft_total(const float *x, int64_t n, float *m, float *l) {
    aq_v most[2] = {aq_v_set1(-INFINITY), aq_v_set1(-INFINITY)};
    aq_v sum[2] = {aq_v_set1(0.0f), aq_v_set1(0.0f)};
    for (int64_t i = 0; i < n; i += 2 * AQ_LANES)
        for (int v = 0; v < 2; v++)
            most[v] = aq_v_max(most[v], aq_v_load(x + i + AQ_LANES * v));
    *m = aq_v_largest(aq_v_max(most[0], most[1]));
    const aq_v shift = aq_v_set1(*m == -INFINITY ? 0.0f : *m);
    for (int64_t i = 0; i < n; i += 2 * AQ_LANES)
        for (int v = 0; v < 2; v++)
            sum[v] =
                aq_v_add(sum[v], aq_v_exp_normal(aq_v_sub(aq_v_load(x + i + AQ_LANES * v), shift)));
    *l = aq_v_sum(aq_v_add(sum[0], sum[1]));
}

/* Differences first: m and log_l of a row may be far apart. */
AQ_INLINE aq_v log_weight(const aq_weigh_args *a, int r, int64_t i) {
    const aq_v z = aq_v_load(a->z + r * a->z_stride + i);
    return aq_v_sub(aq_v_sub(z, aq_v_set1(a->m[r])), aq_v_set1(a->log_l[r]));
}

static float weigh(const aq_weigh_args *a, float *largest) {
    const aq_v share = aq_v_set1(1.0f / (float)a->n_row);
    aq_v total = aq_v_set1(0.0f), most = aq_v_set1(0.0f);
    for (int64_t i = 0; i < a->n; i += AQ_LANES) {
        aq_v w = log_weight(a, 0, i);
        if (a->mean) {
            w = aq_v_exp_normal(w);
            for (int r = 1; r < a->n_row; r++)
                w = aq_v_add(w, aq_v_exp_normal(log_weight(a, r, i)));
            w = aq_v_mul(w, share);
        } else {
            for (int r = 1; r < a->n_row; r++)
                w = aq_v_max(w, log_weight(a, r, i));
            w = aq_v_exp_normal(w);
        }
        aq_v_store(a->w + i, w);
        total = aq_v_add(total, w);
        most = aq_v_max(most, w);
    }
    *largest = aq_v_largest(most);
    return aq_v_sum(total);
}

static void mass_from(const float *w, int64_t n, const float *least, float *mass) {
    aq_v bound[AQ_MASS_BOUNDS], sum[AQ_MASS_BOUNDS];
    for (int k = 0; k < AQ_MASS_BOUNDS; k++) {
        bound[k] = aq_v_set1(least[k]);
        sum[k] = aq_v_set1(0.0f);
    }
    for (int64_t i = 0; i < n; i += AQ_LANES) {
        const aq_v a = aq_v_load(w + i);
        for (int k = 0; k < AQ_MASS_BOUNDS; k++)
            sum[k] = aq_v_add(sum[k], aq_v_keep_from(a, bound[k]));
    }
    for (int k = 0; k < AQ_MASS_BOUNDS; k++)
        mass[k] = aq_v_sum(sum[k]);
}

static uint64_t bits_from(const float *w, float least) {
    uint64_t bits = 0;
    for (int i = 0; i < AQ_TILE; i += AQ_LANES)
        bits |= (uint64_t)aq_v_bits_from(aq_v_load(w + i), aq_v_set1(least)) << i;
    return bits;
}

#endif
