/* code_column: codes are the nearest, their squared error is never above that of the plain rule
 * (range, or mean and deviation), and on normal columns close to the least that a search over every
 * step finds. All in double precision, from the format in kv_append.h. */
#include "kernels/code_column.h"

#include <math.h>
#include <stdio.h>

#include "src/base/rng.h"
#include "tests/support/suite.h"

enum { N_COLUMN = 60, N_KIND = 5 };

static const int all_bits[] = {1, 2, 3, 4, 5, 6, 8};

#define N_BITS ((int)(sizeof all_bits / sizeof all_bits[0]))

static double half_value(uint16_t h) {
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    const double size =
        exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    return h & 0x8000 ? -size : size;
}

/* x rounded to 11 significant bits, or to 2^-24. */
static double round_half(double x) {
    int exponent;
    frexp(x, &exponent);
    const int last = exponent - 11 < -24 ? -24 : exponent - 11;
    return ldexp(rint(ldexp(x, -last)), last);
}

static double step_value(int step8) {
    return step8 == 0 ? 0 : ldexp(1 + step8 % 8 / 8.0, step8 / 8 - 24);
}

static double level_value(int bits, int code) {
    static const double one[] = {-0.7979, 0.7979}, two[] = {-1.510, -0.453, 0.453, 1.510};
    return bits == 1 ? one[code] : bits == 2 ? two[code] : code;
}

/* The distance of x to the nearest of all levels. */
static double nearest(double x, int bits, double base, double step) {
    double off = INFINITY;
    for (int code = 0; code < 1 << bits; code++)
        off = fmin(off, fabs(x - base - step * level_value(bits, code)));
    return off;
}

static double least_error(const float *x, int bits, double base, double step) {
    double error = 0;
    for (int s = 0; s < AQ_TILE; s++)
        error += pow(nearest((double)x[s], bits, round_half(base), step), 2);
    return error;
}

typedef struct {
    double low, high, mean, deviation;
} facts;

static facts facts_of(const float *x) {
    facts f = {INFINITY, -INFINITY, 0, 0};
    for (int s = 0; s < AQ_TILE; s++) {
        f.low = fmin(f.low, (double)x[s]);
        f.high = fmax(f.high, (double)x[s]);
        f.mean += (double)x[s] / AQ_TILE;
    }
    for (int s = 0; s < AQ_TILE; s++)
        f.deviation += pow((double)x[s] - f.mean, 2) / AQ_TILE;
    f.deviation = sqrt(f.deviation);
    return f;
}

/* The squared error of the plain rule: the range in the middle of the codes, under the least step
 * that it fits in; or the mean and the step nearest to the deviation. */
static double plain_error(const float *x, int bits) {
    const facts f = facts_of(x);
    const double top = (1 << bits) - 1;
    int step8 = 0;
    if (bits >= 3) {
        while (step_value(step8) * top < f.high - f.low)
            step8++;
        return least_error(x, bits, (f.low + f.high - step_value(step8) * top) / 2,
                           step_value(step8));
    }
    while (step_value(step8 + 1) + step_value(step8) < 2 * f.deviation)
        step8++;
    return least_error(x, bits, f.mean, step_value(step8));
}

/* The least squared error over steps from a quarter of the plain one's to it, and many bases. */
static double searched_error(const float *x, int bits) {
    const facts f = facts_of(x);
    const double top = (1 << bits) - 1;
    const double most = bits >= 3 ? (f.high - f.low) / top : 1.5 * f.deviation;
    double error = plain_error(x, bits);
    for (int step8 = 1; step_value(step8) < 1.2 * most; step8++) {
        const double step = step_value(step8), middle = bits >= 3 ? top / 2 * step : 0;
        if (step < most / 4) continue;
        for (int i = -20; i <= 20; i++) {
            const double off = bits >= 3 ? i * step / 10 : i * f.deviation / 20;
            const double base = (bits >= 3 ? (f.low + f.high) / 2 : f.mean) - middle + off;
            error = fmin(error, least_error(x, bits, base, step));
        }
    }
    return error;
}

/* The squared error of codes; INFINITY if a level is nearer than the one a code says. */
static double error_of(const float *x, int bits, const aq_column_codes *codes) {
    const double base = half_value(codes->base), step = step_value(codes->step8);
    double error = 0;
    for (int s = 0; s < AQ_TILE; s++) {
        const double off = fabs((double)x[s] - base - step * level_value(bits, codes->code[s]));
        const double slack = 1e-4 * step + ldexp(fabs((double)x[s]), -22);
        if (codes->code[s] >= 1 << bits || off > nearest((double)x[s], bits, base, step) + slack)
            return INFINITY;
        error += off * off;
    }
    return error;
}

