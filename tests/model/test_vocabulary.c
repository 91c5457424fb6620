/* Tokens stand for the bytes that the GPT-2 alphabet says, and broken vocabularies are refused. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/tokenizer_gguf.h"
#include "src/model/vocabulary.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/suite.h"

#define TOKENS "tokenizer.ggml.tokens"
#define TYPES  "tokenizer.ggml.token_type"
#define SCORES "tokenizer.ggml.scores"

/* The vocabulary that the writer holds. Ends the writer; the file is closed before it returns. */
static aq_status open_spelt(aq_gguf_writer *w, aq_spelling spelling, aq_vocabulary *v) {
    static const char *const merges[] = {"a b"}; /* nobody looks them up here */
    uint8_t *data;
    aq_gguf *file;
    aq_tokenizer_source source;
    *v = (aq_vocabulary){0};
    aq_gguf_put_text(w, "tokenizer.ggml.model", spelling == AQ_SPELT_SPM ? "llama" : "gpt2");
    aq_gguf_put_texts(w, "tokenizer.ggml.merges", merges, 1);
    aq_status status = aq_gguf_writer_open(w, &data, &file);
    if (status != AQ_OK) return status;
    status = aq_tokenizer_gguf_read(file, NULL, &source);
    if (status == AQ_OK) status = aq_vocabulary_open(&source, v);
    aq_tokenizer_source_close(&source);
    aq_gguf_close(file);
    if (data) memset(data, 'x', 8); /* nothing of the file is used any more */
    free(data);
    return status;
}

static aq_status open_writer(aq_gguf_writer *w, aq_vocabulary *v) {
    return open_spelt(w, AQ_SPELT_GPT2, v);
}

/* kinds NULL: the file has none. */
static aq_status open_texts(const char *const *texts, const int64_t *kinds, int64_t n,
                            aq_vocabulary *v) {
    aq_gguf_writer w = aq_gguf_writer_make();
    aq_gguf_put_texts(&w, TOKENS, texts, n);
    if (kinds) aq_gguf_put_ints(&w, TYPES, AQ_GGUF_I32, kinds, n);
    return open_writer(&w, v);
}

static bool piece_is(const aq_vocabulary *v, int32_t id, const char *bytes, size_t n) {
    return v->tokens[id].piece_bytes == n && memcmp(v->tokens[id].piece, bytes, n) == 0;
}

/* Ends of the alphabet's ranges, from its table: byte, then the character that spells it. */
static const struct {
    uint8_t byte;
    const char *spelt;
} alphabet[] = {
    {0x00, "\u0100"}, {0x0a, "\u010a"}, {0x20, "\u0120"}, {'!', "!"},       {'a', "a"},
    {'~', "~"},       {0x7f, "\u0121"}, {0x80, "\u0122"}, {0xa0, "\u0142"}, {0xa1, "\u00a1"},
    {0xac, "\u00ac"}, {0xad, "\u0143"}, {0xae, "\u00ae"}, {0xc4, "\u00c4"}, {0xff, "\u00ff"},
};
enum { N_SPELT = sizeof alphabet / sizeof *alphabet };

static void test_alphabet(void) {
    const char *texts[N_SPELT];
    aq_vocabulary v;
    int n_known = 0;
    for (int i = 0; i < N_SPELT; i++)
        texts[i] = alphabet[i].spelt;
    if (!aq_test_ok(open_texts(texts, NULL, N_SPELT, &v))) return;
    for (int i = 0; i < N_SPELT; i++) {
        CU_ASSERT_EQUAL(v.byte_ids[alphabet[i].byte], i);
        CU_ASSERT_TRUE(piece_is(&v, i, (const char *)&alphabet[i].byte, 1));
    }
    for (int byte = 0; byte < 256; byte++)
        n_known += v.byte_ids[byte] >= 0;
    CU_ASSERT_EQUAL(n_known, N_SPELT);
    aq_vocabulary_close(&v);
}

