/* Selecting attention: weights of the tokens, and the bound from which on they hold the mass.
 *
 * The bits of positive floats rise with them, by 2^23 for a factor of 2. So bounds that stand
 * evenly between the bits of the least and of the largest weight, and buckets of as many bits each
 * between two of these, find x to within the width of a bucket. */
#include <math.h>
#include <string.h>

#include "kernels/attn_select_parts.h"

/* A bucket's bits: a factor of 257/256 at most. */
#define BUCKET_SHIFT 15

/* Weights below 2^-64 hold nothing; so there are buckets enough. */
#define LEAST_WEIGHT 0x1p-64

/* Buckets that are added up at once. */
#define STRIDE 32

static float *weights_of(const aq_select_block *b, int i) {
    return b->z + (int64_t)i * b->task->group * b->task->z_stride;
}

/* Bounds stand at low + (k + 1) piece, k < AQ_MASS_BOUNDS. */
typedef struct {
    uint32_t low, piece;
} bounds;

/* Of the sum of all weights, which is no less than each row's or than all rows' where they are
 * added, 1 - share may be left out. Weights below the n_seen-th part of that hold no more; half of
 * it leaves room for roundings. None is larger than the number of rows that are added, or than that
 * of all rows where these have weights of their own, and a little by rounding. */
static bounds bounds_of(const aq_select_block *b, int i) {
    const int group = b->task->group;
    const double n_added = b->args->group_mean ? group : 1.0;
    const double most = b->args->ml_all ? group : n_added;
    const double left_out = (1.0 - b->result.sums[b->g].share) * n_added;
    const double least = fmax(0.5 * left_out / (double)b->view[i].n_seen, LEAST_WEIGHT * most);
    const uint32_t low = aq_select_bits_of((float)least);
    const uint32_t high = aq_select_bits_of((float)(1.001 * most));
    const uint32_t n_bucket = (((high - low) >> BUCKET_SHIFT) + 1) / (AQ_MASS_BOUNDS + 1) + 1;
    return (bounds){low, n_bucket << BUCKET_SHIFT};
}

/* keep[] of query i's rows = what their weights sum to here, 1 in the mean; and the share of all
 * weights that is to be held. */
static void take_shares(aq_select_block *b, int i) {
    const aq_attn_select_args *args = b->args;
    const int group = b->task->group;
    const float *m = b->m + i * group, *l = b->l + i * group;
    float *sum = b->keep + i * group;
    double held = 0; /* of the softmax over all shards, by this one */
    b->result.sums[b->g].share = args->mass;
    for (int r = 0; r < group; r++)
        sum[r] = 1.0f;
    if (!args->ml_all) return;
    const float *all = args->ml_all + 2 * ((b->t + i) * args->n_head + b->g * group);
    for (int r = 0; r < group; r++) {
        sum[r] = l[r] * expf(m[r] - all[2 * r]) / all[2 * r + 1];
        held += (double)sum[r] / group;
    }
    const double part = args->slot_pos ? 1.0 / args->n_shard
                                       : (double)b->view[i].n_seen / (double)(b->view[i].pos + 1);
    b->result.sums[b->g].share = fmax(0.0, 1.0 - (1.0 - args->mass) * part / held);
    for (int r = 0; r < group && held > 0; r++)
        sum[r] = (float)((double)sum[r] / held);
}

/* The factor by which exponentials of each row become weights, for each tile. */
static float *take_factors(aq_select_block *b, int i) {
    const int group = b->task->group;
    const int64_t n = aq_select_own_tiles(b, i), stride = b->task->most_own;
    float *factor = b->factor + i * group * stride;
    for (int r = 0; r < group; r++) {
        const int row = i * group + r;
        const float inverse = b->keep[row] / b->l[row];
        b->simd->exp_shifted(b->tile_m + row * stride, b->m[row], n, factor + r * stride);
        for (int64_t k = 0; k < n; k++)
            factor[r * stride + k] *= inverse;
    }
    return factor;
}

/* Takes token s of tile k out of all rows of query i; returns its weight. */
static float take_token(const aq_select_block *b, int i, int64_t k, int s, const float *factor) {
    float *e = weights_of(b, i) + k * AQ_TILE + s, weight = 0.0f;
    for (int r = 0; r < b->task->group; r++, e += b->task->z_stride) {
        const float w = *e * factor[r * b->task->most_own + k];
        weight = b->args->group_mean ? weight + w : fmaxf(weight, w);
        *e = 0.0f;
    }
    return weight;
}

