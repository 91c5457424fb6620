/* The list of selectors against all layouts there are, written as one number of bits a block. */
#include "calib/selector.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/suite.h"

/* Bits of the blocks, first block first, as digits of `number` to base 5; -1 if they rise or there
 * are gaps. */
static int bits_of_number(int number, int d, int n_block) {
    int bits = 0, before = 4;
    for (int block = 0; block < n_block; block++, number /= 5) {
        const int b = number % 5;
        if (b > before) return -1;
        before = b;
        bits += b * ((block + 1) * d / n_block - block * d / n_block);
    }
    return bits;
}

/* How many layouts of d columns read more than `least` and at most `most` bits. */
static int count_layouts(int d, double least, double most) {
    const int n_block = d < 8 ? d : 8;
    int n_all = 1, count = 0;
    for (int block = 0; block < n_block; block++)
        n_all *= 5;
    for (int number = 0; number < n_all; number++) {
        const int bits = bits_of_number(number, d, n_block);
        count += bits > least && bits <= most;
    }
    return count;
}

static bool sound_static(const aq_selector *s, int d, double least, double most) {
    int before = 5, columns = 0;
    for (int i = 0; i < s->codes.n_segment; i++) {
        if (s->codes.segments[i].bits >= before || s->codes.segments[i].n < 1) return false;
        before = s->codes.segments[i].bits;
        columns += s->codes.segments[i].n;
    }
    const int bits = aq_selector_bits(s);
    return columns <= d && bits == aq_code_layout_bits(&s->codes) && bits > least && bits <= most;
}

static bool sound_dynamic(const aq_selector *s, int d, double most) {
    const int n = s->codes.segments[0].n, bits = s->codes.segments[0].bits;
    return s->codes.n_segment == 1 && n <= d && s->n_dynamic < n &&
           aq_selector_bits(s) == s->n_dynamic * bits && s->n_dynamic * bits <= most &&
           (s->n_dynamic + 1) * bits > most && aq_selector_stored(s) == n * bits / 8.0;
}

static void check_list(int d, double bytes) {
    const int n_block = d < 8 ? d : 8;
    const double most = 8 * bytes, least = most - (d + n_block - 1) / n_block;
    aq_selector *list;
    int n, n_static = 0;
    if (!aq_test_ok(aq_selector_list(d, bytes, &list, &n))) return;
    for (int i = 0; i < n; i++) {
        n_static += list[i].n_dynamic == 0;
        if (list[i].n_dynamic == 0) CU_ASSERT_TRUE(sound_static(&list[i], d, least, most));
        if (list[i].n_dynamic > 0) CU_ASSERT_TRUE(sound_dynamic(&list[i], d, most));
        for (int j = 0; j < i; j++)
            CU_ASSERT_NOT_EQUAL(memcmp(&list[i], &list[j], sizeof *list), 0);
    }
    CU_ASSERT_EQUAL(n_static, count_layouts(d, least, most));
    CU_ASSERT_NOT_EQUAL(n_static, count_layouts(d, least - 8, most)); /* planted: a byte more */
    free(list);
}

static void test_lists(void) {
    check_list(64, 18);
    check_list(64, 12);
    check_list(64, 32);
    check_list(64, 1);
    check_list(256, 32);
    check_list(16, 5);
    check_list(80, 17.5);
    check_list(12, 4);
    check_list(5, 2);
}

/* What is known to be good is among those of 18 bytes. */
static void test_known(void) {
    aq_selector *list;
    aq_code_layout known;
    int n, found = 0;
    aq_test_ok(aq_code_layout_parse("16x4,32x2,16x1", &known));
    if (!aq_test_ok(aq_selector_list(64, 18, &list, &n))) return;
    for (int i = 0; i < n; i++)
        found += list[i].n_dynamic == 0 && memcmp(&list[i].codes, &known, sizeof known) == 0;
    CU_ASSERT_EQUAL(found, 1);
    free(list);
}

static void test_refused(void) {
    static const double bytes[] = {0.5, 0, -1, 33, 0.0 / 0.0};
    aq_selector *list;
    int n;
    for (int i = 0; i < 5; i++) {
        aq_test_fails(aq_selector_list(64, bytes[i], &list, &n), AQ_ERR_USAGE, "give 1 to 32");
        CU_ASSERT_PTR_NULL(list);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "all layouts and no others", test_lists);
    CU_add_test(suite, "a known layout", test_known);
    CU_add_test(suite, "bytes out of range", test_refused);
}
