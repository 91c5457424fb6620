/* What aqua-dist-bench kernels measures: that it is what it says it is. */
#include "bench/kernel_case.h"

#include <math.h>
#include <string.h>

#include "tests/support/suite.h"

#define SHAPE                                                                                      \
    { 64, 6, 2 }
#define N_TILE  32
#define CONTEXT (N_TILE * AQ_TILE)

static aq_backend *open_backend(void) {
    aq_backend *be = NULL;
    aq_test_ok(aq_backend_cpu_open(2, aq_cpu_isa_best(), &be));
    return be;
}

static void call(aq_kernel_case *kernel, int i) {
    aq_kernel_call(kernel, i);
    (void)aq_test_ok(aq_kernel_finish(kernel));
}

/* Calls both copies of a setting; both must give the same finite results. Returns the bytes read.
 */
static double reads_of(aq_backend *be, const aq_kernel_setting *setting) {
    aq_kernel_case kernel;
    double bytes = 0;
    if (aq_test_ok(aq_kernel_open(be, setting, &kernel))) {
        call(&kernel, 0);
        const float first = kernel.host_y[0], last = kernel.host_y[kernel.n_y - 1];
        call(&kernel, 1);
        CU_ASSERT_TRUE(aq_kernel_finite(&kernel));
        CU_ASSERT_EQUAL(kernel.host_y[0], first);
        CU_ASSERT_EQUAL(kernel.host_y[kernel.n_y - 1], last);
        CU_ASSERT_NOT_EQUAL(first, 0.0f);
        bytes = aq_kernel_reads(&kernel);
        kernel.host_y[1] = NAN;
        CU_ASSERT_FALSE(aq_kernel_finite(&kernel));
    }
    aq_kernel_close(&kernel);
    return bytes;
}

static aq_kernel_setting attention(aq_kernel_kind kind, aq_kv_type type) {
    return (aq_kernel_setting){
        .kind = kind, .shape = SHAPE, .type = type, .n_tile = N_TILE, .n_copy = 2};
}

/* Keys and values of 2 KV heads, 64 columns. */
static void test_dense_reads(void) {
    aq_backend *be = open_backend();
    static const struct {
        aq_kv_type type;
        double token, tile;
    } cases[] = {
        {AQ_KV_F32, 512, 0}, {AQ_KV_BF16, 256, 0}, {AQ_KV_Q8, 128 + 3, 256}, /* f16 low, step */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const aq_kernel_setting setting = attention(AQ_KERNEL_DENSE, cases[i].type);
        const double bytes = 2 * (CONTEXT * cases[i].token + N_TILE * cases[i].tile);
        CU_ASSERT_EQUAL(reads_of(be, &setting), bytes);
    }
    be->ops->close(be);
}

/* A query for each token, each of which sees those up to itself: operations of half of the pairs;
 * and the last query's results are those of one query at the end. */
static void test_prefill(void) {
    aq_backend *be = open_backend();
    const aq_kernel_setting setting = attention(AQ_KERNEL_PREFILL, AQ_KV_F32);
    aq_kernel_case many, one;
    CU_ASSERT_EQUAL(reads_of(be, &setting), 2.0 * CONTEXT * 512);
    if (aq_test_ok(aq_kernel_open(be, &setting, &many))) {
        CU_ASSERT_EQUAL(many.n_q, CONTEXT);
        CU_ASSERT_EQUAL(aq_kernel_operations(&many), 4.0 * 64 * 6 * CONTEXT * CONTEXT / 2);
        call(&many, 0);
    }
    const aq_kernel_setting dense = attention(AQ_KERNEL_DENSE, AQ_KV_F32);
    if (aq_test_ok(aq_kernel_open(be, &dense, &one))) {
        CU_ASSERT_EQUAL(aq_kernel_operations(&one), 0);
        memcpy(one.x, many.x + (CONTEXT - 1) * one.n_x, (size_t)one.n_x * sizeof(float));
        call(&one, 0);
        for (int64_t i = 0; i < one.n_y; i++)
            CU_ASSERT_DOUBLE_EQUAL(many.host_y[i], one.host_y[i],
                                   1e-4 * (1 + fabs((double)one.host_y[i])));
    }
    aq_kernel_close(&one);
    aq_kernel_close(&many);
    be->ops->close(be);
}

/* 48 of 64 columns for each of three heads: of the keys between 48 and all. */
static void test_aqua_reads(void) {
    aq_backend *be = open_backend();
    const aq_kernel_setting setting = attention(AQ_KERNEL_AQUA, AQ_KV_BF16);
    const double bytes = reads_of(be, &setting) / (2.0 * CONTEXT);
    CU_ASSERT_TRUE(bytes >= 128 + 96 && bytes <= 256);
    be->ops->close(be);
}

/* The tokens taken are as many as asked for; read are all codes and what is taken, to within the
 * scales of the tiles. */
static void test_select(void) {
    aq_backend *be = open_backend();
    static const double shares[] = {0.08, 0.15, 0.4};
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        aq_kernel_setting setting = attention(AQ_KERNEL_SELECT, AQ_KV_Q8);
        aq_kernel_case kernel;
        setting.needed = shares[i];
        if (!aq_test_ok(aq_kernel_open(be, &setting, &kernel))) continue;
        call(&kernel, 0);
        const double attended = aq_kernel_attended(&kernel);
        CU_ASSERT_DOUBLE_EQUAL(attended, shares[i], 0.01);
        const double codes = CONTEXT * 18 + N_TILE * 3 * 64;
        const double least = 2 * (codes + CONTEXT * attended * 131);
        const double bytes = aq_kernel_reads(&kernel);
        CU_ASSERT_TRUE(bytes > least - 1 && bytes < least + 2.0 * N_TILE * 256 + 1);
        aq_kernel_close(&kernel);
    }
    be->ops->close(be);
}

static void test_matmul_reads(void) {
    aq_backend *be = open_backend();
    static const aq_dtype dtypes[] = {AQ_F32,  AQ_F16,  AQ_BF16, AQ_Q4_0, AQ_Q4_1, AQ_Q5_0,
                                      AQ_Q5_1, AQ_Q8_0, AQ_Q4_K, AQ_Q5_K, AQ_Q6_K};
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        const aq_kernel_setting setting = {
            .kind = AQ_KERNEL_MATMUL, .dtype = dtypes[i], .n_out = 24, .n_in = 256, .n_copy = 2};
        CU_ASSERT_EQUAL(reads_of(be, &setting), 24.0 * (double)aq_dtype_row_bytes(dtypes[i], 256));
    }
    be->ops->close(be);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "what dense attention reads", test_dense_reads);
    CU_add_test(suite, "prefill has a query for each token", test_prefill);
    CU_add_test(suite, "what aqua reads", test_aqua_reads);
    CU_add_test(suite, "select takes what it is to take", test_select);
    CU_add_test(suite, "what a product reads", test_matmul_reads);
}
