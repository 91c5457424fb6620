/* Merging is by rank, of equal ranks leftmost, and takes no square of the length. */
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/model/bpe.h"
#include "tests/support/suite.h"

enum { A, B, C, D, AB, BC, ABC, AA, AAAA };

/* Whether ids[n], merged by the rules, are expected[n_expected]. */
static bool merges_to(const aq_bpe_rule *rules, int n_rule, const int32_t *ids, int64_t n,
                      const int32_t *expected, int64_t n_expected) {
    int32_t work_ids[64];
    aq_bpe bpe;
    aq_bpe_work work = {0};
    bool good = aq_test_ok(aq_bpe_make(n_rule, &bpe));
    if (!good) return false;
    for (int i = 0; i < n_rule; i++)
        aq_bpe_add(&bpe, rules[i]);
    memcpy(work_ids, ids, (size_t)n * sizeof *ids);
    good = aq_test_ok(aq_bpe_merge(&bpe, &work, work_ids, &n)) && n == n_expected &&
           memcmp(work_ids, expected, (size_t)n * sizeof *ids) == 0;
    aq_bpe_work_free(&work);
    aq_bpe_free(&bpe);
    return good;
}

#define MERGES_TO(rules, n_rule, ids, expected)                                                    \
    merges_to(rules, n_rule, ids, sizeof(ids) / sizeof *(ids), expected,                           \
              sizeof(expected) / sizeof *(expected))

/* From left to right, or longest first, "abc" would become "ab c". */
static void test_rank_decides(void) {
    static const aq_bpe_rule bc_first[] = {{A, B, 1, AB}, {B, C, 0, BC}};
    static const aq_bpe_rule ab_first[] = {{A, B, 0, AB}, {B, C, 1, BC}};
    static const int32_t abc[] = {A, B, C}, a_bc[] = {A, BC}, ab_c[] = {AB, C};
    CU_ASSERT_TRUE(MERGES_TO(bc_first, 2, abc, a_bc));
    CU_ASSERT_TRUE(MERGES_TO(ab_first, 2, abc, ab_c));
    CU_ASSERT_FALSE(MERGES_TO(bc_first, 2, abc, ab_c)); /* a wrong result is noticed */
}

/* A pair that only comes about by a merge, with a lower rank than the merge had. */
static void test_new_pairs(void) {
    static const aq_bpe_rule rules[] = {{B, C, 5, BC}, {A, BC, 0, ABC}, {C, D, 6, AB}};
    static const int32_t abcd[] = {A, B, C, D}, abc_d[] = {ABC, D};
    CU_ASSERT_TRUE(MERGES_TO(rules, 3, abcd, abc_d));
}

static void test_leftmost_of_equals(void) {
    static const aq_bpe_rule rules[] = {{A, A, 0, AA}, {AA, AA, 1, AAAA}};
    static const int32_t a[] = {A, A, A, A, A, A, A}, three[] = {AA, A}, seven[] = {AAAA, AA, A};
    CU_ASSERT_TRUE(merges_to(rules, 2, a, 3, three, 2));
    CU_ASSERT_TRUE(MERGES_TO(rules, 2, a, seven));
}

static void test_first_rule_counts(void) {
    static const aq_bpe_rule rules[] = {{A, B, 3, AB}, {A, B, 0, D}, {B, C, 1, BC}};
    static const int32_t ab[] = {A, B}, only_ab[] = {AB}, abc[] = {A, B, C}, a_bc[] = {A, BC};
    CU_ASSERT_TRUE(MERGES_TO(rules, 3, ab, only_ab));
    CU_ASSERT_TRUE(MERGES_TO(rules, 3, abc, a_bc)); /* its rank too */
}

static void test_negative_ids_part(void) {
    static const aq_bpe_rule rules[] = {{A, B, 0, AB}};
    static const int32_t ids[] = {A, -1, B, A, B, -1}, expected[] = {A, -1, B, AB, -1};
    CU_ASSERT_TRUE(MERGES_TO(rules, 1, ids, expected));
}

static void test_small(void) {
    static const int32_t ids[] = {A, B};
    CU_ASSERT_TRUE(merges_to(NULL, 0, ids, 0, ids, 0));
    CU_ASSERT_TRUE(merges_to(NULL, 0, ids, 1, ids, 1));
    CU_ASSERT_TRUE(merges_to(NULL, 0, ids, 2, ids, 2));
}

