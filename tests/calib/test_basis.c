/* Bases against their definitions: eigenvalues by Jacobi's method, optimality on the tokens
 * themselves, and planted errors that these checks must see. */
#include "calib/basis.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/gram.h"
#include "src/base/rng.h"
#include "tests/support/suite.h"

enum { D = 24, N_TOK = 300, GROUP = 2, DD = D * D };

typedef struct {
    float k[N_TOK * D];
    float q[N_TOK * GROUP * D];
} tokens;

typedef struct {
    float pq[DD], pk[DD], sigma[D], spectrum[D];
} solution;

/* Keys and queries with falling spectra along different, skew directions; keys have a mean. */
static tokens make_tokens(uint64_t seed) {
    tokens t;
    aq_rng rng = {seed};
    double mix_k[DD], mix_q[DD], mean[D];
    for (int i = 0; i < DD; i++) {
        mix_k[i] = aq_rng_normal(&rng) * pow(0.8, i / D);
        mix_q[i] = aq_rng_normal(&rng) * 3.0 * pow(0.85, i / D);
    }
    for (int i = 0; i < D; i++)
        mean[i] = aq_rng_normal(&rng);
    for (int v = 0; v < N_TOK * (1 + GROUP); v++) {
        const bool is_key = v < N_TOK;
        double out[D] = {0};
        for (int s = 0; s < D; s++) {
            const double z = aq_rng_normal(&rng);
            for (int i = 0; i < D; i++)
                out[i] += z * (is_key ? mix_k : mix_q)[s * D + i];
        }
        float *to = is_key ? t.k + v * D : t.q + (v - N_TOK) * D;
        for (int i = 0; i < D; i++)
            to[i] = (float)(out[i] + (is_key ? mean[i] : 0.0));
    }
    return t;
}

/* Gram sums of the first n_tok tokens, made in n_part parts and added. */
static aq_gram gram_of(const tokens *t, int n_tok, int n_part) {
    aq_gram sum;
    aq_test_ok(aq_gram_open(1, GROUP, 1, D, NULL, &sum));
    for (int p = 0; p < n_part; p++) {
        const int begin = n_tok * p / n_part, end = n_tok * (p + 1) / n_part;
        aq_gram part;
        aq_test_ok(aq_gram_open(1, GROUP, 1, D, NULL, &part));
        aq_gram_add(&part, 0, t->q + begin * GROUP * D, t->k + begin * D, end - begin);
        for (int64_t i = 0; i < sum.n; i++)
            sum.data[i] += part.data[i];
        aq_gram_close(&part);
    }
    return sum;
}

static aq_status solve(aq_basis basis, const aq_gram *gram, solution *s) {
    const aq_gram_sums g = aq_gram_get(gram, 0);
    return aq_basis_solve(basis, D, g.gk, g.gq, g.sk, g.n_tok, s->pq, s->pk, s->sigma, s->spectrum);
}

static solution solve_tokens(aq_basis basis, const tokens *t) {
    solution s;
    aq_gram gram = gram_of(t, N_TOK, 1);
    memset(&s, 0, sizeof s);
    aq_test_ok(solve(basis, &gram, &s));
    aq_gram_close(&gram);
    return s;
}

/* m = (sum k k^T + with_queries * sum q q^T) / n, straight from the tokens. */
static void second_moment(const tokens *t, bool with_queries, double *m) {
    memset(m, 0, DD * sizeof *m);
    for (int v = 0; v < N_TOK * (with_queries ? 1 + GROUP : 1); v++) {
        const float *x = v < N_TOK ? t->k + v * D : t->q + (v - N_TOK) * D;
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++)
                m[i * D + j] += (double)x[i] * (double)x[j] / N_TOK;
    }
}

