/* codes: runs are packed as src/base/kv_type.h says and come back through every instruction set's
 * unpack; steps of 8 bits are the next ones. */
#include "kernels/codes.h"

#include <math.h>

#include "kernels/cpu.h"
#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define MAX_CODES 300

static const int widths[] = {1, 2, 3, 4, 5, 6, 8};

/* Bit `bit` of code k of a run of n codes: which byte of the run, which bit of it. */
static int64_t bit_place(int n, int bits, int k, int bit) {
    int64_t from = 0;
    for (int width = 8, first = 0; width > 0; width /= 2) {
        if (bits / width % 2 == 0) continue;
        const int64_t m = ((int64_t)n * width + 7) / 8;
        if (bit < first + width) return 8 * (from + k % m) + k / m * width + bit - first;
        from += m;
        first += width;
    }
    return -1;
}

/* Bits of the run that are not where they should be. `swapped`: the plant, neighbours k and k ^ 1
 * change places. */
static int count_wrong(const uint8_t *codes, int n, int bits, const uint8_t *run, bool swapped) {
    uint8_t expected[MAX_CODES + 8] = {0};
    int n_wrong = 0;
    for (int k = 0; k < n; k++)
        for (int bit = 0; bit < bits; bit++) {
            const int64_t at = bit_place(n, bits, swapped && (k ^ 1) < n ? k ^ 1 : k, bit);
            expected[at / 8] |= (uint8_t)((codes[k] >> bit & 1) << at % 8);
        }
    for (int64_t i = 0; i < aq_code_run_bytes(n, bits); i++)
        n_wrong += run[i] != expected[i];
    return n_wrong;
}

static void expect_unpacked(const uint8_t *codes, int n, int bits, const uint8_t *run) {
    for (int isa = 0; isa <= (int)aq_cpu_isa_best(); isa++) {
        uint8_t back[MAX_CODES + 1];
        back[n] = 77;
        aq_cpu_simd((aq_cpu_isa)isa)->unpack(run, n, bits, back);
        CU_ASSERT_EQUAL(memcmp(back, codes, (size_t)n), 0);
        CU_ASSERT_EQUAL(back[n], 77);
    }
}

static void runs_come_back(void) {
    aq_rng rng = {3};
    int n_swapped = 0;
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
        for (int n = 1; n <= MAX_CODES; n = n < 70 ? n + 1 : n + 23) {
            uint8_t codes[MAX_CODES], run[MAX_CODES + 1];
            const int64_t bytes = aq_code_run_bytes(n, widths[w]);
            for (int k = 0; k < n; k++)
                codes[k] = (uint8_t)(aq_rng_next(&rng) >> (64 - widths[w]));
            memset(run, 0xa5, sizeof run);
            aq_codes_pack(codes, n, widths[w], run);
            CU_ASSERT_EQUAL(run[bytes], 0xa5);
            CU_ASSERT_EQUAL(count_wrong(codes, n, widths[w], run, false), 0);
            n_swapped += count_wrong(codes, n, widths[w], run, true);
            expect_unpacked(codes, n, widths[w], run);
        }
    CU_ASSERT(n_swapped > 0);
}

/* The step of kernels/kv_append.h. */
static double step_of(int step8) {
    return step8 == 0 ? 0.0 : ldexp(1.0 + step8 % 8 / 8.0, step8 / 8 - 24);
}

static int count_wrong_steps(uint8_t (*above)(float)) {
    aq_rng rng = {4};
    int n_wrong = 0;
    for (int i = 0; i < 20000; i++) {
        const float step = (float)exp2(aq_rng_uniform(&rng) * 31.5 - 24.0);
        const int up = above(step), near = aq_step8_near(step);
        n_wrong += step_of(up) < (double)step || (up > 1 && step_of(up - 1) >= (double)step);
        const double off = fabs(step_of(near) - (double)step);
        n_wrong += near > 0 && fabs(step_of(near - 1) - (double)step) < off;
        n_wrong += near < 255 && fabs(step_of(near + 1) - (double)step) < off;
    }
    return n_wrong;
}

static void steps_are_the_next_ones(void) {
    for (int step8 = 0; step8 < 256; step8++) {
        const float step = aq_step8_value((uint8_t)step8);
        CU_ASSERT_EQUAL((double)step, step_of(step8));
        CU_ASSERT_EQUAL(aq_step8_above(step), step8);
        CU_ASSERT_EQUAL(aq_step8_near(step), step8);
    }
    CU_ASSERT_EQUAL(count_wrong_steps(aq_step8_above), 0);
    CU_ASSERT(count_wrong_steps(aq_step8_near) > 0); /* the plant: nearest is not above */
    CU_ASSERT_EQUAL(aq_step8_above(1e-30f), 1);
    CU_ASSERT_EQUAL(aq_step8_near(1e-30f), 0);
    CU_ASSERT_EQUAL(aq_step8_above(1e9f), 255);
    CU_ASSERT_EQUAL(aq_step8_near(1e9f), 255);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "runs come back", runs_come_back);
    CU_add_test(suite, "steps are the next ones", steps_are_the_next_ones);
}
