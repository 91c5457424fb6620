/* Special tokens are cut out of a text longest first, and nothing else is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/model/special_tokens.h"
#include "tests/support/suite.h"

#define TOKEN(spelling, its_kind)                                                                  \
    { .text = (spelling), .text_bytes = sizeof(spelling) - 1, .kind = (its_kind) }

/* What a split gives, as "[3]text[0]". */
typedef struct {
    char text[512];
    size_t n;
    int fail_after; /* parts; negative: never */
    bool skip_text; /* show ids only */
} shown;

static aq_status show(void *arg, const char *part, size_t bytes, int32_t id) {
    shown *s = arg;
    if (s->fail_after-- == 0) return aq_fail(AQ_ERR_IO, "the sink is full");
    if (bytes == 0) CU_FAIL("an empty part");
    if (id >= 0)
        s->n += (size_t)snprintf(s->text + s->n, sizeof s->text - s->n, "[%d]", (int)id);
    else if (!s->skip_text)
        s->n += (size_t)snprintf(s->text + s->n, sizeof s->text - s->n, "%.*s", (int)bytes, part);
    return AQ_OK;
}

static aq_status split(const aq_vocabulary *v, const char *text, bool parse_special, shown *s) {
    aq_special_tokens special;
    AQ_TRY(aq_special_tokens_open(v, &special));
    const aq_status status =
        aq_special_tokens_split(&special, v, text, strlen(text), parse_special, show, s);
    aq_special_tokens_close(&special);
    return status;
}

static bool splits_to(const aq_vocabulary *v, const char *text, bool parse_special,
                      const char *expected) {
    shown s = {.fail_after = -1};
    if (!aq_test_ok(split(v, text, parse_special, &s))) return false;
    if (strcmp(s.text, expected) != 0) printf("  got %s, expected %s\n", s.text, expected);
    return strcmp(s.text, expected) == 0;
}

static aq_token chatml[] = {
    TOKEN("<|end|>", AQ_TOKEN_CONTROL), TOKEN("<|", AQ_TOKEN_NORMAL),
    TOKEN("<unk>", AQ_TOKEN_UNKNOWN),   TOKEN("  ", AQ_TOKEN_USER),
    TOKEN("    ", AQ_TOKEN_USER),       TOKEN("", AQ_TOKEN_CONTROL),
    TOKEN("<old>", AQ_TOKEN_UNUSED),    TOKEN("<0x0A>", AQ_TOKEN_BYTE),
};
static const aq_vocabulary chatml_vocabulary = {.tokens = chatml, .n = 8};

static void test_kinds(void) {
    const aq_vocabulary *v = &chatml_vocabulary;
    CU_ASSERT_TRUE(splits_to(v, "a<|end|>b<unk>", true, "a[0]b[2]"));
    CU_ASSERT_TRUE(splits_to(v, "a<|end|>b<unk>", false, "a<|end|>b<unk>"));
    CU_ASSERT_TRUE(splits_to(v, "x  y<|end|>", false, "x[3]y<|end|>"));
    CU_ASSERT_TRUE(splits_to(v, "<old><0x0A><|", true, "<old><0x0A><|"));
    CU_ASSERT_TRUE(splits_to(v, "<|end|", true, "<|end|"));
    CU_ASSERT_TRUE(splits_to(v, "", true, ""));
    CU_ASSERT_TRUE(splits_to(v, "<|end|><|end|>", true, "[0][0]"));
}

static void test_longest_first(void) {
    const aq_vocabulary *v = &chatml_vocabulary;
    CU_ASSERT_TRUE(splits_to(v, "x     y", false, "x[4] y"));      /* 5 blanks: 4 and 1 */
    CU_ASSERT_TRUE(splits_to(v, "x       y", false, "x[4][3] y")); /* 7: 4, 2 and 1 */
}

/* The longest wins although a shorter one begins before it; an equally long one of lower id wins.
 */
static void test_overlaps(void) {
    aq_token tokens[] = {TOKEN("bcd", AQ_TOKEN_CONTROL), TOKEN("ab", AQ_TOKEN_CONTROL),
                         TOKEN("cde", AQ_TOKEN_CONTROL)};
    const aq_vocabulary v = {.tokens = tokens, .n = 3};
    CU_ASSERT_TRUE(splits_to(&v, "abcde", true, "a[0]e"));
    CU_ASSERT_TRUE(splits_to(&v, "ab cde abcd", true, "[1] [2] a[0]"));
    aq_token self[] = {TOKEN("aba", AQ_TOKEN_CONTROL)};
    const aq_vocabulary w = {.tokens = self, .n = 1};
    CU_ASSERT_TRUE(splits_to(&w, "ababa", true, "[0]ba"));
    CU_ASSERT_TRUE(splits_to(&w, "abaaba", true, "[0][0]"));
}