static void test_words(void) {
    static const char *const texts[] = {"\u0120the", "\u00e4\u00bd\u0142", "\u20acx", "\u0144",
                                        "a b",       "caf\u00c3\u00a9"};
    aq_vocabulary v;
    if (!aq_test_ok(open_texts(texts, NULL, 6, &v))) return;
    CU_ASSERT_TRUE(piece_is(&v, 0, " the", 4));
    CU_ASSERT_TRUE(piece_is(&v, 1, "\u4f60", 3));
    /* Outside the alphabet: the euro sign, the character behind its last one, a plain blank. */
    CU_ASSERT_TRUE(piece_is(&v, 2, "\u20acx", 4));
    CU_ASSERT_TRUE(piece_is(&v, 3, "\u0144", 2));
    CU_ASSERT_TRUE(piece_is(&v, 4, "a b", 3));
    CU_ASSERT_TRUE(piece_is(&v, 5, "caf\u00e9", 5));
    CU_ASSERT_EQUAL(aq_vocabulary_find_piece(&v, " the", 4), 0);
    CU_ASSERT_EQUAL(aq_vocabulary_find_piece(&v, "caf\u00e9", 5), 5);
    CU_ASSERT_EQUAL(aq_vocabulary_find_piece(&v, "a b", 3), -1);
    CU_ASSERT_EQUAL(aq_vocabulary_find_piece(&v, "the", 3), -1);
    CU_ASSERT_EQUAL(aq_vocabulary_find(&v, "\u0120the", 5), 0);
    CU_ASSERT_EQUAL(aq_vocabulary_find(&v, " the", 4), -1);
    aq_vocabulary_close(&v);
    CU_ASSERT_EQUAL(aq_vocabulary_find(&v, "\u0120the", 5), -1);
}

static void test_kinds(void) {
    static const char *const texts[] = {"\u0120a", "\u0120b", "\u0120c", "\u0120d", "\u0120e",
                                        "<0x0A>",  "<0xfg>",  "\u0120f", "\u0120g", "\u0120h"};
    static const int64_t kinds[] = {1, 2, 3, 4, 5, 6, 6, 0, 7, -3};
    aq_vocabulary v;
    if (!aq_test_ok(open_texts(texts, kinds, 10, &v))) return;
    CU_ASSERT_TRUE(piece_is(&v, 0, " a", 2));
    CU_ASSERT_TRUE(piece_is(&v, 1, "\u0120b", 3)); /* special tokens are spelt plainly */
    CU_ASSERT_TRUE(piece_is(&v, 2, "\u0120c", 3));
    CU_ASSERT_TRUE(piece_is(&v, 3, "\u0120d", 3));
    CU_ASSERT_TRUE(piece_is(&v, 4, " e", 2));
    CU_ASSERT_TRUE(piece_is(&v, 5, "\n", 1));
    CU_ASSERT_TRUE(piece_is(&v, 6, "<0xfg>", 6));
    for (int i = 7; i < 10; i++) /* numbers that are no kind */
        CU_ASSERT_EQUAL(v.tokens[i].kind, AQ_TOKEN_NORMAL);
    CU_ASSERT_EQUAL(aq_vocabulary_find_piece(&v, " a", 2), 0);
    CU_ASSERT_EQUAL(aq_vocabulary_find_piece(&v, "\u0120c", 3), -1);
    aq_vocabulary_close(&v);
}

#define DEEPSEEK_END "<\uff5cend\u2581of\u2581sentence\uff5c>"

/* Known texts are control tokens whatever the file says. */
static void test_known_texts(void) {
    static const char *const texts[] = {"<|im_end|>", "<|im_end|", "<|fim_prefix|>", DEEPSEEK_END,
                                        "<|im_start|>"};
    static const int64_t kinds[] = {1, 1, 4, 4, 1};
    static const bool ends[] = {true, false, false, true, false};
    static const aq_token_kind expected[] = {AQ_TOKEN_CONTROL, AQ_TOKEN_NORMAL, AQ_TOKEN_CONTROL,
                                             AQ_TOKEN_CONTROL, AQ_TOKEN_NORMAL};
    aq_vocabulary v;
    for (int typed = 0; typed < 2; typed++) {
        if (!aq_test_ok(open_texts(texts, typed ? kinds : NULL, 5, &v))) return;
        for (int i = 0; i < 5; i++) {
            CU_ASSERT_EQUAL(v.tokens[i].kind, expected[i]);
            CU_ASSERT_EQUAL(v.tokens[i].ends_turn, ends[i]);
        }
        aq_vocabulary_close(&v);
    }
}

