/* Private to kernels/, included by simd.c only: the loops of selecting attention. simd.h says what
 * each does. Lengths are whole tiles, so no loop has a rest. */
#ifndef AQ_KERNELS_LOOPS_SELECT_H
#define AQ_KERNELS_LOOPS_SELECT_H

#include <math.h>

#include "kernels/kv_append.h"
#include "kernels/loops_vector.h"

static float soft_tile(float *z, float *m) {
    aq_v most = aq_v_load(z);
    for (int i = AQ_LANES; i < AQ_TILE; i += AQ_LANES)
        most = aq_v_max(most, aq_v_load(z + i));
    *m = aq_v_largest(most);
    const aq_v shift = aq_v_set1(*m == -INFINITY ? 0.0f : *m);
    aq_v sum = aq_v_set1(0.0f);
    for (int i = 0; i < AQ_TILE; i += AQ_LANES) {
        const aq_v e = aq_v_exp_normal(aq_v_sub(aq_v_load(z + i), shift));
        aq_v_store(z + i, e);
        sum = aq_v_add(sum, e);
    }
    return aq_v_sum(sum);
}

static float weigh(const aq_weigh_args *a) {
    aq_v total = aq_v_set1(0.0f);
    for (int64_t i = 0; i < a->n_tile * AQ_TILE; i += AQ_LANES) {
        const float *factor = a->factor + i / AQ_TILE;
        aq_v w = aq_v_mul(aq_v_load(a->e + i), aq_v_set1(factor[0]));
        for (int r = 1; r < a->n_row; r++) {
            const aq_v e = aq_v_load(a->e + r * a->e_stride + i);
            const aq_v f = aq_v_set1(factor[r * a->factor_stride]);
            w = a->mean ? aq_v_fma(e, f, w) : aq_v_max(w, aq_v_mul(e, f));
        }
        aq_v_store(a->w + i, w);
        total = aq_v_add(total, w);
    }
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
