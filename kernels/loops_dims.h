/* Private to kernels/, included by simd.c only: which columns of a query decide. simd.h says what
 * each does.
 *
 * The rank of a column is the bit pattern of its absolute value, which orders like the value; NaN
 * gets -1. The rank that divides the columns is found bit by bit from the top. */
#ifndef AQ_KERNELS_LOOPS_DIMS_H
#define AQ_KERNELS_LOOPS_DIMS_H

#include <math.h>
#include <string.h>

#include "kernels/loops_vector.h"

/* rank[n_col] of abs(q) * weight, rounded to fp32. */
static void rank_columns(const float *q, const float *weight, int n_col, int32_t *rank) {
    for (int i = 0; i < n_col; i++) {
        const float a = weight ? fabsf(q[i]) * weight[i] : fabsf(q[i]);
        int32_t bits;
        memcpy(&bits, &a, sizeof bits);
        rank[i] = a == a ? bits : -1;
    }
}

static int count_from(const int32_t *rank, int n_col, int32_t least) {
    int n = 0;
    for (int i = 0; i < n_col; i++)
        n += rank[i] >= least;
    return n;
}

static void choose(const float *q, const float *weight, int n_col, int n_dim, int32_t *rank,
                   int16_t *dims) {
    rank_columns(q, weight, n_col, rank);
    int32_t least = -1;
    int n_from = count_from(rank, n_col, 0);
    if (n_from >= n_dim) least = 0;
    for (int32_t bit = 1 << 30; least >= 0 && bit > 0 && n_from > n_dim; bit >>= 1) {
        const int n = count_from(rank, n_col, least | bit);
        if (n < n_dim) continue;
        least |= bit;
        n_from = n;
    }
    /* Without branches, which could not be foretold here. */
    int n_equal = n_dim - count_from(rank, n_col, least + 1);
    for (int i = 0, n = 0; n < n_dim; i++) {
        const int equal = rank[i] == least;
        dims[n] = (int16_t)i;
        n += (rank[i] > least) | (equal & (n_equal > 0));
        n_equal -= equal;
    }
}

/* Energy of the columns of rank `least` and above. All are added in one order, zeros for those
 * below, so that the sum never grows with `least`, roundings included. */
static float energy_from(const int32_t *rank, const float *energy, int n_col, int32_t least) {
    const aq_vi floor = aq_vi_set1(least);
    aq_v sum = aq_v_set1(0.0f);
    for (int i = 0; i < n_col; i += AQ_LANES) {
        const aq_v ahead = aq_v_from_bits(aq_vi_sub(aq_vi_load(rank + i), floor));
        sum = aq_v_add(sum, aq_v_where_negative(ahead, aq_v_set1(0.0f), aq_v_load(energy + i)));
    }
    return aq_v_sum(sum);
}

/* Writes energy[n_col] and fills up ranks and energies to whole vectors. */
static void fill_energy(int n_col, int32_t *rank, float *energy) {
    for (int i = 0; i < n_col; i++) {
        float a;
        memcpy(&a, rank + i, sizeof a);
        energy[i] = rank[i] < 0 ? 0.0f : a * a;
    }
    for (int i = n_col; i % AQ_LANES != 0; i++) {
        rank[i] = -1;
        energy[i] = 0.0f;
    }
}

static int fewest(const float *q, const float *weight, int n_col, float share, int32_t *rank,
                  float *energy) {
    rank_columns(q, weight, n_col, rank);
    fill_energy(n_col, rank, energy);
    const float needed = share * energy_from(rank, energy, n_col, 0);
    if (!(needed > 0.0f)) return 1;
    int32_t least = 0;
    for (int32_t bit = 1 << 30; bit > 0; bit >>= 1)
        if (energy_from(rank, energy, n_col, least | bit) >= needed) least |= bit;
    /* The columns above are not enough; of those of this rank as many come as are missing. */
    float each;
    memcpy(&each, &least, sizeof each);
    const int n_above = count_from(rank, n_col, least + 1);
    const int n_equal = count_from(rank, n_col, least) - n_above;
    const float missing = (needed - energy_from(rank, energy, n_col, least + 1)) / (each * each);
    if (missing >= (float)n_equal) return n_above + n_equal;
    return n_above + (missing > 1.0f ? (int)ceilf(missing) : 1);
}

#endif
