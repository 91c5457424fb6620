#include "tests/support/oracle_fold.h"

#include <math.h>

#include "tests/support/oracle_cache.h"

/* Of n roundings, of numbers of this size, as floats have them. */
#define EPS                0x1p-24
#define ROUNDINGS(n, size) ((n)*EPS * (size))

/* u of the contract. */
static double level_size(const aq_code_layout *codes, int c) {
    int i = 0;
    for (; c >= codes->segments[i].n; i++)
        c -= codes->segments[i].n;
    const int bits = codes->segments[i].bits;
    return bits == 1 ? 1.5958 / 16 : bits == 2 ? 0.151 : bits == 4 ? 0.25 : 1.0;
}

static double factor(const aq_kv_view *kv, int64_t tile, int g, const float *q, int c) {
    return (double)q[c] * aq_cache_selector_step(kv, tile, g, c) * level_size(&kv->codes, c);
}

void aq_fold_query(const aq_kv_view *kv, int64_t tile, int g, const float *q, const bool *reads,
                   bool rounds, aq_folded *out) {
    double largest = 0.0;
    for (int c = 0; c < kv->n_col; c++)
        if (reads[c]) largest = fmax(largest, fabs(factor(kv, tile, g, q, c)));
    for (int c = 0; c < kv->n_col; c++) {
        if (!reads[c]) continue;
        const double f = factor(kv, tile, g, q, c);
        out[c] = (aq_folded){aq_cache_selector_middle(kv, tile, g, c), (double)q[c], 0.0};
        if (f == 0.0 || !rounds) continue;
        const double x = 127.0 * f / largest, to_half = fabs(fabs(x - trunc(x)) - 0.5);
        out[c].rounded *= nearbyint(x) / x;
        if (to_half < ROUNDINGS(6, fabs(x) + 1.0)) out[c].off = fabs((double)q[c] / x);
    }
}

aq_score aq_score_exactly(const float *q, const double *key, int n_col, double scale) {
    double sum = 0.0, sum_abs = 0.0;
    for (int c = 0; c < n_col; c++) {
        const double term = scale * (double)q[c] * key[c];
        sum += term;
        sum_abs += fabs(term);
    }
    return (aq_score){sum, 4.0 * sqrt(n_col + 1.0) * EPS * sum_abs};
}

aq_score aq_score_by_codes(const float *q, const bool *reads, const aq_folded *folded,
                           const double *code, int n_col, double scale) {
    double sum = 0.0, sum_abs = 0.0, off = 0.0;
    for (int c = 0; c < n_col; c++) {
        if (!reads[c]) continue;
        const double middle = (double)q[c] * folded[c].middle, beyond = code[c] - folded[c].middle;
        sum += middle + folded[c].rounded * beyond;
        sum_abs += fabs(middle) + fabs(folded[c].rounded * beyond) + fabs((double)q[c] * code[c]);
        off += folded[c].off * fabs(beyond);
    }
    return (aq_score){scale * sum, scale * (4.0 * sqrt(n_col + 1.0) * EPS * sum_abs + off)};
}
