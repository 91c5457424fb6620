/* The levels of selector codes (kernels/kv_append.h) in double precision, by looking at every step
 * that step8 can say. */
#ifndef AQ_TESTS_SUPPORT_ORACLE_LEVELS_H
#define AQ_TESTS_SUPPORT_ORACLE_LEVELS_H

#include <stdint.h>

/* What a planted error does. */
typedef enum {
    AQ_LEVELS_RIGHT,
    AQ_LEVELS_WHOLE_COLUMN, /* one range for all tiles */
    AQ_LEVELS_STEP_NOT_ROUNDED,
    AQ_LEVELS_MINMAX_ALWAYS, /* also for 1 and 2 bits */
    AQ_LEVELS_BUGS
} aq_levels_bug;

/* out[s] = level of x[s], a column of n tokens. */
void aq_oracle_levels(int bits, const float *x, int64_t n, aq_levels_bug bug, double *out);

#endif
