#include "src/model/tokenizer_gguf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TOKENS_KEY  "tokenizer.ggml.tokens"
#define TYPES_KEY   "tokenizer.ggml.token_type"
#define SCORES_KEY  "tokenizer.ggml.scores"
#define MERGES_KEY  "tokenizer.ggml.merges"
#define DEFAULT_PRE "default"

/* Keys that name a token that ends generation. */
static const char *const end_keys[] = {
    "tokenizer.ggml.eos_token_id",     "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",     "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id",
};
enum { N_END_KEY = sizeof end_keys / sizeof *end_keys };

static int shown(uint64_t bytes) {
    return (int)(bytes < 64 ? bytes : 64);
}

static bool is(aq_gguf_string text, const char *expected) {
    return text.bytes == strlen(expected) && memcmp(text.data, expected, strlen(expected)) == 0;
}

static aq_status read_kind(const aq_gguf *file, aq_tokenizer_source *out) {
    aq_gguf_string kind;
    if (!aq_gguf_text(file, "tokenizer.ggml.model", &kind))
        return aq_fail(AQ_ERR_FORMAT, "%s has no tokeniser: tokenizer.ggml.model is missing",
                       out->path);
    out->spelling = is(kind, "llama") ? AQ_SPELT_SPM : AQ_SPELT_GPT2;
    out->merging = is(kind, "llama") ? AQ_MERGE_SCORED : AQ_MERGE_RANKED;
    if (is(kind, "llama") || is(kind, "gpt2")) return AQ_OK;
    return aq_fail(AQ_ERR_UNSUPPORTED,
                   "%s: tokeniser kind \"%.*s\" is not supported; only gpt2 (byte-level BPE) and "
                   "llama (SentencePiece) are",
                   out->path, shown(kind.bytes), kind.data);
}

/* Numbers that are no kind are taken as normal tokens: they hold text, whatever else they are. */
static aq_token_kind kind_of(int64_t number) {
    return number >= AQ_TOKEN_NORMAL && number <= AQ_TOKEN_BYTE ? (aq_token_kind)number
                                                                : AQ_TOKEN_NORMAL;
}

static aq_status check_counts(const aq_gguf *file, int64_t n, const aq_tokenizer_source *out) {
    const int64_t n_type = aq_gguf_int_count(file, TYPES_KEY);
    const int64_t n_score = aq_gguf_float_count(file, SCORES_KEY);
    if (n < 1 || n > INT32_MAX)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s has no vocabulary: %s is missing or empty; use a file "
                       "that carries its tokeniser",
                       out->path, TOKENS_KEY);
    if (n_type != n && aq_gguf_has(file, TYPES_KEY))
        return aq_fail(AQ_ERR_FORMAT,
                       "%s: %s has %lld integers for %lld tokens; convert the model again",
                       out->path, TYPES_KEY, (long long)(n_type < 0 ? 0 : n_type), (long long)n);
    if (n_score != n && out->merging == AQ_MERGE_SCORED)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s: %s has %lld numbers for %lld tokens; convert the model again",
                       out->path, SCORES_KEY, (long long)(n_score < 0 ? 0 : n_score), (long long)n);
    return AQ_OK;
}

static aq_status read_tokens(const aq_gguf *file, aq_tokenizer_source *out) {
    const int64_t n = aq_gguf_string_count(file, TOKENS_KEY);
    const bool typed = aq_gguf_has(file, TYPES_KEY), scored = out->merging == AQ_MERGE_SCORED;
    AQ_TRY(check_counts(file, n, out));
    AQ_TRY(aq_tokenizer_source_tokens(out, (int32_t)n));
    for (int32_t id = 0; id < n; id++) {
        const aq_gguf_string text = aq_gguf_string_at(file, TOKENS_KEY, id);
        aq_source_token *token = &out->tokens[id];
        token->text = (aq_text){text.data, (size_t)text.bytes};
        if (typed) token->kind = kind_of(aq_gguf_int_at(file, TYPES_KEY, id));
        if (scored) token->score = (float)aq_gguf_float_at(file, SCORES_KEY, id);
        if (isnan(token->score))
            return aq_fail(AQ_ERR_FORMAT,
                           "%s: %s: that of token %d is no number; convert the model again",
                           out->path, SCORES_KEY, (int)id);
    }
    return AQ_OK;
}

