/* The tokens of a vocabulary: their texts as the file spells them, and the bytes they stand for. */
#ifndef AQ_MODEL_VOCABULARY_H
#define AQ_MODEL_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/model/gguf.h"
#include "src/model/name_index.h"

/* Kinds of tokens, with the numbers of tokenizer.ggml.token_type. */
typedef enum {
    AQ_TOKEN_NORMAL = 1,
    AQ_TOKEN_UNKNOWN = 2,
    AQ_TOKEN_CONTROL = 3,
    AQ_TOKEN_USER = 4,
    AQ_TOKEN_UNUSED = 5,
    AQ_TOKEN_BYTE = 6
} aq_token_kind;

/* How a file spells tokens. Special tokens are spelt plainly either way, and tokens of kind BYTE as
 * "<0x0A>". */
typedef enum {
    /* Each byte by a printable character of the GPT-2 alphabet: bytes 33-126, 161-172 and 174-255
     * by the character of that number, the others in order by U+0100, U+0101, ... (a blank is
     * U+0120). */
    AQ_SPELT_GPT2,
    /* Text as it is, but blanks by U+2581. */
    AQ_SPELT_SPM
} aq_spelling;

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
    float *scores;           /* [n], none is NaN; NULL unless AQ_SPELT_SPM */
    char *bytes;             /* all texts and pieces */
    aq_name_index by_text;   /* all tokens */
    aq_name_index by_piece;  /* tokens spelt wholly in the GPT-2 alphabet */
    int32_t byte_ids[256];   /* the token of each single byte; -1: the vocabulary has none */
} aq_vocabulary;

/* Reads tokenizer.ggml.tokens, .token_type and, for AQ_SPELT_SPM, .scores; the file may be closed
 * afterwards. Without types all tokens are normal ones; but a token whose text is known
 * ("<|im_end|>") is a control token whatever the file says. AQ_ERR_FORMAT (no tokens, a text given
 * twice, types or scores of another number), AQ_ERR_MEMORY. Local. */
aq_status aq_vocabulary_open(const aq_gguf *file, aq_spelling spelling, aq_vocabulary *out);

/* Frees what is owned; a zeroed struct is allowed. Local. */
void aq_vocabulary_close(aq_vocabulary *vocabulary);

/* The id of a token by its spelling in the file, or -1. Local. */
int32_t aq_vocabulary_find(const aq_vocabulary *vocabulary, const char *text, size_t bytes);

/* The id of the token spelt in the GPT-2 alphabet that stands for these bytes, or -1. Local. */
int32_t aq_vocabulary_find_piece(const aq_vocabulary *vocabulary, const char *piece, size_t bytes);

#endif
