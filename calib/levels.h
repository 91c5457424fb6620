/* Keys as the selector's codes give them back (kernels/kv_append.h), in plain code: what a layout
 * costs is tried without a cache. f16 rounding of a column's base is left out: it is far below the
 * steps of up to 4 bits. */
#ifndef AQ_CALIB_LEVELS_H
#define AQ_CALIB_LEVELS_H

#include <stdint.h>

/* out[s] = level of x[s], for a column of n tokens in tiles of AQ_TILE, the last may be shorter.
 * bits >= 3: min-max over the tile, the step rounded up to what step8 can say, the range in the
 * middle; 2 and 1: levels of a normal distribution with the tile's mean and standard deviation,
 * rounded to step8. Local. */
void aq_levels_column(int bits, const float *x, int64_t n, float *out);

#endif
