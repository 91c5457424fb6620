/* The tokeniser of a Hugging Face folder: tokenizer.json, and what tokenizer_config.json,
 * generation_config.json and config.json say about special tokens. Parts that would change the ids
 * and are not known here are refused by name (docs/formats.md lists those that are known). */
#ifndef AQ_MODEL_TOKENIZER_JSON_H
#define AQ_MODEL_TOKENIZER_JSON_H

#include "src/base/status.h"
#include "src/model/tokenizer_source.h"

/* The texts of the files that concern the tokeniser; data NULL: the file is not there. tokenizer is
 * tokenizer.json, chat_template is chat_template.jinja. */
typedef struct {
    const char *folder; /* for messages */
    aq_text tokenizer;
    aq_text tokenizer_config;
    aq_text generation_config;
    aq_text config;
    aq_text chat_template;
} aq_tokenizer_files;

typedef struct aq_tokenizer_json aq_tokenizer_json;

/* Parses the files and fills *out, whose texts belong to *json. The caller closes both, on failure
 * too. AQ_ERR_FORMAT, AQ_ERR_UNSUPPORTED (file and part named), AQ_ERR_MEMORY. Local. */
aq_status aq_tokenizer_json_read(const aq_tokenizer_files *files, aq_tokenizer_json **json,
                                 aq_tokenizer_source *out);

void aq_tokenizer_json_close(aq_tokenizer_json *json);

#endif
