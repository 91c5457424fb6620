/* Private to src/model: untrusted JSON files, checked where they are read. Keys are looked up by
 * alternatives, "hidden_size|n_embd": the first that is there and not null. */
#ifndef AQ_MODEL_JSON_H
#define AQ_MODEL_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

/* An object of a file; where it stands, for messages: "" or "rope_parameters." */
typedef struct {
    const char *path;
    const char *within;
    const cJSON *object;
} aq_json;

/* Parses one JSON object; white space may follow. The caller deletes *out. AQ_ERR_FORMAT (no JSON,
 * no object, a key given twice in one object: named), AQ_ERR_MEMORY. Local. */
aq_status aq_json_parse(const char *path, const char *text, size_t bytes, cJSON **out);

/* The value of the first alternative that is there and not null, or NULL; its key goes to `key` if
 * that is not NULL. Local. */
const cJSON *aq_json_find(const aq_json *json, const char *keys, char key[64]);

/* Typed values; absent or null gives `fallback`. Integers are whole numbers in low .. high. A
 * fallback of AQ_JSON_REQUIRED (NaN for numbers, NULL texts are given as NULL) makes absence a
 * failure. AQ_ERR_FORMAT, naming file, key and what was expected. Local. */
#define AQ_JSON_REQUIRED INT64_MIN
aq_status aq_json_int(const aq_json *json, const char *keys, int64_t low, int64_t high,
                      int64_t fallback, int64_t *out);
aq_status aq_json_number(const aq_json *json, const char *keys, double low, double high,
                         double fallback, double *out);
aq_status aq_json_bool(const aq_json *json, const char *keys, bool fallback, bool *out);
aq_status aq_json_text(const aq_json *json, const char *keys, const char *fallback,
                       const char **out);

/* Whether a JSON number is whole and in low .. high (within 2^53 of 0). Local. */
bool aq_json_whole(const cJSON *value, int64_t low, int64_t high, int64_t *out);

#endif
