/* Texts become the ids that were worked out by hand, or that llama-tokenize gives for a real model,
 * and ids become the same bytes again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/model/tokenizer.h"
#include "tests/support/suite.h"
#include "tests/support/tiny_model.h"
#include "tests/support/token_corpus.h"

/* The tokeniser that the writer holds. Ends the writer; the file is closed before it returns. */
static aq_status open_writer(aq_gguf_writer *w, const char *pre, aq_tokenizer **out) {
    uint8_t *data;
    aq_gguf *file;
    aq_status status = aq_gguf_writer_open(w, &data, &file);
    *out = NULL;
    if (status != AQ_OK) return status;
    status = aq_tokenizer_open_as(file, pre, out);
    aq_gguf_close(file);
    if (data) memset(data, 'x', 8); /* nothing of the file is used any more */
    free(data);
    return status;
}

/* A writer that leaves out one key of the tiny model, for the caller to put. */
static aq_gguf_writer tiny_without(const char *key) {
    const aq_tiny_model shape = aq_tiny_model_default();
    aq_gguf_writer w = aq_gguf_writer_make();
    w.skip = key;
    aq_test_ok(aq_tiny_model_put(&w, &shape));
    w.skip = NULL;
    return w;
}

static aq_tokenizer *open_tiny(void) {
    aq_gguf_writer w = tiny_without(NULL);
    aq_tokenizer *tok;
    aq_test_ok(open_writer(&w, NULL, &tok));
    return tok;
}

static bool gives(const aq_tokenizer *tok, const char *text, const char *expected) {
    return aq_test_encodes_to(tok, text, strlen(text), true, expected);
}

/* The tiny model's merges, in order: " t", "he", " the", "in", "er", "an", " a", "on" are 259 on.
 */
static void test_ids(void) {
    aq_tokenizer *tok = open_tiny();
    if (!tok) return;
    CU_ASSERT_TRUE(gives(tok, "", ""));
    CU_ASSERT_TRUE(gives(tok, " the", "261"));
    CU_ASSERT_TRUE(gives(tok, "then", "116 260 110"));
    CU_ASSERT_TRUE(gives(tok, "her", "260 114")); /* "he" is of lower rank than "er" */
    CU_ASSERT_TRUE(gives(tok, " an", "32 264"));  /* "an" than " a", which stands further left */
    CU_ASSERT_TRUE(gives(tok, " a n", "265 32 110")); /* no merge across pieces */
    CU_ASSERT_TRUE(gives(tok, "in12", "262 49 50"));
    CU_ASSERT_TRUE(gives(tok, "\xc3\xa9\xff", "195 169 255"));
    CU_ASSERT_TRUE(aq_test_encodes_to(tok, "a\0b", 3, true, "97 0 98"));
    char *line = aq_test_line_of(tok, " an", 3, true);
    CU_ASSERT_TRUE(line &&
                   strcmp(line, "265 110") != 0); /* what merging from the left would give */
    free(line);
    aq_tokenizer_close(tok);
}

/* Wrong ids, missing ids and ids too many are noticed. */
static void test_can_fail(void) {
    static const char *const wrong[] = {"116 260 111", "116 260", "116 260 110 0", ""};
    aq_tokenizer *tok = open_tiny();
    char *line = tok ? aq_test_line_of(tok, "then", 4, true) : NULL;
    for (int i = 0; line && i < 4; i++)
        CU_ASSERT_NOT_EQUAL(strcmp(line, wrong[i]), 0);
    free(line);
    aq_tokenizer_close(tok);
}

static void test_special_tokens(void) {
    aq_tokenizer *tok = open_tiny();
    if (!tok) return;
    const char *text = "<|im_start|>the<|im_end|>";
    const char *plain = "60 124 105 109 95 115 116 97 114 116 124 62 116 260 60 124 105 109 95 101 "
                        "110 100 124 62";
    CU_ASSERT_TRUE(aq_test_encodes_to(tok, text, strlen(text), true, "257 116 260 258"));
    CU_ASSERT_TRUE(aq_test_encodes_to(tok, text, strlen(text), false, plain));
    aq_tokenizer_close(tok);
}

