/* tokenizer.json files give the ids that the tokenizers package gives for them, and broken ones are
 * refused by name. tests/data/tokenizer_json/README.md says how the files were made. */
#include "src/model/tokenizer_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "src/model/tokenizer.h"
#include "tests/support/suite.h"
#include "tests/support/tiny_tokenizer.h"
#include "tests/support/token_corpus.h"

/* The text of a stored file; the caller frees it. */
static char *read_stored(const char *name, size_t *bytes) {
    char path[512], *text = NULL;
    snprintf(path, sizeof path, "%s/tokenizer_json/%s.json", aq_test_data_dir(), name);
    aq_test_ok(aq_file_read(path, &text, bytes));
    return text;
}

static aq_status open_text(const char *text, size_t bytes, aq_tokenizer **out) {
    const aq_tokenizer_files files = {.folder = "stored", .tokenizer = {text, bytes}};
    return aq_tokenizer_open_hf(&files, out);
}

static void check(const char *name, bool round_trip) {
    aq_tokenizer *tok = NULL;
    size_t bytes;
    char ids[64], *text = read_stored(name, &bytes);
    snprintf(ids, sizeof ids, "tokenizer_json/%s.ids", name);
    if (text && aq_test_ok(open_text(text, bytes, &tok))) aq_test_corpus(tok, ids, round_trip);
    aq_tokenizer_close(tok);
    free(text);
}

/* Byte-level ones give back every byte of texts; normalisers and blanks in front change them. */
static void test_gpt2(void) {
    check("gpt2", true);
}
static void test_smollm(void) {
    check("smollm", true);
}
static void test_llama3(void) {
    check("llama3", true);
}
static void test_qwen2(void) {
    check("qwen2", false);
}
static void test_tekken(void) {
    check("tekken", true);
}
static void test_opt(void) {
    check("opt", false);
}
static void test_llama2(void) {
    check("llama2", false);
}
static void test_gemma(void) {
    check("gemma", true);
}
static void test_metaspace(void) {
    check("metaspace", false);
}
static void test_unknown(void) {
    check("unknown", false);
}
static void test_splits(void) {
    check("splits", false);
}

/* The ids of a text after `from` has become `to` in a stored file; the caller frees the line. */
static char *ids_after(const char *name, const char *from, const char *to, const char *text) {
    aq_tokenizer *tok = NULL;
    size_t bytes;
    char *line = NULL, *stored = read_stored(name, &bytes);
    char *place = stored ? strstr(stored, from) : NULL;
    char *changed = place ? malloc(bytes + strlen(to) + 1) : NULL;
    CU_ASSERT_PTR_NOT_NULL(changed);
    if (changed) {
        const int n =
            sprintf(changed, "%.*s%s%s", (int)(place - stored), stored, to, place + strlen(from));
        if (aq_test_ok(open_text(changed, (size_t)n, &tok)))
            line = aq_test_line_of(tok, text, strlen(text), true);
    }
    aq_tokenizer_close(tok);
    free(changed);
    free(stored);
    return line;
}

