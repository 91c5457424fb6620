#include "tests/support/oracle.h"

#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/backend_mirror.h"
#include "tests/support/backend_poisoned.h"
#include "tests/support/suite.h"

#define EPS        (1.0 / 16777216.0)
#define SPREAD_MIN 64

const aq_dtype aq_test_dtypes[AQ_TEST_DTYPES] = {AQ_F32,  AQ_F16,  AQ_BF16, AQ_Q4_0,
                                                 AQ_Q4_1, AQ_Q5_0, AQ_Q5_1, AQ_Q8_0,
                                                 AQ_Q4_K, AQ_Q5_K, AQ_Q6_K};

void aq_fill_normal(uint64_t seed, int64_t n, float scale, float *out) {
    aq_rng rng = {seed};
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        const double z = aq_rng_normal(&rng);
        sum += z;
        squares += z * z;
        out[i] = scale * (float)z;
    }
    if (n < SPREAD_MIN) return;
    CU_ASSERT(fabs(sum / (double)n) < 6 / sqrt((double)n));
    CU_ASSERT(fabs(squares / (double)n - 1) < 9 / sqrt((double)n));
}

/* A half float of either sign between 2^-8 and 2^-6. */
static uint16_t random_scale(aq_rng *rng) {
    const uint64_t bits = aq_rng_next(rng);
    return (uint16_t)((bits & 0x8000u) | ((7 + (bits >> 16 & 1)) << 10) | (bits & 0x3ffu));
}

/* Where the half floats of a block are; -1 for none. */
static void scale_places(aq_dtype dtype, int place[2]) {
    place[0] = 0;
    place[1] = -1;
    if (dtype == AQ_Q4_1 || dtype == AQ_Q5_1 || dtype == AQ_Q4_K || dtype == AQ_Q5_K) place[1] = 2;
    if (dtype == AQ_Q6_K) place[0] = 208;
}

static void fill_plain(aq_rng *rng, aq_dtype dtype, int64_t n, uint8_t *out) {
    for (int64_t i = 0; i < n; i++) {
        const float value = (float)(aq_rng_normal(rng) * 0.05);
        const uint16_t bf16 = aq_f32_to_bf16(value), f16 = random_scale(rng);
        if (dtype == AQ_F32) memcpy(out + 4 * i, &value, 4);
        if (dtype == AQ_F16) memcpy(out + 2 * i, &f16, 2);
        if (dtype == AQ_BF16) memcpy(out + 2 * i, &bf16, 2);
    }
}

static void expect_spread(aq_dtype dtype, const uint8_t *row, int64_t n) {
    double low = 0, high = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double value = aq_ref_weight(dtype, row, i);
        low = fmin(low, value);
        high = fmax(high, value);
        sum += fabs(value);
    }
    CU_ASSERT(low < -0.005 && high > 0.005);
    CU_ASSERT(sum / (double)n > 0.005 && isfinite(sum));
}

void aq_fill_weight(uint64_t seed, aq_dtype dtype, int64_t n_row, int64_t n_in, uint8_t *out) {
    const aq_dtype_info *info = aq_dtype_find((uint32_t)dtype);
    aq_rng rng = {seed};
    const int64_t n = n_row * n_in, n_block = n / info->block_elems;
    if (info->block_elems == 1) {
        fill_plain(&rng, dtype, n, out);
    } else {
        int place[2];
        scale_places(dtype, place);
        for (int64_t i = 0; i < n_block * info->block_bytes; i++)
            out[i] = (uint8_t)(aq_rng_next(&rng) >> 56);
        for (int64_t b = 0; b < n_block; b++)
            for (int p = 0; p < 2; p++) {
                const uint16_t scale = random_scale(&rng);
                if (place[p] >= 0) memcpy(out + b * info->block_bytes + place[p], &scale, 2);
            }
    }
    if (n >= 8 * SPREAD_MIN) expect_spread(dtype, out, n);
}

static double half_at(const uint8_t *p) {
    const int bits = p[0] | p[1] << 8;
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double size = exponent == 0    ? ldexp(fraction, -24)
                        : exponent == 31 ? (fraction ? NAN : INFINITY)
                                         : ldexp(1024 + fraction, exponent - 25);
    return bits & 0x8000 ? -size : size;
}

/* The 6-bit scale (or minimum: `which` 1) of sub-block s: entry `which * 8 + s` of a table that is
 * spread as low 6 bits of bytes 0 .. 7, and for s >= 4 a nibble of bytes 8 .. 11 under the top two
 * bits of an earlier byte. */
