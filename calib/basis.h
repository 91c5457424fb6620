/* From the Gram sums of one KV head to its projection.
 *
 * With G_k, G_q divided by the number of tokens, V(M) the eigenvectors of M by falling eigenvalue:
 *     joint     P_q = P_k = V(G_k + G_q)    spectrum: eigenvalues; AQUA, arXiv 2509.11155
 *     kpca      P_q = P_k = V(G_k)          spectrum: eigenvalues
 *     kq        G_k = L_k L_k^T, G_q = L_q L_q^T, L_k^T L_q = U S W^T:
 *               P_q = L_k U S^-1/2, P_k = L_k^-T U S^1/2; spectrum: S. The best columns there are
 *               for the scores (KQ-SVD), S split evenly so that neither side is badly scaled; each
 *               diagonal is raised by 1e-7 of its mean before factoring
 *     identity  P_q = P_k = I               spectrum: diagonal of G_k, unsorted
 * P_q P_k^T = I. sigma_c is the standard deviation of column c of k^ (the mean taken off). The
 * largest entry of every column of P_k is positive. */
#ifndef AQ_CALIB_BASIS_H
#define AQ_CALIB_BASIS_H

#include <stdint.h>

#include "src/base/status.h"
#include "src/model/projection_file.h"

/* Solves one problem. gk, gq [d, d] symmetric, of which only the entries i <= j are read, sk [d]:
 * sums over n_tok tokens (calib/gram.h). Writes pq, pk [d, d] row-major, sigma and spectrum [d],
 * fp32. AQ_ERR_NUMERIC if the sums are empty, not finite, all zero (kq), or the result misses
 * P_q P_k^T = I by more than AQ_PROJECTION_DEFECT_MAX; the caller adds which layer and head.
 * AQ_ERR_MEMORY. Local. */
aq_status aq_basis_solve(aq_basis basis, int d_head, const double *gk, const double *gq,
                         const double *sk, int64_t n_tok, float *pq, float *pk, float *sigma,
                         float *spectrum);

#endif
