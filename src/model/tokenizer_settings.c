#include "src/model/tokenizer_settings.h"

#include <string.h>

#include "src/model/gguf.h"
#include "src/model/json.h"

/* The id of a token by its text, or -1. */
static int32_t find(const aq_tokenizer_source *source, const char *text) {
    const size_t n = strlen(text);
    for (int32_t id = 0; n > 0 && id < source->n; id++)
        if (source->tokens[id].text.bytes == n &&
            memcmp(source->tokens[id].text.data, text, n) == 0)
            return id;
    return -1;
}

/* A token named by tokenizer_config.json, "TEXT" or {"content": "TEXT"}; -1: null or not there. */
static aq_status named_token(const char *path, const cJSON *config, const char *key,
                             const aq_tokenizer_source *source, int32_t *id) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(config, key);
    char shown[AQ_GGUF_SHOWN_BYTES];
    *id = -1;
    if (!value || cJSON_IsNull(value)) return AQ_OK;
    if (cJSON_IsObject(value)) value = cJSON_GetObjectItemCaseSensitive(value, "content");
    if (!cJSON_IsString(value))
        return aq_fail(AQ_ERR_FORMAT, "%s/tokenizer_config.json: key %s is not a text", path, key);
    const char *text = value->valuestring;
    *id = find(source, text);
    if (*id >= 0 || !*text) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT,
                   "%s/tokenizer_config.json: key %s names %s, which is no token of tokenizer.json",
                   path, key, aq_gguf_show((aq_gguf_string){text, strlen(text)}, shown));
}

/* One id, or a list, under a key. An id that is none of the vocabulary is left out: models name
 * tokens of a larger one. The first goes to *first unless that is set. */
static aq_status add_ends(const char *path, const char *file, const cJSON *config,
                          aq_tokenizer_source *out, int32_t *first) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(config, "eos_token_id");
    if (!value || cJSON_IsNull(value)) return AQ_OK;
    const bool is_list = cJSON_IsArray(value);
    for (const cJSON *one = is_list ? value->child : value; one; one = is_list ? one->next : NULL) {
        int64_t id;
        if (!aq_json_whole(one, -1, INT32_MAX, &id))
            return aq_fail(AQ_ERR_FORMAT,
                           "%s/%s: key eos_token_id is neither an id nor a list of ids", path,
                           file);
        AQ_TRY(aq_tokenizer_source_end(out, id));
        if (*first < 0 && id >= 0 && id < out->n) *first = (int32_t)id;
    }
    return AQ_OK;
}

/* chat_template is a text, or a list of {"name", "template"}: that named default, else the first.
 */
static aq_status read_template(const char *path, const cJSON *config, aq_tokenizer_source *out) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(config, "chat_template");
    const char *text = cJSON_IsString(value) ? value->valuestring : NULL;
    if (out->chat_template.data || !value || cJSON_IsNull(value)) return AQ_OK;
    for (const cJSON *one = cJSON_IsArray(value) ? value->child : NULL; one; one = one->next) {
        const cJSON *name = cJSON_GetObjectItemCaseSensitive(one, "name");
        const cJSON *body = cJSON_GetObjectItemCaseSensitive(one, "template");
        const bool is_default = cJSON_IsString(name) && strcmp(name->valuestring, "default") == 0;
        if (cJSON_IsString(body) && (!text || is_default)) text = body->valuestring;
        if (is_default) break;
    }
    if (!text)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s/tokenizer_config.json: key chat_template holds no template", path);
    out->chat_template = (aq_text){text, strlen(text)};
    return AQ_OK;
}

static aq_status read_bos(const aq_tokenizer_settings *s, aq_tokenizer_source *out) {
    const cJSON *adds = cJSON_GetObjectItemCaseSensitive(s->tokenizer_config, "add_bos_token");
    const cJSON *number = cJSON_GetObjectItemCaseSensitive(s->config, "bos_token_id");
    int32_t named;
    int64_t id;
    AQ_TRY(named_token(s->path, s->tokenizer_config, "bos_token", out, &named));
    if (out->bos < 0) out->bos = named;
    if (out->bos < 0 && aq_json_whole(number, 0, out->n - 1, &id)) out->bos = (int32_t)id;
    if (!adds || cJSON_IsNull(adds)) return AQ_OK;
    if (!cJSON_IsBool(adds))
        return aq_fail(AQ_ERR_FORMAT,
                       "%s/tokenizer_config.json: key add_bos_token is neither true nor false",
                       s->path);
    out->adds_bos = cJSON_IsTrue(adds);
    if (!out->adds_bos || out->bos >= 0) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT,
                   "%s/tokenizer_config.json: key add_bos_token is true, but no bos_token is named",
                   s->path);
}

aq_status aq_tokenizer_settings_read(const aq_tokenizer_settings *settings,
                                     aq_tokenizer_source *out) {
    const char *path = settings->path;
    AQ_TRY(read_bos(settings, out));
    AQ_TRY(named_token(path, settings->tokenizer_config, "eos_token", out, &out->eos));
    AQ_TRY(aq_tokenizer_source_end(out, out->eos));
    AQ_TRY(add_ends(path, "generation_config.json", settings->generation_config, out, &out->eos));
    AQ_TRY(add_ends(path, "config.json", settings->config, out, &out->eos));
    return read_template(path, settings->tokenizer_config, out);
}