/* Tokens without a text only fill their place; there may be several. */
static void test_empty_texts(void) {
    static const char *const texts[] = {"", "a", ""};
    aq_vocabulary v;
    if (!aq_test_ok(open_texts(texts, NULL, 3, &v))) return;
    CU_ASSERT_TRUE(piece_is(&v, 0, "", 0) && piece_is(&v, 2, "", 0));
    CU_ASSERT_EQUAL(aq_vocabulary_find(&v, "", 0), -1);
    CU_ASSERT_EQUAL(v.byte_ids['a'], 1);
    aq_vocabulary_close(&v);
}

static void test_refused(void) {
    static const char *const twice[] = {"a", "b", "a\0c"};
    static const int64_t two[] = {1, 1};
    static const double real[] = {1, 1, 1};
    aq_vocabulary v;
    aq_gguf_writer w = aq_gguf_writer_make();
    aq_test_fails(open_writer(&w, &v), AQ_ERR_FORMAT, "has no vocabulary");
    aq_test_fails(open_texts(twice, NULL, 0, &v), AQ_ERR_FORMAT, "missing or empty");
    aq_test_fails(open_texts(twice, NULL, 3, &v), AQ_ERR_FORMAT, "token 2, \"a\", is given twice");
    w = aq_gguf_writer_make();
    aq_gguf_put_texts(&w, TOKENS, twice, 2);
    aq_gguf_put_ints(&w, TYPES, AQ_GGUF_I32, two, 1);
    aq_test_fails(open_writer(&w, &v), AQ_ERR_FORMAT, "1 integers for 2 tokens");
    w = aq_gguf_writer_make();
    aq_gguf_put_texts(&w, TOKENS, twice, 2);
    aq_gguf_put_floats(&w, TYPES, AQ_GGUF_F32, real, 2);
    aq_test_fails(open_writer(&w, &v), AQ_ERR_FORMAT, "0 integers for 2 tokens");
    w = aq_gguf_writer_make();
    aq_gguf_put_ints(&w, TOKENS, AQ_GGUF_I32, two, 2);
    aq_test_fails(open_writer(&w, &v), AQ_ERR_FORMAT, "has no vocabulary");
    CU_ASSERT_PTR_NULL(v.tokens);
    aq_vocabulary_close(&v); /* harmless after a failure */
}

static void test_huge_token(void) {
    enum { LIMIT = 65536 };
    char *text = malloc(LIMIT + 2);
    const char *const texts[] = {"a", text};
    aq_vocabulary v;
    if (!text) return;
    memset(text, 'x', LIMIT + 1);
    text[LIMIT + 1] = '\0';
    aq_test_fails(open_texts(texts, NULL, 2, &v), AQ_ERR_FORMAT, "token 1 has 65537 bytes");
    text[LIMIT] = '\0';
    if (aq_test_ok(open_texts(texts, NULL, 2, &v)))
        CU_ASSERT_EQUAL(aq_vocabulary_find(&v, text, LIMIT), 1);
    aq_vocabulary_close(&v);
    free(text);
}

/* Texts that are no UTF-8, and cut short inside a character, keep their bytes. */
static void test_bad_texts(void) {
    static const char *const texts[] = {"\xff", "a\xc4", "\xc4\xa0\xc4", "\xed\xa0\x80"};
    aq_vocabulary v;
    if (!aq_test_ok(open_texts(texts, NULL, 4, &v))) return;
    CU_ASSERT_TRUE(piece_is(&v, 0, "\xff", 1));
    CU_ASSERT_TRUE(piece_is(&v, 1, "a\xc4", 2));
    CU_ASSERT_TRUE(piece_is(&v, 2, " \xc4", 2));
    CU_ASSERT_TRUE(piece_is(&v, 3, "\xed\xa0\x80", 3));
    CU_ASSERT_EQUAL(v.byte_ids[0xff], -1);
    aq_vocabulary_close(&v);
}

/* Five tokens with kinds, and scores of any number and kind. Ends nothing. */
static void put_spm(aq_gguf_writer *w, aq_gguf_kind kind, const double *scores, int64_t n) {
    static const char *const texts[] = {"\u2581the\u2581", "<0x0A>", "\u2581\u2581", "b",
                                        "\u0120\xe2\x96"};
    static const int64_t kinds[] = {1, 6, 4, 1, 1};
    *w = aq_gguf_writer_make();
    aq_gguf_put_texts(w, TOKENS, texts, 5);
    aq_gguf_put_ints(w, TYPES, AQ_GGUF_I32, kinds, 5);
    if (scores) aq_gguf_put_floats(w, SCORES, kind, scores, n);
}