static void test_sink_fails(void) {
    for (int n = 0; n < 3; n++) {
        shown s = {.fail_after = n};
        aq_test_fails(split(&chatml_vocabulary, "a<|end|>b", true, &s), AQ_ERR_IO, "sink is full");
    }
}

/* The rule, read out: for each token, longest first, every part of plain text is searched from left
 * to right. Parts are marked in `owner`: 0 is plain text. `in_order` is the planted bug: by id. */
static void split_slowly(const aq_token *tokens, int n_token, const char *text, bool in_order,
                         char *expected) {
    const size_t n = strlen(text);
    int owner[64] = {0};
    size_t used = 0;
    for (size_t length = in_order ? 1 : 8; length > 0; length--)
        for (int id = 0; id < n_token; id++)
            for (size_t at = 0; at + tokens[id].text_bytes <= n; at++) {
                const size_t bytes = tokens[id].text_bytes;
                bool free_here = in_order || bytes == length;
                for (size_t i = at; i < at + bytes; i++)
                    free_here = free_here && owner[i] == 0;
                if (!free_here || memcmp(text + at, tokens[id].text, bytes) != 0) continue;
                for (size_t i = at; i < at + bytes; i++)
                    owner[i] = id + 1;
            }
    for (size_t at = 0; at < n;) {
        if (owner[at] == 0) {
            expected[used++] = text[at++];
        } else {
            used += (size_t)snprintf(expected + used, 8, "[%d]", owner[at] - 1);
            at += tokens[owner[at] - 1].text_bytes;
        }
    }
    expected[used] = '\0';
}

static void random_text(aq_rng *rng, char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        text[i] = (char)('a' + aq_rng_next(rng) % 2);
    text[n] = '\0';
}

static void test_random(void) {
    aq_rng rng = {11};
    int n_other = 0, n_wrong = 0;
    for (int round = 0; round < 2000; round++) {
        char texts[5][8], text[64], expected[512];
        aq_token tokens[5] = {{0}};
        for (int i = 0; i < 5; i++) {
            random_text(&rng, texts[i], 2 + aq_rng_next(&rng) % 4);
            tokens[i].text = texts[i];
            tokens[i].text_bytes = (uint32_t)strlen(texts[i]);
            tokens[i].kind = AQ_TOKEN_CONTROL;
        }
        const aq_vocabulary v = {.tokens = tokens, .n = 5};
        random_text(&rng, text, aq_rng_next(&rng) % 60);
        shown s = {.fail_after = -1};
        if (!aq_test_ok(split(&v, text, true, &s))) return;
        split_slowly(tokens, 5, text, false, expected);
        n_wrong += strcmp(s.text, expected) != 0;
        split_slowly(tokens, 5, text, true, expected);
        n_other += strcmp(s.text, expected) != 0;
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
    CU_ASSERT_TRUE(n_other > 500); /* the inputs tell the two orders apart */
}

/* 20000 tokens that begin alike, and a text of that beginning: looking for one token after the
 * other would take minutes. */
static void test_many_tokens(void) {
    enum { N_TOKEN = 20000, N = 300000 };
    char(*texts)[24] = malloc(N_TOKEN * sizeof *texts), *text = malloc(N + 1);
    aq_token *tokens = calloc(N_TOKEN, sizeof *tokens);
    shown s = {.fail_after = -1};
    if (texts && text && tokens) {
        for (int i = 0; i < N_TOKEN; i++) {
            snprintf(texts[i], sizeof texts[i], "<<<<%d>", i);
            tokens[i].text = texts[i];
            tokens[i].text_bytes = (uint32_t)strlen(texts[i]);
            tokens[i].kind = AQ_TOKEN_USER;
        }
        const aq_vocabulary v = {.tokens = tokens, .n = N_TOKEN};
        memset(text, '<', N);
        memcpy(text + N - 7, "<<<<42>", 8);
        s.skip_text = true;
        CU_ASSERT_TRUE(aq_test_ok(split(&v, text, false, &s)));
        CU_ASSERT_STRING_EQUAL(s.text, "[42]");
    }
    free(texts);
    free(text);
    free(tokens);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "kinds", test_kinds);
    CU_add_test(suite, "longest first", test_longest_first);
    CU_add_test(suite, "overlaps", test_overlaps);
    CU_add_test(suite, "sink fails", test_sink_fails);
    CU_add_test(suite, "random", test_random);
    CU_add_test(suite, "many tokens", test_many_tokens);
}