/* Each part counts: with another the ids are others, so that the corpus tells them apart. */
static void test_can_fail(void) {
    static const struct {
        const char *name, *from, *to, *text;
    } changes[] = {
        {"qwen2", "NFC", "NFD", "caf\u00e9"},
        {"llama3", "(?i:'s", "(?i:h", "he said"},
        {"smollm", "\"type\":\"Digits\",\"individual_digits\":true",
         "\"type\":\"Split\",\"pattern\":{\"String\":\"h\"},\"behavior\":\"Removed\"", "the"},
        {"opt", "\"add_prefix_space\":true", "\"add_prefix_space\":false", "the"},
        {"opt", "\"lstrip\":true", "\"lstrip\":false", "the  <mask>"},
        {"llama2", "\"byte_fallback\":true", "\"byte_fallback\":false", "\u0378\u0378"},
        {"llama2", "\"prepend\":\"\u2581\"", "\"prepend\":\"\u2581\u2581\"", "the"},
        {"unknown", "\"fuse_unk\":false", "\"fuse_unk\":true", "\u0378\u0378"},
        {"metaspace", "\"first\"", "\"never\"", "the"},
        {"gemma", "\"single_word\":false,\"lstrip\":false,\"rstrip\":false",
         "\"single_word\":false,\"lstrip\":false,\"rstrip\":true", "<unk> the"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const char *from = changes[i].from;
        char *same = ids_after(changes[i].name, from, from, changes[i].text);
        char *other = ids_after(changes[i].name, from, changes[i].to, changes[i].text);
        const bool differ = same && other && strcmp(same, other) != 0;
        if (!differ) printf("  %s: %s changes nothing\n", changes[i].name, from);
        CU_ASSERT_TRUE(differ);
        free(same);
        free(other);
    }
}

#define MODEL(more) "\"type\":\"BPE\"," more

static void test_tiny(void) {
    aq_tokenizer *tok;
    if (!aq_test_ok(aq_tiny_tokenizer_open(&(aq_tiny_tokenizer){0}, NULL, &tok))) return;
    CU_ASSERT_EQUAL(aq_tokenizer_count(tok), 11);
    CU_ASSERT_TRUE(aq_test_encodes_to(tok, "ab ba<s>", 8, true, "2 4 1 0 10"));
    CU_ASSERT_TRUE(aq_test_encodes_to(tok, "ab<s>", 5, false, "2"));
    CU_ASSERT_EQUAL(aq_tokenizer_bos(tok), -1);
    CU_ASSERT_EQUAL(aq_tokenizer_eos(tok), -1);
    CU_ASSERT_PTR_NULL(aq_tokenizer_chat_template(tok));
    aq_tokenizer_close(tok);
    /* What no token spells is left out, and its neighbours are merged: GGUF parts them. */
    const aq_tiny_tokenizer whole = {.pre_tokenizer =
                                         "{\"type\":\"ByteLevel\",\"add_prefix_space\":"
                                         "false,\"use_regex\":false}"};
    if (!aq_test_ok(aq_tiny_tokenizer_open(&whole, NULL, &tok))) return;
    CU_ASSERT_TRUE(aq_test_encodes_to(tok, "axb", 3, true, "2"));
    aq_tokenizer_close(tok);
}

/* Both ways to write merges, and of merges given twice the last counts. */
static void test_merges(void) {
    static const char *const merges[] = {"[[\"a\",\"b\"]]", "[\"a b\",\"b a\"]",
                                         "[\"a b\",\"b a\",\"a b\"]"};
    static const char *const ids[] = {"2 0", "2 0", "0 7"};
    for (int i = 0; i < 3; i++) {
        const aq_tiny_tokenizer parts = {
            .vocab = "{\"a\":0,\"b\":1,\"ab\":2,\"ba\":7}", .added = "[]", .merges = merges[i]};
        aq_tokenizer *tok;
        if (!aq_test_ok(aq_tiny_tokenizer_open(&parts, NULL, &tok))) return;
        CU_ASSERT_TRUE(aq_test_encodes_to(tok, "aba", 3, true, ids[i]));
        CU_ASSERT_EQUAL(aq_tokenizer_count(tok), 8); /* ids that no token has are left free */
        aq_tokenizer_close(tok);
    }
}

static void test_nul(void) {
    const aq_tiny_tokenizer parts = {
        .vocab = "{\"a\":0,\"\\u0000\":1,\"a\\u0000\":2,\"\\\\u0000\":3}",
        .added = "[]",
        .merges = "[\"a \\u0000\"]",
        .pre_tokenizer = "null",
        .decoder = "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\"}"};
    aq_tokenizer *tok;
    if (!aq_test_ok(aq_tiny_tokenizer_open(&parts, NULL, &tok))) return;
    CU_ASSERT_TRUE(aq_test_encodes_to(tok, "a\0\0a", 4, true, "2 1 0"));
    CU_ASSERT_EQUAL(aq_tokenizer_find(tok, "\\u0000"), 3);
    aq_tokenizer_close(tok);
}

static void refuse(const aq_tiny_tokenizer *parts, aq_status code, const char *part) {
    aq_tokenizer *tok;
    aq_test_fails(aq_tiny_tokenizer_open(parts, NULL, &tok), code, part);
    CU_ASSERT_PTR_NULL(tok);
    CU_ASSERT_TRUE(strstr(aq_error_text(), "tiny/tokenizer.json") != NULL);
}

static void test_model_refused(void) {
    static const struct {
        const char *model, *part;
    } models[] = {{"\"type\":\"Unigram\",", "model Unigram is not supported"},
                  {"\"type\":\"WordPiece\",", "model WordPiece"},
                  {MODEL("\"dropout\":0.1,"), "model.dropout"},
                  {MODEL("\"end_of_word_suffix\":\"</w>\","), "model.end_of_word_suffix"},
                  {MODEL("\"continuing_subword_prefix\":\"##\","), "subword_prefix"},
                  {MODEL("\"cache\":1,"), "\"model.cache\" is not known"}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        refuse(&(aq_tiny_tokenizer){.model = models[i].model}, AQ_ERR_UNSUPPORTED, models[i].part);
    refuse(&(aq_tiny_tokenizer){.model = MODEL("\"fuse_unk\":1,")}, AQ_ERR_FORMAT, "fuse_unk");
    refuse(&(aq_tiny_tokenizer){.more = ",\"extra\":1"}, AQ_ERR_UNSUPPORTED, "\"extra\"");
}

static void test_vocabulary_refused(void) {
    static const char *const vocabs[] = {"{\"a\":0,\"b\":0}", "{\"a\":-1}",         "{\"a\":0.5}",
                                         "{\"a\":\"0\"}",     "{\"a\":2147483647}", "{\"a\":1e99}"};
    static const char *const merges[] = {
        "[\"a\"]",     "[\"a b a\"]",           "[\" b\"]",      "[\"a \"]", "[[\"a\"]]", "[1]",
        "[[\"a\",1]]", "[[\"a\",\"b\",\"a\"]]", "[[\"\",\"b\"]]"};
    for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++)
        refuse(&(aq_tiny_tokenizer){.vocab = vocabs[i], .added = "[]"}, AQ_ERR_FORMAT,
               "has no id that fits");
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++)
        refuse(&(aq_tiny_tokenizer){.merges = merges[i]}, AQ_ERR_FORMAT, "model.merges: entry 0");
    refuse(&(aq_tiny_tokenizer){.merges = "[\"a b\",\"b b\"]"}, AQ_ERR_FORMAT,
           "entry 1, \"b b\", does not join");
    refuse(&(aq_tiny_tokenizer){.merges = "null"}, AQ_ERR_FORMAT, "merges is missing");
    refuse(&(aq_tiny_tokenizer){.vocab = "{}", .added = "[]"}, AQ_ERR_FORMAT, "vocab is empty");
    refuse(&(aq_tiny_tokenizer){.vocab = "{\"a\":9999999}", .added = "[]"}, AQ_ERR_FORMAT,
           "ids go up");
    refuse(&(aq_tiny_tokenizer){.vocab = "{\"a\":0,\"a\":1}"}, AQ_ERR_FORMAT, "twice");
}

