/* Texts are cut as the expressions say; the expected cuts are derived from them by hand. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/model/pretokenizer.h"
#include "tests/support/suite.h"

#define BAR       "_" /* stands between the pieces of an expected cut */
#define SHOW_ROOM 1024

static const char *const names[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "default"};
enum { N_NAME = sizeof names / sizeof *names };

typedef struct {
    char text[SHOW_ROOM];
    size_t n;
    int fail_after; /* pieces; negative: never */
} shown;

static aq_status show(void *arg, const char *piece, size_t bytes) {
    shown *s = arg;
    if (s->fail_after-- == 0) return aq_fail(AQ_ERR_IO, "the sink is full");
    const char *bar = s->n > 0 ? BAR : "";
    if (s->n + strlen(bar) + bytes >= sizeof s->text) return aq_fail(AQ_ERR_IO, "too long");
    memcpy(s->text + s->n, bar, strlen(bar));
    memcpy(s->text + s->n + strlen(bar), piece, bytes);
    s->n += strlen(bar) + bytes;
    s->text[s->n] = '\0';
    return AQ_OK;
}

static aq_pretokenizer *open_named(const char *name) {
    aq_pretokenizer *pre = NULL;
    const aq_pretokenizer_rules *rules = aq_pretokenizer_find(name, strlen(name));
    CU_ASSERT_PTR_NOT_NULL(rules);
    if (rules) aq_test_ok(aq_pretokenizer_open(rules, &pre));
    return pre;
}

/* Whether the pre-tokeniser cuts the expected pieces' text into them. */
static bool cuts(const char *name, const char *expected) {
    char text[SHOW_ROOM];
    size_t n = 0;
    shown s = {"", 0, -1};
    for (const char *from = expected; *from; from++) {
        if (strncmp(from, BAR, strlen(BAR)) == 0)
            from += strlen(BAR) - 1;
        else
            text[n++] = *from;
    }
    aq_pretokenizer *pre = open_named(name);
    const bool good = pre && aq_test_ok(aq_pretokenizer_split(pre, text, n, show, &s));
    aq_pretokenizer_close(pre);
    return good && strcmp(s.text, expected) == 0;
}

/* Whether one stage of this behavior cuts a text so. */
static bool stage_cuts(aq_pretokenizer_stage stage, int behavior, const char *text,
                       const char *expected) {
    aq_pretokenizer *pre;
    shown s = {"", 0, -1};
    stage.behavior = (aq_split_behavior)behavior;
    if (!aq_test_ok(aq_pretokenizer_open_stages(&stage, 1, &pre))) return false;
    const bool good = aq_test_ok(aq_pretokenizer_split(pre, text, strlen(text), show, &s));
    aq_pretokenizer_close(pre);
    return good && strcmp(s.text, expected) == 0;
}

static void expect_cuts(const char *name, const char *const *expected) {
    for (; *expected; expected++) {
        const bool good = cuts(name, *expected);
        CU_ASSERT_TRUE(good);
        if (!good) printf("  %s is not cut as %s\n", name, *expected);
    }
}

static void test_gpt2(void) {
    static const char *const expected[] = {
        "I_'m_ fine_,_ _ you_'ve_ 12_ cats_!!_\n_\n_Ok_ \t_ x",
        "DON_'_T_ we_'ll_ it_'s",
        "12345_abc_ 678",
        "½²Ⅻ_日本語テキスト",
        "ह_ि_न_्_द_ी", /* signs of vowels are no letters */
        "end_  ",
        "a_\xc2\xa0_b",
        " _ \xe1\xa0\x8e", /* U+180E is no space since Unicode 6.3 */
        "==_x_->_y_;_\r_\n_z",
        "",
        NULL,
    };
    static const char *const same[] = {"olmo", "mpt", "jais"};
    expect_cuts("gpt-2", expected);
    for (int i = 0; i < 3; i++)
        expect_cuts(same[i], expected);
    CU_ASSERT_FALSE(cuts("gpt-2", "1_2")); /* a wrong cut is noticed */
}

static void test_digits_alone(void) {
    static const char *const expected[] = {"x_ _1_2_,_3", "a_  _1",
                                           "1_½_२", /* numbers of any script */
                                           "no_ digits_!", NULL};
    static const char *const same[] = {"smollm", "starcoder", "refact", "command-r"};
    for (int i = 0; i < 4; i++)
        expect_cuts(same[i], expected);
}

static void test_llama3(void) {
    static const char *const expected[] = {
        "I_'M_ DON_'T_ _123_45_ a_\n\n_ _ b",
        "(hello_)_ x_=_1_;\n\n_y",
        " \n \n_ x",
        "a_\xc2\xa0\x62",
        "'ſ_ '_ '_re_ we_'RE", /* only English contractions, without a blank inside */
        "१२३_४",
        NULL,
    };
    static const char *const same[] = {"llama-bpe", "llama3", "llama-v3",
                                       "falcon3",   "dbrx",   "smaug-bpe"};
    for (int i = 0; i < 6; i++)
        expect_cuts(same[i], expected);
}

