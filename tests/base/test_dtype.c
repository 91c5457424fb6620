/* Element types: the table, and the 16-bit conversions against formulas in double precision. */
#include "src/base/dtype.h"

#include <math.h>

#include "src/base/rng.h"
#include "tests/support/suite.h"

typedef float (*widen_fn)(uint16_t h);
typedef uint16_t (*narrow_fn)(float f);

/* Value of the IEEE half with these bits, from its definition. */
static double half_value(uint16_t h) {
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double sign = h & 0x8000 ? -1.0 : 1.0;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * ldexp(fraction, -24);
    return sign * ldexp(1024 + fraction, exponent - 25);
}

static bool same_value(double a, double b) {
    if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
    return a == b && !signbit(a) == !signbit(b);
}

static int count_wrong_halves(widen_fn widen) {
    int n_wrong = 0;
    for (uint32_t h = 0; h < 65536; h++)
        n_wrong += !same_value(widen((uint16_t)h), half_value((uint16_t)h));
    return n_wrong;
}

/* The plant: subnormals flushed to zero, as some hardware does. */
static float widen_flushing(uint16_t h) {
    return (h & 0x7c00) == 0 ? copysignf(0.0f, h & 0x8000 ? -1.0f : 1.0f) : aq_f16_to_f32(h);
}

static void every_half_widens_exactly(void) {
    CU_ASSERT_EQUAL(count_wrong_halves(aq_f16_to_f32), 0);
    CU_ASSERT_EQUAL(count_wrong_halves(widen_flushing), 2 * 1023);
}

/* Value of a bfloat16 with these bits, from its definition; at the exponent of infinity, what the
 * next number would be (so that rounding to infinity can be judged by distance). */
static double bfloat_value(uint16_t h) {
    const int exponent = h >> 7 & 255, fraction = h & 127;
    const double sign = h & 0x8000 ? -1.0 : 1.0;
    if (exponent == 0) return sign * ldexp(fraction, -133);
    return sign * ldexp(128 + fraction, exponent - 134);
}

/* Whether h is the bfloat16 nearest to the finite f, the even one if two are equally near. */
static bool is_nearest(float f, uint16_t h) {
    const uint16_t magnitude = h & 0x7fff;
    const double value = fabs((double)f), error = fabs(bfloat_value(magnitude) - value);
    if ((h & 0x8000 ? 1 : 0) != (signbit(f) ? 1 : 0) || magnitude > 0x7f80) return false;
    for (int step = -1; step <= 1; step += 2) {
        const int other = magnitude + step;
        if (other < 0 || other > 0x7f80) continue;
        const double other_error = fabs(bfloat_value((uint16_t)other) - value);
        if (other_error < error || (other_error == error && (magnitude & 1))) return false;
    }
    return true;
}

static float float_of_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* For every upper half: the lower halves around a tie and at the ends; then random patterns. */
static int count_wrong_bfloats(narrow_fn narrow) {
    static const uint32_t lower[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    aq_rng rng = {1};
    int n_wrong = 0;
    for (uint32_t upper = 0; upper < 65536; upper++) {
        for (int i = 0; i < 7; i++) {
            const uint32_t low = i < 6 ? lower[i] : (uint32_t)(aq_rng_next(&rng) & 0xffff);
            const float f = float_of_bits(upper << 16 | low);
            if (isfinite(f)) n_wrong += !is_nearest(f, narrow(f));
        }
    }
    return n_wrong;
}

/* The plants: cut instead of rounded, and ties rounded away from zero. */
static uint16_t narrow_cutting(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static uint16_t narrow_ties_away(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x8000u) >> 16);
}

static void bfloat_rounds_to_nearest_even(void) {
    CU_ASSERT_EQUAL(count_wrong_bfloats(aq_f32_to_bf16), 0);
    CU_ASSERT_TRUE(count_wrong_bfloats(narrow_cutting) > 0);
    CU_ASSERT_EQUAL(count_wrong_bfloats(narrow_ties_away), 65536 / 2 - 128);
}

static void bfloat_keeps_what_it_can_hold(void) {
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = aq_bf16_to_f32((uint16_t)h);
        if (isnan(f))
            CU_ASSERT_TRUE(isnan(aq_bf16_to_f32(aq_f32_to_bf16(f))))
        else
            CU_ASSERT_EQUAL(aq_f32_to_bf16(f), h);
    }
    /* A NaN whose payload lies in the cut bits alone must not turn into infinity. */
    CU_ASSERT_TRUE(isnan(aq_bf16_to_f32(aq_f32_to_bf16(float_of_bits(0x7f800001u)))));
    CU_ASSERT_TRUE(isnan(aq_bf16_to_f32(aq_f32_to_bf16(float_of_bits(0xffffffffu)))));
}

/* Whether h is the half nearest to f, the even one if two are equally near; the largest finite one
 * stands for all that is larger. */
static bool is_nearest_half(float f, uint16_t h) {
    const int magnitude = h & 0x7fff;
    const double value = fmin(fabs((double)f), 65504.0);
    const double error = fabs(half_value((uint16_t)magnitude) - value);
    if ((h & 0x8000 ? 1 : 0) != (signbit(f) ? 1 : 0) || magnitude > 0x7bff) return false;
    for (int other = magnitude - 1; other <= magnitude + 1; other += 2) {
        if (other < 0 || other > 0x7bff) continue;
        const double other_error = fabs(half_value((uint16_t)other) - value);
        if (other_error < error || (other_error == error && (magnitude & 1))) return false;
    }
    return true;
}

