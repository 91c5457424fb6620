#include "calib/budget.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "calib/group.h"

enum { DROPPED_BITS = 17 }; /* of fp32: the digits behind the first 6 */

static int64_t bin_of(float energy) {
    const float at_least = fminf(fmaxf(energy, FLT_MIN), FLT_MAX);
    uint32_t bits;
    memcpy(&bits, &at_least, sizeof bits);
    return bits >> DROPPED_BITS;
}

static float begin_of(int64_t bin) {
    const uint32_t bits = (uint32_t)bin << DROPPED_BITS;
    float energy;
    memcpy(&energy, &bits, sizeof energy);
    return energy;
}

/* One query; a group's queries are scaled, energies are of q^ itself. */
static void count_query(const aq_group *group, const float *q, float scale, double *bins) {
    for (int c = 0; c < group->d_head; c++) {
        const float value = q[c] / scale * group->sigma[c];
        bins[bin_of(value * value)]++;
    }
}

aq_status aq_budget_count(const aq_sample *sample, const aq_projection *projection, double *bins) {
    for (int head = 0; head < sample->n_kv_head; head++) {
        aq_group group;
        AQ_TRY(aq_group_open(sample, projection, head, 0, &group));
        for (int64_t i = 0; i < group.n_query; i++)
            for (int h = 0; h < group.n_group; h++)
                count_query(&group, aq_group_query(&group, i, h), sample->scale, bins);
        aq_group_close(&group);
    }
    return AQ_OK;
}

float aq_budget_energy(const double *bins, double share) {
    int64_t bin = AQ_BUDGET_BINS - 1;
    double all = 0, above = bins[bin];
    for (int64_t i = 0; i < AQ_BUDGET_BINS; i++)
        all += bins[i];
    while (bin > bin_of(FLT_MIN) && above + bins[bin - 1] <= share * all)
        above += bins[--bin];
    return begin_of(bin);
}
