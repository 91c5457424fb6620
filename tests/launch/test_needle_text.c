/* Texts with a key: read back as text, they are what they should be, with every kind of tokeniser.
 * The haystack is one word over and over, so that whatever else stands there was put there. */
#include "launch/needle_text.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "tests/support/suite.h"

#define HAYSTACK_WORDS 4000
#define TEXT_BYTES     (1 << 16)

static aq_needle_source open_source(const char *name) {
    char path[512], *json = NULL;
    size_t bytes = 0;
    aq_tokenizer *tok = NULL;
    aq_needle_source source = {.n_needle = 1};
    snprintf(path, sizeof path, "%s/tokenizer_json/%s.json", aq_test_data_dir(), name);
    CU_ASSERT_EQUAL_FATAL(aq_file_read(path, &json, &bytes), AQ_OK);
    const aq_tokenizer_files files = {.folder = "stored", .tokenizer = {json, bytes}};
    CU_ASSERT_EQUAL_FATAL(aq_tokenizer_open_hf(&files, &tok), AQ_OK);
    free(json);
    for (int i = 0; i < HAYSTACK_WORDS; i++)
        CU_ASSERT_EQUAL_FATAL(aq_tokenizer_encode(tok, " hay", 4, false, &source.haystack), AQ_OK);
    source.tok = tok;
    return source;
}

static void close_source(aq_needle_source *source) {
    aq_tokenizer_close((aq_tokenizer *)source->tok);
    free(source->haystack.ids);
}

/* The text of ids[begin .. end). */
static void decode(const aq_needle_source *source, const aq_needle_text *text, int64_t begin,
                   int64_t end, char out[TEXT_BYTES]) {
    size_t n = 0, bytes;
    for (int64_t i = begin; i < end; i++, n += bytes) {
        const char *piece = aq_tokenizer_piece(source->tok, text->ids.ids[i], false, &bytes);
        CU_ASSERT_FATAL(n + bytes < TEXT_BYTES);
        memcpy(out + n, piece, bytes);
    }
    out[n] = '\0';
}

/* Where `part` begins in a text, and that it is there once only. */
static const char *once(const char *text, const char *part) {
    const char *at = strstr(text, part);
    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    CU_ASSERT_PTR_NULL(strstr(at + 1, part));
    return at;
}

static bool ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

/* One text against what it should be, with the sentence at `depth` of the words of the haystack. */
static void check_text(const aq_needle_source *source, int64_t length, double depth) {
    static char all[TEXT_BYTES], key[TEXT_BYTES], wanted[256];
    aq_needle_text text;
    if (!aq_test_ok(aq_needle_make(source, length, depth, 3, &text))) return;
    CU_ASSERT_EQUAL(text.ids.n, length);
    CU_ASSERT_EQUAL(strlen(text.key), source->uuid ? 36 : 5);
    decode(source, &text, 0, length, all);
    decode(source, &text, text.n_prompt, length, key);
    /* All of the key, and no token of the prompt: at most a blank that is not to be parted. */
    CU_ASSERT_TRUE(ends_with(key, text.key));
    CU_ASSERT_TRUE(strlen(key) <= strlen(text.key) + 1);
    decode(source, &text, text.n_prompt + 1, length, key);
    CU_ASSERT_TRUE(strlen(key) < strlen(text.key));

    snprintf(wanted, sizeof wanted, "The pass key is %s. Remember it. %s is the pass key.",
             text.key, text.key);
    const char *needle = once(all, wanted);
    snprintf(wanted, sizeof wanted, "What is the pass key? The pass key is %s", text.key);
    CU_ASSERT_TRUE(ends_with(all, wanted));
    once(all, "What is the pass key?");
    int n_before = 0, n_words = 0;
    for (const char *at = all; (at = strstr(at, "hay")); at++, n_words++)
        n_before += at < needle;
    CU_ASSERT_TRUE(n_words > 100);
    CU_ASSERT_TRUE(n_before <= depth * n_words + 1);
    CU_ASSERT_TRUE(n_before >= depth * n_words - 1);
    free(text.ids.ids);
}