/* A line "left right"; the first blank that is not its first character parts it. */
static aq_status read_merges(const aq_gguf *file, aq_tokenizer_source *out) {
    const int64_t n = aq_gguf_string_count(file, MERGES_KEY);
    if (n < 0 || n > INT32_MAX)
        return aq_fail(AQ_ERR_FORMAT, "%s: %s is missing; convert the model again", out->path,
                       MERGES_KEY);
    AQ_TRY(aq_tokenizer_source_merges(out, n));
    for (int64_t i = 0; i < n; i++) {
        const aq_gguf_string line = aq_gguf_string_at(file, MERGES_KEY, i);
        const char *space =
            line.bytes < 3 ? NULL : memchr(line.data + 1, ' ', (size_t)line.bytes - 1);
        if (!space)
            return aq_fail(AQ_ERR_FORMAT,
                           "%s: %s: entry %lld, \"%.*s\", does not join two tokens; convert the "
                           "model again",
                           out->path, MERGES_KEY, (long long)i, shown(line.bytes), line.data);
        const size_t left = (size_t)(space - line.data);
        out->merges[i].left = (aq_text){line.data, left};
        out->merges[i].right = (aq_text){space + 1, (size_t)line.bytes - left - 1};
    }
    return AQ_OK;
}

/* The pre-tokeniser by name, else the file's, else the default one with a warning. */
static aq_status read_pre(const aq_gguf *file, const char *name, aq_tokenizer_source *out) {
    const aq_pretokenizer_rules *rules = name ? aq_pretokenizer_find(name, strlen(name)) : NULL;
    aq_gguf_string named = {"", 0};
    if (name && !rules) return aq_fail(AQ_ERR_USAGE, "pre-tokeniser \"%s\" is unknown", name);
    if (!name && aq_gguf_text(file, "tokenizer.ggml.pre", &named))
        rules = aq_pretokenizer_find(named.data, (size_t)named.bytes);
    if (!rules) {
        rules = aq_pretokenizer_find(DEFAULT_PRE, strlen(DEFAULT_PRE));
        snprintf(out->warning, sizeof out->warning,
                 "%.96s: pre-tokeniser \"%.*s\" is not known, " DEFAULT_PRE
                 " is used: the text is cut otherwise than this model learnt",
                 out->path, (int)(named.bytes < 32 ? named.bytes : 32), named.data);
        for (char *c = out->warning; *c; c++)
            if ((uint8_t)*c < ' ') *c = ' '; /* the name is the file's; a warning is one line */
    }
    out->n_stage = aq_pretokenizer_stages(rules, out->stages);
    out->ignore_merges = rules->ignore_merges;
    out->adds_bos = rules->adds_bos;
    return AQ_OK;
}

/* The id that a key names; -1 if it is none of the vocabulary, and `absent` without the key. */
static int32_t read_id(const aq_gguf *file, const char *key, int32_t n, int32_t absent) {
    int64_t id = absent;
    aq_gguf_int(file, key, &id);
    return id >= 0 && id < n ? (int32_t)id : -1;
}

static aq_status read_settings(const aq_gguf *file, aq_tokenizer_source *out) {
    const bool spm = out->merging == AQ_MERGE_SCORED;
    aq_gguf_string text;
    out->bos = read_id(file, "tokenizer.ggml.bos_token_id", out->n, spm ? 1 : -1);
    out->eos = read_id(file, end_keys[0], out->n, spm ? 2 : -1);
    for (int i = 0; i < N_END_KEY; i++)
        AQ_TRY(aq_tokenizer_source_end(out,
                                       read_id(file, end_keys[i], out->n, i == 0 ? out->eos : -1)));
    if (spm) out->adds_bos = out->adds_blank = true;
    aq_gguf_bool(file, "tokenizer.ggml.add_bos_token", &out->adds_bos);
    aq_gguf_bool(file, "tokenizer.ggml.add_space_prefix", &out->adds_blank);
    if (aq_gguf_text(file, "tokenizer.chat_template", &text))
        out->chat_template = (aq_text){text.data, (size_t)text.bytes};
    return AQ_OK;
}

aq_status aq_tokenizer_gguf_read(const aq_gguf *file, const char *pre, aq_tokenizer_source *out) {
    *out = (aq_tokenizer_source){.path = aq_gguf_path(file),
                                 .tokens_part = TOKENS_KEY,
                                 .merges_part = MERGES_KEY,
                                 .advice = "convert the model again",
                                 .known_by_text = true,
                                 .unk = -1};
    AQ_TRY(read_kind(file, out));
    if (pre && out->merging == AQ_MERGE_SCORED)
        return aq_fail(AQ_ERR_USAGE, "%s has a tokeniser without pre-tokeniser; name none",
                       out->path);
    AQ_TRY(read_tokens(file, out));
    if (out->merging == AQ_MERGE_RANKED) {
        AQ_TRY(read_merges(file, out));
        AQ_TRY(read_pre(file, pre, out));
    }
    return read_settings(file, out);
}