static int falling(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Eigenvalues of a symmetric matrix (used up) by cyclic Jacobi rotations, falling. */
static void jacobi_values(double *a, double *values) {
    for (int sweep = 0; sweep < 30; sweep++) {
        for (int p = 0; p < D; p++) {
            for (int q = p + 1; q < D; q++) {
                if (a[p * D + q] == 0.0) continue;
                const double theta = (a[q * D + q] - a[p * D + p]) / (2.0 * a[p * D + q]);
                const double tan = copysign(1.0, theta) / (fabs(theta) + hypot(theta, 1.0));
                const double c = 1.0 / hypot(tan, 1.0), s = tan * c;
                for (int i = 0; i < D; i++) {
                    const double x = a[i * D + p], y = a[i * D + q];
                    a[i * D + p] = c * x - s * y;
                    a[i * D + q] = s * x + c * y;
                }
                for (int i = 0; i < D; i++) {
                    const double x = a[p * D + i], y = a[q * D + i];
                    a[p * D + i] = c * x - s * y;
                    a[q * D + i] = s * x + c * y;
                }
            }
        }
    }
    for (int i = 0; i < D; i++)
        values[i] = a[i * D + i];
    qsort(values, D, sizeof *values, falling);
}

/* Columns of P are eigenvectors of m, the spectrum its eigenvalues, both falling. The bound is the
 * rounding of the results to fp32: 2^-24 of the largest eigenvalue for each of D terms. */
static bool eigen_holds(const double *m, const solution *s) {
    double copy[DD], values[D];
    memcpy(copy, m, sizeof copy);
    jacobi_values(copy, values);
    const double tolerance = D * ldexp(values[0], -24);
    bool good = memcmp(s->pq, s->pk, sizeof s->pq) == 0;
    for (int c = 0; c < D; c++) {
        good = good && fabs(s->spectrum[c] - values[c]) <= tolerance;
        for (int i = 0; i < D; i++) {
            double residual = -values[c] * s->pk[i * D + c];
            for (int j = 0; j < D; j++)
                residual += m[i * D + j] * s->pk[j * D + c];
            good = good && fabs(residual) <= tolerance;
        }
    }
    return good;
}

static void test_eigen(void) {
    const tokens t = make_tokens(1);
    double m[DD];
    for (int with_queries = 0; with_queries < 2; with_queries++) {
        const solution s = solve_tokens(with_queries ? AQ_BASIS_JOINT : AQ_BASIS_KPCA, &t);
        second_moment(&t, with_queries, m);
        CU_ASSERT_TRUE(eigen_holds(m, &s));
        solution bad = s; /* planted: columns in rising order */
        for (int i = 0; i < D; i++)
            for (int c = 0; c < D; c++)
                bad.pq[i * D + c] = bad.pk[i * D + c] = s.pk[i * D + D - 1 - c];
        CU_ASSERT_FALSE(eigen_holds(m, &bad));
        second_moment(&t, !with_queries, m); /* planted: the other basis's matrix */
        CU_ASSERT_FALSE(eigen_holds(m, &s));
    }
}

static void random_orthogonal(aq_rng *rng, float *p) {
    double q[DD];
    for (int c = 0; c < D; c++) {
        double *x = q + c * D, norm = 0.0;
        for (int i = 0; i < D; i++)
            x[i] = aq_rng_normal(rng);
        for (int pass = 0; pass < 2; pass++) {
            for (int b = 0; b < c; b++) {
                double dot = 0.0;
                for (int i = 0; i < D; i++)
                    dot += x[i] * q[b * D + i];
                for (int i = 0; i < D; i++)
                    x[i] -= dot * q[b * D + i];
            }
        }
        for (int i = 0; i < D; i++)
            norm += x[i] * x[i];
        for (int i = 0; i < D; i++)
            x[i] /= sqrt(norm);
        for (int i = 0; i < D; i++)
            p[i * D + c] = (float)x[i];
    }
}

/* Mean square of what the leading r columns of an orthogonal basis keep of the vectors behind m. */
static double kept(const double *m, const float *p, int r) {
    double sum = 0.0;
    for (int c = 0; c < r; c++)
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++)
                sum += p[i * D + c] * m[i * D + j] * p[j * D + c];
    return sum;
}

