/* The tokens of a vocabulary: their texts as the file spells them, and the bytes they stand for. */
#ifndef AQ_MODEL_VOCABULARY_H
#define AQ_MODEL_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/model/name_index.h"
#include "src/model/tokenizer_source.h"

typedef struct {
    const char *text;  /* as the file spells it; neither is NUL-terminated */
    const char *piece; /* the bytes it stands for */
    uint32_t text_bytes;
    uint32_t piece_bytes;
    aq_token_kind kind;
    bool ends_turn; /* known by its text to end a turn, "<|im_end|>" say */
} aq_token;

typedef struct {
    aq_token *tokens; /* [n] */
    int32_t n;
    uint32_t max_text_bytes; /* of the longest text */
    float *scores;           /* [n], none is NaN; NULL unless AQ_MERGE_SCORED */
    char *bytes;             /* all texts and pieces */
    aq_name_index by_text;   /* all tokens */
    aq_name_index by_piece;  /* tokens spelt wholly in the GPT-2 alphabet */
    int32_t byte_ids[256];   /* the token of each single byte; -1: the vocabulary has none */
} aq_vocabulary;

/* Copies the tokens of a source, which may be closed afterwards. A token whose text is known to be
 * special ("<|im_end|>") is a control token if it is cut out of texts at all, and
 * in any case if source->known_by_text. AQ_ERR_FORMAT (no tokens, a text given twice or too
 * long), AQ_ERR_MEMORY. Local. */
aq_status aq_vocabulary_open(const aq_tokenizer_source *source, aq_vocabulary *out);

/* Frees what is owned; a zeroed struct is allowed. Local. */
void aq_vocabulary_close(aq_vocabulary *vocabulary);

/* The id of a token by its spelling in the file, or -1. Local. */
int32_t aq_vocabulary_find(const aq_vocabulary *vocabulary, const char *text, size_t bytes);

/* The id of the token spelt in the GPT-2 alphabet that stands for these bytes, or -1. Local. */
int32_t aq_vocabulary_find_piece(const aq_vocabulary *vocabulary, const char *piece, size_t bytes);

#endif
