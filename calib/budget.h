/* How many columns each layer and KV head may read, by what they lose (`calibrate --k-budget`).
 *
 * The loss of a problem (layer, KV head) at k columns is the sum over sampled queries and the heads
 * of its group of KL(softmax of exact scores || softmax of scores from the k columns of largest
 * abs(q^_c) sigma_c), over all tokens that the query sees. Columns then go where they help most. */
#ifndef AQ_CALIB_BUDGET_H
#define AQ_CALIB_BUDGET_H

#include "calib/sample.h"
#include "src/model/projection_file.h"

#define AQ_BUDGET_GRID 8

/* The numbers of columns that are tried: eighths of d_head, at least 1 and each more than the one
 * before. Returns how many there are. Local. */
int aq_budget_grid(int d_head, int grid[AQ_BUDGET_GRID]);

/* loss[head, j] += what KV head `head` loses on one layer of a sample with grid[j] columns, in the
 * basis of the projection. Same bits for any number of threads. AQ_ERR_MEMORY. Local. */
aq_status aq_budget_loss(const aq_sample *sample, const aq_projection *projection, const int *grid,
                         int n_grid, double *loss);

/* k[i] of n problems: all begin with grid[0] columns; then, again and again, the problem that can
 * go on to a number of the grid with the most loss taken away per column does so, of equals the
 * first, as long as that fits into n_col columns of all together. Looking beyond the next number, a
 * step that helps little does not hide a larger one behind it. loss is [n, n_grid]. AQ_ERR_MEMORY.
 * Local. */
aq_status aq_budget_deal(const double *loss, int64_t n, const int *grid, int n_grid, int64_t n_col,
                         uint16_t *k);

#endif