/* The definition, read out: as long as there is a pair with a rule, the best one is joined. With
 * `greedy`, the planted bug: the leftmost one is. */
static int64_t merge_slowly(const aq_bpe_rule *rules, int n_rule, int32_t *ids, int64_t n,
                            bool greedy) {
    for (;;) {
        const aq_bpe_rule *best = NULL;
        int64_t at = 0;
        for (int64_t i = 0; i + 1 < n && !(greedy && best); i++)
            for (int r = 0; r < n_rule; r++)
                if (rules[r].left == ids[i] && rules[r].right == ids[i + 1] &&
                    (!best || rules[r].rank < best->rank)) {
                    best = &rules[r];
                    at = i;
                }
        if (!best) return n;
        ids[at] = best->result;
        n--;
        memmove(ids + at + 1, ids + at + 2, (size_t)(n - at - 1) * sizeof *ids);
    }
}

/* Rule r joins two symbols before it to symbol 3 + r; each pair has one rule. */
static int random_rules(aq_rng *rng, aq_bpe_rule *rules, int n_rule) {
    int n = 0;
    for (int r = 0; r < n_rule; r++) {
        const int32_t left = (int32_t)(aq_rng_next(rng) % (uint64_t)(3 + n));
        const int32_t right = (int32_t)(aq_rng_next(rng) % (uint64_t)(3 + n));
        bool fresh = true;
        for (int i = 0; i < n; i++)
            fresh = fresh && !(rules[i].left == left && rules[i].right == right);
        if (!fresh) continue;
        rules[n] = (aq_bpe_rule){left, right, (int32_t)(aq_rng_next(rng) % 1000) * 16 + n, 3 + n};
        n++;
    }
    return n;
}

static void test_random(void) {
    aq_rng rng = {7};
    int n_other = 0, n_wrong = 0;
    for (int round = 0; round < 3000; round++) {
        aq_bpe_rule rules[12];
        int32_t ids[40], expected[40], other[40];
        const int n_rule = random_rules(&rng, rules, 12);
        const int64_t n = (int64_t)(aq_rng_next(&rng) % 40);
        for (int64_t i = 0; i < n; i++)
            ids[i] = expected[i] = other[i] = (int32_t)(aq_rng_next(&rng) % 3);
        const int64_t n_expected = merge_slowly(rules, n_rule, expected, n, false);
        const int64_t n_greedy = merge_slowly(rules, n_rule, other, n, true);
        n_wrong += !merges_to(rules, n_rule, ids, n, expected, n_expected);
        n_other += !merges_to(rules, n_rule, ids, n, other, n_greedy);
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
    CU_ASSERT_TRUE(n_other > 1000); /* the inputs tell the two orders apart */
}

/* 2^18 equal symbols become one. With one search of the text a merge that is 2^35 steps. */
static void test_long_word(void) {
    enum { LEVELS = 18 };
    int64_t n = (int64_t)1 << LEVELS;
    int32_t *ids = calloc((size_t)n, sizeof *ids);
    aq_bpe bpe;
    aq_bpe_work work = {0};
    if (!ids || !aq_test_ok(aq_bpe_make(LEVELS, &bpe))) {
        free(ids);
        return;
    }
    for (int32_t level = 0; level < LEVELS; level++)
        aq_bpe_add(&bpe, (aq_bpe_rule){level, level, level, level + 1});
    CU_ASSERT_TRUE(aq_test_ok(aq_bpe_merge(&bpe, &work, ids, &n)));
    CU_ASSERT_TRUE(n == 1 && ids[0] == LEVELS);
    aq_bpe_work_free(&work);
    aq_bpe_free(&bpe);
    free(ids);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "rank decides", test_rank_decides);
    CU_add_test(suite, "new pairs", test_new_pairs);
    CU_add_test(suite, "leftmost of equals", test_leftmost_of_equals);
    CU_add_test(suite, "first rule counts", test_first_rule_counts);
    CU_add_test(suite, "negative ids part", test_negative_ids_part);
    CU_add_test(suite, "small", test_small);
    CU_add_test(suite, "random", test_random);
    CU_add_test(suite, "long word", test_long_word);
}
