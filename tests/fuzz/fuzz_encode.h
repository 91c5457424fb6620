/* What is asked of every vocabulary that opened, whatever file it came from. */
#ifndef AQ_TESTS_FUZZ_FUZZ_ENCODE_H
#define AQ_TESTS_FUZZ_FUZZ_ENCODE_H

#include <stdlib.h>

#include "src/model/tokenizer.h"

/* So that reads are not optimised away. */
static volatile uint64_t aq_fuzz_sink;

/* Encoding must give ids of the vocabulary, whose pieces can be read. */
static inline void aq_fuzz_encode_as(const aq_tokenizer *tok, const char *text, size_t bytes,
                                     bool parse_special) {
    aq_token_list list = {NULL, 0, 0};
    if (aq_tokenizer_encode(tok, text, bytes, parse_special, &list) == AQ_OK) {
        for (int64_t i = 0; i < list.n; i++) {
            size_t n;
            if (list.ids[i] < 0 || list.ids[i] >= aq_tokenizer_count(tok)) abort();
            const char *piece = aq_tokenizer_piece(tok, list.ids[i], true, &n);
            for (size_t j = 0; j < n; j++)
                aq_fuzz_sink += (uint8_t)piece[j];
            aq_fuzz_sink += aq_tokenizer_ends(tok, list.ids[i]);
        }
    }
    free(list.ids);
}

/* With special tokens of the text read as such, and as plain text. */
static inline void aq_fuzz_encode(const aq_tokenizer *tok, const char *text, size_t bytes) {
    aq_fuzz_encode_as(tok, text, bytes, true);
    aq_fuzz_encode_as(tok, text, bytes, false);
}

#endif
