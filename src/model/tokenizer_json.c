#include "src/model/tokenizer_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/gguf.h"
#include "src/model/json.h"
#include "src/model/name_index.h"
#include "src/model/tokenizer_parts.h"
#include "src/model/tokenizer_settings.h"

/* Ids of the vocabulary that no token has: models reserve some hundreds. */
#define MAX_HOLES (1 << 20)

struct aq_tokenizer_json {
    char *path; /* of tokenizer.json */
    cJSON *tokenizer;
    cJSON *tokenizer_config;
    cJSON *generation_config;
    cJSON *config;
};

void aq_tokenizer_json_close(aq_tokenizer_json *json) {
    if (!json) return;
    cJSON_Delete(json->tokenizer);
    cJSON_Delete(json->tokenizer_config);
    cJSON_Delete(json->generation_config);
    cJSON_Delete(json->config);
    free(json->path);
    free(json);
}

/* ---- texts ---- */

static const char *show(const char *text, char shown[AQ_GGUF_SHOWN_BYTES]) {
    return aq_gguf_show((aq_gguf_string){text, strlen(text)}, shown);
}

/* cJSON ends texts at the character NUL. In tokenizer.json it is written as these two bytes, which
 * are no UTF-8, while cJSON has it; aq_text has its length and may hold it. */
#define STAND_IN "\xc0\x80"

/* Copies JSON text with every escape of NUL replaced; returns the bytes written, 0 if there is a
 * NUL that is not escaped. */
static size_t replace_nul(aq_text text, char *to) {
    size_t n_slash = 0, n = 0;
    for (size_t i = 0; i < text.bytes; i++) {
        if (text.data[i] == '\0') return 0;
        if (n_slash % 2 == 1 && text.bytes - i >= 5 && memcmp(text.data + i, "u0000", 5) == 0) {
            memcpy(to + n - 1, STAND_IN, 2);
            n++;
            i += 4;
            n_slash = 0;
            continue;
        }
        n_slash = text.data[i] == '\\' ? n_slash + 1 : 0;
        to[n++] = text.data[i];
    }
    return n;
}

/* A text that cJSON has, NUL put back in place. */
static aq_text take(char *text) {
    size_t n = 0;
    for (const char *from = text; *from; n++) {
        const bool nul = strncmp(from, STAND_IN, 2) == 0;
        text[n] = nul ? '\0' : *from;
        from += nul ? 2 : 1;
    }
    if (text[n] != '\0') text[n] = '\0';
    return (aq_text){text, n};
}

static aq_status parse(const char *folder, const char *name, aq_text text, cJSON **out) {
    char path[512];
    *out = NULL;
    if (!text.data) return AQ_OK;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    char *copy = malloc(text.bytes + 1);
    if (!copy) return aq_fail(AQ_ERR_MEMORY, "no memory to read %s", path);
    const size_t n = replace_nul(text, copy);
    const aq_status status =
        n > 0 ? aq_json_parse(path, copy, n, out)
              : aq_fail(AQ_ERR_FORMAT, "%s is empty or holds the character NUL", path);
    free(copy);
    return status;
}

/* ---- vocabulary ---- */

static aq_status bad_id(const aq_tokenizer_source *out, const char *part, const char *text) {
    char shown[AQ_GGUF_SHOWN_BYTES];
    return aq_fail(AQ_ERR_FORMAT, "%s: %s: token %s has no id that fits the vocabulary", out->path,
                   part, show(text, shown));
}

/* Finds how many ids there are, those of added tokens included. */
static aq_status count_ids(const cJSON *vocab, const cJSON *added, aq_tokenizer_source *out) {
    int64_t n_token = 0, n = 0, id;
    for (const cJSON *token = vocab->child; token; token = token->next, n_token++) {
        if (!aq_json_whole(token, 0, INT32_MAX - 1, &id))
            return bad_id(out, "model.vocab", token->string);
        if (id >= n) n = id + 1;
    }
    for (const cJSON *token = added ? added->child : NULL; token; token = token->next, n_token++) {
        if (!aq_json_whole(cJSON_GetObjectItemCaseSensitive(token, "id"), 0, INT32_MAX - 1, &id))
            return bad_id(out, "added_tokens", "");
        if (id >= n) n = id + 1;
    }
    if (n == 0) return aq_fail(AQ_ERR_FORMAT, "%s: model.vocab is empty", out->path);
    if (n - n_token > MAX_HOLES)
        return aq_fail(AQ_ERR_FORMAT, "%s: ids go up to %lld for %lld tokens", out->path,
                       (long long)n - 1, (long long)n_token);
    return aq_tokenizer_source_tokens(out, (int32_t)n);
}

static bool is_byte(const char *text) {
    return strlen(text) == 6 && memcmp(text, "<0x", 3) == 0 &&
           strspn(text + 3, "0123456789ABCDEF") == 2 && text[5] == '>';
}

