/* Private to kernels/, included by simd.c only: the loops of selecting attention. simd.h says what
 * each does. Lengths are whole tiles, so no loop has a rest. */
#ifndef AQ_KERNELS_LOOPS_SELECT_H
#define AQ_KERNELS_LOOPS_SELECT_H

#include <math.h>

#include "kernels/kv_append.h"
#include "kernels/loops_vector.h"

/* 2^t for t <= 0 to within 2^-18 of it, but 0 where it is below 2e-38 (aq_v_exp_normal). To choose
 * by, a polynomial of degree 4 is enough: the one next to 2^r, abs(r) <= 1/2, whose largest
 * relative error is least. */
AQ_INLINE aq_v power2_roughly(aq_v t) {
    t = aq_v_max(aq_v_set1(-126.0f), t);
    const aq_vi n = aq_vi_round(t);
    const aq_v r = aq_v_sub(t, aq_v_from_int(n));
    aq_v p = aq_v_fma(aq_v_set1(0.00957010221f), r, aq_v_set1(0.0559178628f));
    p = aq_v_fma(p, r, aq_v_set1(0.240247443f));
    p = aq_v_fma(p, r, aq_v_set1(0.693121791f));
    p = aq_v_fma(p, r, aq_v_set1(0.999999285f));
    const aq_v scaled = aq_v_from_bits(aq_vi_add(aq_v_bits(p), aq_vi_left(n, 23)));
    return aq_v_keep_from(scaled, aq_v_set1(2e-38f));
}

static void soften_rows(const aq_soften_args *a) {
    for (int r = 0; r < a->n_row; r++) {
        float *z = a->z + r * a->z_stride, *m = a->m + r * a->tile_stride;
        aq_v most = aq_v_load(z), sum = aq_v_set1(0.0f);
        for (int i = AQ_LANES; i < AQ_TILE; i += AQ_LANES)
            most = aq_v_max(most, aq_v_load(z + i));
        *m = aq_v_largest(most);
        const aq_v shift = aq_v_set1(*m == -INFINITY ? 0.0f : *m);
        for (int i = 0; i < AQ_TILE; i += AQ_LANES) {
            const aq_v below = aq_v_sub(aq_v_load(z + i), shift);
            const aq_v e = power2_roughly(aq_v_mul(below, aq_v_set1(1.44269504f)));
            aq_v_store(z + i, e);
            sum = aq_v_add(sum, e);
        }
        a->l[r * a->tile_stride] = aq_v_sum(sum);
    }
}

AQ_INLINE float weigh_tiles(const aq_weigh_args *a, bool mean) {
    aq_v bound[AQ_MASS_BOUNDS], sum[AQ_MASS_BOUNDS], total = aq_v_set1(0.0f);
    for (int k = 0; k < AQ_MASS_BOUNDS; k++) {
        bound[k] = aq_v_set1(a->least[k]);
        sum[k] = aq_v_set1(0.0f);
    }
    for (int64_t i = 0; i < a->n_tile * AQ_TILE; i += AQ_LANES) {
        const float *factor = a->factor + i / AQ_TILE;
        aq_v w = aq_v_mul(aq_v_load(a->e + i), aq_v_set1(factor[0]));
        for (int r = 1; r < a->n_row; r++) {
            const aq_v e = aq_v_load(a->e + r * a->e_stride + i);
            const aq_v f = aq_v_set1(factor[r * a->factor_stride]);
            w = mean ? aq_v_fma(e, f, w) : aq_v_max(w, aq_v_mul(e, f));
        }
        aq_v_store(a->w + i, w);
        total = aq_v_add(total, w);
        for (int k = 0; k < AQ_MASS_BOUNDS; k++)
            sum[k] = aq_v_add_from(sum[k], w, bound[k]);
    }
    for (int k = 0; k < AQ_MASS_BOUNDS; k++)
        a->mass[k] = aq_v_sum(sum[k]);
    return aq_v_sum(total);
}

static float weigh(const aq_weigh_args *a) {
    return a->mean ? weigh_tiles(a, true) : weigh_tiles(a, false);
}

static uint64_t bits_from(const float *w, float least) {
    uint64_t bits = 0;
    for (int i = 0; i < AQ_TILE; i += AQ_LANES)
        bits |= (uint64_t)aq_v_bits_from(aq_v_load(w + i), aq_v_set1(least)) << i;
    return bits;
}

static void fill_buckets(const aq_fill_args *a) {
    const uint32_t high = a->low + ((uint32_t)a->n_bucket << a->shift);
    float least, beyond;
    memcpy(&least, &a->low, sizeof least);
    memcpy(&beyond, &high, sizeof beyond);
    for (int64_t i = 0; i < a->n; i += AQ_TILE) {
        uint64_t in = bits_from(a->w + i, least) & ~bits_from(a->w + i, beyond);
        for (; in != 0; in &= in - 1) {
            const float w = a->w[i + __builtin_ctzll(in)];
            uint32_t bits;
            memcpy(&bits, &w, sizeof bits);
            a->bucket[(bits - a->low) >> a->shift] += w;
        }
    }
}

#endif
