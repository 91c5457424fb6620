#include "src/model/tokenizer_parts.h"

#include <string.h>

#include "src/model/gguf.h"
#include "src/model/regex_syntax.h"

#define MAX_DEPTH 8
#define BLANK     "\u2581"

/* Reads one part that is no Sequence. */
typedef aq_status (*reader)(const aq_json *json, const char *type, void *to);

static const char *show(const char *text, char shown[AQ_GGUF_SHOWN_BYTES]) {
    return aq_gguf_show((aq_gguf_string){text, strlen(text)}, shown);
}

static bool is_key(const char *key, const char *keys) {
    const size_t n = strlen(key);
    for (const char *at = keys; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL)
        if (strcspn(at, "|") == n && memcmp(at, key, n) == 0) return true;
    return false;
}

aq_status aq_parts_check_keys(const aq_json *json, const char *keys) {
    char shown[AQ_GGUF_SHOWN_BYTES];
    for (const cJSON *child = json->object->child; child; child = child->next)
        if (!is_key(child->string, keys))
            return aq_fail(AQ_ERR_UNSUPPORTED, "%s: key \"%s%s\" is not known", json->path,
                           json->within, show(child->string, shown));
    return AQ_OK;
}

static aq_status unsupported(const aq_json *json, const char *type, const char *what) {
    char shown[AQ_GGUF_SHOWN_BYTES];
    return aq_fail(AQ_ERR_UNSUPPORTED, "%s: %s%s%s%s", json->path, json->within, show(type, shown),
                   *what ? " " : " is not supported", what);
}

static aq_status malformed(const aq_json *json, const char *type, const char *what) {
    return aq_fail(AQ_ERR_FORMAT, "%s: %s%s %s", json->path, json->within, type, what);
}

/* Reads a part and, if it is a Sequence, what it holds under `list`. */
static aq_status each(const aq_json *json, const char *list, int depth, reader read, void *to) {
    const char *type;
    if (!json->object || cJSON_IsNull(json->object)) return AQ_OK;
    if (!cJSON_IsObject(json->object))
        return malformed(json, "a part", "is neither an object nor null");
    AQ_TRY(aq_json_text(json, "type", NULL, &type));
    if (!type) return malformed(json, "a part", "has no type");
    if (strcmp(type, "Sequence") != 0) return read(json, type, to);
    const cJSON *parts = cJSON_GetObjectItemCaseSensitive(json->object, list);
    if (!cJSON_IsArray(parts)) return malformed(json, type, "holds no list");
    if (depth == MAX_DEPTH) return unsupported(json, type, "is nested too deep");
    for (const cJSON *part = parts->child; part; part = part->next) {
        const aq_json inner = {json->path, json->within, part};
        if (cJSON_IsNull(part)) return malformed(json, type, "holds null");
        AQ_TRY(each(&inner, list, depth + 1, read, to));
    }
    return AQ_OK;
}

/* The text under a key, which must be there. */
static aq_status text_of(const aq_json *json, const char *type, const char *key, const char **out) {
    AQ_TRY(aq_json_text(json, key, NULL, out));
    return *out ? AQ_OK : malformed(json, type, "lacks a text");
}

/* {"String": TEXT} or {"Regex": TEXT}. */
static aq_status pattern_of(const aq_json *json, const char *type, const char **text,
                            bool *is_regex) {
    const aq_json pattern = {json->path, json->within,
                             cJSON_GetObjectItemCaseSensitive(json->object, "pattern")};
    if (!cJSON_IsObject(pattern.object)) return malformed(json, type, "has no pattern");
    AQ_TRY(aq_parts_check_keys(&pattern, "String|Regex"));
    AQ_TRY(aq_json_text(&pattern, "String", NULL, text));
    *is_regex = !*text;
    if (*is_regex) AQ_TRY(aq_json_text(&pattern, "Regex", NULL, text));
    return *text && **text ? AQ_OK : malformed(json, type, "has an empty pattern");
}

/* ---- normalizer ---- */

static aq_status add_step(const aq_json *json, const char *type, aq_normalizer_step step,
                          aq_tokenizer_source *out) {
    if (out->n_normalizer == AQ_MAX_NORMALIZER)
        return unsupported(json, type, "is one normaliser too many");
    out->normalizer[out->n_normalizer++] = step;
    return AQ_OK;
}