/* Takes the near ones out; returns the sum of their weights. */
static float take_near(const aq_select_block *b, int i, const float *factor) {
    float sum = 0.0f;
    for (int64_t k = 0; k < aq_select_own_tiles(b, i); k++) {
        uint64_t near = aq_select_near_bits(b->args, &b->view[i], b->first + k * b->step);
        for (; near != 0; near &= near - 1)
            sum += take_token(b, i, k, __builtin_ctzll(near), factor);
    }
    return sum;
}

void aq_select_weigh_tokens(aq_select_block *b, int i) {
    take_shares(b, i);
    const bounds at = bounds_of(b, i);
    const float *factor = take_factors(b, i);
    aq_select_sums *sums = &b->result.sums[b->g];
    float *w = weights_of(b, i), least[AQ_MASS_BOUNDS];
    for (uint32_t k = 0; k < AQ_MASS_BOUNDS; k++)
        least[k] = aq_select_float_of(at.low + (k + 1) * at.piece);
    sums->near = take_near(b, i, factor);
    sums->other = b->simd->weigh(&(aq_weigh_args){.e = w,
                                                  .e_stride = b->task->z_stride,
                                                  .factor = factor,
                                                  .factor_stride = b->task->most_own,
                                                  .n_row = b->task->group,
                                                  .mean = b->args->group_mean,
                                                  .n_tile = aq_select_own_tiles(b, i),
                                                  .w = w,
                                                  .least = least,
                                                  .mass = sums->mass});
}

/* The sums of all members, in their order. */
static aq_select_sums join_sums(const aq_select_block *b) {
    aq_select_sums all = {0};
    for (int64_t i = 0; i < b->task->n_share; i++) {
        const aq_select_sums *sums = aq_select_of_member(b, i, &b->result.sums[b->g]);
        all.near += sums->near;
        all.other += sums->other;
        for (int k = 0; k < AQ_MASS_BOUNDS; k++)
            all.mass[k] += sums->mass[k];
    }
    return all;
}

/* If near tokens are enough the bound is beyond all weights. */
static aq_select_search start_search(const aq_select_block *b, int i) {
    const aq_select_sums sums = join_sums(b);
    const bounds at = bounds_of(b, i);
    const double all = (double)sums.near + (double)sums.other;
    const float target = (float)(b->result.sums[b->g].share * all - (double)sums.near);
    uint32_t k = 0;
    if (target <= 0.0f) return (aq_select_search){.low = aq_select_bits_of(INFINITY)};
    while (k < AQ_MASS_BOUNDS && sums.mass[k] >= target)
        k++;
    return (aq_select_search){.low = at.low + k * at.piece,
                              .n_bucket = (int)(at.piece >> BUCKET_SHIFT),
                              .target = k < AQ_MASS_BOUNDS ? target - sums.mass[k] : target};
}

void aq_select_fill_buckets(aq_select_block *b, int i) {
    aq_select_search *search = &b->search[b->g];
    float *bucket = b->result.bucket + (int64_t)b->g * AQ_SELECT_BUCKETS;
    *search = start_search(b, i);
    memset(bucket, 0, (size_t)search->n_bucket * sizeof *bucket);
    if (search->n_bucket == 0) return;
    b->simd->fill_buckets(&(aq_fill_args){.w = weights_of(b, i),
                                          .n = aq_select_own_tiles(b, i) * AQ_TILE,
                                          .low = search->low,
                                          .shift = BUCKET_SHIFT,
                                          .n_bucket = search->n_bucket,
                                          .bucket = bucket});
}

/* What n buckets from `from` on hold. */
static float bucket_mass(const aq_select_block *b, int from, int n) {
    const float *bucket = b->result.bucket + (int64_t)b->g * AQ_SELECT_BUCKETS + from;
    float sum = 0.0f;
    for (int64_t i = 0; i < b->task->n_share; i++)
        sum += b->simd->sum(aq_select_of_member(b, i, bucket), n);
    return sum;
}

/* From the last bucket down, in strides as long as one does not reach the target. */
void aq_select_find_bound(aq_select_block *b) {
    aq_select_search *search = &b->search[b->g];
    float held = 0.0f;
    int at = search->n_bucket;
    for (int stride = STRIDE; stride > 0; stride = stride == 1 ? 0 : 1) {
        while (at > 0) {
            const int n = at < stride ? at : stride;
            const float more = bucket_mass(b, at - n, n);
            if (held + more >= search->target) break;
            held += more;
            at -= n;
        }
    }
    at = at > 0 ? at - 1 : 0;
    search->least = aq_select_float_of(search->low + ((uint32_t)at << BUCKET_SHIFT));
}