#define TOKEN(content, more) "[{\"id\":1,\"content\":" content more "}]"

static void test_added_refused(void) {
    const char *b = TOKEN("\"b\"", ",\"single_word\":true");
    refuse(&(aq_tiny_tokenizer){.added = b}, AQ_ERR_UNSUPPORTED, "single_word of token 1");
    b = TOKEN("\"c\"", "");
    refuse(&(aq_tiny_tokenizer){.added = b}, AQ_ERR_FORMAT, "token c has no id");
    b = TOKEN("\"b\"", ",\"kind\":2");
    refuse(&(aq_tiny_tokenizer){.added = b}, AQ_ERR_UNSUPPORTED, "\"added_tokens.kind\"");
    b = TOKEN("\"\"", "");
    refuse(&(aq_tiny_tokenizer){.added = b}, AQ_ERR_FORMAT, "has no content");
    refuse(&(aq_tiny_tokenizer){.added = "{}"}, AQ_ERR_FORMAT, "added_tokens is not a list");
    refuse(&(aq_tiny_tokenizer){.added = "[1]"}, AQ_ERR_FORMAT, "added_tokens");
    refuse(&(aq_tiny_tokenizer){.added = "[{\"id\":10,\"content\":\"a\"}]"}, AQ_ERR_FORMAT,
           "is given twice");
}