static aq_status read_replace(const aq_json *json, const char *type, aq_tokenizer_source *out) {
    const char *from, *text;
    bool is_regex;
    AQ_TRY(aq_parts_check_keys(json, "type|pattern|content"));
    AQ_TRY(pattern_of(json, type, &from, &is_regex));
    AQ_TRY(text_of(json, type, "content", &text));
    if (is_regex && !aq_regex_is_literal(from))
        return unsupported(json, type, "with a Regex is not supported unless it is plain text");
    return add_step(json, type, (aq_normalizer_step){AQ_NORMALIZE_REPLACE, from, text}, out);
}

static aq_status read_normalizer(const aq_json *json, const char *type, void *to) {
    static const struct {
        const char *type;
        aq_normalizer_kind kind;
    } forms[] = {{"NFC", AQ_NORMALIZE_NFC},
                 {"NFD", AQ_NORMALIZE_NFD},
                 {"NFKC", AQ_NORMALIZE_NFKC},
                 {"NFKD", AQ_NORMALIZE_NFKD}};
    aq_normalizer_step step = {AQ_NORMALIZE_PREPEND, NULL, NULL};
    if (strcmp(type, "Replace") == 0) return read_replace(json, type, to);
    if (strcmp(type, "Prepend") == 0) {
        AQ_TRY(aq_parts_check_keys(json, "type|prepend"));
        AQ_TRY(text_of(json, type, "prepend", &step.text));
        return add_step(json, type, step, to);
    }
    for (int i = 0; i < 4; i++) {
        if (strcmp(type, forms[i].type) != 0) continue;
        AQ_TRY(aq_parts_check_keys(json, "type"));
        step.kind = forms[i].kind;
        return add_step(json, type, step, to);
    }
    return unsupported(json, type, "");
}

aq_status aq_parts_normalizer(const aq_json *json, aq_tokenizer_source *out) {
    return each(json, "normalizers", 0, read_normalizer, out);
}

/* ---- pre_tokenizer ---- */

/* Stages so far: what may follow depends on them. */
typedef struct {
    aq_tokenizer_source *out;
    bool is_byte_level;
    bool is_metaspace;
} cascade;

static aq_status add_stage(const aq_json *json, const char *type, aq_pretokenizer_stage stage,
                           aq_tokenizer_source *out) {
    if (out->n_stage == AQ_MAX_STAGE)
        return unsupported(json, type, "is one pre-tokeniser too many");
    out->stages[out->n_stage++] = stage;
    return AQ_OK;
}

static aq_status behavior_of(const aq_json *json, const char *type, aq_split_behavior *out) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name;
    AQ_TRY(aq_json_text(json, "behavior", names[0], &name));
    for (int i = 0; i < 5; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (aq_split_behavior)i;
        return AQ_OK;
    }
    return unsupported(json, type, "has a behavior that is not known");
}

static aq_status read_split(const aq_json *json, const char *type, aq_tokenizer_source *out) {
    aq_pretokenizer_stage stage = {0};
    bool is_regex;
    AQ_TRY(aq_parts_check_keys(json, "type|pattern|behavior|invert"));
    AQ_TRY(pattern_of(json, type, &stage.pattern, &is_regex));
    AQ_TRY(behavior_of(json, type, &stage.behavior));
    AQ_TRY(aq_json_bool(json, "invert", false, &stage.invert));
    stage.kind = is_regex ? AQ_PATTERN_ONIGURUMA : AQ_PATTERN_LITERAL;
    return add_stage(json, type, stage, out);
}

static aq_status read_byte_level(const aq_json *json, const char *type, cascade *c) {
    const aq_pretokenizer_stage words = {aq_pattern_gpt2, AQ_PATTERN_PCRE2, AQ_SPLIT_ISOLATED,
                                         false};
    bool prefix, use_regex;
    AQ_TRY(aq_parts_check_keys(json, "type|add_prefix_space|trim_offsets|use_regex"));
    AQ_TRY(aq_json_bool(json, "add_prefix_space", true, &prefix));
    AQ_TRY(aq_json_bool(json, "use_regex", true, &use_regex));
    if (prefix && c->out->n_stage > 0)
        return unsupported(json, type,
                           "with add_prefix_space is supported in the first place only");
    if (prefix) c->out->lead = (aq_source_lead){.text = " ", .unless_there = true};
    c->is_byte_level = true;
    c->out->spelling = AQ_SPELT_GPT2;
    return use_regex ? add_stage(json, type, words, c->out) : AQ_OK;
}

