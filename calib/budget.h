/* From which energy on a column decides, so that queries read a share of all columns in the mean
 * (`calibrate --k-budget`).
 *
 * To leave column c out of a query's scores changes them by q^_c k^_c. That moves tokens against
 * one another by a variance of e = (q^_c sigma_c)^2, times the square of the scores' scale, and
 * half the variance is, for small changes, the KL divergence of the softmax. So columns are dealt,
 * one after the other, to wherever most energy still lies: to any query, head and layer. In the end
 * those are read that have the energy of the last one dealt, or more (kernels/prune_dims.h); a
 * query whose energies are all small reads few. */
#ifndef AQ_CALIB_BUDGET_H
#define AQ_CALIB_BUDGET_H

#include "calib/sample.h"
#include "src/model/projection_file.h"

/* Energies are counted by the exponent and the first 6 binary digits of their fp32: a bin holds
 * numbers within 1.6 %. What is below FLT_MIN counts as that. */
#define AQ_BUDGET_BINS 16320

/* bins[i] += columns of that energy, over this rank's queries of one layer of a sample, their heads
 * and columns, in the basis of the projection. AQ_ERR_MEMORY. Local. */
aq_status aq_budget_count(const aq_sample *sample, const aq_projection *projection, double *bins);

/* The least energy at which a bin begins, of those that no more than `share` of all columns
 * counted have or exceed; above 0 and finite. Local. */
float aq_budget_energy(const double *bins, double share);

#endif