static int k_entry(const uint8_t *scales, int which, int s) {
    if (s < 4) return scales[4 * which + s] % 64;
    const int nibble = which == 0 ? scales[8 + s - 4] % 16 : scales[8 + s - 4] / 16;
    return nibble + 16 * (scales[4 * which + s - 4] / 64);
}

static double ref_k(aq_dtype dtype, const uint8_t *b, int e) {
    const int s = e / 32, l = e % 32, pair = e / 64;
    const uint8_t *codes = b + (dtype == AQ_Q4_K ? 16 : 48) + 32 * pair;
    int q = s % 2 == 0 ? codes[l] % 16 : codes[l] / 16;
    if (dtype == AQ_Q5_K && (b[16 + l] >> s) % 2 == 1) q += 16;
    return half_at(b) * k_entry(b + 4, 0, s) * q - half_at(b + 2) * k_entry(b + 4, 1, s);
}

static double ref_q6_k(const uint8_t *b, int e) {
    const int half = e / 128, part = e % 128 / 32, l = e % 32;
    const int low = b[64 * half + 32 * (part % 2) + l];
    const int high = b[128 + 32 * half + l];
    const int nibble = part < 2 ? low % 16 : low / 16;
    const int scale = (int8_t)b[192 + e / 16];
    return half_at(b + 208) * scale * (nibble + 16 * ((high >> 2 * part) % 4) - 32);
}

static double ref_block32(aq_dtype dtype, const uint8_t *b, int e) {
    static const int header[] = {
        [AQ_Q4_0] = 2, [AQ_Q4_1] = 4, [AQ_Q5_0] = 6, [AQ_Q5_1] = 8, [AQ_Q8_0] = 2};
    const uint8_t *codes = b + header[dtype];
    const double d = half_at(b);
    if (dtype == AQ_Q8_0) return d * (int8_t)codes[e];
    const int nibble = e < 16 ? codes[e] % 16 : codes[e - 16] / 16;
    if (dtype == AQ_Q4_0) return d * (nibble - 8);
    if (dtype == AQ_Q4_1) return d * nibble + half_at(b + 2);
    const uint8_t *high = codes - 4;
    const int q = nibble + 16 * ((high[e / 8] >> e % 8) % 2);
    return dtype == AQ_Q5_0 ? d * (q - 16) : d * q + half_at(b + 2);
}

double aq_ref_weight(aq_dtype dtype, const uint8_t *row, int64_t i) {
    const aq_dtype_info *info = aq_dtype_find((uint32_t)dtype);
    const uint8_t *b = row + i / info->block_elems * info->block_bytes;
    const int e = (int)(i % info->block_elems);
    float value;
    uint32_t bits;
    switch (dtype) {
    case AQ_F32:
        memcpy(&value, b, 4);
        return value;
    case AQ_BF16:
        bits = (uint32_t)b[0] << 16 | (uint32_t)b[1] << 24;
        memcpy(&value, &bits, 4);
        return value;
    case AQ_F16:
        return half_at(b);
    case AQ_Q4_K:
    case AQ_Q5_K:
        return ref_k(dtype, b, e);
    case AQ_Q6_K:
        return ref_q6_k(b, e);
    default:
        return ref_block32(dtype, b, e);
    }
}

static void note(aq_bound *bound, double error, double allowed) {
    double fraction = error == 0 ? 0 : error / allowed;
    if (!(fraction >= 0)) fraction = INFINITY;
    bound->worst = fmax(bound->worst, fraction);
    bound->n_check++;
}

void aq_bound_reduction(aq_bound *bound, float y, double ref, int64_t n, double sum_abs) {
    note(bound, fabs(y - ref), 4 * sqrt((double)n) * EPS * sum_abs);
}

void aq_bound_element(aq_bound *bound, float y, double ref, double n_eps, double tiny) {
    const bool same = isinf(ref) && y == ref;
    note(bound, same ? 0 : fabs(y - ref), n_eps * EPS * fabs(ref) + tiny);
}

void aq_bound_expect(const aq_bound *bound, const char *what) {
    CU_ASSERT(bound->n_check > 0);
    CU_ASSERT(bound->worst <= 1);
    printf("  %s: %lld values, worst uses %.3f of the bound\n", what, (long long)bound->n_check,
           bound->worst);
}