/* For every upper half of a float and every place a half can end: the bits around a tie, and random
 * ones. */
static int count_wrong_narrowed(narrow_fn narrow) {
    static const uint32_t lower[] = {0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x3000, 0x8000, 0xffff};
    aq_rng rng = {2};
    int n_wrong = 0;
    for (uint32_t upper = 0; upper < 65536; upper++)
        for (int i = 0; i < 12; i++) {
            const uint32_t low = i < 9 ? lower[i] : (uint32_t)(aq_rng_next(&rng) & 0xffff);
            const float f = float_of_bits(upper << 16 | low);
            if (!isnan(f)) n_wrong += !is_nearest_half(f, narrow(f));
        }
    return n_wrong;
}

/* The plants: subnormals flushed, and what is too large made infinite. */
static uint16_t narrow_flushing(float f) {
    const uint16_t h = aq_f32_to_f16(f);
    return (h & 0x7c00) == 0 ? h & 0x8000 : h;
}

static uint16_t narrow_overflowing(float f) {
    return fabsf(f) >= 65520.0f ? (signbit(f) ? 0xfc00 : 0x7c00) : aq_f32_to_f16(f);
}

static void halves_are_the_nearest(void) {
    CU_ASSERT_EQUAL(count_wrong_narrowed(aq_f32_to_f16), 0);
    CU_ASSERT_TRUE(count_wrong_narrowed(narrow_flushing) > 0);
    CU_ASSERT_TRUE(count_wrong_narrowed(narrow_overflowing) > 0);
    for (uint32_t h = 0; h < 65536; h++)
        if ((h & 0x7c00) != 0x7c00) CU_ASSERT_EQUAL(aq_f32_to_f16(aq_f16_to_f32((uint16_t)h)), h);
    CU_ASSERT_EQUAL(aq_f32_to_f16(INFINITY), 0x7bff);
    CU_ASSERT_EQUAL(aq_f32_to_f16(-INFINITY), 0xfbff);
    CU_ASSERT_TRUE(isnan(aq_f16_to_f32(aq_f32_to_f16(NAN))));
}

/* Bytes of one block, from its parts: scales, minima, low bits, high bits. */
static void blocks_have_their_sizes(void) {
    static const aq_dtype_info expected[] = {
        {AQ_F32, "F32", 1, 4},
        {AQ_F16, "F16", 1, 2},
        {AQ_BF16, "BF16", 1, 2},
        {AQ_Q4_0, "Q4_0", 32, 2 + 32 / 2},
        {AQ_Q4_1, "Q4_1", 32, 2 + 2 + 32 / 2},
        {AQ_Q5_0, "Q5_0", 32, 2 + 32 / 8 + 32 / 2},
        {AQ_Q5_1, "Q5_1", 32, 2 + 2 + 32 / 8 + 32 / 2},
        {AQ_Q8_0, "Q8_0", 32, 2 + 32},
        {AQ_Q4_K, "Q4_K", 256, 2 + 2 + 8 * (6 + 6) / 8 + 256 / 2},
        {AQ_Q5_K, "Q5_K", 256, 2 + 2 + 8 * (6 + 6) / 8 + 256 / 8 + 256 / 2},
        {AQ_Q6_K, "Q6_K", 256, 256 / 2 + 256 / 4 + 256 / 16 + 2},
    };
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        const aq_dtype_info *info = aq_dtype_find((uint32_t)expected[i].dtype);
        CU_ASSERT_PTR_NOT_NULL_FATAL(info);
        CU_ASSERT_STRING_EQUAL(info->name, expected[i].name);
        CU_ASSERT_EQUAL(info->block_elems, expected[i].block_elems);
        CU_ASSERT_EQUAL(info->block_bytes, expected[i].block_bytes);
        CU_ASSERT_PTR_EQUAL(aq_dtype_find_name(expected[i].name), info);
        CU_ASSERT_EQUAL(aq_dtype_row_bytes(info->dtype, 3 * INT64_C(1) << 30),
                        (3 * INT64_C(1) << 30) / info->block_elems * info->block_bytes);
    }
}

static void types_are_found_and_refused_by_name(void) {
    CU_ASSERT_PTR_EQUAL(aq_dtype_find_name("bf16"), aq_dtype_find(AQ_BF16));
    CU_ASSERT_PTR_EQUAL(aq_dtype_find_name("q4_k"), aq_dtype_find(AQ_Q4_K));
    CU_ASSERT_PTR_NULL(aq_dtype_find_name("Q4"));
    CU_ASSERT_PTR_NULL(aq_dtype_find_name(""));
    CU_ASSERT_PTR_NULL(aq_dtype_find(17));
    CU_ASSERT_PTR_NULL(aq_dtype_find(UINT32_MAX));
    CU_ASSERT_STRING_EQUAL(aq_dtype_any_name(AQ_Q6_K), "Q6_K");
    CU_ASSERT_STRING_EQUAL(aq_dtype_any_name(17), "IQ2_XS");
    CU_ASSERT_STRING_EQUAL(aq_dtype_any_name(UINT32_MAX), "type 4294967295");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "every half widens exactly", every_half_widens_exactly);
    CU_add_test(suite, "bfloat rounds to nearest even", bfloat_rounds_to_nearest_even);
    CU_add_test(suite, "bfloat keeps what it can hold", bfloat_keeps_what_it_can_hold);
    CU_add_test(suite, "halves are the nearest", halves_are_the_nearest);
    CU_add_test(suite, "blocks have their sizes", blocks_have_their_sizes);
    CU_add_test(suite, "types are found and refused by name", types_are_found_and_refused_by_name);
}
