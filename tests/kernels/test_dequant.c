/* Stored types to floats, on every instruction set, against the formulas in double precision. The
 * products of a scale and a code fit in 24 bits, so one rounding is all there is: exact bits. */
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "src/base/dtype.h"
#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define N_BLOCK 64

static const aq_simd *tables(int isa) {
    return aq_cpu_simd((aq_cpu_isa)isa);
}

/* Values that differ in their bits; two NaN are alike, and so are 0 and -0. */
static int64_t n_wrong(const float *y, aq_dtype dtype, const uint8_t *row, int64_t n) {
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) {
        const float ref = (float)aq_ref_weight(dtype, row, i);
        wrong += !(y[i] == ref || (isnan(y[i]) && isnan(ref)));
    }
    return wrong;
}

/* A row copied to fresh memory of its size, at an odd address, so that a sanitizer sees reads past
 * its end. */
static void check_row(int isa, aq_dtype dtype, const uint8_t *row, int64_t n) {
    const size_t bytes = (size_t)aq_dtype_row_bytes(dtype, n);
    uint8_t *memory = malloc(bytes + 1);
    float *y = malloc((size_t)n * sizeof *y);
    if (!memory || !y) exit(1);
    memcpy(memory + 1, row, bytes);
    tables(isa)->dequantise(dtype, memory + 1, n, y);
    const int64_t wrong = n_wrong(y, dtype, row, n);
    CU_ASSERT_EQUAL(wrong, 0);
    if (wrong)
        printf("  %s on %s: %lld of %lld wrong\n", aq_dtype_find((uint32_t)dtype)->name,
               tables(isa)->name, (long long)wrong, (long long)n);
    free(memory);
    free(y);
}

/* Rows as columns hold the same bits, and what lies past the last whole vector is not touched. */
static void check_columns(int isa, aq_dtype dtype, const uint8_t *rows, int64_t n_row, int64_t n) {
    enum { STRIDE = 3 * AQ_COLUMNS_ALIGN };
    const int64_t row_bytes = aq_dtype_row_bytes(dtype, n);
    const int64_t n_used = (n_row + AQ_COLUMNS_ALIGN - 1) / AQ_COLUMNS_ALIGN * AQ_COLUMNS_ALIGN;
    float *turned = malloc((size_t)n * STRIDE * sizeof *turned);
    float *row = malloc((size_t)n * sizeof *row);
    if (!turned || !row) exit(1);
    for (int64_t i = 0; i < n * STRIDE; i++)
        turned[i] = 7.0f;
    tables(isa)->columns(&(aq_columns_args){.dtype = dtype,
                                            .w = rows,
                                            .row_bytes = row_bytes,
                                            .n_row = n_row,
                                            .n = n,
                                            .out = turned,
                                            .out_stride = STRIDE});
    int64_t wrong = 0;
    for (int64_t r = 0; r < n_row; r++) {
        tables(isa)->dequantise(dtype, rows + r * row_bytes, n, row);
        for (int64_t i = 0; i < n; i++)
            wrong += memcmp(&turned[i * STRIDE + r], &row[i], sizeof row[i]) != 0;
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = n_used; r < STRIDE; r++)
            wrong += turned[i * STRIDE + r] != 7.0f;
    CU_ASSERT_EQUAL(wrong, 0);
    free(turned);
    free(row);
}

static void test_columns(void) {
    static uint8_t rows[20 * 512 * 4];
    for (int d = 0; d < AQ_TEST_DTYPES; d++) {
        const aq_dtype dtype = aq_test_dtypes[d];
        const int64_t elems = aq_dtype_find((uint32_t)dtype)->block_elems;
        const int64_t lengths[] = {elems, 512, elems == 1 ? 77 : 256};
        for (int i = 0; i < 3; i++)
            for (int64_t n_row = 1; n_row <= 20; n_row++) {
                aq_fill_weight(17 + (uint64_t)d, dtype, n_row, lengths[i], rows);
                for (int isa = 0; isa <= (int)aq_cpu_isa_best(); isa++)
                    check_columns(isa, dtype, rows, n_row, lengths[i]);
            }
    }
}

static void test_random_rows(void) {
    for (int d = 0; d < AQ_TEST_DTYPES; d++) {
        const aq_dtype dtype = aq_test_dtypes[d];
        const int64_t elems = aq_dtype_find((uint32_t)dtype)->block_elems;
        static uint8_t row[N_BLOCK * 256 * 4];
        aq_fill_weight(11 + (uint64_t)d, dtype, 1, N_BLOCK * elems, row);
        for (int isa = 0; isa <= (int)aq_cpu_isa_best(); isa++)
            for (int64_t n = 1; n <= N_BLOCK; n++)
                check_row(isa, dtype, row, n * elems);
    }
}

/* Blocks of wild bytes: every scale a half float can be, infinities and NaN among them. */
static void test_wild_blocks(void) {
    aq_rng rng = {5};
    static uint8_t row[N_BLOCK * 256];
    for (int d = 0; d < AQ_TEST_DTYPES; d++)
        for (int rep = 0; rep < 20; rep++) {
            const aq_dtype_info *info = aq_dtype_find((uint32_t)aq_test_dtypes[d]);
            for (size_t i = 0; i < sizeof row; i++)
                row[i] = (uint8_t)(aq_rng_next(&rng) >> 56);
            for (int isa = 0; isa <= (int)aq_cpu_isa_best(); isa++)
                check_row(isa, info->dtype, row, N_BLOCK * info->block_elems);
        }
}

static void test_planted(void) {
    static uint8_t row[N_BLOCK * 256 * 4];
    static float y[N_BLOCK * 256];
    for (int d = 0; d < AQ_TEST_DTYPES; d++) {
        const aq_dtype dtype = aq_test_dtypes[d];
        const int64_t n = 512;
        aq_fill_weight(3, dtype, 1, n, row);
        tables(0)->dequantise(dtype, row, n, y);
        CU_ASSERT_EQUAL(n_wrong(y, dtype, row, n), 0);
        const float kept = y[n - 1];
        y[n - 1] = nextafterf(kept, 2.0f); /* one unit in the last place of one value */
        CU_ASSERT_EQUAL(n_wrong(y, dtype, row, n), 1);
        y[n - 1] = kept;
        for (int64_t i = 0; i + 1 < n; i += 2) { /* elements of a pair in the wrong order */
            const float a = y[i];
            y[i] = y[i + 1];
            y[i + 1] = a;
        }
        CU_ASSERT(n_wrong(y, dtype, row, n) > n / 2);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "random_rows", test_random_rows);
    CU_add_test(suite, "wild_blocks", test_wild_blocks);
    CU_add_test(suite, "columns", test_columns);
    CU_add_test(suite, "planted", test_planted);
}
