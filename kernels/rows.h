/* Rows by index, to bring the tokens of one expert together and its results back:
 *
 *   gather_rows       out[i, :] = x[index[i], :]
 *   scatter_add_rows  y[index[i], :] += scale[i] * x[i, :]
 *
 * in rising order of i, also where an index repeats: the bits do not depend on the threads.
 * Tolerance: gather_rows exact; scatter_add_rows two roundings for each i. */
#ifndef AQ_KERNELS_ROWS_H
#define AQ_KERNELS_ROWS_H

#include <stdint.h>

typedef struct {
    const float *x;       /* [n_x, width] */
    const int32_t *index; /* [n_row], each in 0 .. n_x - 1 */
    int64_t n_row;
    int64_t width;
    float *out; /* [n_row, width]; not the memory of x */
} aq_gather_rows_args;

typedef struct {
    const float *x;       /* [n_row, width] */
    const int32_t *index; /* [n_row], each in 0 .. n_y - 1 */
    const float *scale;   /* [n_row] */
    int64_t n_row;
    int64_t width;
    float *y; /* [n_y, width]; not the memory of x */
} aq_scatter_add_rows_args;

#endif
