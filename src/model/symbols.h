/* Encoding of a piece of text as the BPE model of the tokenizers package does it: every character
 * becomes a symbol, and neighbouring symbols are merged by the rules.
 *
 * A character is a byte, spelt in the GPT-2 alphabet, or one of the text. Without a token of its
 * own it becomes the tokens of its bytes, "<0x0A>", if asked for and if all are there; else the
 * unknown token, once for a run of them if fused; else nothing, and its neighbours become
 * neighbours. A byte that is no UTF-8 is a character of its own. */
#ifndef AQ_MODEL_SYMBOLS_H
#define AQ_MODEL_SYMBOLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/model/vocabulary.h"

typedef struct {
    const aq_vocabulary *vocabulary;
    aq_spelling spelling;
    bool byte_fallback;
    bool fuse_unk;
    int32_t unk; /* -1: none */
} aq_symbols;

/* The symbols of a piece, before merging, to ids[bytes]; returns how many: at most one a byte.
 * Local. */
int64_t aq_symbols_of(const aq_symbols *symbols, const char *piece, size_t bytes, int32_t *ids);

#endif