static aq_status read_vocab(const cJSON *vocab, const char *unk, aq_tokenizer_source *out) {
    for (const cJSON *one = vocab->child; one; one = one->next) {
        aq_source_token *token = &out->tokens[(int32_t)one->valuedouble];
        if (token->text.bytes > 0) return bad_id(out, "model.vocab", one->string);
        if (out->byte_fallback && is_byte(one->string)) token->kind = AQ_TOKEN_BYTE;
        if (unk && strcmp(one->string, unk) == 0) out->unk = (int32_t)one->valuedouble;
        token->text = take(one->string);
    }
    return AQ_OK;
}

static aq_status read_added_token(const aq_json *json, aq_tokenizer_source *out) {
    const char *text;
    bool special, single_word;
    int64_t id;
    AQ_TRY(aq_parts_check_keys(json, "id|content|single_word|lstrip|rstrip|normalized|special"));
    AQ_TRY(aq_json_int(json, "id", 0, out->n - 1, AQ_JSON_REQUIRED, &id));
    AQ_TRY(aq_json_text(json, "content", NULL, &text));
    if (!text || !*text)
        return aq_fail(AQ_ERR_FORMAT, "%s: added_tokens: token %lld has no content", json->path,
                       (long long)id);
    aq_source_token *token = &out->tokens[id];
    const aq_text content =
        take(cJSON_GetObjectItemCaseSensitive(json->object, "content")->valuestring);
    if (token->text.bytes > 0 && (token->text.bytes != content.bytes ||
                                  memcmp(token->text.data, content.data, content.bytes) != 0))
        return bad_id(out, "added_tokens", text);
    token->text = content;
    AQ_TRY(aq_json_bool(json, "special", false, &special));
    AQ_TRY(aq_json_bool(json, "single_word", false, &single_word));
    AQ_TRY(aq_json_bool(json, "lstrip", false, &token->lstrip));
    AQ_TRY(aq_json_bool(json, "rstrip", false, &token->rstrip));
    AQ_TRY(aq_json_bool(json, "normalized", true, &token->normalized));
    token->kind = special ? AQ_TOKEN_CONTROL : AQ_TOKEN_USER;
    if (!single_word) return AQ_OK;
    return aq_fail(AQ_ERR_UNSUPPORTED,
                   "%s: added_tokens: single_word of token %lld is not supported", json->path,
                   (long long)id);
}

/* ---- merges ---- */

static bool is_text(const cJSON *value) {
    return cJSON_IsString(value) && *value->valuestring;
}

/* "LEFT RIGHT" or ["LEFT", "RIGHT"]. */
static bool read_merge(const cJSON *merge, aq_source_merge *out) {
    if (cJSON_IsArray(merge)) {
        const cJSON *left = merge->child, *right = left ? left->next : NULL;
        if (!is_text(left) || !is_text(right) || right->next) return false;
        out->left = take(left->valuestring);
        out->right = take(right->valuestring);
        return true;
    }
    char *text = cJSON_IsString(merge) ? merge->valuestring : NULL;
    char *space = text ? strchr(text, ' ') : NULL;
    if (!space || space == text || !space[1] || strchr(space + 1, ' ')) return false;
    *space = '\0';
    out->left = take(text);
    out->right = take(space + 1);
    return true;
}

static aq_status read_merges(const cJSON *merges, aq_tokenizer_source *out) {
    int64_t n = 0;
    for (const cJSON *merge = merges->child; merge; merge = merge->next)
        n++;
    if (n > INT32_MAX) return aq_fail(AQ_ERR_LIMIT, "%s: too many merges", out->path);
    AQ_TRY(aq_tokenizer_source_merges(out, n));
    n = 0;
    for (const cJSON *merge = merges->child; merge; merge = merge->next, n++)
        if (!read_merge(merge, &out->merges[n]))
            return aq_fail(AQ_ERR_FORMAT,
                           "%s: model.merges: entry %lld is neither \"a b\" nor [\"a\", \"b\"]",
                           out->path, (long long)n);
    return AQ_OK;
}

/* ---- model ---- */

