#include "bench/statistics.h"

#include <math.h>
#include <stdlib.h>

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

aq_statistics aq_statistics_of(double *values, size_t n) {
    double sum = 0, squares = 0;
    qsort(values, n, sizeof *values, compare);
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    const double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += (values[i] - mean) * (values[i] - mean);
    return (aq_statistics){.mean = mean,
                           .median = 0.5 * (values[(n - 1) / 2] + values[n / 2]),
                           .sd = n > 1 ? sqrt(squares / (double)(n - 1)) : 0};
}

aq_statistics aq_statistics_rates(const double *seconds, size_t n, double n_tok, double *rates) {
    for (size_t i = 0; i < n; i++)
        rates[i] = n_tok / seconds[i];
    return aq_statistics_of(rates, n);
}
