#include "bench/break_even.h"

#include "bench/statistics.h"

aq_bench_ratio aq_bench_ratio_of(const double *seconds, const double *dense_s, int n,
                                 double *ratios) {
    for (int i = 0; i < n; i++)
        ratios[i] = seconds[i] / dense_s[i];
    const double median = aq_statistics_of(ratios, (size_t)n).median; /* sorts them */
    return (aq_bench_ratio){.median = median, .least = ratios[0], .most = ratios[n - 1]};
}

int64_t aq_break_even(const int64_t *lengths, const double *ratios, int n) {
    int64_t from = INT64_MAX;
    for (int i = n - 1; i >= 0 && ratios[i] < 1; i--)
        from = lengths[i];
    return from;
}