static void test_spm(void) {
    static const double scores[] = {-1.5, 0, -1e30, 7, -0.25};
    aq_gguf_writer w;
    aq_vocabulary v;
    put_spm(&w, AQ_GGUF_F32, scores, 5);
    if (!aq_test_ok(open_spelt(&w, AQ_SPELT_SPM, &v))) return;
    CU_ASSERT_TRUE(piece_is(&v, 0, " the ", 5));
    CU_ASSERT_TRUE(piece_is(&v, 1, "\n", 1));
    CU_ASSERT_TRUE(piece_is(&v, 2, "\u2581\u2581", 6)); /* user-defined: spelt plainly */
    CU_ASSERT_TRUE(piece_is(&v, 4, "\u0120\xe2\x96", 4));
    CU_ASSERT_EQUAL(v.max_text_bytes, 9);
    CU_ASSERT_EQUAL(v.byte_ids['\n'], 1);
    CU_ASSERT_EQUAL(v.byte_ids['b'], 3); /* without "<0x62>", the token of that text */
    CU_ASSERT_EQUAL(v.byte_ids[' '], -1);
    for (int i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(v.scores[i], (float)scores[i]);
    aq_vocabulary_close(&v);
}

static void test_spm_scores_refused(void) {
    static const double scores[] = {0, 0, 0, NAN, 0, 0};
    aq_gguf_writer w;
    aq_vocabulary v;
    put_spm(&w, AQ_GGUF_F32, NULL, 0);
    aq_test_fails(open_spelt(&w, AQ_SPELT_SPM, &v), AQ_ERR_FORMAT, "0 numbers for 5 tokens");
    put_spm(&w, AQ_GGUF_F32, scores, 6);
    aq_test_fails(open_spelt(&w, AQ_SPELT_SPM, &v), AQ_ERR_FORMAT, "6 numbers for 5 tokens");
    put_spm(&w, AQ_GGUF_F64, scores, 5);
    aq_test_fails(open_spelt(&w, AQ_SPELT_SPM, &v), AQ_ERR_FORMAT, "token 3 is no number");
    put_spm(&w, AQ_GGUF_F32, NULL, 0); /* byte-level vocabularies need none */
    CU_ASSERT_TRUE(aq_test_ok(open_spelt(&w, AQ_SPELT_GPT2, &v)));
    aq_vocabulary_close(&v);
}

/* Of a source that names its kinds rightly, a known text is special only if it is cut out. */
static void test_known_if_added(void) {
    aq_source_token tokens[] = {{.text = {"<|im_end|>", 10}, .kind = AQ_TOKEN_NORMAL},
                                {.text = {"</s>", 4}, .kind = AQ_TOKEN_USER}};
    const aq_tokenizer_source source = {.path = "x",
                                        .tokens_part = "vocab",
                                        .advice = "",
                                        .merging = AQ_MERGE_SYMBOLS,
                                        .tokens = tokens,
                                        .n = 2};
    const aq_tokenizer_source empty = {.path = "x", .tokens_part = "vocab", .advice = "stop"};
    aq_vocabulary v;
    if (!aq_test_ok(aq_vocabulary_open(&source, &v))) return;
    CU_ASSERT_TRUE(v.tokens[0].kind == AQ_TOKEN_NORMAL && !v.tokens[0].ends_turn);
    CU_ASSERT_TRUE(v.tokens[1].kind == AQ_TOKEN_CONTROL && v.tokens[1].ends_turn);
    CU_ASSERT_PTR_NULL(v.scores);
    aq_vocabulary_close(&v);
    aq_test_fails(aq_vocabulary_open(&empty, &v), AQ_ERR_FORMAT, "vocab is empty; stop");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "alphabet", test_alphabet);
    CU_add_test(suite, "words", test_words);
    CU_add_test(suite, "kinds", test_kinds);
    CU_add_test(suite, "known texts", test_known_texts);
    CU_add_test(suite, "known if added", test_known_if_added);
    CU_add_test(suite, "empty texts", test_empty_texts);
    CU_add_test(suite, "refused", test_refused);
    CU_add_test(suite, "spm", test_spm);
    CU_add_test(suite, "spm scores refused", test_spm_scores_refused);
    CU_add_test(suite, "huge token", test_huge_token);
    CU_add_test(suite, "bad texts", test_bad_texts);
}
