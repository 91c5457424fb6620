/* What a benchmark says about repeated measurements. */
#ifndef AQ_BENCH_STATISTICS_H
#define AQ_BENCH_STATISTICS_H

#include <stddef.h>

typedef struct {
    double mean;
    double median; /* of an even number: the mean of the middle two */
    double sd;     /* sample standard deviation, divisor n - 1; 0 for one value */
} aq_statistics;

/* Of n >= 1 finite values, which are sorted in place. Local. */
aq_statistics aq_statistics_of(double *values, size_t n);

/* Of n_tok tokens per second from n times in seconds, each above 0: statistics of the rates, not
 * the rate of the mean time, as llama-bench does. `rates` [n] is working memory. Local. */
aq_statistics aq_statistics_rates(const double *seconds, size_t n, double n_tok, double *rates);

#endif
