/* The pre-tokenisers of byte-level BPE: how a text is cut into pieces inside which bytes are
 * merged.
 *
 * A pre-tokeniser is a cascade of regular expressions: each cuts the pieces of the one before, and
 * what no match covers stays a piece. They are PCRE2 expressions over Unicode properties; the cuts
 * are those of llama.cpp, which the tests compare with. */
#ifndef AQ_MODEL_PRETOKENIZER_H
#define AQ_MODEL_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "src/base/status.h"

/* What the name of a pre-tokeniser says. */
typedef struct {
    const char *const *regexes; /* in order, ended by NULL */
    bool ignore_merges;         /* a piece that is itself a token is not merged */
    bool adds_bos;              /* unless the file says otherwise */
} aq_pretokenizer_rules;

/* The rules of a name in tokenizer.ggml.pre ("smollm"), or NULL if it is unknown. Static. Local. */
const aq_pretokenizer_rules *aq_pretokenizer_find(const char *name, size_t name_bytes);

/* How the expression of a stage is written. */
typedef enum {
    AQ_PATTERN_PCRE2, /* ours: trusted */
    AQ_PATTERN_ONIGURUMA /* a file's: src/model/regex_syntax.h */,
    AQ_PATTERN_LITERAL /* a text */
} aq_pattern_kind;

/* What becomes of a match. */
typedef enum {
    AQ_SPLIT_ISOLATED,             /* a piece of its own */
    AQ_SPLIT_REMOVED,              /* left out */
    AQ_SPLIT_MERGED_WITH_PREVIOUS, /* the first of a run of matches goes to the piece before it */
    AQ_SPLIT_MERGED_WITH_NEXT,     /* the last one to the piece behind it */
    AQ_SPLIT_CONTIGUOUS            /* neighbouring matches are one piece */
} aq_split_behavior;

typedef struct {
    const char *pattern; /* ends in NUL; borrowed until the pre-tokeniser is made */
    aq_pattern_kind kind;
    aq_split_behavior behavior;
    bool invert; /* what lies between the matches is the match */
} aq_pretokenizer_stage;

enum { AQ_MAX_STAGE = 16 };

/* What Hugging Face's ByteLevel, Digits and Punctuation look for. */
extern const char aq_pattern_gpt2[], aq_pattern_digit[], aq_pattern_punctuation[];
extern const char aq_pattern_space[];

/* The stages of rules, written to stages[AQ_MAX_STAGE]; returns how many. Local. */
int aq_pretokenizer_stages(const aq_pretokenizer_rules *rules, aq_pretokenizer_stage *stages);

typedef struct aq_pretokenizer aq_pretokenizer;

/* Makes a pre-tokeniser; as aq_pretokenizer_open, from stages 0 .. n, n at most AQ_MAX_STAGE. Also
 * AQ_ERR_UNSUPPORTED (an expression that is malformed, not supported, or matches nothing at all;
 * named by its place). Local. */
aq_status aq_pretokenizer_open_stages(const aq_pretokenizer_stage *stages, int n,
                                      aq_pretokenizer **out);

/* Compiles the regular expressions; with just-in-time compilation where the system allows it. The
 * caller closes *out, which many threads may use at a time. AQ_ERR_MEMORY, AQ_ERR_UNSUPPORTED (the
 * PCRE2 library lacks Unicode). Local. */
aq_status aq_pretokenizer_open(const aq_pretokenizer_rules *rules, aq_pretokenizer **out);
void aq_pretokenizer_close(aq_pretokenizer *pre);

/* Called with each piece in order; the pieces cover the text but for what is left out. bytes > 0.
 */
typedef aq_status (*aq_piece_sink)(void *arg, const char *piece, size_t bytes);

/* Cuts any bytes. A byte that belongs to no well-formed UTF-8 character counts as a character that
 * is no letter, number, punctuation or space. Forwards failures of the sink; AQ_ERR_MEMORY,
 * AQ_ERR_LIMIT (a file's expression tries too many ways to match). Local. */
aq_status aq_pretokenizer_split(const aq_pretokenizer *pre, const char *text, size_t bytes,
                                aq_piece_sink sink, void *arg);

#endif
