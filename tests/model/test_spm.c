/* Characters are merged by the score of what they make, and bytes stand in for what has no token.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/model/spm.h"
#include "tests/support/suite.h"

#define BLANK "\u2581"

/* A vocabulary of the texts, with scores or with falling ones 0, -1, -2, ... */
static aq_status open_texts(const char *const *texts, const double *scores, int n,
                            aq_vocabulary *v) {
    aq_tokenizer_source source = {.path = "test",
                                  .tokens_part = "tokens",
                                  .advice = "mend the test",
                                  .spelling = AQ_SPELT_SPM,
                                  .merging = AQ_MERGE_SCORED};
    aq_status status = aq_tokenizer_source_tokens(&source, n);
    for (int i = 0; status == AQ_OK && i < n; i++) {
        source.tokens[i].text = (aq_text){texts[i], strlen(texts[i])};
        source.tokens[i].score = (float)(scores ? scores[i] : -i);
    }
    if (status == AQ_OK) status = aq_vocabulary_open(&source, v);
    aq_tokenizer_source_close(&source);
    return status;
}

/* Whether a text becomes the tokens of these texts, given with commas between. */
static bool encodes_to(const aq_vocabulary *v, const char *text, size_t bytes, bool blank_first,
                       const char *expected) {
    aq_spm_work work = {0};
    char found[512] = "";
    size_t n = 0;
    bool good = aq_test_ok(aq_spm_encode(v, &work, text, bytes, blank_first));
    for (int64_t i = 0; good && i < work.n; i++) {
        const aq_token *token = &v->tokens[work.ids[i]];
        n += (size_t)snprintf(found + n, sizeof found - n, "%s%.*s", i > 0 ? "," : "",
                              (int)token->text_bytes, token->text);
    }
    aq_spm_work_free(&work);
    return good && strcmp(found, expected) == 0;
}

static bool gives(const aq_vocabulary *v, const char *text, const char *expected) {
    return encodes_to(v, text, strlen(text), false, expected);
}

static void test_score_decides(void) {
    static const char *const texts[] = {"a", "b", "c", "ab", "bc"};
    static const double bc_first[] = {0, 0, 0, -2, -1}, equal[] = {0, 0, 0, -1, -1};
    aq_vocabulary v;
    if (!aq_test_ok(open_texts(texts, bc_first, 5, &v))) return;
    CU_ASSERT_TRUE(gives(&v, "abc", "a,bc"));
    CU_ASSERT_FALSE(gives(&v, "abc", "ab,c")); /* what merging from the left would give */
    aq_vocabulary_close(&v);
    if (!aq_test_ok(open_texts(texts, equal, 5, &v))) return;
    CU_ASSERT_TRUE(gives(&v, "abc", "ab,c"));
    aq_vocabulary_close(&v);
}

/* Not the ids decide what is joined but the text: "b" has no token, "ab" has. "abab" is found only
 * by way of "ab". */
static void test_text_is_joined(void) {
    static const char *const texts[] = {"a", "ab", "abab", "xyz"};
    aq_vocabulary v;
    if (!aq_test_ok(open_texts(texts, NULL, 4, &v))) return;
    CU_ASSERT_TRUE(gives(&v, "abab", "abab"));
    CU_ASSERT_TRUE(gives(&v, "aab", "a,ab"));
    CU_ASSERT_TRUE(gives(&v, "xyz", "")); /* no token by which to get there, nor bytes */
    aq_vocabulary_close(&v);
}

static void test_blanks(void) {
    static const char *const texts[] = {"a", BLANK, BLANK "a", BLANK BLANK, "\n"};
    static const double scores[] = {0, 0, -1, -2, 0};
    aq_vocabulary v;
    if (!aq_test_ok(open_texts(texts, scores, 5, &v))) return;
    CU_ASSERT_TRUE(gives(&v, "a a", "a," BLANK "a"));
    CU_ASSERT_TRUE(gives(&v, "a   a", "a," BLANK BLANK "," BLANK "a"));
    CU_ASSERT_TRUE(encodes_to(&v, "a", 1, true, BLANK "a"));
    CU_ASSERT_TRUE(encodes_to(&v, " a", 2, true, BLANK "," BLANK "a"));
    CU_ASSERT_TRUE(encodes_to(&v, "", 0, true, BLANK));
    CU_ASSERT_TRUE(encodes_to(&v, "", 0, false, ""));
    CU_ASSERT_TRUE(gives(&v, "a\na", "a,\n,a"));
    aq_vocabulary_close(&v);
}

static void test_bytes(void) {
    static const char *const texts[] = {"<0x41>", "<0xE4>",       "<0xBD>", "<0xA0>",
                                        "a",      "\u4f60\u597d", "\u597d", "\xff"};
    aq_vocabulary v;
    if (!aq_test_ok(open_texts(texts, NULL, 8, &v))) return;
    CU_ASSERT_TRUE(gives(&v, "A", "<0x41>"));
    CU_ASSERT_TRUE(gives(&v, "a\u4f60a", "a,<0xE4>,<0xBD>,<0xA0>,a"));
    CU_ASSERT_TRUE(gives(&v, "\u4f60\u597d", "\u4f60\u597d"));
    CU_ASSERT_TRUE(gives(&v, "aBa", "a,a"));              /* B has no token, nor has its byte */
    CU_ASSERT_TRUE(gives(&v, "\xa0\xff", "<0xA0>,\xff")); /* no characters */
    CU_ASSERT_TRUE(gives(&v, "a\xe4\xbd", "a,<0xE4>,<0xBD>"));    /* cut short */
    CU_ASSERT_TRUE(gives(&v, "\xe4\xbd\x61", "<0xE4>,<0xBD>,a")); /* what follows is kept whole */
    aq_vocabulary_close(&v);
}

