/* Selecting attention: weights of the tokens, and the search for their bound. */
#include <math.h>

#include "kernels/attn_select_parts.h"

/* The bound is found to within this difference of the bits of floats: a factor of 257/256 at most.
 */
#define BOUND_BITS (1u << 15)

static float *weights_of(const aq_select_block *b, int i) {
    return b->z + (int64_t)i * b->task->group * b->task->z_stride;
}

/* Takes the near ones out of the weights of query i; returns their sum. */
static float take_near(const aq_select_block *b, int i) {
    float sum = 0.0f;
    for (int64_t k = 0; k < aq_select_own_tiles(b, i); k++) {
        float *w = weights_of(b, i) + k * AQ_TILE;
        uint64_t near = aq_select_near_bits(b->args, &b->view[i], b->first + k * b->step);
        for (; near != 0; near &= near - 1) {
            sum += w[__builtin_ctzll(near)];
            w[__builtin_ctzll(near)] = 0.0f;
        }
    }
    return sum;
}

void aq_select_weigh_tokens(aq_select_block *b, int i, float *total, float *near) {
    const int group = b->task->group;
    const int64_t n = aq_select_own_tiles(b, i), stride = b->task->most_own;
    float *w = weights_of(b, i), *factor = b->factor + i * group * stride;
    for (int r = 0; r < group; r++) {
        const int row = i * group + r;
        b->simd->exp_shifted(b->tile_m + row * stride, b->m[row], n, factor + r * stride);
        for (int64_t k = 0; k < n; k++)
            factor[r * stride + k] /= b->l[row];
    }
    *total = b->simd->weigh(&(aq_weigh_args){.e = w,
                                             .e_stride = b->task->z_stride,
                                             .factor = factor,
                                             .factor_stride = stride,
                                             .n_row = group,
                                             .mean = b->args->group_mean,
                                             .n_tile = n,
                                             .w = w});
    *near = take_near(b, i);
}

/* Weights below (1 - mass) total / n hold no more than may be left out; half of it leaves room for
 * roundings. If near tokens are enough the bound is beyond all weights. */
aq_select_search aq_select_start_search(double mass, double total, double near, double largest,
                                        int64_t n) {
    const uint32_t beyond = aq_select_bits_of(INFINITY);
    const double target = mass * total - near;
    if (target <= 0.0) return (aq_select_search){.low = beyond, .high = beyond};
    return (aq_select_search){
        .low = aq_select_bits_of((float)(0.5 * (1.0 - mass) * total / (double)n)),
        .high = aq_select_bits_of((float)largest) + 1,
        .target = (float)target};
}

bool aq_select_search_ends(const aq_select_search *search) {
    return search->high <= search->low || search->high - search->low <= BOUND_BITS;
}

/* Bounds that cut the rest of the search in equal pieces. */
void aq_select_try_bounds(const aq_select_search *search, float *least) {
    const uint32_t piece = (search->high - search->low) / (AQ_MASS_BOUNDS + 1);
    for (uint32_t k = 0; k < AQ_MASS_BOUNDS; k++)
        least[k] = aq_select_float_of(search->low + (k + 1) * piece);
}

void aq_select_narrow(aq_select_search *search, const float *least, const float *mass) {
    for (int k = 0; k < AQ_MASS_BOUNDS; k++) {
        if (mass[k] >= search->target) {
            search->low = aq_select_bits_of(least[k]);
        } else {
            search->high = aq_select_bits_of(least[k]);
            return;
        }
    }
}

void aq_select_mass_from(const aq_select_block *b, int i, const float *least, float *mass) {
    b->simd->mass_from(weights_of(b, i), aq_select_own_tiles(b, i) * AQ_TILE, least, mass);
}

void aq_select_find_bound(aq_select_block *b, int i) {
    float total, near, least[AQ_MASS_BOUNDS], mass[AQ_MASS_BOUNDS];
    aq_select_weigh_tokens(b, i, &total, &near);
    aq_select_search search = aq_select_start_search(b->args->mass, (double)total, (double)near,
                                                     aq_select_largest(b->task), b->view[i].n_seen);
    while (!aq_select_search_ends(&search)) {
        aq_select_try_bounds(&search, least);
        aq_select_mass_from(b, i, least, mass);
        aq_select_narrow(&search, least, mass);
    }
    b->view[i].least = aq_select_float_of(search.low);
}
