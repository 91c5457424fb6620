/* Inverse frequencies against the formulas in double precision.
 *
 * Tolerance: the exponent 2i / n_rot is rounded once, which the power turns into ln(base) / 2 units
 * of relative error; power, division and the mixing of yarn add a few more. */
#include <float.h>
#include <math.h>
#include <stdio.h>

#include "src/model/model_config.h"
#include "tests/support/suite.h"

#define MAX_PAIRS 64
#define PI        3.14159265358979323846

typedef struct {
    int n_rot;
    aq_rope_config rope;
} table;

static table table_of(int n_rot, double base, aq_rope_scaling scaling, double factor) {
    return (table){n_rot,
                   {.base = base,
                    .scaling = scaling,
                    .factor = factor,
                    .attn_factor = 1.0,
                    .n_ctx_orig = 2048,
                    .beta_fast = 32.0,
                    .beta_slow = 1.0}};
}

/* Yarn (arXiv 2309.00071, section 3.2) by the number of turns of each dimension: more than 32 over
 * the original context, plain; fewer than 1, interpolated. The pairs where the ramp begins and ends
 * are rounded outwards, as the reference implementation does; `rounded` false is a planted bug. */
static double yarn_oracle(const table *c, int i, bool rounded) {
    const double plain = pow(c->rope.base, -2.0 * i / c->n_rot);
    double edge[2];
    for (int e = 0; e < 2; e++) {
        const double n_turn = e == 0 ? c->rope.beta_fast : c->rope.beta_slow;
        /* solves n_ctx base^(-2x / n_rot) / (2 pi) = n_turn for x */
        edge[e] = -c->n_rot / 2.0 * log(2.0 * PI * n_turn / (double)c->rope.n_ctx_orig) /
                  log(c->rope.base);
    }
    if (rounded) edge[0] = floor(edge[0]);
    if (rounded) edge[1] = ceil(edge[1]);
    if (edge[0] < 0) edge[0] = 0;
    if (edge[1] > c->n_rot - 1) edge[1] = c->n_rot - 1;
    double share = (i - edge[0]) / (edge[1] - edge[0]);
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    return plain * (1.0 - share) + plain / c->rope.factor * share;
}

static double oracle(const table *c, int i) {
    if (c->rope.scaling == AQ_ROPE_YARN) return yarn_oracle(c, i, true);
    return pow(c->rope.base, -2.0 * i / c->n_rot) / c->rope.factor;
}

static bool near(double value, double expected, double base) {
    return fabs(value - expected) <= (8.0 + log(base)) * (double)FLT_EPSILON * fabs(expected);
}

static void test_frequencies(void) {
    static const struct {
        int n_rot;
        double base;
    } shapes[] = {{16, 1e4}, {24, 1e4}, {64, 1e5}, {128, 5e5}, {128, 1e6}, {2, 1e4}};
    float inv_freq[MAX_PAIRS], attn_factor;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (int scaling = AQ_ROPE_NONE; scaling <= AQ_ROPE_YARN; scaling++) {
            const table c = table_of(shapes[s].n_rot, shapes[s].base, scaling,
                                     scaling == AQ_ROPE_NONE ? 1.0 : 4.0);
            aq_model_rope(&c.rope, c.n_rot, NULL, inv_freq, &attn_factor);
            int n_far = 0;
            for (int i = 0; i < c.n_rot / 2; i++)
                n_far += !near((double)inv_freq[i], oracle(&c, i), c.rope.base);
            CU_ASSERT_EQUAL(n_far, 0);
            const double expected = scaling == AQ_ROPE_YARN ? 1.0 + 0.1 * log(4.0) : 1.0;
            CU_ASSERT_DOUBLE_EQUAL(attn_factor, expected, 1e-7);
        }
}

/* The comparison above must see a ramp that is not rounded, and one exponent more. */
static void test_planted(void) {
    const table c = table_of(128, 5e5, AQ_ROPE_YARN, 4.0);
    float inv_freq[MAX_PAIRS], attn_factor;
    int n_far = 0, n_far_next = 0;
    aq_model_rope(&c.rope, c.n_rot, NULL, inv_freq, &attn_factor);
    for (int i = 0; i < 64; i++) {
        n_far += !near((double)inv_freq[i], yarn_oracle(&c, i, false), c.rope.base);
        n_far_next += !near((double)inv_freq[i], oracle(&c, i + 1), c.rope.base);
    }
    CU_ASSERT_TRUE(n_far > 10);
    CU_ASSERT_EQUAL(n_far_next, 64);
}

