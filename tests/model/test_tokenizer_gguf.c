/* The keys of a GGUF file become the description of its tokeniser. */
#include "src/model/tokenizer_gguf.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/gguf_writer.h"
#include "tests/support/suite.h"
#include "tests/support/tiny_model.h"

/* Reads what the writer holds while the file is open; `look` checks it. Ends the writer. */
static aq_status read_writer(aq_gguf_writer *w, const char *pre,
                             void (*look)(const aq_tokenizer_source *source)) {
    uint8_t *data;
    aq_gguf *file;
    aq_tokenizer_source source;
    aq_status status = aq_gguf_writer_open(w, &data, &file);
    if (status != AQ_OK) return status;
    status = aq_tokenizer_gguf_read(file, pre, &source);
    if (status == AQ_OK && look) look(&source);
    aq_tokenizer_source_close(&source);
    aq_gguf_close(file);
    free(data);
    return status;
}

static bool is(aq_text text, const char *expected) {
    return text.bytes == strlen(expected) && memcmp(text.data, expected, text.bytes) == 0;
}

static void look_at_tiny(const aq_tokenizer_source *source) {
    CU_ASSERT_EQUAL(source->n, 288);
    CU_ASSERT_EQUAL(source->merging, AQ_MERGE_RANKED);
    CU_ASSERT_EQUAL(source->spelling, AQ_SPELT_GPT2);
    CU_ASSERT_TRUE(is(source->tokens[258].text, "<|im_end|>"));
    CU_ASSERT_TRUE(is(source->merges[1].left, "h") && is(source->merges[1].right, "e"));
    CU_ASSERT_TRUE(source->bos == 257 && source->eos == 258);
    CU_ASSERT_TRUE(source->n_end == 1 && source->ends[0] == 258);
    CU_ASSERT_TRUE(source->n_stage == 2 && source->stages[0].kind == AQ_PATTERN_PCRE2);
    CU_ASSERT_TRUE(source->known_by_text && !source->added_tokens && !source->adds_bos);
    CU_ASSERT_TRUE(source->n_normalizer == 0 && !source->lead.text);
    CU_ASSERT_STRING_EQUAL(source->warning, "");
}

static void look_at_tekken(const aq_tokenizer_source *source) {
    CU_ASSERT_TRUE(source->ignore_merges && source->n_stage == 1);
}

static void test_tiny(void) {
    const aq_tiny_model shape = aq_tiny_model_default();
    aq_gguf_writer w = aq_gguf_writer_make();
    aq_test_ok(aq_tiny_model_put(&w, &shape));
    aq_test_ok(read_writer(&w, NULL, look_at_tiny));
    w = aq_gguf_writer_make();
    aq_test_ok(aq_tiny_model_put(&w, &shape));
    aq_test_ok(read_writer(&w, "tekken", look_at_tekken));
}

static void look_at_spm(const aq_tokenizer_source *source) {
    CU_ASSERT_TRUE(source->merging == AQ_MERGE_SCORED && source->spelling == AQ_SPELT_SPM);
    CU_ASSERT_TRUE(source->tokens[1].score == -2.5f);
    CU_ASSERT_TRUE(source->tokens[0].kind == AQ_TOKEN_CONTROL);
    CU_ASSERT_TRUE(source->adds_bos && source->adds_blank);
    CU_ASSERT_TRUE(source->bos == 1 && source->eos == -1); /* the customary 2 is not there */
    CU_ASSERT_TRUE(source->n_merge == 0 && source->n_end == 0);
}

static void test_spm(void) {
    static const char *const texts[] = {"<s>", "a"};
    static const int64_t kinds[] = {3, 1};
    static const double scores[] = {0, -2.5};
    aq_gguf_writer w = aq_gguf_writer_make();
    aq_gguf_put_text(&w, "tokenizer.ggml.model", "llama");
    aq_gguf_put_texts(&w, "tokenizer.ggml.tokens", texts, 2);
    aq_gguf_put_ints(&w, "tokenizer.ggml.token_type", AQ_GGUF_I32, kinds, 2);
    aq_gguf_put_floats(&w, "tokenizer.ggml.scores", AQ_GGUF_F32, scores, 2);
    aq_test_ok(read_writer(&w, NULL, look_at_spm));
}

static void test_refused(void) {
    aq_gguf_writer w = aq_gguf_writer_make();
    aq_gguf_put_text(&w, "tokenizer.ggml.model", "rwkv");
    aq_test_fails(read_writer(&w, NULL, NULL), AQ_ERR_UNSUPPORTED, "\"rwkv\"");
    w = aq_gguf_writer_make();
    aq_gguf_put_text(&w, "tokenizer.ggml.model", "gpt2");
    aq_test_fails(read_writer(&w, NULL, NULL), AQ_ERR_FORMAT, "has no vocabulary");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "tiny", test_tiny);
    CU_add_test(suite, "spm", test_spm);
    CU_add_test(suite, "refused", test_refused);
}