/* Normal columns, skewed ones, with an outlier, far from 0, and of two values. */
static void fill_column(aq_rng *rng, int kind, float *x) {
    const double size = exp2(8 * aq_rng_uniform(rng) - 4);
    for (int s = 0; s < AQ_TILE; s++) {
        const double z = aq_rng_normal(rng);
        x[s] = (float)(kind == 0   ? size * (z + 0.3)
                       : kind == 1 ? size * z * z
                       : kind == 2 ? size * (s == 17 ? 5.5 : z)
                       : kind == 3 ? 40 + 0.1 * z
                                   : size * (z < 1 ? -0.7 : 2));
    }
}

/* At most the plain rule's, but for roundings of fp32. */
static bool as_good_as_plain(const float *x, int bits, double error) {
    const facts f = facts_of(x);
    const double rounding = ldexp(fabs(f.mean) + f.high - f.low, -20);
    return sqrt(error) <= sqrt(plain_error(x, bits)) * (1 + 1e-4) + rounding;
}

static void never_worse_than_the_plain_rule(void) {
    for (int b = 0; b < N_BITS; b++)
        for (int i = 0; i < N_KIND * N_COLUMN; i++) {
            const int bits = all_bits[b];
            aq_rng rng = {(uint64_t)i + 1};
            aq_column_codes codes;
            float x[AQ_TILE];
            fill_column(&rng, i % N_KIND, x);
            aq_column_fit(x, bits, &codes);
            CU_ASSERT_TRUE(as_good_as_plain(x, bits, error_of(x, bits, &codes)));
            if (i % N_KIND != 0) continue;
            aq_column_codes wrong = codes; /* planted: the next step; another code */
            wrong.step8 = (uint8_t)(wrong.step8 + 8);
            CU_ASSERT_FALSE(as_good_as_plain(x, bits, error_of(x, bits, &wrong)));
            wrong = codes;
            wrong.code[5] ^= 1;
            CU_ASSERT_FALSE(as_good_as_plain(x, bits, error_of(x, bits, &wrong)));
        }
}

/* A seventh above the least error there is, on the mean. */
static bool close_to_searched(double error, double searched) {
    return error <= 1.15 * searched;
}

static void close_to_the_least_error(void) {
    for (int b = 0; b < N_BITS - 1; b++) { /* 8 bits would take long to search */
        const int bits = all_bits[b];
        double error = 0, plain = 0, searched = 0;
        for (int i = 0; i < N_COLUMN; i++) {
            aq_rng rng = {(uint64_t)i + 1};
            aq_column_codes codes;
            float x[AQ_TILE];
            fill_column(&rng, 0, x);
            aq_column_fit(x, bits, &codes);
            const double scale = pow(facts_of(x).deviation, -2);
            error += scale * error_of(x, bits, &codes);
            plain += scale * plain_error(x, bits);
            searched += scale * searched_error(x, bits);
        }
        printf("%d bits: squared error %.3f of the plain rule's, %.3f at least\n", bits,
               error / plain, searched / plain);
        CU_ASSERT_TRUE(close_to_searched(error, searched));
        if (bits == 3 || bits == 4) CU_ASSERT_FALSE(close_to_searched(plain, searched));
    }
}

/* A column of one value is as near as f16 comes, or nearer; levels are what the format says. */
static void levels_are_those_of_the_format(void) {
    static const float values[] = {0.0f, 3.25f, -7.5f, 1e-3f, 40.01f};
    for (int b = 0; b < N_BITS; b++) {
        float x[AQ_TILE], level[AQ_TILE];
        aq_column_codes codes;
        aq_rng rng = {9};
        for (int i = 0; i < 5; i++) {
            for (int s = 0; s < AQ_TILE; s++)
                x[s] = values[i];
            aq_column_fit(x, all_bits[b], &codes);
            aq_column_levels(&codes, all_bits[b], level);
            for (int s = 0; s < AQ_TILE; s++)
                CU_ASSERT_TRUE(fabs((double)level[s] - (double)x[s]) <=
                               fabs(round_half((double)x[s]) - (double)x[s]) + 1e-7);
        }
        fill_column(&rng, 0, x);
        aq_column_fit(x, all_bits[b], &codes);
        aq_column_levels(&codes, all_bits[b], level);
        for (int s = 0; s < AQ_TILE; s++) {
            const double y = half_value(codes.base) +
                             step_value(codes.step8) * level_value(all_bits[b], codes.code[s]);
            CU_ASSERT_TRUE(fabs((double)level[s] - y) <= 1e-6 * (1 + fabs(y)));
        }
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "never worse than the plain rule", never_worse_than_the_plain_rule);
    CU_add_test(suite, "close to the least error", close_to_the_least_error);
    CU_add_test(suite, "levels are those of the format", levels_are_those_of_the_format);
}