/* The definition, read out: as long as the joined text of neighbours is a token, those of the best
 * score are joined, the leftmost of equals; with `greedy`, the planted bug, the leftmost at all. */
static void merge_slowly(const char *const *texts, const double *scores, int n_text,
                         const char *text, bool greedy, char *expected) {
    size_t cuts[64], n = strlen(text), n_cut = n + 1, used = 0;
    for (size_t i = 0; i <= n; i++)
        cuts[i] = i;
    for (;;) {
        int best = -1;
        size_t at = 0;
        for (size_t i = 0; i + 2 < n_cut && !(greedy && best >= 0); i++)
            for (int t = 0; t < n_text; t++) {
                const size_t bytes = cuts[i + 2] - cuts[i];
                if (strlen(texts[t]) != bytes || memcmp(texts[t], text + cuts[i], bytes) != 0)
                    continue;
                if (best >= 0 && scores[t] <= scores[best]) continue;
                best = t;
                at = i;
            }
        if (best < 0) break;
        memmove(cuts + at + 1, cuts + at + 2, (n_cut - at - 2) * sizeof *cuts);
        n_cut--;
    }
    for (size_t i = 0; i + 1 < n_cut; i++)
        used += (size_t)sprintf(expected + used, "%s%.*s", i > 0 ? "," : "",
                                (int)(cuts[i + 1] - cuts[i]), text + cuts[i]);
    expected[used] = '\0';
}

/* Tokens "a" and "b" and ten random words of them; no word twice. */
static int random_words(aq_rng *rng, char words[12][8], const char **texts, double *scores) {
    int n = 0;
    for (int i = 0; i < 12; i++) {
        const size_t length = i < 2 ? 1 : 2 + aq_rng_next(rng) % 4;
        bool fresh = true;
        for (size_t j = 0; j < length; j++)
            words[n][j] = (char)('a' + (i < 2 ? (unsigned)i : aq_rng_next(rng) % 2));
        words[n][length] = '\0';
        for (int j = 0; j < n; j++)
            fresh = fresh && strcmp(words[j], words[n]) != 0;
        scores[n] = -(double)(aq_rng_next(rng) % 6); /* often equal */
        texts[n] = words[n];
        n += fresh;
    }
    return n;
}

static void test_random(void) {
    aq_rng rng = {13};
    int n_other = 0, n_wrong = 0;
    for (int round = 0; round < 1000; round++) {
        char words[12][8], text[48], expected[128];
        const char *texts[12];
        double scores[12];
        const int n = random_words(&rng, words, texts, scores);
        const size_t bytes = (size_t)(aq_rng_next(&rng) % 40);
        aq_vocabulary v;
        for (size_t i = 0; i < bytes; i++)
            text[i] = (char)('a' + aq_rng_next(&rng) % 2);
        text[bytes] = '\0';
        if (!aq_test_ok(open_texts(texts, scores, n, &v))) return;
        merge_slowly(texts, scores, n, text, false, expected);
        n_wrong += !gives(&v, text, expected);
        merge_slowly(texts, scores, n, text, true, expected);
        n_other += !gives(&v, text, expected);
        aq_vocabulary_close(&v);
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
    CU_ASSERT_TRUE(n_other > 300); /* the inputs tell the two orders apart */
}

/* One text of 2^18 characters, without blanks, joined level by level to pieces of 64. */
static void test_long_text(void) {
    enum { N = 1 << 18, LONGEST = 64 };
    char words[7][LONGEST + 1], *text = malloc(N);
    const char *texts[7];
    aq_vocabulary v;
    aq_spm_work work = {0};
    if (!text) return;
    memset(text, 'a', N);
    for (int i = 0; i < 7; i++) {
        memset(words[i], 'a', (size_t)1 << i);
        words[i][1 << i] = '\0';
        texts[i] = words[i];
    }
    if (aq_test_ok(open_texts(texts, NULL, 7, &v))) {
        for (int again = 0; again < 2; again++) { /* the memory is used again */
            CU_ASSERT_TRUE(aq_test_ok(aq_spm_encode(&v, &work, text, N, false)));
            CU_ASSERT_TRUE(work.n == N / LONGEST && work.ids[0] == 6 && work.ids[work.n - 1] == 6);
        }
        aq_vocabulary_close(&v);
    }
    aq_spm_work_free(&work);
    free(text);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "score decides", test_score_decides);
    CU_add_test(suite, "text is joined", test_text_is_joined);
    CU_add_test(suite, "blanks", test_blanks);
    CU_add_test(suite, "bytes", test_bytes);
    CU_add_test(suite, "random", test_random);
    CU_add_test(suite, "long text", test_long_text);
}
