#include "src/model/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/model/gguf.h"
#include "src/model/name_index.h"

#define MAX_EXACT ((int64_t)1 << 53)

/* Python keeps the last of two equal keys, cJSON the first: such a file means nothing certain. */
static aq_status refuse_doubles(const char *path, const cJSON *value) {
    aq_name_index names = {NULL, 0};
    aq_status status = AQ_OK;
    char shown[AQ_GGUF_SHOWN_BYTES];
    if (cJSON_IsObject(value)) {
        uint64_t n = 0;
        for (const cJSON *child = value->child; child; child = child->next)
            n++;
        AQ_TRY(aq_name_index_open(n, &names));
    }
    for (const cJSON *child = value->child; child && status == AQ_OK; child = child->next) {
        if (child->string && !aq_name_index_add(&names, child->string, strlen(child->string), 0))
            status = aq_fail(
                AQ_ERR_FORMAT, "%s: key %s is there twice", path,
                aq_gguf_show((aq_gguf_string){child->string, strlen(child->string)}, shown));
        else if (child->child)
            status = refuse_doubles(path, child);
    }
    aq_name_index_close(&names);
    return status;
}

static bool is_blank(const char *text, const char *end) {
    while (text < end && (*text == ' ' || *text == '\n' || *text == '\r' || *text == '\t'))
        text++;
    return text == end;
}

aq_status aq_json_parse(const char *path, const char *text, size_t bytes, cJSON **out) {
    const char *end = text;
    cJSON *json = cJSON_ParseWithLengthOpts(text, bytes, &end, 0);
    aq_status status = AQ_OK;
    *out = NULL;
    if (!json || !is_blank(end, text + bytes))
        status = aq_fail(AQ_ERR_FORMAT, "%s is no JSON from byte %lld on", path,
                         (long long)(end - text));
    else if (!cJSON_IsObject(json))
        status = aq_fail(AQ_ERR_FORMAT, "%s: expected a JSON object", path);
    else
        status = refuse_doubles(path, json);
    if (status == AQ_OK)
        *out = json;
    else
        cJSON_Delete(json);
    return status;
}

const cJSON *aq_json_find(const aq_json *json, const char *keys, char key[64]) {
    char buffer[64];
    char *name = key ? key : buffer;
    for (const char *at = keys; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL) {
        snprintf(name, 64, "%.*s", (int)strcspn(at, "|"), at);
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(json->object, name);
        if (value && !cJSON_IsNull(value)) return value;
    }
    snprintf(name, 64, "%.*s", (int)strcspn(keys, "|"), keys);
    return NULL;
}

bool aq_json_whole(const cJSON *value, int64_t low, int64_t high, int64_t *out) {
    const double number = cJSON_IsNumber(value) ? value->valuedouble : NAN;
    if (!(fabs(number) <= (double)MAX_EXACT) || number != floor(number)) return false;
    *out = (int64_t)number;
    return *out >= low && *out <= high;
}

static aq_status missing(const aq_json *json, const char *key) {
    return aq_fail(AQ_ERR_FORMAT, "%s: key %s%s is missing", json->path, json->within, key);
}

aq_status aq_json_int(const aq_json *json, const char *keys, int64_t low, int64_t high,
                      int64_t fallback, int64_t *out) {
    char key[64];
    const cJSON *value = aq_json_find(json, keys, key);
    *out = fallback;
    if (!value) return fallback == AQ_JSON_REQUIRED ? missing(json, key) : AQ_OK;
    if (aq_json_whole(value, low, high, out)) return AQ_OK;
    if (!cJSON_IsNumber(value))
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s%s is not a number", json->path, json->within,
                       key);
    return aq_fail(AQ_ERR_FORMAT, "%s: key %s%s is %.17g, expected a whole number, %lld to %lld",
                   json->path, json->within, key, value->valuedouble, (long long)low,
                   (long long)high);
}

aq_status aq_json_number(const aq_json *json, const char *keys, double low, double high,
                         double fallback, double *out) {
    char key[64];
    const cJSON *value = aq_json_find(json, keys, key);
    *out = fallback;
    if (!value) return isnan(fallback) ? missing(json, key) : AQ_OK;
    if (!cJSON_IsNumber(value))
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s%s is not a number", json->path, json->within,
                       key);
    *out = value->valuedouble;
    if (*out >= low && *out <= high) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT, "%s: key %s%s is %g, expected %g to %g", json->path, json->within,
                   key, *out, low, high);
}

aq_status aq_json_bool(const aq_json *json, const char *keys, bool fallback, bool *out) {
    char key[64];
    const cJSON *value = aq_json_find(json, keys, key);
    *out = fallback;
    if (!value) return AQ_OK;
    if (!cJSON_IsBool(value))
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s%s is neither true nor false", json->path,
                       json->within, key);
    *out = cJSON_IsTrue(value);
    return AQ_OK;
}

aq_status aq_json_text(const aq_json *json, const char *keys, const char *fallback,
                       const char **out) {
    char key[64];
    const cJSON *value = aq_json_find(json, keys, key);
    *out = fallback;
    if (!value) return AQ_OK;
    if (!cJSON_IsString(value))
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s%s is not a text", json->path, json->within, key);
    *out = value->valuestring;
    return AQ_OK;
}