static void test_joint_is_best(void) {
    const tokens t = make_tokens(2);
    const solution s = solve_tokens(AQ_BASIS_JOINT, &t);
    double m[DD];
    float other[DD];
    aq_rng rng = {5};
    second_moment(&t, true, m);
    for (int trial = 0; trial < 50; trial++) {
        random_orthogonal(&rng, other);
        for (int r = 1; r < D; r++)
            CU_ASSERT_TRUE(kept(m, s.pk, r) >= kept(m, other, r));
    }
}

/* Sum over all queries and keys of (q.k - q^_{:r} . k^_{:r})^2, the scores one by one. */
static double score_error(const tokens *t, const solution *s, int r) {
    double keep[DD], sum = 0.0; /* I - P_q[:, :r] P_k[:, :r]^T */
    for (int i = 0; i < D; i++) {
        for (int j = 0; j < D; j++) {
            keep[i * D + j] = i == j;
            for (int c = 0; c < r; c++)
                keep[i * D + j] -= (double)s->pq[i * D + c] * (double)s->pk[j * D + c];
        }
    }
    for (int u = 0; u < N_TOK * GROUP; u++) {
        double left[D] = {0};
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++)
                left[j] += (double)t->q[u * D + i] * keep[i * D + j];
        for (int v = 0; v < N_TOK; v++) {
            double dot = 0.0;
            for (int j = 0; j < D; j++)
                dot += left[j] * (double)t->k[v * D + j];
            sum += dot * dot;
        }
    }
    return sum;
}

/* Whether the columns of x P have mean square S, but for what raising the diagonal by 1e-7 of its
 * mean takes off, and rounding to fp32. */
static bool columns_carry(const float *x, int n, const float *p, const float *spectrum) {
    double trace = 0.0;
    bool good = true;
    for (int i = 0; i < n * D; i++)
        trace += (double)x[i] * (double)x[i] / N_TOK;
    for (int c = 0; c < D; c++) {
        double square = 0.0, length = 0.0;
        for (int v = 0; v < n; v++) {
            double hat = 0.0;
            for (int i = 0; i < D; i++)
                hat += (double)x[v * D + i] * (double)p[i * D + c];
            square += hat * hat / N_TOK;
        }
        for (int i = 0; i < D; i++)
            length += (double)p[i * D + c] * (double)p[i * D + c];
        const double expected = spectrum[c] - 1e-7 * trace / D * length;
        good = good && fabs(square - expected) <= 1e-4 * spectrum[c];
    }
    return good;
}

/* The error at each r is the tail of the spectrum, which is the least possible (Eckart, Young), and
 * both sides carry sqrt(S): the columns of k^ and of q^ have mean square S. Slack: the raised
 * diagonals move G_k and G_q by 1e-7 of their traces, and P is rounded to fp32. */
static bool kq_holds(const tokens *t, const solution *s) {
    bool good = true;
    const double all = score_error(t, s, 0);
    for (int r = 0; r <= D; r++) {
        double tail = 0.0;
        for (int c = r; c < D; c++)
            tail += pow((double)s->spectrum[c] * N_TOK, 2);
        good = good && fabs(score_error(t, s, r) - tail) <= 1e-4 * tail + 1e-9 * all;
        good = good && (r == 0 || r == D || s->spectrum[r] <= s->spectrum[r - 1]);
    }
    return good && columns_carry(t->k, N_TOK, s->pk, s->spectrum) &&
           columns_carry(t->q, N_TOK * GROUP, s->pq, s->spectrum);
}

