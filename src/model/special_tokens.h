/* Special tokens spelt in a text, cut out of it before anything else is done.
 *
 * Longer ones are looked for first, of equal lengths the lowest id, each from left to right, in
 * what is not yet taken; so do the tokenisers of Hugging Face and llama.cpp. Here it takes one look
 * at the text for each length that tokens have, however many tokens there are. */
#ifndef AQ_MODEL_SPECIAL_TOKENS_H
#define AQ_MODEL_SPECIAL_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/model/name_index.h"
#include "src/model/vocabulary.h"

/* The special tokens of one length. */
typedef struct {
    uint32_t bytes;
    bool begins[256]; /* the bytes that such a token begins with */
} aq_special_length;

typedef struct {
    aq_name_index by_text;
    aq_special_length *lengths; /* [n_length], longest first */
    int64_t n_length;
} aq_special_tokens;

/* The control, unknown and user-defined tokens of a vocabulary, whose texts are borrowed. The
 * caller closes *out. AQ_ERR_MEMORY. Local. */
aq_status aq_special_tokens_open(const aq_vocabulary *vocabulary, aq_special_tokens *out);
void aq_special_tokens_close(aq_special_tokens *special);

/* Called with each part of the text in order: a special token's id, or -1 with plain text.
 * bytes > 0. */
typedef aq_status (*aq_part_sink)(void *arg, const char *part, size_t bytes, int32_t id);

/* Cuts a text. User-defined tokens are always cut out, the others only if parse_special. Forwards
 * failures of the sink; AQ_ERR_MEMORY. Local. */
aq_status aq_special_tokens_split(const aq_special_tokens *special, const aq_vocabulary *vocabulary,
                                  const char *text, size_t bytes, bool parse_special,
                                  aq_part_sink sink, void *arg);

#endif
