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

typedef struct aq_pretokenizer aq_pretokenizer;

/* Compiles the regular expressions; with just-in-time compilation where the system allows it. The
 * caller closes *out, which many threads may use at a time. AQ_ERR_MEMORY, AQ_ERR_UNSUPPORTED (the
 * PCRE2 library lacks Unicode). Local. */
aq_status aq_pretokenizer_open(const aq_pretokenizer_rules *rules, aq_pretokenizer **out);
void aq_pretokenizer_close(aq_pretokenizer *pre);

/* Called with each piece in order; the pieces cover the text. bytes > 0. */
typedef aq_status (*aq_piece_sink)(void *arg, const char *piece, size_t bytes);

/* Cuts any bytes. A byte that belongs to no well-formed UTF-8 character counts as a character that
 * is no letter, number, punctuation or space. Forwards failures of the sink; AQ_ERR_MEMORY. Local.
 */
aq_status aq_pretokenizer_split(const aq_pretokenizer *pre, const char *text, size_t bytes,
                                aq_piece_sink sink, void *arg);

#endif