static void test_attention_factor(void) {
    table c = table_of(64, 1e4, AQ_ROPE_YARN, 16.0);
    float inv_freq[MAX_PAIRS], attn_factor;
    c.rope.attn_factor = 0.5;
    aq_model_rope(&c.rope, c.n_rot, NULL, inv_freq, &attn_factor);
    CU_ASSERT_DOUBLE_EQUAL(attn_factor, 0.5 * (1.0 + 0.1 * log(16.0)), 1e-7);
}

/* Other ends of yarn's ramp, and an attention factor by longrope (arXiv 2402.13753, equation 2 of
 * its appendix: the square root of 1 + ln(ratio) / ln(original context)). */
static void test_other_constants(void) {
    table c = table_of(128, 1e6, AQ_ROPE_YARN, 4.0);
    float inv_freq[MAX_PAIRS], attn_factor;
    int n_far = 0, n_far_plain = 0;
    c.rope.beta_fast = 8.0;
    c.rope.beta_slow = 2.0;
    aq_model_rope(&c.rope, c.n_rot, NULL, inv_freq, &attn_factor);
    for (int i = 0; i < 64; i++)
        n_far += !near((double)inv_freq[i], oracle(&c, i), c.rope.base);
    c.rope.beta_fast = 32.0;
    c.rope.beta_slow = 1.0;
    for (int i = 0; i < 64; i++)
        n_far_plain += !near((double)inv_freq[i], oracle(&c, i), c.rope.base);
    CU_ASSERT_EQUAL(n_far, 0);
    CU_ASSERT_TRUE(n_far_plain > 5);

    c = table_of(16, 1e4, AQ_ROPE_LONGROPE, 32.0);
    c.rope.n_ctx_orig = 4096;
    aq_model_rope(&c.rope, c.n_rot, NULL, inv_freq, &attn_factor);
    CU_ASSERT_DOUBLE_EQUAL(attn_factor, sqrt(1.0 + 5.0 / 12.0), 1e-6); /* 2^5 and 2^12 */
    CU_ASSERT_TRUE(near((double)inv_freq[3], pow(1e4, -6.0 / 16), 1e4));
    c.rope.factor = 1.0;
    aq_model_rope(&c.rope, c.n_rot, NULL, inv_freq, &attn_factor);
    CU_ASSERT_EQUAL(attn_factor, 1.0f);
}

/* A context so short that yarn's ramp has no width. */
static void test_ramp_without_width(void) {
    table c = table_of(16, 1e4, AQ_ROPE_YARN, 4.0);
    float inv_freq[MAX_PAIRS], attn_factor;
    c.rope.n_ctx_orig = 6;
    aq_model_rope(&c.rope, c.n_rot, NULL, inv_freq, &attn_factor);
    CU_ASSERT_EQUAL(inv_freq[0], 1.0f);
    for (int i = 1; i < 8; i++)
        CU_ASSERT_TRUE(near((double)inv_freq[i], pow(1e4, -2.0 * i / 16) / 4.0, 1e4));
}

static void test_divisors(void) {
    const table c = table_of(16, 5e5, AQ_ROPE_NONE, 1.0);
    float plain[MAX_PAIRS], divided[MAX_PAIRS], divisors[8], attn_factor;
    for (int i = 0; i < 8; i++)
        divisors[i] = 1.0f + (float)i;
    aq_model_rope(&c.rope, c.n_rot, NULL, plain, &attn_factor);
    aq_model_rope(&c.rope, c.n_rot, divisors, divided, &attn_factor);
    for (int i = 0; i < 8; i++)
        CU_ASSERT_EQUAL(divided[i], plain[i] / (1.0f + (float)i));
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "frequencies", test_frequencies);
    CU_add_test(suite, "planted bugs are seen", test_planted);
    CU_add_test(suite, "attention factor", test_attention_factor);
    CU_add_test(suite, "other constants", test_other_constants);
    CU_add_test(suite, "ramp without width", test_ramp_without_width);
    CU_add_test(suite, "divisors", test_divisors);
}
