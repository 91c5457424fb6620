/* A tokenizer.json of a few tokens, written part by part. */
#ifndef AQ_TESTS_SUPPORT_TINY_TOKENIZER_H
#define AQ_TESTS_SUPPORT_TINY_TOKENIZER_H

#include "src/model/tokenizer.h"

/* JSON text of the parts; NULL: the customary one. The vocabulary is a 0, b 1, ab 2, the blank
 * U+2581 3, U+0120 4, <0x61> 5, <unk> 6, "1" 7, <0xC3> 8, <0xA9> 9; <s> 10 is an added token. */
typedef struct {
    const char *model; /* keys and values in front of vocab, with a comma behind */
    const char *vocab;
    const char *merges;
    const char *added;
    const char *normalizer;
    const char *pre_tokenizer;
    const char *decoder;
    const char *post_processor;
    const char *more; /* keys and values behind, with a comma in front */
} aq_tiny_tokenizer;

/* The text of the file; free it. NULL without memory. */
char *aq_tiny_tokenizer_text(const aq_tiny_tokenizer *parts);

/* The tokeniser of these parts, and of a tokenizer_config.json unless that is NULL. */
aq_status aq_tiny_tokenizer_open(const aq_tiny_tokenizer *parts, const char *config,
                                 aq_tokenizer **out);

#endif