void aq_bound_expect_rejects(const aq_bound *bound, const char *bug) {
    CU_ASSERT(bound->worst > 1);
    printf("  planted bug, %s: %.3g of the bound\n", bug, bound->worst);
}

void *aq_test_alloc(aq_backend *be, size_t bytes) {
    void *memory;
    if (be->ops->alloc(be, bytes, &memory) == AQ_OK) return memory;
    fprintf(stderr, "%s\n", aq_error_text());
    exit(1);
}

void *aq_test_poison(aq_backend *be, int64_t bytes) {
    void *memory = aq_test_alloc(be, (size_t)bytes);
    memset(memory, 0xff, (size_t)bytes);
    return memory;
}

void *aq_test_put(const aq_test_backend *on, const void *host, size_t bytes) {
    void *memory = aq_test_alloc(on->be, bytes);
    on->be->ops->upload(on->be, memory, host, bytes);
    return memory;
}

void aq_test_get(const aq_test_backend *on, void *host, const void *from, size_t bytes) {
    on->be->ops->download(on->be, host, from, bytes);
    (void)aq_test_ok(on->be->ops->sync(on->be));
}

void *aq_test_got(const aq_test_backend *on, const void *from, size_t bytes) {
    void *host = malloc(bytes > 0 ? bytes : 1);
    if (!host) exit(1);
    aq_test_get(on, host, from, bytes);
    return host;
}

void aq_test_free(const aq_test_backend *on, void *memory) {
    on->be->ops->release(on->be, memory);
}

bool aq_test_device(const aq_test_backend *on) {
    return strcmp(on->name, "cuda") == 0 && !getenv("AQUA_CUDA_MATH");
}

static void run_contract(const aq_test_backend *on, aq_contract_fn contract, void *arg) {
    const unsigned before = CU_get_number_of_failure_records();
    contract(on, arg);
    if (CU_get_number_of_failure_records() > before) printf("  the above on %s\n", on->name);
}

static void run_on_cpu(aq_cpu_isa isa, int n_thread, aq_contract_fn contract, void *arg) {
    char name[64];
    snprintf(name, sizeof name, "%s, %d threads", aq_cpu_isa_name(isa), n_thread);
    aq_test_backend on = {NULL, isa, n_thread, name};
    if (!aq_test_ok(aq_backend_cpu_open(n_thread, isa, &on.be))) return;
    run_contract(&on, contract, arg);
    on.be->ops->close(on.be);
}

static void run_on_poisoned(aq_contract_fn contract, void *arg) {
    aq_backend *inner;
    aq_test_backend on = {NULL, aq_cpu_isa_best(), 2, "poisoned"};
    if (!aq_test_ok(aq_backend_cpu_open(on.n_thread, on.isa, &inner))) return;
    if (aq_test_ok(aq_backend_poisoned_open(inner, &on.be))) {
        run_contract(&on, contract, arg);
        CU_ASSERT(aq_backend_poisoned_intact(on.be));
        on.be->ops->close(on.be);
    }
}

/* Opened once a program: the first use of a device takes a second. */
static void run_on_cuda(aq_contract_fn contract, void *arg) {
    static aq_test_backend on = {NULL, AQ_ISA_PORTABLE, 1, "cuda"};
    static bool tried;
    if (!tried) {
        tried = true;
        aq_backend *device;
        if (aq_backend_cuda_open(0, &device) != AQ_OK ||
            aq_backend_mirror_open(device, &on.be) != AQ_OK) {
            const char *required = getenv("AQUA_REQUIRE_CUDA");
            const bool fails = required && strcmp(required, "1") == 0;
            printf("%s: cuda: %s\n", fails ? "FAIL" : "SKIP", aq_error_text());
            CU_ASSERT_FALSE(fails);
        }
    }
    if (!on.be) return;
    run_contract(&on, contract, arg);
    (void)aq_test_ok(on.be->ops->sync(on.be));
}

void aq_each_backend(aq_contract_fn contract, void *arg) {
    const char *only = getenv("AQUA_TEST_ONLY");
    if (only && strcmp(only, "cuda") == 0) {
        run_on_cuda(contract, arg);
        return;
    }
    for (int isa = AQ_ISA_PORTABLE; isa <= (int)aq_cpu_isa_best(); isa++)
        for (int n_thread = 1; n_thread <= 3; n_thread++)
            run_on_cpu((aq_cpu_isa)isa, n_thread, contract, arg);
    run_on_poisoned(contract, arg);
    run_on_cuda(contract, arg);
}
