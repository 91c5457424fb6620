#include "calib/basis.h"

#include <lapacke.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Matrices here are fp64 and column-major, as LAPACK has them: entry (i, c) at [c * d + i], so
 * that a column of a basis is contiguous. */
typedef struct {
    int d;
    double *memory;
    double *k;        /* [d, d] G_k / n_tok */
    double *q;        /* [d, d] G_q / n_tok */
    double *pq, *pk;  /* [d, d] results */
    double *work;     /* [d, d] */
    double *spectrum; /* [d] */
    double *mean;     /* [d] of k */
    double *values;   /* [d] working memory */
} problem;

static aq_status problem_open(int d, problem *p) {
    const size_t dd = (size_t)d * (size_t)d;
    p->d = d;
    p->memory = calloc(5 * dd + 3 * (size_t)d, sizeof *p->memory);
    if (!p->memory) return aq_fail(AQ_ERR_MEMORY, "no memory to solve for a basis of %d dims", d);
    p->k = p->memory;
    p->q = p->k + dd;
    p->pq = p->q + dd;
    p->pk = p->pq + dd;
    p->work = p->pk + dd;
    p->spectrum = p->work + dd;
    p->mean = p->spectrum + d;
    p->values = p->mean + d;
    return AQ_OK;
}

static double trace(int d, const double *a) {
    double sum = 0.0;
    for (int i = 0; i < d; i++)
        sum += a[i * d + i];
    return sum;
}

/* Divides the sums by the number of tokens and completes the matrices by symmetry. */
static aq_status problem_load(problem *p, const double *gk, const double *gq, const double *sk,
                              int64_t n_tok) {
    const int d = p->d;
    if (n_tok < 1) return aq_fail(AQ_ERR_NUMERIC, "there are no tokens to calibrate on");
    const double scale = 1.0 / (double)n_tok;
    bool finite = true;
    for (int i = 0; i < d; i++) {
        for (int j = i; j < d; j++) {
            p->k[i * d + j] = p->k[j * d + i] = gk[i * d + j] * scale;
            p->q[i * d + j] = p->q[j * d + i] = gq[i * d + j] * scale;
            finite = finite && isfinite(gk[i * d + j]) && isfinite(gq[i * d + j]);
        }
        p->mean[i] = sk[i] * scale;
        finite = finite && isfinite(sk[i]);
    }
    if (!finite) return aq_fail(AQ_ERR_NUMERIC, "the Gram sums are not finite");
    return AQ_OK;
}

static aq_status lapack_failed(const char *routine, int info) {
    if (info == LAPACK_WORK_MEMORY_ERROR || info == LAPACK_TRANSPOSE_MEMORY_ERROR)
        return aq_fail(AQ_ERR_MEMORY, "no memory for LAPACK %s", routine);
    return aq_fail(AQ_ERR_NUMERIC, "LAPACK %s failed with info %d", routine, info);
}

static void solve_identity(problem *p) {
    for (int i = 0; i < p->d; i++) {
        p->pq[i * p->d + i] = p->pk[i * p->d + i] = 1.0;
        p->spectrum[i] = p->k[i * p->d + i];
    }
}

/* P_q = P_k = V(G_k), or V(G_k + G_q). */
static aq_status solve_eigen(problem *p, bool with_queries) {
    const int d = p->d;
    for (int i = 0; i < d * d; i++)
        p->work[i] = p->k[i] + (with_queries ? p->q[i] : 0.0);
    const int info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'L', d, p->work, d, p->values);
    if (info != 0) return lapack_failed("dsyevd", info);
    for (int c = 0; c < d; c++) { /* LAPACK's order is rising */
        const double *vector = p->work + (d - 1 - c) * d;
        memcpy(p->pq + c * d, vector, (size_t)d * sizeof *vector);
        memcpy(p->pk + c * d, vector, (size_t)d * sizeof *vector);
        p->spectrum[c] = p->values[d - 1 - c];
    }
    return AQ_OK;
}

/* a = L with a = L L^T, after raising the diagonal so that directions never seen do not matter.
 * Only the lower triangle is L. */
static aq_status factor(int d, double *a, const char *what) {
    const double raise = 1e-7 * trace(d, a) / d;
    if (!(raise > 0.0)) return aq_fail(AQ_ERR_NUMERIC, "all %s are zero", what);
    for (int i = 0; i < d; i++)
        a[i * d + i] += raise;
    const int info = LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', d, a, d);
    return info == 0 ? AQ_OK : lapack_failed("dpotrf", info);
}

/* out = A^T B of two lower triangles. */
static void multiply_lower_transposed(int d, const double *a, const double *b, double *out) {
    for (int c = 0; c < d; c++) {
        for (int r = 0; r < d; r++) {
            double sum = 0.0;
            for (int i = r > c ? r : c; i < d; i++)
                sum += a[r * d + i] * b[c * d + i];
            out[c * d + r] = sum;
        }
    }
}