static void test_kq_is_best(void) {
    const tokens t = make_tokens(3);
    const solution kq = solve_tokens(AQ_BASIS_KQ, &t);
    const solution joint = solve_tokens(AQ_BASIS_JOINT, &t);
    CU_ASSERT_TRUE(kq_holds(&t, &kq));
    for (int r = 1; r < D; r++)
        CU_ASSERT_TRUE(score_error(&t, &kq, r) <= score_error(&t, &joint, r));
    CU_ASSERT_TRUE(score_error(&t, &kq, D / 2) < 0.9 * score_error(&t, &joint, D / 2));
    solution bad = kq; /* planted: P_q and P_k swapped, which keeps P_q P_k^T = I */
    memcpy(bad.pq, kq.pk, sizeof bad.pq);
    memcpy(bad.pk, kq.pq, sizeof bad.pk);
    CU_ASSERT_FALSE(kq_holds(&t, &bad));
    bad = kq; /* planted: all of S on one side */
    for (int i = 0; i < DD; i++) {
        bad.pq[i] *= sqrtf(kq.spectrum[i % D]);
        bad.pk[i] /= sqrtf(kq.spectrum[i % D]);
    }
    CU_ASSERT_FALSE(kq_holds(&t, &bad));
    CU_ASSERT_FALSE(kq_holds(&t, &joint));
}

/* sigma against the projected keys themselves, two passes; the bound is fp32 rounding of P. */
static bool sigma_holds(const tokens *t, const solution *s, bool centred) {
    bool good = true;
    for (int c = 0; c < D; c++) {
        double hat[N_TOK] = {0}, mean = 0.0, square = 0.0, size = 0.0;
        for (int v = 0; v < N_TOK; v++) {
            for (int i = 0; i < D; i++) {
                hat[v] += (double)t->k[v * D + i] * (double)s->pk[i * D + c];
                size = fmax(size, fabs((double)t->k[v * D + i] * (double)s->pk[i * D + c]));
            }
            mean += centred ? hat[v] / N_TOK : 0.0;
        }
        for (int v = 0; v < N_TOK; v++)
            square += (hat[v] - mean) * (hat[v] - mean) / N_TOK;
        good = good && fabs(s->sigma[c] - sqrt(square)) <= D * ldexp(size, -24);
    }
    return good;
}

static void test_every_basis(void) {
    const tokens t = make_tokens(4);
    for (int b = 0; b < AQ_BASIS_N; b++) {
        const solution s = solve_tokens((aq_basis)b, &t);
        CU_ASSERT_TRUE(aq_projection_defect(D, s.pq, s.pk) <= 1e-4);
        CU_ASSERT_TRUE(sigma_holds(&t, &s, true));
        CU_ASSERT_FALSE(sigma_holds(&t, &s, false)); /* planted: the mean left in */
        for (int c = 0; c < D; c++) {
            double low = 0.0, high = 0.0;
            for (int i = 0; i < D; i++) {
                low = fmin(low, (double)s.pk[i * D + c]);
                high = fmax(high, (double)s.pk[i * D + c]);
            }
            CU_ASSERT_TRUE(high >= -low);
        }
    }
}

/* Whether two results differ by no more than the rounding of the sums lets them. A difference of
 * 1e-9 between the fp64 solutions, relative, flips the last bit of 1e-9 / 2^-24 = 1.7 % of the fp32
 * results; so fewer flips than that are allowed, each of one bit. */
static bool same_but_rounding(const float *a, const float *b, int n) {
    int n_flip = 0;
    double size = 0.0;
    bool good = true;
    for (int i = 0; i < n; i++)
        size = fmax(size, fabs((double)a[i]));
    for (int i = 0; i < n; i++) {
        const double difference = fabs((double)a[i] - (double)b[i]);
        n_flip += difference > 0.0;
        good = good && difference <= ldexp(fabs((double)a[i]), -23) + 1e-9 * size;
    }
    return good && n_flip <= 0.017 * n + 1;
}

