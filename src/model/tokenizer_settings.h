/* Private to src/model: what the files beside tokenizer.json say about special tokens. */
#ifndef AQ_MODEL_TOKENIZER_SETTINGS_H
#define AQ_MODEL_TOKENIZER_SETTINGS_H

#include <cjson/cJSON.h>

#include "src/model/tokenizer_source.h"

/* Parsed files; NULL: not there. `path` is the folder's, for messages. */
typedef struct {
    const char *path;
    const cJSON *tokenizer_config;
    const cJSON *generation_config;
    const cJSON *config;
} aq_tokenizer_settings;

/* Adds to *out, whose tokens and post_processor are read: bos, eos, further ids that end
 * generation, whether BOS is added, the chat template. AQ_ERR_FORMAT (malformed, or names a token
 * that is not there), AQ_ERR_LIMIT. Local. */
aq_status aq_tokenizer_settings_read(const aq_tokenizer_settings *settings,
                                     aq_tokenizer_source *out);

#endif