static void test_qwen2(void) {
    static const char *const expected[] = {"1_2_3_4_ _5_ I_'LL", " (_see_)\n_x", "\t_\tx", "(see_)",
                                           NULL};
    expect_cuts("qwen2", expected);
    expect_cuts("deepseek-r1-qwen", expected);
    CU_ASSERT_FALSE(cuts("llama-bpe", expected[0]));
}

static void test_tekken(void) {
    static const char *const expected[] = {
        "Hello_World_ HTTPServer_ parse_JSON",
        "a_1_2",
        "a_/b_//\n/_c",
        "don_'t",
        "ECOLEs_Ete_ ÉCOLEsÉté",
        "x_\n\n_ _ y",
        NULL,
    };
    expect_cuts("tekken", expected);
}

static void test_default(void) {
    static const char *const expected[] = {"Hello_,_ world_!_ a_+_b_=_c_ _123_45_ _3_._14",
                                           "it_'_s", "``_x", "१२३४_ _123_456_7", NULL};
    expect_cuts("default", expected);
}

/* Letters, numbers and punctuation that PCRE2 10.42 does not know: U+31350, U+1E4F0, U+11F43. */
static void test_unicode_15(void) {
    CU_ASSERT_TRUE(cuts("gpt-2", "a\xf0\xb1\x8d\x90_ \xf0\xb1\x8d\x90"));
    CU_ASSERT_TRUE(cuts("gpt-2", "1\xf0\x9e\x93\xb0_x"));
    CU_ASSERT_TRUE(cuts("smollm", "\xf0\x9e\x93\xb0_\xf0\x9e\x93\xb0"));
    CU_ASSERT_TRUE(cuts("default", "a_$\xf0\x91\xbd\x83_b"));
    CU_ASSERT_TRUE(cuts("gpt-2", "a_\xf4\x8f\xbf\xbf_b")); /* U+10FFFF is in no class */
}

/* A byte that is no character counts as one that is no letter, number or space. */
static void test_bad_bytes(void) {
    CU_ASSERT_TRUE(cuts("gpt-2", "a_\xff_ b"));
    CU_ASSERT_TRUE(cuts("gpt-2", " _ \xff!_b"));
    CU_ASSERT_TRUE(cuts("gpt-2", "a_\xe4\xbd"));             /* cut short */
    CU_ASSERT_TRUE(cuts("gpt-2", "a_\xc0\xaf\xed\xa0\x80")); /* overlong; a surrogate */
    CU_ASSERT_TRUE(cuts("default", "a_\xff_!_b"));
    CU_ASSERT_TRUE(cuts("llama-bpe", "\xff"
                                     "a_1"));
}

typedef struct {
    const char *text;
    size_t at;
    bool good;
} covering;

static aq_status cover(void *arg, const char *piece, size_t bytes) {
    covering *c = arg;
    c->good = c->good && bytes > 0 && piece == c->text + c->at;
    c->at += bytes;
    return AQ_OK;
}

static bool covers(const aq_pretokenizer *pre, const char *text, size_t bytes) {
    covering c = {text, 0, true};
    return aq_test_ok(aq_pretokenizer_split(pre, text, bytes, cover, &c)) && c.good &&
           c.at == bytes;
}

static void test_pieces_cover_any_bytes(void) {
    aq_rng rng = {3};
    for (int i = 0; i < N_NAME; i++) {
        aq_pretokenizer *pre = open_named(names[i]);
        bool good = pre != NULL;
        for (int round = 0; good && round < 500; round++) {
            char text[64];
            const size_t n = (size_t)(aq_rng_next(&rng) % sizeof text);
            for (size_t j = 0; j < n; j++) /* half of them ASCII */
                text[j] =
                    (char)(aq_rng_next(&rng) >> (round % 2 ? 33 : 32) & (round % 2 ? 127 : 255));
            good = covers(pre, text, n);
        }
        CU_ASSERT_TRUE(good);
        aq_pretokenizer_close(pre);
    }
}

/* Runs of a million characters: no limit of the matcher is hit, and no time squared in them. */
static void test_long_runs(void) {
    static const char *const units[] = {"a", "A",        " ",   "\n", "1",
                                        "!", "\xc3\xa9", " \n", "'",  "\xff"};
    const size_t n = 1000000;
    char *text = malloc(n + 1);
    if (!text) return;
    for (int i = 0; i < N_NAME; i++) {
        aq_pretokenizer *pre = open_named(names[i]);
        for (size_t u = 0; pre && u < sizeof units / sizeof *units; u++) {
            for (size_t j = 0; j < n; j++)
                text[j] = units[u][j % strlen(units[u])];
            text[n] = 'x'; /* what follows a run of spaces decides its cut */
            CU_ASSERT_TRUE(covers(pre, text, n + 1));
        }
        aq_pretokenizer_close(pre);
    }
    free(text);
}

static void test_sink_fails(void) {
    aq_pretokenizer *pre = open_named("smollm");
    for (int n = 0; pre && n < 4; n++) {
        shown s = {"", 0, n};
        aq_test_fails(aq_pretokenizer_split(pre, "a 12 b", 6, show, &s), AQ_ERR_IO, "sink is full");
    }
    aq_pretokenizer_close(pre);
}