static void test_list_grows(void) {
    aq_tokenizer *tok = open_tiny();
    aq_token_list list = {NULL, 0, 0};
    if (!tok) return;
    aq_test_ok(aq_token_list_push(&list, 7));
    for (int i = 0; i < 1000; i++)
        aq_test_ok(aq_tokenizer_encode(tok, " the", 4, true, &list));
    CU_ASSERT_EQUAL(list.n, 1001);
    CU_ASSERT_TRUE(list.n == 1001 && list.ids[0] == 7 && list.ids[1] == 261 &&
                   list.ids[1000] == 261);
    free(list.ids);
    aq_tokenizer_close(tok);
}

static void test_round_trip(void) {
    static const char *const parts[] = {
        "<|im_start|>", "<|im_", " the", "\xe0\xa4",        "\xc3\xa9", " ",
        "\n",           "12",    "\xff", "\xf0\x9f\x98\x80"};
    aq_tokenizer *tok = open_tiny();
    aq_rng rng = {5};
    int n_wrong = 0;
    for (int round = 0; tok && round < 3000; round++) {
        char text[256];
        size_t n = 0;
        while (n < 200 && aq_rng_next(&rng) % 24 > 0) {
            const char *part = parts[aq_rng_next(&rng) % 10];
            if (aq_rng_next(&rng) % 2) {
                memcpy(text + n, part, strlen(part));
                n += strlen(part);
            } else {
                text[n++] = (char)aq_rng_next(&rng);
            }
        }
        n_wrong += !aq_test_comes_back(tok, text, n, round % 2 == 0, NULL);
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
    aq_tokenizer_close(tok);
}

static void test_reading(void) {
    aq_tokenizer *tok = open_tiny();
    size_t n = 9;
    if (!tok) return;
    CU_ASSERT_EQUAL(aq_tokenizer_count(tok), 288);
    CU_ASSERT_EQUAL(aq_tokenizer_find(tok, "<|im_end|>"), 258);
    CU_ASSERT_EQUAL(aq_tokenizer_find(tok, "<|im_end"), -1);
    CU_ASSERT_EQUAL(aq_tokenizer_bos(tok), 257);
    CU_ASSERT_FALSE(aq_tokenizer_adds_bos(tok));
    CU_ASSERT_PTR_NULL(aq_tokenizer_warning(tok));
    const char *chat = aq_tokenizer_chat_template(tok);
    CU_ASSERT_TRUE(chat && strncmp(chat, "{% for message", 14) == 0);
    for (int32_t id = -2; id < 400; id++) /* <|endoftext|> and <|im_end|> by text, the latter eos */
        CU_ASSERT_EQUAL(aq_tokenizer_ends(tok, id), id == 256 || id == 258);
    CU_ASSERT_TRUE(memcmp(aq_tokenizer_piece(tok, 261, false, &n), " the", 4) == 0 && n == 4);
    CU_ASSERT_TRUE(aq_tokenizer_piece(tok, 257, false, &n) && n == 0);
    CU_ASSERT_TRUE(memcmp(aq_tokenizer_piece(tok, 257, true, &n), "<|im_start|>", 12) == 0 &&
                   n == 12);
    CU_ASSERT_TRUE(aq_tokenizer_piece(tok, -1, true, &n) && n == 0);
    CU_ASSERT_TRUE(aq_tokenizer_piece(tok, 288, true, &n) && n == 0);
    aq_tokenizer_close(tok);
    aq_tokenizer_close(NULL);
}

/* Ids outside the vocabulary are none; the file's word on BOS goes before the pre-tokeniser's. */
static void test_ids_of_the_file(void) {
    static const int64_t outside[] = {288, -1, INT64_MAX};
    aq_tokenizer *tok;
    for (int i = 0; i < 3; i++) {
        aq_gguf_writer w = tiny_without("tokenizer.ggml.bos_token_id");
        aq_gguf_put_int(&w, "tokenizer.ggml.bos_token_id", AQ_GGUF_I64, outside[i]);
        aq_gguf_put_int(&w, "tokenizer.ggml.eot_token_id", AQ_GGUF_I64, outside[i]);
        if (!aq_test_ok(open_writer(&w, "llama-bpe", &tok))) return;
        CU_ASSERT_EQUAL(aq_tokenizer_bos(tok), -1);
        CU_ASSERT_FALSE(aq_tokenizer_adds_bos(tok));
        aq_tokenizer_close(tok);
    }
    for (int given = 0; given < 3; given++) { /* absent, false, true */
        aq_gguf_writer w = tiny_without("tokenizer.ggml.add_bos_token");
        if (given > 0) aq_gguf_put_bool(&w, "tokenizer.ggml.add_bos_token", given == 2);
        aq_gguf_put_int(&w, "tokenizer.ggml.eom_token_id", AQ_GGUF_U32, 261);
        if (!aq_test_ok(open_writer(&w, "llama-bpe", &tok))) return;
        CU_ASSERT_EQUAL(aq_tokenizer_adds_bos(tok), given != 1);
        CU_ASSERT_TRUE(aq_tokenizer_ends(tok, 261));
        aq_tokenizer_close(tok);
    }
}

/* Five tokens: the bytes a, b, c and two words, of which "abc" comes about by no merge. */
static aq_tokenizer *open_abc(const char *pre) {
    static const char *const texts[] = {"a", "b", "c", "ab", "abc"}, *const merges[] = {"a b"};
    aq_gguf_writer w = aq_gguf_writer_make();
    aq_tokenizer *tok;
    aq_gguf_put_text(&w, "tokenizer.ggml.model", "gpt2");
    aq_gguf_put_text(&w, "tokenizer.ggml.pre", pre);
    aq_gguf_put_texts(&w, "tokenizer.ggml.tokens", texts, 5);
    aq_gguf_put_texts(&w, "tokenizer.ggml.merges", merges, 1);
    aq_test_ok(open_writer(&w, NULL, &tok));
    return tok;
}

static void test_whole_pieces(void) {
    aq_tokenizer *ignoring = open_abc("llama-bpe"), *merging = open_abc("gpt-2");
    if (ignoring && merging) {
        CU_ASSERT_TRUE(gives(ignoring, "abc", "4"));
        CU_ASSERT_TRUE(gives(ignoring, "abcab", "3 2 3"));
        CU_ASSERT_TRUE(gives(merging, "abc", "3 2"));
        CU_ASSERT_EQUAL(aq_tokenizer_bos(merging), -1);
        CU_ASSERT_PTR_NULL(aq_tokenizer_chat_template(merging));
    }
    aq_tokenizer_close(ignoring);
    aq_tokenizer_close(merging);
}

/* Bytes without a token are left out, but part their neighbours. */
static void test_lacking_bytes(void) {
    aq_tokenizer *tok = open_abc("gpt-2");
    if (!tok) return;
    CU_ASSERT_TRUE(gives(tok, "axb", "0 1"));
    CU_ASSERT_TRUE(gives(tok, "xyz", ""));
    aq_tokenizer_close(tok);
}

#define BLANK "\u2581"

/* A vocabulary of the SentencePiece kind; add_prefix -1: the key is absent. The ids 0 to 2 are the
 * customary ones, which the file does not name. */
static aq_tokenizer *open_spm(int add_prefix) {
    static const char *const texts[] = {"<unk>", "<s>", "<0x62>", BLANK, "a", BLANK "a", "<|sep|>"};
    static const int64_t kinds[] = {2, 3, 6, 1, 1, 1, 4};
    static const double scores[] = {0, 0, 0, -2, -3, -1, 0};
    aq_gguf_writer w = aq_gguf_writer_make();
    aq_tokenizer *tok;
    aq_gguf_put_text(&w, "tokenizer.ggml.model", "llama");
    aq_gguf_put_texts(&w, "tokenizer.ggml.tokens", texts, 7);
    aq_gguf_put_ints(&w, "tokenizer.ggml.token_type", AQ_GGUF_I32, kinds, 7);
    aq_gguf_put_floats(&w, "tokenizer.ggml.scores", AQ_GGUF_F32, scores, 7);
    if (add_prefix >= 0) aq_gguf_put_bool(&w, "tokenizer.ggml.add_space_prefix", add_prefix);
    aq_test_ok(open_writer(&w, NULL, &tok));
    return tok;
}

static void test_spm(void) {
    aq_tokenizer *with = open_spm(-1), *without = open_spm(0);
    if (with && without) {
        CU_ASSERT_TRUE(gives(without, "a ab", "4 5 2"));
        CU_ASSERT_TRUE(gives(with, "a ab", "5 5 2"));
        CU_ASSERT_TRUE(gives(with, " a", "3 5"));
        CU_ASSERT_TRUE(gives(with, "", ""));
        /* After a special token as at the start, but not after nothing. */
        CU_ASSERT_TRUE(gives(with, "a<|sep|>a<s>", "5 6 5 1"));
        CU_ASSERT_TRUE(gives(with, "<|sep|><|sep|>a", "6 6 5"));
        CU_ASSERT_TRUE(gives(without, "a<|sep|>a<s>", "4 6 4 1"));
        CU_ASSERT_TRUE(
            aq_test_encodes_to(without, "a<s>", 4, false, "4")); /* '<' and others: no bytes */
        CU_ASSERT_TRUE(aq_tokenizer_bos(with) == 1 && aq_tokenizer_adds_bos(with));
        CU_ASSERT_TRUE(aq_tokenizer_ends(with, 2));
        CU_ASSERT_FALSE(aq_tokenizer_ends(with, 1));
        CU_ASSERT_PTR_NULL(aq_tokenizer_warning(with));
        CU_ASSERT_TRUE(aq_test_comes_back(without, "a  ba", 5, true, NULL));
    }
    aq_tokenizer_close(with);
    aq_tokenizer_close(without);
    aq_gguf_writer w = tiny_without("tokenizer.ggml.model");
    aq_gguf_put_text(&w, "tokenizer.ggml.model", "llama");
    aq_test_fails(open_writer(&w, NULL, &with), AQ_ERR_FORMAT, "tokenizer.ggml.scores");
    w = tiny_without("tokenizer.ggml.model");
    aq_gguf_put_text(&w, "tokenizer.ggml.model", "llama");
    aq_test_fails(open_writer(&w, "qwen2", &with), AQ_ERR_USAGE, "without pre-tokeniser");
}

static void test_refused(void) {
    static const char *const broken[] = {"", "a", " ", "a ", " a", "ab", "h e r", "t zz", "a \xff"};
    aq_tokenizer *tok;
    aq_gguf_writer w = tiny_without("tokenizer.ggml.model");
    aq_test_fails(open_writer(&w, NULL, &tok), AQ_ERR_FORMAT, "tokenizer.ggml.model is missing");
    w = tiny_without("tokenizer.ggml.model");
    aq_gguf_put_text(&w, "tokenizer.ggml.model", "bert");
    aq_test_fails(open_writer(&w, NULL, &tok), AQ_ERR_UNSUPPORTED, "\"bert\"");
    w = tiny_without("tokenizer.ggml.merges");
    aq_test_fails(open_writer(&w, NULL, &tok), AQ_ERR_FORMAT, "merges is missing");
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        const char *const lines[] = {"h e", broken[i]};
        w = tiny_without("tokenizer.ggml.merges");
        aq_gguf_put_texts(&w, "tokenizer.ggml.merges", lines, 2);
        aq_test_fails(open_writer(&w, NULL, &tok), AQ_ERR_FORMAT, "entry 1");
        CU_ASSERT_PTR_NULL(tok);
    }
    w = tiny_without("tokenizer.ggml.tokens");
    aq_test_fails(open_writer(&w, NULL, &tok), AQ_ERR_FORMAT, "has no vocabulary");
}