static aq_status read_metaspace(const aq_json *json, const char *type, cascade *c) {
    const aq_pretokenizer_stage words = {BLANK, AQ_PATTERN_LITERAL, AQ_SPLIT_MERGED_WITH_NEXT,
                                         false};
    const char *replacement, *scheme;
    bool split, prefix;
    AQ_TRY(aq_parts_check_keys(json,
                               "type|replacement|add_prefix_space|prepend_scheme|split|str_rep"));
    AQ_TRY(text_of(json, type, "replacement", &replacement));
    AQ_TRY(aq_json_bool(json, "split", true, &split));
    AQ_TRY(aq_json_bool(json, "add_prefix_space", true, &prefix));
    AQ_TRY(aq_json_text(json, "prepend_scheme", prefix ? "always" : "never", &scheme));
    if (strcmp(replacement, BLANK) != 0)
        return unsupported(json, type, "with another replacement than " BLANK " is not supported");
    if (c->out->n_stage > 0) return unsupported(json, type, "is supported in the first place only");
    aq_source_lead lead = {.text = BLANK, .unless_there = true, .blank_text = BLANK};
    lead.at_start = strcmp(scheme, "first") == 0;
    if (strcmp(scheme, "never") == 0)
        lead.text = NULL;
    else if (!lead.at_start && strcmp(scheme, "always") != 0)
        return unsupported(json, type, "has a prepend_scheme that is not known");
    c->is_metaspace = true;
    c->out->lead = lead;
    return split ? add_stage(json, type, words, c->out) : AQ_OK;
}

static aq_status read_digits(const aq_json *json, const char *type, aq_tokenizer_source *out) {
    bool individual;
    AQ_TRY(aq_parts_check_keys(json, "type|individual_digits"));
    AQ_TRY(aq_json_bool(json, "individual_digits", false, &individual));
    return add_stage(json, type,
                     (aq_pretokenizer_stage){aq_pattern_digit, AQ_PATTERN_PCRE2,
                                             individual ? AQ_SPLIT_ISOLATED : AQ_SPLIT_CONTIGUOUS,
                                             false},
                     out);
}

static aq_status read_pre_tokenizer(const aq_json *json, const char *type, void *to) {
    cascade *c = to;
    aq_pretokenizer_stage stage = {NULL, AQ_PATTERN_PCRE2, AQ_SPLIT_REMOVED, false};
    if (c->is_byte_level) return unsupported(json, type, "behind ByteLevel is not supported");
    if (strcmp(type, "Split") == 0) return read_split(json, type, c->out);
    if (strcmp(type, "ByteLevel") == 0 && !c->is_metaspace) return read_byte_level(json, type, c);
    if (strcmp(type, "Metaspace") == 0 && !c->is_metaspace) return read_metaspace(json, type, c);
    if (strcmp(type, "Digits") == 0) return read_digits(json, type, c->out);
    if (strcmp(type, "WhitespaceSplit") == 0) {
        AQ_TRY(aq_parts_check_keys(json, "type"));
        stage.pattern = aq_pattern_space;
        return add_stage(json, type, stage, c->out);
    }
    if (strcmp(type, "Punctuation") == 0) {
        AQ_TRY(aq_parts_check_keys(json, "type|behavior"));
        AQ_TRY(behavior_of(json, type, &stage.behavior));
        stage.pattern = aq_pattern_punctuation;
        return add_stage(json, type, stage, c->out);
    }
    return unsupported(json, type, "");
}

aq_status aq_parts_pre_tokenizer(const aq_json *json, aq_tokenizer_source *out) {
    cascade c = {out, false, false};
    out->spelling = AQ_SPELT_SPM;
    return each(json, "pretokenizers", 0, read_pre_tokenizer, &c);
}

/* ---- decoder ---- */

typedef struct {
    bool byte_level;
    bool blanks;
} decoding;

