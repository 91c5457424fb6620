/* kv_type: names, layouts, sizes of runs. */
#include "src/base/kv_type.h"

#include <string.h>

#include "tests/support/suite.h"

static void types_have_names(void) {
    static const char *const names[] = {"f32", "bf16", "q8", "q6", "q5", "q5m", "q4"};
    for (int i = 0; i < AQ_KV_TYPES; i++) {
        aq_kv_type type = AQ_KV_TYPES;
        CU_ASSERT_STRING_EQUAL(aq_kv_type_name((aq_kv_type)i), names[i]);
        if (aq_test_ok(aq_kv_type_parse(names[i], &type))) CU_ASSERT_EQUAL((int)type, i);
        CU_ASSERT_EQUAL(aq_kv_type_coded((aq_kv_type)i), i >= 2);
        CU_ASSERT_EQUAL(aq_kv_type_dtype((aq_kv_type)i), i == 1 ? AQ_BF16 : AQ_F32);
    }
    aq_kv_type type;
    aq_test_fails(aq_kv_type_parse("int8", &type), AQ_ERR_USAGE, "\"int8\" is unknown; use f32");
    aq_test_fails(aq_kv_type_parse("", &type), AQ_ERR_USAGE, "unknown");
}

/* Bits of every column, as the header says them. */
static int bits_expected(aq_kv_type type, int n, int c) {
    static const int even[AQ_KV_TYPES] = {
        [AQ_KV_Q8] = 8, [AQ_KV_Q6] = 6, [AQ_KV_Q5] = 5, [AQ_KV_Q4] = 4};
    if (type != AQ_KV_Q5M) return even[type];
    const int quarter = n / 4;
    return quarter == 0 ? 5 : c < quarter ? 6 : c < 3 * quarter ? 5 : 4;
}

static void bits_fall_as_the_type_says(void) {
    for (aq_kv_type type = AQ_KV_Q8; type < AQ_KV_TYPES; type++)
        for (int n = 1; n < 70; n++) {
            const aq_code_layout layout = aq_kv_type_layout(type, n);
            int sum = 0;
            CU_ASSERT_EQUAL(aq_code_layout_columns(&layout), n);
            for (int c = 0; c < n; c++) {
                CU_ASSERT_EQUAL(aq_code_layout_bits_at(&layout, c), bits_expected(type, n, c));
                sum += bits_expected(type, n, c);
            }
            CU_ASSERT_EQUAL(aq_code_layout_bits_at(&layout, n), 0);
            CU_ASSERT_EQUAL(aq_code_layout_bits(&layout), sum);
        }
}

static void layouts_are_read_and_written(void) {
    static const char *const texts[] = {"16x4,32x2,16x1", "64x8", "1x1,2x3,3x5,4x6", "99999x2"};
    char text[64];
    aq_code_layout layout;
    for (int i = 0; i < 4; i++)
        if (aq_test_ok(aq_code_layout_parse(texts[i], &layout)))
            CU_ASSERT_STRING_EQUAL(aq_code_layout_text(&layout, text, sizeof text), texts[i]);
    aq_test_ok(aq_code_layout_parse("16x4,32x2,16x1", &layout));
    CU_ASSERT_EQUAL(layout.n_segment, 3);
    CU_ASSERT_EQUAL(layout.segments[1].n, 32);
    CU_ASSERT_EQUAL(layout.segments[1].bits, 2);
    CU_ASSERT_EQUAL(aq_code_layout_columns(&layout), 64);
    CU_ASSERT_EQUAL(aq_code_layout_bits(&layout), 16 * 4 + 32 * 2 + 16);
    CU_ASSERT_STRING_EQUAL(aq_code_layout_text(&layout, text, 6), "16x4,"); /* cut, not overrun */
    layout.n_segment = 0;
    CU_ASSERT_STRING_EQUAL(aq_code_layout_text(&layout, text, sizeof text), "");
}

static void bad_layouts_are_refused(void) {
    static const char *const not_layouts[] = {"", "16", "16x", "x4", "16x4,", "16x4;8x2", "16x4 "};
    static const char *const not_allowed[] = {
        "0x4", "-3x4", "8x7", "8x9", "8x0", "8x-1", "1x1,1x1,1x1,1x1,1x1"};
    aq_code_layout layout;
    for (size_t i = 0; i < sizeof not_layouts / sizeof not_layouts[0]; i++)
        aq_test_fails(aq_code_layout_parse(not_layouts[i], &layout), AQ_ERR_USAGE, "is no layout");
    for (size_t i = 0; i < sizeof not_allowed / sizeof not_allowed[0]; i++)
        aq_test_fails(aq_code_layout_parse(not_allowed[i], &layout), AQ_ERR_USAGE, "at most 4");
}

/* Bytes are the planes', each rounded up: counted bit by bit. */
static void runs_have_their_sizes(void) {
    static const int allowed[] = {1, 2, 3, 4, 5, 6, 8};
    for (int i = 0; i < 7; i++)
        for (int n = 1; n < 200; n++) {
            int64_t bytes = 0;
            for (int width = 1; width <= 8; width *= 2) {
                int64_t left = allowed[i] / width % 2 == 1 ? (int64_t)n * width : 0;
                for (; left > 0; left -= 8)
                    bytes++;
            }
            CU_ASSERT_EQUAL(aq_code_run_bytes(n, allowed[i]), bytes);
        }
    const aq_code_layout layout = {.n_segment = 3, .segments = {{16, 6}, {33, 5}, {15, 4}}};
    CU_ASSERT_EQUAL(aq_code_row_bytes(&layout), 8 + 4 + (17 + 5) + 8);
    CU_ASSERT_EQUAL(aq_code_row_bytes(&(aq_code_layout){0}), 0);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "types have names", types_have_names);
    CU_add_test(suite, "bits fall as the type says", bits_fall_as_the_type_says);
    CU_add_test(suite, "layouts are read and written", layouts_are_read_and_written);
    CU_add_test(suite, "bad layouts are refused", bad_layouts_are_refused);
    CU_add_test(suite, "runs have their sizes", runs_have_their_sizes);
}
