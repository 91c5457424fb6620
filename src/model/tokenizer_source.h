/* What a tokeniser consists of, in no file format: readers of formats (tokenizer_gguf.h,
 * tokenizer_json.h) fill it, aq_tokenizer_build makes a tokeniser of it. Texts are borrowed from
 * the opened file and need not end in NUL; arrays belong to the source. */
#ifndef AQ_MODEL_TOKENIZER_SOURCE_H
#define AQ_MODEL_TOKENIZER_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/model/normalizer.h"
#include "src/model/pretokenizer.h"

typedef struct {
    const char *data;
    size_t bytes;
} aq_text;

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

/* How the tokens of a text are found. */
typedef enum {
    AQ_MERGE_RANKED, /* pieces of bytes, by merge rules; a byte without a token parts neighbours */
    AQ_MERGE_SCORED, /* SentencePiece: the whole text, highest score first */
    AQ_MERGE_SYMBOLS /* as the tokenizers package does it: src/model/symbols.h */
} aq_merge_kind;

typedef struct {
    aq_text text; /* empty: the token only fills its place */
    aq_token_kind kind;
    float score;
    /* Of tokens cut out of a text the way of the tokenizers package: looked for in the normalised
     * text; with the blanks to their left, to their right. */
    bool normalized;
    bool lstrip;
    bool rstrip;
} aq_source_token;

typedef struct {
    aq_text left;
    aq_text right;
} aq_source_merge;

/* What goes in front of each part of a text. */
typedef struct {
    const char *text;       /* NULL: nothing */
    bool unless_there;      /* not before a part that begins with it */
    bool at_start;          /* only before the part at the beginning of the text */
    const char *blank_text; /* what blanks become, before that; NULL: they stay */
} aq_source_lead;

enum { AQ_MAX_END = 64 };

typedef struct {
    const char *path; /* of the file, for messages */
    const char *tokens_part;
    const char *merges_part; /* what the file calls its tokens and merges, for messages */
    const char *advice;      /* "convert the model again", for messages */
    aq_spelling spelling;
    aq_merge_kind merging;
    bool known_by_text; /* a token known to be special by its text is, whatever its kind */
    bool added_tokens;  /* tokens are cut out as in src/model/added_tokens.h */

    aq_source_token *tokens; /* [n] */
    int32_t n;
    aq_source_merge *merges; /* [n_merge] */
    int64_t n_merge;
    aq_normalizer_step normalizer[AQ_MAX_NORMALIZER];
    int n_normalizer;
    aq_source_lead lead;
    aq_pretokenizer_stage stages[AQ_MAX_STAGE];
    int n_stage;
    bool ignore_merges; /* a piece that is itself a token is not merged */
    bool byte_fallback; /* a character without token becomes its bytes' */
    bool fuse_unk;      /* neighbouring unknown characters become one token */
    int32_t unk;        /* -1: unknown characters are left out */

    bool adds_blank; /* AQ_MERGE_SCORED: in front of a text, and of text after a special token */
    bool adds_bos;
    int32_t bos;              /* -1: none */
    int32_t eos;              /* -1: none */
    int32_t ends[AQ_MAX_END]; /* [n_end] further ids that end generation */
    int n_end;
    aq_text chat_template; /* data NULL: none */
    char warning[256];     /* "": none */
} aq_tokenizer_source;

/* Makes room for n tokens, all empty and normal. AQ_ERR_MEMORY. Local. */
aq_status aq_tokenizer_source_tokens(aq_tokenizer_source *source, int32_t n);
/* Makes room for n merges. AQ_ERR_MEMORY. Local. */
aq_status aq_tokenizer_source_merges(aq_tokenizer_source *source, int64_t n);
/* Adds an id that ends generation unless it is none of the vocabulary, or there. AQ_ERR_LIMIT (more
 * than AQ_MAX_END). Local. */
aq_status aq_tokenizer_source_end(aq_tokenizer_source *source, int64_t id);

/* Frees the arrays; a zeroed struct is allowed. Local. */
void aq_tokenizer_source_close(aq_tokenizer_source *source);

#endif
