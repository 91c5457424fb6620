/* From which length of context a way of attention is faster than dense. */
#ifndef AQ_BENCH_BREAK_EVEN_H
#define AQ_BENCH_BREAK_EVEN_H

#include <stdint.h>

/* How much of dense attention's time a way takes, over the repetitions of one length. */
typedef struct {
    double median, least, most;
} aq_bench_ratio;

/* Of seconds[i] / dense_s[i], i < n: times of the same repetition, taken in turns, so that what
 * slows the machine down slows both. n >= 1, times above 0; `ratios` [n] is working memory.
 * Local. */
aq_bench_ratio aq_bench_ratio_of(const double *seconds, const double *dense_s, int n,
                                 double *ratios);

/* The least of the rising lengths[n] from which on every ratio is below 1: a way that falls behind
 * again at a greater length has not broken even before it. INT64_MAX if there is none. Local. */
int64_t aq_break_even(const int64_t *lengths, const double *ratios, int n);

#endif