static void test_texts(void) {
    static const char *const names[] = {"smollm", "gemma",     "gpt2",  "llama2",
                                        "qwen2",  "metaspace", "tekken"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        aq_needle_source source = open_source(names[i]);
        for (int uuid = 0; uuid <= 1; uuid++)
            for (int d = 0; d <= 4; d++) {
                source.uuid = uuid;
                check_text(&source, 1500, 0.25 * d);
            }
        close_source(&source);
    }
}

static bool same(const aq_needle_text *a, const aq_needle_text *b) {
    return a->ids.n == b->ids.n && a->n_prompt == b->n_prompt &&
           memcmp(a->ids.ids, b->ids.ids, (size_t)a->ids.n * sizeof *a->ids.ids) == 0;
}

/* The same numbers give the same text, and each of them matters. */
static void test_seeds(void) {
    aq_needle_source source = open_source("smollm");
    aq_needle_text text[6];
    for (int i = 0; i < 6; i++) {
        source.seed = i == 2;
        aq_test_ok(
            aq_needle_make(&source, i == 3 ? 501 : 500, i == 4 ? 0.26 : 0.25, i == 5, &text[i]));
    }
    CU_ASSERT_TRUE(same(&text[0], &text[1]));
    CU_ASSERT_STRING_EQUAL(text[0].key, text[1].key);
    for (int i = 2; i < 6; i++)
        CU_ASSERT_STRING_NOT_EQUAL(text[0].key, text[i].key);
    for (int i = 0; i < 6; i++)
        free(text[i].ids.ids);
    close_source(&source);
}

/* Several keys: each has its name, and the one asked for is the one of its name. */
static void test_names(void) {
    static char all[TEXT_BYTES];
    char name[32], wanted[256];
    aq_needle_source source = open_source("smollm");
    source.n_needle = AQ_NEEDLE_MAX;
    for (int i = 0; i < 20; i++) {
        aq_needle_text text;
        if (!aq_test_ok(aq_needle_make(&source, 3000, 0.5, i, &text))) break;
        CU_ASSERT_EQUAL(text.ids.n, 3000);
        decode(&source, &text, 0, text.ids.n, all);
        const char *question = once(all, "\nWhat is the pass key of ");
        CU_ASSERT_EQUAL(sscanf(question, "\nWhat is the pass key of %31[A-Za-z]?", name), 1);
        snprintf(wanted, sizeof wanted,
                 "\nThe pass key of %s is %s. Remember it. %s is the pass key of %s.\n", name,
                 text.key, text.key, name);
        once(all, wanted);
        int n = 0;
        for (const char *at = all; (at = strstr(at, "Remember it.")); at++)
            n++;
        CU_ASSERT_EQUAL(n, AQ_NEEDLE_MAX);
        free(text.ids.ids);
    }
    close_source(&source);
}

static void test_refused(void) {
    aq_needle_source source = open_source("smollm");
    aq_needle_text text;
    aq_test_fails(aq_needle_make(&source, 20, 0, 0, &text), AQ_ERR_USAGE, "too short");
    CU_ASSERT_PTR_NULL(text.ids.ids);
    aq_test_fails(aq_needle_make(&source, 100000, 0, 0, &text), AQ_ERR_USAGE, "haystack");
    close_source(&source);
}

static void test_answers(void) {
    CU_ASSERT_TRUE(aq_needle_answered("12345", "12345"));
    CU_ASSERT_TRUE(aq_needle_answered(" \n12345. And", "12345"));
    CU_ASSERT_FALSE(aq_needle_answered("123456", "12345"));
    CU_ASSERT_FALSE(aq_needle_answered("1234", "12345"));
    CU_ASSERT_FALSE(aq_needle_answered("It is 12345", "12345"));
    CU_ASSERT_FALSE(aq_needle_answered("", "12345"));
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "texts", test_texts);
    CU_add_test(suite, "seeds", test_seeds);
    CU_add_test(suite, "names", test_names);
    CU_add_test(suite, "refused", test_refused);
    CU_add_test(suite, "answers", test_answers);
}
