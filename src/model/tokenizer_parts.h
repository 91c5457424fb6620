/* Private to src/model: the parts of tokenizer.json beside its model. Each function reads one part,
 * an object or null, into *out; `json` names it. AQ_ERR_FORMAT (malformed), AQ_ERR_UNSUPPORTED (a
 * type, a key or a combination not known here, named). Local. */
#ifndef AQ_MODEL_TOKENIZER_PARTS_H
#define AQ_MODEL_TOKENIZER_PARTS_H

#include <cjson/cJSON.h>

#include "src/model/json.h"
#include "src/model/tokenizer_source.h"

aq_status aq_parts_normalizer(const aq_json *json, aq_tokenizer_source *out);

/* Also the spelling: AQ_SPELT_GPT2 if one of the pre-tokenisers is ByteLevel. */
aq_status aq_parts_pre_tokenizer(const aq_json *json, aq_tokenizer_source *out);

/* Decoding itself goes by the spelling; a decoder that would give other text is refused. */
aq_status aq_parts_decoder(const aq_json *json, aq_tokenizer_source *out);

/* The token in front of a text: adds_bos and bos. */
aq_status aq_parts_post_processor(const aq_json *json, aq_tokenizer_source *out);

/* Refuses keys that are not among "type|prepend". */
aq_status aq_parts_check_keys(const aq_json *json, const char *keys);

#endif