static void test_unknown_pre(void) {
    aq_tokenizer *tok;
    aq_gguf_writer w = tiny_without("tokenizer.ggml.pre");
    aq_gguf_put_text(&w, "tokenizer.ggml.pre", "new\nfashion");
    if (!aq_test_ok(open_writer(&w, NULL, &tok))) return;
    const char *warning = aq_tokenizer_warning(tok);
    CU_ASSERT_TRUE(warning && strstr(warning, "\"new fashion\" is not known"));
    CU_ASSERT_TRUE(gives(tok, "(1234", "40 49 50 51 52"));
    aq_tokenizer_close(tok);
    w = tiny_without(NULL);
    aq_test_fails(open_writer(&w, "fashion", &tok), AQ_ERR_USAGE, "\"fashion\" is unknown");
    w = tiny_without("tokenizer.ggml.pre");
    if (!aq_test_ok(open_writer(&w, "qwen2", &tok))) return;
    CU_ASSERT_PTR_NULL(aq_tokenizer_warning(tok));
    aq_tokenizer_close(tok);
}

/* ---- a real model: tests/data/tokenizer/README.md says how the ids were made ---- */

/* The model that an environment variable names, if it has n_token tokens and `token` is one. */
static void test_model(const char *variable, int32_t n_token, const char *token, const char *ids) {
    const char *path = getenv(variable);
    char reason[160];
    aq_gguf *file = NULL;
    aq_tokenizer *tok = NULL;
    if (!path || !*path) {
        snprintf(reason, sizeof reason, "%s names no model; launch/fetch_model gets it", variable);
        aq_test_skip(reason);
        return;
    }
    if (aq_test_ok(aq_gguf_open(path, &file)) && aq_test_ok(aq_tokenizer_open(file, &tok))) {
        snprintf(reason, sizeof reason, "%s names a model for which no ids are stored", variable);
        if (aq_tokenizer_count(tok) == n_token && aq_tokenizer_find(tok, token) >= 0)
            aq_test_corpus(tok, ids, true);
        else
            aq_test_skip(reason);
    }
    aq_tokenizer_close(tok);
    aq_gguf_close(file);
}

static void test_smollm2(void) {
    test_model("AQUA_TEST_MODEL", 49152, "<|im_start|>", "tokenizer/smollm2.ids");
}

static void test_gemma3(void) {
    test_model("AQUA_TEST_GEMMA3", 262144, "<start_of_turn>", "tokenizer/gemma3.ids");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "ids", test_ids);
    CU_add_test(suite, "can fail", test_can_fail);
    CU_add_test(suite, "special tokens", test_special_tokens);
    CU_add_test(suite, "list grows", test_list_grows);
    CU_add_test(suite, "round trip", test_round_trip);
    CU_add_test(suite, "reading", test_reading);
    CU_add_test(suite, "ids of the file", test_ids_of_the_file);
    CU_add_test(suite, "whole pieces", test_whole_pieces);
    CU_add_test(suite, "lacking bytes", test_lacking_bytes);
    CU_add_test(suite, "spm", test_spm);
    CU_add_test(suite, "refused", test_refused);
    CU_add_test(suite, "unknown pre", test_unknown_pre);
    CU_add_test(suite, "SmolLM2", test_smollm2);
    CU_add_test(suite, "Gemma 3", test_gemma3);
}