static void test_names(void) {
    const aq_pretokenizer_rules *llama3 = aq_pretokenizer_find("llama-bpe", 9);
    const aq_pretokenizer_rules *tekken = aq_pretokenizer_find("tekken", 6);
    const aq_pretokenizer_rules *dbrx = aq_pretokenizer_find("dbrx", 4);
    const aq_pretokenizer_rules *qwen2 = aq_pretokenizer_find("qwen2 is cut", 5);
    CU_ASSERT_TRUE(llama3 && llama3->ignore_merges && llama3->adds_bos);
    CU_ASSERT_TRUE(tekken && tekken->ignore_merges && tekken->adds_bos);
    CU_ASSERT_TRUE(dbrx && !dbrx->ignore_merges && !dbrx->adds_bos);
    CU_ASSERT_TRUE(qwen2 && !qwen2->ignore_merges && !qwen2->adds_bos);
    CU_ASSERT_PTR_NULL(aq_pretokenizer_find("qwen", 4));
    CU_ASSERT_PTR_NULL(aq_pretokenizer_find("qwen2 ", 6));
    CU_ASSERT_PTR_NULL(aq_pretokenizer_find("", 0));
    aq_pretokenizer_close(NULL);
}

/* Each way to treat a match; the tokenizers package gives the same. */
static void test_behaviors(void) {
    static const aq_pretokenizer_stage dash = {"-", AQ_PATTERN_LITERAL, 0, false},
                                       letter = {"[a-c]", AQ_PATTERN_ONIGURUMA, 0, true},
                                       word = {"ab", AQ_PATTERN_LITERAL, 0, false};
    static const struct {
        const char *dashes, *letters, *words; /* cuts of --a--b-c-, --a--bc-, abab.ab */
    } expected[] = {{"-_-_a_-_-_b_-_c_-", "--_a_--_b_c_-", "ab_ab_._ab"},
                    {"a_b_c", "a_b_c", "."},
                    {"-_-_a-_-_b-_c-", "--_a--_b_c-", "ab_ab_.ab"},
                    {"-_-a_-_-b_-c_-", "--a_--b_c_-", "ab_ab._ab"},
                    {"--_a_--_b_-_c_-", "--_a_--_bc_-", "abab_._ab"}};
    for (int b = 0; b < 5; b++) {
        CU_ASSERT_TRUE(stage_cuts(dash, b, "--a--b-c-", expected[b].dashes));
        CU_ASSERT_TRUE(stage_cuts(letter, b, "--a--bc-", expected[b].letters));
        CU_ASSERT_TRUE(stage_cuts(word, b, "abab.ab", expected[b].words));
    }
    CU_ASSERT_FALSE(stage_cuts(word, AQ_SPLIT_ISOLATED, "abab.ab", expected[4].words));
}

/* Expressions of a file that match nothing, are malformed, or go on for ever. */
static void test_unfit_expressions(void) {
    static const aq_pretokenizer_stage unfit[] = {{"a*", AQ_PATTERN_ONIGURUMA, 0, false},
                                                  {"(a", AQ_PATTERN_ONIGURUMA, 0, false},
                                                  {"\\w", AQ_PATTERN_ONIGURUMA, 0, false},
                                                  {"", AQ_PATTERN_LITERAL, 0, false},
                                                  {"\xff", AQ_PATTERN_LITERAL, 0, false}};
    const aq_pretokenizer_stage slow = {"(?:(?:a|aa)+)+[bc]", AQ_PATTERN_ONIGURUMA, 0, false};
    char text[64];
    aq_pretokenizer *pre;
    shown s = {"", 0, -1};
    for (int i = 0; i < 5; i++)
        aq_test_fails(aq_pretokenizer_open_stages(&unfit[i], 1, &pre), AQ_ERR_UNSUPPORTED,
                      "expression");
    memset(text, 'a', sizeof text);
    text[0] = 'b'; /* or the library sees that no match is possible */
    if (!aq_test_ok(aq_pretokenizer_open_stages(&slow, 1, &pre))) return;
    aq_test_fails(aq_pretokenizer_split(pre, text, sizeof text, show, &s), AQ_ERR_LIMIT,
                  "too many ways");
    aq_pretokenizer_close(pre);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "gpt-2", test_gpt2);
    CU_add_test(suite, "digits alone", test_digits_alone);
    CU_add_test(suite, "llama 3", test_llama3);
    CU_add_test(suite, "qwen2", test_qwen2);
    CU_add_test(suite, "tekken", test_tekken);
    CU_add_test(suite, "default", test_default);
    CU_add_test(suite, "unicode 15", test_unicode_15);
    CU_add_test(suite, "bad bytes", test_bad_bytes);
    CU_add_test(suite, "pieces cover any bytes", test_pieces_cover_any_bytes);
    CU_add_test(suite, "long runs", test_long_runs);
    CU_add_test(suite, "behaviors", test_behaviors);
    CU_add_test(suite, "unfit expressions", test_unfit_expressions);
    CU_add_test(suite, "sink fails", test_sink_fails);
    CU_add_test(suite, "names", test_names);
}
