#include "calib/mass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void aq_mass_far(const aq_mass_rule *rule, int64_t n, int64_t *begin, int64_t *end) {
    *begin = rule->n_sink < n ? rule->n_sink : n;
    *end = n - rule->n_recent > *begin ? n - rule->n_recent : *begin;
}

/* x = softmax(x). */
static void soften(float *x, int64_t n) {
    float most = x[0];
    double sum = 0;
    for (int64_t s = 1; s < n; s++)
        most = x[s] > most ? x[s] : most;
    for (int64_t s = 0; s < n; s++) {
        x[s] = expf(x[s] - most);
        sum += (double)x[s];
    }
    const float scale = (float)(1.0 / sum);
    for (int64_t s = 0; s < n; s++)
        x[s] *= scale;
}

void aq_mass_weights(float *z, int n_group, int64_t stride, int64_t n, bool group_mean, float *w) {
    double sum = 0;
    for (int h = 0; h < n_group; h++) {
        float *row = z + h * stride;
        soften(row, n);
        if (h == 0) memcpy(w, row, (size_t)n * sizeof *w);
        for (int64_t s = 0; h > 0 && s < n; s++)
            w[s] = group_mean ? w[s] + row[s] : fmaxf(w[s], row[s]);
    }
    for (int64_t s = 0; s < n; s++)
        sum += (double)w[s];
    for (int64_t s = 0; s < n; s++)
        w[s] = (float)((double)w[s] / sum);
}

static int falling(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

float aq_mass_threshold(const float *w, int64_t n, double mass, float *sorted) {
    double all = 0, held = 0;
    if (mass >= 1 || n == 0) return 0;
    memcpy(sorted, w, (size_t)n * sizeof *w);
    qsort(sorted, (size_t)n, sizeof *sorted, falling);
    for (int64_t s = 0; s < n; s++)
        all += (double)sorted[s];
    for (int64_t s = 0; s < n; s++) {
        held += (double)sorted[s];
        if (held >= mass * all) return sorted[s];
    }
    return sorted[n - 1];
}

/* The element that would stand at place `rank` if x[n] were sorted, the largest first (Hoare). */
static float select_rank(float *x, int64_t n, int64_t rank) {
    int64_t low = 0, high = n - 1;
    while (low < high) {
        const float pivot = x[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot)
                i++;
            while (x[j] < pivot)
                j--;
            if (i > j) break;
            const float swap = x[i];
            x[i++] = x[j];
            x[j--] = swap;
        }
        if (rank <= j)
            high = j;
        else if (rank >= i)
            low = i;
        else
            break;
    }
    return x[rank];
}

void aq_mass_best(const float *w, int64_t n, int64_t n_best, float *work, bool *chosen) {
    int64_t n_above = 0;
    if (n_best <= 0 || n_best >= n) {
        memset(chosen, n_best > 0, (size_t)n * sizeof *chosen);
        return;
    }
    memcpy(work, w, (size_t)n * sizeof *w);
    const float least = select_rank(work, n, n_best - 1);
    for (int64_t s = 0; s < n; s++) {
        chosen[s] = w[s] > least;
        n_above += chosen[s];
    }
    for (int64_t s = 0; s < n && n_above < n_best; s++) {
        if (w[s] != least) continue;
        chosen[s] = true;
        n_above++;
    }
}
