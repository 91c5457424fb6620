/* Added tokens of tokenizer.json, cut out of a text the way of the tokenizers package: from left to
 * right, at each place the longest. Some are looked for in the text as it is, the others in what is
 * left of it after normalising; some take the blanks beside them along. */
#ifndef AQ_MODEL_ADDED_TOKENS_H
#define AQ_MODEL_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/model/name_index.h"
#include "src/model/normalizer.h"
#include "src/model/special_tokens.h"
#include "src/model/tokenizer_source.h"
#include "src/model/vocabulary.h"

/* One token to look for. */
typedef struct {
    char *text; /* owned */
    size_t bytes;
    int32_t id;
    bool special; /* cut out only if parse_special */
    bool lstrip;
    bool rstrip;
} aq_added_token;

typedef struct {
    aq_added_token *tokens; /* [n] */
    int64_t n;
    aq_name_index by_text;      /* text -> its place in tokens */
    aq_special_length *lengths; /* [n_length], longest first */
    int64_t n_length;
} aq_added_tokens;

/* The control and user-defined tokens of a source, of the kinds that its vocabulary says, that are
 * looked for in normalised text, or in text as it is. The texts of the former are normalised, as HF
 * does. The caller closes *out. AQ_ERR_MEMORY. Local. */
aq_status aq_added_tokens_open(const aq_tokenizer_source *source, const aq_vocabulary *vocabulary,
                               bool normalized, const aq_normalizer *normalizer,
                               aq_added_tokens *out);
void aq_added_tokens_close(aq_added_tokens *added);

/* Cuts a text; the parts are as for aq_special_tokens_split. Forwards failures of the sink. Local.
 */
aq_status aq_added_tokens_split(const aq_added_tokens *added, const char *text, size_t bytes,
                                bool parse_special, aq_part_sink sink, void *arg);

#endif