/* Refuses what is set and would change the ids. */
static aq_status refuse_set(const aq_json *model) {
    static const char *const keys[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    double dropout;
    AQ_TRY(aq_json_number(model, "dropout", 0, 1, 0, &dropout));
    if (dropout > 0)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: model.dropout is not supported", model->path);
    for (int i = 0; i < 2; i++) {
        const char *text;
        AQ_TRY(aq_json_text(model, keys[i], "", &text));
        if (*text)
            return aq_fail(AQ_ERR_UNSUPPORTED, "%s: model.%s is not supported", model->path,
                           keys[i]);
    }
    return AQ_OK;
}

static aq_status read_model(const aq_json *model, const cJSON *added, aq_tokenizer_source *out) {
    const cJSON *vocab = cJSON_GetObjectItemCaseSensitive(model->object, "vocab");
    const cJSON *merges = cJSON_GetObjectItemCaseSensitive(model->object, "merges");
    const char *type, *unk;
    char shown[AQ_GGUF_SHOWN_BYTES];
    AQ_TRY(aq_json_text(model, "type", "BPE", &type)); /* old files have none */
    if (strcmp(type, "BPE") != 0)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: model %s is not supported; only BPE is",
                       model->path, show(type, shown));
    AQ_TRY(aq_parts_check_keys(model, "type|dropout|unk_token|continuing_subword_prefix|"
                                      "end_of_word_suffix|fuse_unk|byte_fallback|ignore_merges|"
                                      "vocab|merges"));
    if (!cJSON_IsObject(vocab) || !cJSON_IsArray(merges))
        return aq_fail(AQ_ERR_FORMAT, "%s: model.vocab or model.merges is missing", model->path);
    AQ_TRY(refuse_set(model));
    AQ_TRY(aq_json_text(model, "unk_token", NULL, &unk));
    AQ_TRY(aq_json_bool(model, "fuse_unk", false, &out->fuse_unk));
    AQ_TRY(aq_json_bool(model, "byte_fallback", false, &out->byte_fallback));
    AQ_TRY(aq_json_bool(model, "ignore_merges", false, &out->ignore_merges));
    AQ_TRY(count_ids(vocab, added, out));
    AQ_TRY(read_vocab(vocab, unk, out));
    return read_merges(merges, out);
}

/* ---- the whole ---- */

static aq_json part(const aq_tokenizer_json *json, const char *name, const char *within) {
    return (aq_json){json->path, within, cJSON_GetObjectItemCaseSensitive(json->tokenizer, name)};
}

static aq_status read_tokenizer(const aq_tokenizer_json *json, aq_tokenizer_source *out) {
    const aq_json top = {json->path, "", json->tokenizer};
    const aq_json model = part(json, "model", "model.");
    const aq_json normalizer = part(json, "normalizer", "normalizer.");
    const aq_json pre_tokenizer = part(json, "pre_tokenizer", "pre_tokenizer.");
    const aq_json decoder = part(json, "decoder", "decoder.");
    const aq_json post_processor = part(json, "post_processor", "post_processor.");
    const cJSON *added = cJSON_GetObjectItemCaseSensitive(json->tokenizer, "added_tokens");
    /* truncation and padding are what was in force when the file was saved; nobody uses them. */
    AQ_TRY(aq_parts_check_keys(&top, "version|truncation|padding|added_tokens|normalizer|"
                                     "pre_tokenizer|post_processor|decoder|model"));
    if (!cJSON_IsObject(model.object))
        return aq_fail(AQ_ERR_FORMAT, "%s: model is missing", json->path);
    if (cJSON_IsNull(added)) added = NULL;
    if (added && !cJSON_IsArray(added))
        return aq_fail(AQ_ERR_FORMAT, "%s: added_tokens is not a list", json->path);
    AQ_TRY(read_model(&model, added, out));
    for (const cJSON *token = added ? added->child : NULL; token; token = token->next) {
        const aq_json one = {json->path, "added_tokens.", token};
        AQ_TRY(read_added_token(&one, out));
    }
    AQ_TRY(aq_parts_normalizer(&normalizer, out));
    AQ_TRY(aq_parts_pre_tokenizer(&pre_tokenizer, out));
    AQ_TRY(aq_parts_decoder(&decoder, out));
    return aq_parts_post_processor(&post_processor, out);
}

aq_status aq_tokenizer_json_read(const aq_tokenizer_files *files, aq_tokenizer_json **json,
                                 aq_tokenizer_source *out) {
    const char *folder = files->folder;
    aq_tokenizer_json *j = *json = calloc(1, sizeof *j);
    const size_t n = strlen(folder) + sizeof "/tokenizer.json";
    *out = (aq_tokenizer_source){0};
    if (j) j->path = malloc(n);
    if (!j || !j->path) return aq_fail(AQ_ERR_MEMORY, "no memory for the tokeniser of %s", folder);
    snprintf(j->path, n, "%s/tokenizer.json", folder);
    out->path = j->path;
    out->tokens_part = "model.vocab and added_tokens";
    out->merges_part = "model.merges";
    out->advice = "get the file again";
    out->merging = AQ_MERGE_SYMBOLS;
    out->added_tokens = true;
    out->unk = out->bos = out->eos = -1;
    out->chat_template = files->chat_template;
    if (!files->tokenizer.data)
        return aq_fail(AQ_ERR_IO, "%s is missing: the folder holds no tokeniser", j->path);
    AQ_TRY(parse(folder, "tokenizer.json", files->tokenizer, &j->tokenizer));
    AQ_TRY(parse(folder, "tokenizer_config.json", files->tokenizer_config, &j->tokenizer_config));
    AQ_TRY(
        parse(folder, "generation_config.json", files->generation_config, &j->generation_config));
    AQ_TRY(parse(folder, "config.json", files->config, &j->config));
    AQ_TRY(read_tokenizer(j, out));
    const aq_tokenizer_settings settings = {folder, j->tokenizer_config, j->generation_config,
                                            j->config};
    return aq_tokenizer_settings_read(&settings, out);
}