static aq_status read_decoder(const aq_json *json, const char *type, void *to) {
    decoding *d = to;
    const char *from, *text;
    bool is_regex;
    if (strcmp(type, "ByteLevel") == 0) {
        d->byte_level = true;
        return AQ_OK;
    }
    if (strcmp(type, "Metaspace") == 0) {
        AQ_TRY(text_of(json, type, "replacement", &from));
        d->blanks = true;
        return strcmp(from, BLANK) == 0
                   ? AQ_OK
                   : unsupported(json, type, "with another replacement is not supported");
    }
    if (strcmp(type, "ByteFallback") == 0 || strcmp(type, "Fuse") == 0) return AQ_OK;
    if (strcmp(type, "Strip") == 0) { /* of the blank in front, which we keep */
        AQ_TRY(text_of(json, type, "content", &text));
        return strcmp(text, " ") == 0 ? AQ_OK : unsupported(json, type, "of other than a blank");
    }
    if (strcmp(type, "Replace") != 0) return unsupported(json, type, "");
    AQ_TRY(pattern_of(json, type, &from, &is_regex));
    AQ_TRY(text_of(json, type, "content", &text));
    d->blanks = true;
    return strcmp(from, BLANK) == 0 && strcmp(text, " ") == 0
               ? AQ_OK
               : unsupported(json, type, "of other than " BLANK " by a blank");
}

aq_status aq_parts_decoder(const aq_json *json, aq_tokenizer_source *out) {
    const bool by_bytes = out->spelling == AQ_SPELT_GPT2;
    decoding d = {false, false};
    AQ_TRY(each(json, "decoders", 0, read_decoder, &d));
    if (by_bytes && d.blanks)
        return unsupported(json, "ByteLevel", "does not go with a pre_tokenizer of this kind");
    if (!by_bytes && (d.byte_level || !d.blanks))
        return unsupported(json, "a decoder",
                           "that makes " BLANK " a blank, or ByteLevel, is expected");
    return AQ_OK;
}

/* ---- post_processor ---- */

/* The id of a special token of a template: special_tokens.TOKEN.ids[0]. */
static aq_status template_id(const aq_json *json, const char *type, const cJSON *special,
                             aq_tokenizer_source *out) {
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(special, "id");
    const cJSON *known = cJSON_GetObjectItemCaseSensitive(json->object, "special_tokens");
    int64_t id;
    if (!cJSON_IsString(name)) return malformed(json, type, "holds a token without name");
    const cJSON *entry = cJSON_GetObjectItemCaseSensitive(known, name->valuestring);
    const cJSON *ids = cJSON_GetObjectItemCaseSensitive(entry, "ids");
    if (!cJSON_IsArray(ids) || cJSON_GetArraySize(ids) != 1)
        return malformed(json, type, "holds a special token that has not one id");
    if (!aq_json_whole(ids->child, 0, out->n - 1, &id))
        return malformed(json, type, "holds an id that is none of the vocabulary");
    if (out->adds_bos) return unsupported(json, type, "with two tokens in front is not supported");
    out->adds_bos = true;
    out->bos = (int32_t)id;
    return AQ_OK;
}

static aq_status read_template(const aq_json *json, const char *type, aq_tokenizer_source *out) {
    const cJSON *parts = cJSON_GetObjectItemCaseSensitive(json->object, "single");
    bool text_seen = false;
    AQ_TRY(aq_parts_check_keys(json, "type|single|pair|special_tokens"));
    if (!cJSON_IsArray(parts)) return malformed(json, type, "has no list \"single\"");
    for (const cJSON *part = parts->child; part; part = part->next) {
        const cJSON *special = cJSON_GetObjectItemCaseSensitive(part, "SpecialToken");
        const cJSON *sequence = cJSON_GetObjectItemCaseSensitive(part, "Sequence");
        if (!special == !sequence)
            return malformed(json, type, "holds what is neither a token nor the text");
        if (text_seen)
            return unsupported(json, type, "with something behind the text is not supported");
        if (special) AQ_TRY(template_id(json, type, special, out));
        text_seen = sequence != NULL;
    }
    return text_seen ? AQ_OK : malformed(json, type, "leaves out the text");
}

static aq_status read_post_processor(const aq_json *json, const char *type, void *to) {
    if (strcmp(type, "ByteLevel") == 0) return AQ_OK; /* offsets only */
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(json, type, to);
    return unsupported(json, type, "");
}

aq_status aq_parts_post_processor(const aq_json *json, aq_tokenizer_source *out) {
    return each(json, "processors", 0, read_post_processor, out);
}