static bool solutions_agree(const solution *a, const solution *b) {
    return same_but_rounding(a->pq, b->pq, DD) && same_but_rounding(a->pk, b->pk, DD) &&
           same_but_rounding(a->sigma, b->sigma, D) &&
           same_but_rounding(a->spectrum, b->spectrum, D);
}

/* Signs are fixed, so the columns themselves must agree, not only the spaces they span. */
static void test_parts_agree(void) {
    const tokens t = make_tokens(5);
    for (int b = 0; b < AQ_BASIS_N; b++) {
        const solution whole = solve_tokens((aq_basis)b, &t);
        for (int n_part = 2; n_part <= 4; n_part++) {
            solution parted;
            aq_gram gram = gram_of(&t, N_TOK, n_part);
            aq_test_ok(solve((aq_basis)b, &gram, &parted));
            CU_ASSERT_TRUE(solutions_agree(&whole, &parted));
            aq_gram_close(&gram);
        }
        solution lost; /* planted: one token lost at a seam */
        aq_gram gram = gram_of(&t, N_TOK - 1, 2);
        aq_test_ok(solve((aq_basis)b, &gram, &lost));
        CU_ASSERT_FALSE(solutions_agree(&whole, &lost));
        aq_gram_close(&gram);
    }
}

/* Fewer tokens than dims: still a basis, or a plain refusal; never a silently wrong one. */
static void test_few_tokens(void) {
    const tokens t = make_tokens(7);
    for (int n_tok = 1; n_tok < D; n_tok += 4) {
        aq_gram gram = gram_of(&t, n_tok, 1);
        for (int b = 0; b < AQ_BASIS_N; b++) {
            solution s;
            const aq_status status = solve((aq_basis)b, &gram, &s);
            CU_ASSERT_TRUE(status == AQ_OK || (b == AQ_BASIS_KQ && status == AQ_ERR_NUMERIC));
            if (status == AQ_OK)
                CU_ASSERT_TRUE(aq_projection_defect(D, s.pq, s.pk) <= AQ_PROJECTION_DEFECT_MAX);
        }
        aq_gram_close(&gram);
    }
}

static void test_refusals(void) {
    const tokens t = make_tokens(8);
    aq_gram gram = gram_of(&t, N_TOK, 1);
    solution s;
    const aq_gram_sums g = aq_gram_get(&gram, 0);
    for (int b = 0; b < AQ_BASIS_N; b++) {
        aq_test_fails(
            aq_basis_solve((aq_basis)b, D, g.gk, g.gq, g.sk, 0, s.pq, s.pk, s.sigma, s.spectrum),
            AQ_ERR_NUMERIC, "no tokens");
        const double before = gram.data[DD + 5];
        gram.data[DD + 5] = NAN;
        aq_test_fails(solve((aq_basis)b, &gram, &s), AQ_ERR_NUMERIC, "not finite");
        gram.data[DD + 5] = before;
    }
    aq_gram_close(&gram);

    static const double zeros[DD];
    for (int b = 0; b < AQ_BASIS_N; b++) {
        const aq_status status =
            aq_basis_solve((aq_basis)b, D, zeros, zeros, zeros, 9, s.pq, s.pk, s.sigma, s.spectrum);
        if (b == AQ_BASIS_KQ)
            aq_test_fails(status, AQ_ERR_NUMERIC, "zero");
        else if (aq_test_ok(status))
            CU_ASSERT_EQUAL(aq_projection_defect(D, s.pq, s.pk), 0.0);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "joint and kpca are eigenvectors", test_eigen);
    CU_add_test(suite, "joint keeps the most of queries and keys", test_joint_is_best);
    CU_add_test(suite, "kq keeps the most of the scores", test_kq_is_best);
    CU_add_test(suite, "inverse, sigma and signs of every basis", test_every_basis);
    CU_add_test(suite, "a text in parts gives the same basis", test_parts_agree);
    CU_add_test(suite, "fewer tokens than dims", test_few_tokens);
    CU_add_test(suite, "empty, zero and broken sums", test_refusals);
}