/* x = L x, in place: entry j is read for the last time before it is overwritten. */
static void multiply_lower(int d, const double *l, double *x) {
    for (int j = d - 1; j >= 0; j--) {
        for (int i = j + 1; i < d; i++)
            x[i] += l[j * d + i] * x[j];
        x[j] *= l[j * d + j];
    }
}

static aq_status solve_kq(problem *p) {
    const int d = p->d;
    double *lk = p->work, *lq = p->q, *u = p->pk;
    memcpy(lk, p->k, (size_t)d * (size_t)d * sizeof *lk);
    AQ_TRY(factor(d, lk, "keys"));
    AQ_TRY(factor(d, lq, "queries"));
    multiply_lower_transposed(d, lk, lq, u);
    double none;
    int info = LAPACKE_dgesvd(LAPACK_COL_MAJOR, 'O', 'N', d, d, u, d, p->spectrum, &none, 1, &none,
                              1, p->values);
    if (info != 0) return lapack_failed("dgesvd", info);
    for (int c = 0; c < d; c++) {
        const double half = sqrt(p->spectrum[c]);
        for (int i = 0; i < d; i++) {
            p->pq[c * d + i] = u[c * d + i] / half;
            p->pk[c * d + i] = u[c * d + i] * half;
        }
        multiply_lower(d, lk, p->pq + c * d);
    }
    info = LAPACKE_dtrtrs(LAPACK_COL_MAJOR, 'L', 'T', 'N', d, d, lk, d, p->pk, d);
    return info == 0 ? AQ_OK : lapack_failed("dtrtrs", info);
}

/* Makes the largest entry of column c of P_k positive; of entries equal but for rounding, the
 * first decides, so that every number of ranks decides alike. */
static void fix_sign(problem *p, int c) {
    double *k = p->pk + c * p->d, *q = p->pq + c * p->d, largest = 0.0;
    int first = 0;
    for (int i = 0; i < p->d; i++)
        largest = fmax(largest, fabs(k[i]));
    while (first < p->d - 1 && fabs(k[first]) < (1.0 - 1e-6) * largest)
        first++;
    if (k[first] >= 0.0) return;
    for (int i = 0; i < p->d; i++) {
        k[i] = -k[i];
        q[i] = -q[i];
    }
}

/* Standard deviation of column c of k^: x^T G_k x - (mean . x)^2 with x = column c of P_k. */
static double column_sigma(const problem *p, int c) {
    const int d = p->d;
    const double *x = p->pk + c * d;
    double square = 0.0, mean = 0.0;
    for (int i = 0; i < d; i++) {
        double row = 0.0;
        for (int j = 0; j < d; j++)
            row += p->k[i * d + j] * x[j];
        square += x[i] * row;
        mean += x[i] * p->mean[i];
    }
    return sqrt(fmax(0.0, square - mean * mean));
}

static aq_status problem_store(problem *p, float *pq, float *pk, float *sigma, float *spectrum) {
    const int d = p->d;
    bool finite = true;
    for (int c = 0; c < d; c++) {
        fix_sign(p, c);
        sigma[c] = (float)column_sigma(p, c);
        spectrum[c] = (float)p->spectrum[c];
        finite = finite && isfinite(sigma[c]) && isfinite(spectrum[c]);
        for (int i = 0; i < d; i++) {
            pq[i * d + c] = (float)p->pq[c * d + i];
            pk[i * d + c] = (float)p->pk[c * d + i];
        }
    }
    const double defect = aq_projection_defect(d, pq, pk);
    if (!finite || !(defect <= AQ_PROJECTION_DEFECT_MAX))
        return aq_fail(AQ_ERR_NUMERIC,
                       "P_q P_k^T differs from I by %.3g, more than %g; calibrate on more text or "
                       "with --basis joint",
                       defect, AQ_PROJECTION_DEFECT_MAX);
    return AQ_OK;
}

aq_status aq_basis_solve(aq_basis basis, int d_head, const double *gk, const double *gq,
                         const double *sk, int64_t n_tok, float *pq, float *pk, float *sigma,
                         float *spectrum) {
    problem p;
    AQ_TRY(problem_open(d_head, &p));
    aq_status status = problem_load(&p, gk, gq, sk, n_tok);
    if (status != AQ_OK) goto done;
    if (basis == AQ_BASIS_JOINT)
        status = solve_eigen(&p, true);
    else if (basis == AQ_BASIS_KPCA)
        status = solve_eigen(&p, false);
    else if (basis == AQ_BASIS_KQ)
        status = solve_kq(&p);
    else
        solve_identity(&p);
    if (status == AQ_OK) status = problem_store(&p, pq, pk, sigma, spectrum);
done:
    free(p.memory);
    return status;
}