static void test_no_json(void) {
    static const char *const texts[] = {
        "", "{", "[]", "{\"model\":1}", "{}", "{\"a\":\"\\ud800\"}"};
    aq_tokenizer *tok;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        aq_test_fails(open_text(texts[i], strlen(texts[i]), &tok), AQ_ERR_FORMAT,
                      "stored/tokenizer.json");
    aq_test_fails(open_text("{\"a\":\"\0\"}", 9, &tok), AQ_ERR_FORMAT, "the character NUL");
    aq_test_fails(open_text(NULL, 0, &tok), AQ_ERR_IO, "stored/tokenizer.json is missing");
}

static void test_folder(void) {
    char path[512];
    aq_tokenizer *tok;
    const char *config = "{\"eos_token_id\":[1,10]}", *template = "<|im_start|>";
    char *text = aq_tiny_tokenizer_text(&(aq_tiny_tokenizer){0});
    if (!text) return;
    aq_test_fails(aq_tokenizer_open_folder(aq_test_temp_dir(), &tok), AQ_ERR_IO,
                  "tokenizer.json is missing");
    snprintf(path, sizeof path, "%s/tokenizer.json", aq_test_temp_dir());
    aq_test_ok(aq_file_write(path, text, strlen(text)));
    snprintf(path, sizeof path, "%s/config.json", aq_test_temp_dir());
    aq_test_ok(aq_file_write(path, config, strlen(config)));
    snprintf(path, sizeof path, "%s/chat_template.jinja", aq_test_temp_dir());
    aq_test_ok(aq_file_write(path, template, strlen(template)));
    if (aq_test_ok(aq_tokenizer_open_folder(aq_test_temp_dir(), &tok))) {
        CU_ASSERT_EQUAL(aq_tokenizer_eos(tok), 1);
        CU_ASSERT_TRUE(aq_tokenizer_ends(tok, 10) && !aq_tokenizer_ends(tok, 0));
        CU_ASSERT_STRING_EQUAL(aq_tokenizer_chat_template(tok), template);
    }
    aq_tokenizer_close(tok);
    free(text);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "GPT-2", test_gpt2);
    CU_add_test(suite, "SmolLM", test_smollm);
    CU_add_test(suite, "Llama 3", test_llama3);
    CU_add_test(suite, "Qwen 2", test_qwen2);
    CU_add_test(suite, "tekken", test_tekken);
    CU_add_test(suite, "OPT", test_opt);
    CU_add_test(suite, "Llama 2", test_llama2);
    CU_add_test(suite, "Gemma", test_gemma);
    CU_add_test(suite, "Metaspace", test_metaspace);
    CU_add_test(suite, "unknown characters", test_unknown);
    CU_add_test(suite, "splits", test_splits);
    CU_add_test(suite, "can fail", test_can_fail);
    CU_add_test(suite, "tiny", test_tiny);
    CU_add_test(suite, "merges", test_merges);
    CU_add_test(suite, "NUL", test_nul);
    CU_add_test(suite, "model refused", test_model_refused);
    CU_add_test(suite, "vocabulary refused", test_vocabulary_refused);
    CU_add_test(suite, "added tokens refused", test_added_refused);
    CU_add_test(suite, "no JSON", test_no_json);
    CU_add_test(suite, "folder", test_folder);
}
