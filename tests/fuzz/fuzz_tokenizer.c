/* Vocabularies of model files: open, encode and decode with whatever opens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_encode.h"
#include "tests/support/gguf_writer.h"

static const char text[] =
    "aab abab  b\n\n<|a|>ab<|im_end|>12a\xff\xe4\xbd\xa0\xe4 \xf0\x9f\x98\x80"
    "\xe2\x96\x81<0x61>AbAB'll \xf0\xb1\x8d\x90";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1); /* aligned, and ends where the input ends */
    aq_gguf *file = NULL;
    aq_tokenizer *tok = NULL;
    if (!copy) return 0;
    if (bytes > 0) memcpy(copy, data, bytes);
    if (aq_gguf_open_memory("fuzz.gguf", copy, bytes, &file) == AQ_OK &&
        aq_tokenizer_open(file, &tok) == AQ_OK) {
        if (aq_tokenizer_warning(tok)) aq_fuzz_sink += strlen(aq_tokenizer_warning(tok));
        if (aq_tokenizer_chat_template(tok))
            aq_fuzz_sink += strlen(aq_tokenizer_chat_template(tok));
        if (aq_tokenizer_bos(tok) >= aq_tokenizer_count(tok)) abort();
        aq_fuzz_encode(tok, text, sizeof text);
    }
    aq_tokenizer_close(tok);
    aq_gguf_close(file);
    free(copy);
    return 0;
}

/* The kinds of tokeniser, with few tokens, so that most of the bytes are structure. */
aq_status aq_fuzz_seed(int i, uint8_t **data, size_t *bytes) {
    static const char *const pres[] = {"smollm", "llama-bpe", "tekken", "default"};
    static const char *const texts[] = {
        "a",    "b",     "\u0120", "\u2581", "ab",         "\u0120ab",    "\u2581ab",
        "abab", "<|a|>", "<|",     "<0x61>", "<|im_end|>", "<|fim_pad|>", "\u4f60\u597d"};
    static const char *const merges[] = {"a b", "\u0120 ab", "ab ab"};
    static const int64_t kinds[] = {1, 1, 1, 1, 1, 1, 1, 1, 3, 4, 6, 1, 2, 1};
    static const double scores[] = {0, 0, 0, -1, -3, 0, -2, -4, 0, 0, 0, 0, 0, -5};
    enum { N = sizeof texts / sizeof *texts, N_PRE = sizeof pres / sizeof *pres };
    aq_gguf_writer w = aq_gguf_writer_make();
    *data = NULL;
    if (i > N_PRE) return AQ_OK;
    aq_gguf_put_text(&w, "tokenizer.ggml.model", i < N_PRE ? "gpt2" : "llama");
    aq_gguf_put_text(&w, "tokenizer.ggml.pre", pres[i % N_PRE]);
    aq_gguf_put_texts(&w, "tokenizer.ggml.tokens", texts, N);
    aq_gguf_put_ints(&w, "tokenizer.ggml.token_type", AQ_GGUF_I32, kinds, N);
    aq_gguf_put_floats(&w, "tokenizer.ggml.scores", AQ_GGUF_F32, scores, N);
    aq_gguf_put_texts(&w, "tokenizer.ggml.merges", merges, 3);
    aq_gguf_put_int(&w, "tokenizer.ggml.bos_token_id", AQ_GGUF_U32, 11);
    aq_gguf_put_text(&w, "tokenizer.chat_template", "<|im_start|>");
    const aq_status status = aq_gguf_writer_finish(&w, data, bytes);
    aq_gguf_writer_close(&w);
    return status;
}
