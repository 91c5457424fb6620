/* What kernel tests compare with: seeded data, references in double precision, tolerances, and the
 * list of backends a contract must hold on. */
#ifndef AQ_TESTS_SUPPORT_ORACLE_H
#define AQ_TESTS_SUPPORT_ORACLE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "src/base/dtype.h"

/* n normal numbers times `scale`; the same seed gives the same numbers. For n >= 64 expects (CUnit)
 * that they are spread as such numbers are, so that no test runs on constants by mistake. */
void aq_fill_normal(uint64_t seed, int64_t n, float scale, float *out);

/* Random rows of any type: random codes, finite scales of about 0.01. For n >= 64 elements expects
 * that the dequantised values are spread. */
void aq_fill_weight(uint64_t seed, aq_dtype dtype, int64_t n_row, int64_t n_in, uint8_t *out);

/* Element i of a stored row, by the formula of its type, in double precision and on its own (no
 * code shared with kernels/). */
double aq_ref_weight(aq_dtype dtype, const uint8_t *row, int64_t i);

/* The types every weight test goes through. */
#define AQ_TEST_DTYPES 11
extern const aq_dtype aq_test_dtypes[AQ_TEST_DTYPES];

/* Worst result seen so far, as a fraction of what is allowed; 1 is the line. */
typedef struct {
    double worst;
    int64_t n_check;
} aq_bound;

/* A sum of n terms: abs(y - ref) against 4 sqrt(n) eps sum_abs, where sum_abs is the sum of the
 * absolute values of the terms. eps = 2^-24. NaN counts as infinite. */
void aq_bound_reduction(aq_bound *bound, float y, double ref, int64_t n, double sum_abs);

/* One value of few roundings: abs(y - ref) against n_eps eps abs(ref) + tiny. */
void aq_bound_element(aq_bound *bound, float y, double ref, double n_eps, double tiny);

/* Expects worst <= 1 and prints the fraction used. */
void aq_bound_expect(const aq_bound *bound, const char *what);

/* Expects worst > 1: the check rejects a result that was made wrong on purpose. */
void aq_bound_expect_rejects(const aq_bound *bound, const char *bug);

/* Memory of the backend, zeroed; exits on failure, as no test can go on. */
void *aq_test_alloc(aq_backend *be, size_t bytes);

/* The same, of host memory and full of NaN: what must not be read before it is written. */
void *aq_test_poison(aq_backend *be, int64_t bytes);

/* One backend a contract is run on. */
typedef struct {
    aq_backend *be;
    aq_cpu_isa isa;   /* of a CPU */
    int n_thread;     /* of a CPU; else 1 */
    const char *name; /* "avx2, 3 threads" */
} aq_test_backend;

/* Memory of the backend that holds a copy of host[bytes]; released with aq_test_free or `release`.
 * Exits on failure. */
void *aq_test_put(const aq_test_backend *on, const void *host, size_t bytes);

/* host[bytes] = what lies at `from` in backend memory, when all operations before are done. Expects
 * that none of them failed. */
void aq_test_get(const aq_test_backend *on, void *host, const void *from, size_t bytes);

/* The same in new host memory, to be freed. Exits on failure. */
void *aq_test_got(const aq_test_backend *on, const void *from, size_t bytes);

void aq_test_free(const aq_test_backend *on, void *memory);

/* Whether the contracts that allow devices other roundings allow them here. */
bool aq_test_device(const aq_test_backend *on);

typedef void (*aq_contract_fn)(const aq_test_backend *on, void *arg);

/* Runs a contract on every instruction set of this processor with 1, 2 and 3 threads, and on the
 * poisoned backend (backend_poisoned.h), whose red zones must be whole afterwards, and on the first
 * CUDA device. Without one a program says SKIP once; with AQUA_REQUIRE_CUDA=1 in the environment it
 * fails. AQUA_TEST_ONLY=cuda leaves out the others. Says on which one an expectation failed. */
void aq_each_backend(aq_contract_fn contract, void *arg);

#endif
