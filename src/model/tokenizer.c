#include "src/model/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/bpe.h"
#include "src/model/pretokenizer.h"
#include "src/model/special_tokens.h"
#include "src/model/spm.h"
#include "src/model/vocabulary.h"

#define MERGES_KEY    "tokenizer.ggml.merges"
#define DEFAULT_PRE   "default"
#define WARNING_BYTES 256

/* Keys that name a token that ends generation. */
static const char *const end_keys[] = {
    "tokenizer.ggml.eos_token_id",     "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",     "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id",
};
enum { N_END_KEY = sizeof end_keys / sizeof *end_keys };

struct aq_tokenizer {
    aq_spelling spelling;
    aq_vocabulary vocabulary;
    aq_special_tokens special;
    /* AQ_SPELT_GPT2: */
    aq_bpe bpe;
    aq_pretokenizer *pre;
    bool ignore_merges;
    /* AQ_SPELT_SPM: */
    bool adds_blank; /* in front of a text, and of text after a special token */

    bool adds_bos;
    int32_t bos;
    int32_t ends[N_END_KEY]; /* -1: none */
    char *chat_template;
    char warning[WARNING_BYTES];
};

/* ---- opening ---- */

static bool is(aq_gguf_string text, const char *expected) {
    return text.bytes == strlen(expected) && memcmp(text.data, expected, strlen(expected)) == 0;
}

static aq_status read_kind(const aq_gguf *file, aq_spelling *spelling) {
    aq_gguf_string kind;
    if (!aq_gguf_text(file, "tokenizer.ggml.model", &kind))
        return aq_fail(AQ_ERR_FORMAT, "%s has no tokeniser: tokenizer.ggml.model is missing",
                       aq_gguf_path(file));
    *spelling = is(kind, "llama") ? AQ_SPELT_SPM : AQ_SPELT_GPT2;
    if (is(kind, "llama") || is(kind, "gpt2")) return AQ_OK;
    return aq_fail(AQ_ERR_UNSUPPORTED,
                   "%s: tokeniser kind \"%.*s\" is not supported; only gpt2 (byte-level BPE) and "
                   "llama (SentencePiece) are",
                   aq_gguf_path(file), (int)(kind.bytes < 64 ? kind.bytes : 64), kind.data);
}

/* The rule of one line "left right" of the merges; false if a part is not in the vocabulary. */
static bool read_rule(const aq_vocabulary *v, aq_gguf_string line, int32_t rank, aq_bpe_rule *out) {
    if (line.bytes < 3) return false;
    const char *space = memchr(line.data + 1, ' ', (size_t)line.bytes - 1);
    if (!space) return false;
    const size_t left = (size_t)(space - line.data), right = (size_t)line.bytes - left - 1;
    char joined[256];
    char *whole = left + right <= sizeof joined ? joined : malloc(left + right);
    if (!whole) return false;
    memcpy(whole, line.data, left);
    memcpy(whole + left, space + 1, right);
    *out = (aq_bpe_rule){aq_vocabulary_find(v, line.data, left),
                         aq_vocabulary_find(v, space + 1, right), rank,
                         aq_vocabulary_find(v, whole, left + right)};
    if (whole != joined) free(whole);
    return out->left >= 0 && out->right >= 0 && out->result >= 0;
}

static aq_status read_merges(const aq_gguf *file, aq_tokenizer *tok) {
    const int64_t n = aq_gguf_string_count(file, MERGES_KEY);
    if (n < 0 || n > INT32_MAX)
        return aq_fail(AQ_ERR_FORMAT, "%s: %s is missing; convert the model again",
                       aq_gguf_path(file), MERGES_KEY);
    AQ_TRY(aq_bpe_make(n, &tok->bpe));
    for (int32_t rank = 0; rank < n; rank++) {
        const aq_gguf_string line = aq_gguf_string_at(file, MERGES_KEY, rank);
        aq_bpe_rule rule;
        if (!read_rule(&tok->vocabulary, line, rank, &rule))
            return aq_fail(AQ_ERR_FORMAT,
                           "%s: %s: entry %d, \"%.*s\", does not join two tokens of "
                           "the vocabulary to a third; convert the model again",
                           aq_gguf_path(file), MERGES_KEY, (int)rank,
                           (int)(line.bytes < 64 ? line.bytes : 64), line.data);
        aq_bpe_add(&tok->bpe, rule);
    }
    return AQ_OK;
}

/* The pre-tokeniser by name, else the file's, else the default one with a warning. */
static aq_status open_pre(const aq_gguf *file, const char *name, aq_tokenizer *tok) {
    const aq_pretokenizer_rules *rules = name ? aq_pretokenizer_find(name, strlen(name)) : NULL;
    aq_gguf_string named = {"", 0};
    if (name && !rules) return aq_fail(AQ_ERR_USAGE, "pre-tokeniser \"%s\" is unknown", name);
    if (!name && aq_gguf_text(file, "tokenizer.ggml.pre", &named))
        rules = aq_pretokenizer_find(named.data, (size_t)named.bytes);
    if (!rules) {
        rules = aq_pretokenizer_find(DEFAULT_PRE, strlen(DEFAULT_PRE));
        snprintf(tok->warning, sizeof tok->warning,
                 "%.96s: pre-tokeniser \"%.*s\" is not known, " DEFAULT_PRE
                 " is used: the text is cut otherwise than this model learnt",
                 aq_gguf_path(file), (int)(named.bytes < 32 ? named.bytes : 32), named.data);
        for (char *c = tok->warning; *c; c++)
            if ((uint8_t)*c < ' ') *c = ' '; /* the name is the file's; a warning is one line */
    }
    tok->ignore_merges = rules->ignore_merges;
    tok->adds_bos = rules->adds_bos;
    return aq_pretokenizer_open(rules, &tok->pre);
}

/* The id that a key names; -1 if it is none of the vocabulary, and `absent` without the key. */
static int32_t read_id(const aq_gguf *file, const char *key, const aq_vocabulary *v,
                       int32_t absent) {
    int64_t id = absent;
    aq_gguf_int(file, key, &id);
    return id >= 0 && id < v->n ? (int32_t)id : -1;
}

static aq_status read_settings(const aq_gguf *file, aq_tokenizer *tok) {
    const bool spm = tok->spelling == AQ_SPELT_SPM;
    aq_gguf_string text;
    tok->bos = read_id(file, "tokenizer.ggml.bos_token_id", &tok->vocabulary, spm ? 1 : -1);
    for (int i = 0; i < N_END_KEY; i++) /* the first is eos */
        tok->ends[i] = read_id(file, end_keys[i], &tok->vocabulary, spm && i == 0 ? 2 : -1);
    if (spm) tok->adds_bos = tok->adds_blank = true;
    aq_gguf_bool(file, "tokenizer.ggml.add_bos_token", &tok->adds_bos);
    aq_gguf_bool(file, "tokenizer.ggml.add_space_prefix", &tok->adds_blank);
    if (!aq_gguf_text(file, "tokenizer.chat_template", &text)) return AQ_OK;
    tok->chat_template = malloc((size_t)text.bytes + 1);
    if (!tok->chat_template)
        return aq_fail(AQ_ERR_MEMORY, "no memory for the chat template of %s", aq_gguf_path(file));
    memcpy(tok->chat_template, text.data, (size_t)text.bytes);
    tok->chat_template[text.bytes] = '\0';
    return AQ_OK;
}

aq_status aq_tokenizer_open_as(const aq_gguf *file, const char *pre, aq_tokenizer **out) {
    aq_spelling spelling;
    *out = NULL;
    AQ_TRY(read_kind(file, &spelling));
    if (pre && spelling == AQ_SPELT_SPM)
        return aq_fail(AQ_ERR_USAGE, "%s has a tokeniser without pre-tokeniser; name none",
                       aq_gguf_path(file));
    aq_tokenizer *tok = calloc(1, sizeof *tok);
    if (!tok) return aq_fail(AQ_ERR_MEMORY, "no memory for a tokeniser");
    tok->spelling = spelling;
    aq_status status = aq_vocabulary_open(file, spelling, &tok->vocabulary);
    if (status == AQ_OK) status = aq_special_tokens_open(&tok->vocabulary, &tok->special);
    if (spelling == AQ_SPELT_GPT2) {
        if (status == AQ_OK) status = read_merges(file, tok);
        if (status == AQ_OK) status = open_pre(file, pre, tok);
    }
    if (status == AQ_OK) status = read_settings(file, tok);
    if (status == AQ_OK)
        *out = tok;
    else
        aq_tokenizer_close(tok);
    return status;
}

aq_status aq_tokenizer_open(const aq_gguf *file, aq_tokenizer **out) {
    return aq_tokenizer_open_as(file, NULL, out);
}

void aq_tokenizer_close(aq_tokenizer *tok) {
    if (!tok) return;
    aq_pretokenizer_close(tok->pre);
    aq_bpe_free(&tok->bpe);
    aq_special_tokens_close(&tok->special);
    aq_vocabulary_close(&tok->vocabulary);
    free(tok->chat_template);
    free(tok);
}

/* ---- encoding ---- */

/* One call of encode. */
typedef struct {
    const aq_tokenizer *tok;
    aq_token_list *list;
    bool at_start; /* or behind a special token */
    aq_bpe_work work;
    aq_spm_work spm;
} encoding;

static aq_status reserve(aq_token_list *list, size_t n) {
    const int64_t need = list->n + (int64_t)n;
    if (need <= list->capacity) return AQ_OK;
    const int64_t capacity = need + list->capacity / 2 + 256;
    int32_t *larger = realloc(list->ids, (size_t)capacity * sizeof *larger);
    if (!larger) return aq_fail(AQ_ERR_MEMORY, "no memory for %lld tokens", (long long)capacity);
    list->ids = larger;
    list->capacity = capacity;
    return AQ_OK;
}

aq_status aq_token_list_push(aq_token_list *list, int32_t id) {
    AQ_TRY(reserve(list, 1));
    list->ids[list->n++] = id;
    return AQ_OK;
}

/* Bytes that the vocabulary lacks are kept while merging, because they part their neighbours. */
static aq_status encode_piece(void *arg, const char *piece, size_t bytes) {
    encoding *e = arg;
    const aq_vocabulary *v = &e->tok->vocabulary;
    const int32_t whole = e->tok->ignore_merges ? aq_vocabulary_find_piece(v, piece, bytes) : -1;
    if (whole >= 0) return aq_token_list_push(e->list, whole);
    AQ_TRY(reserve(e->list, bytes));
    int32_t *ids = e->list->ids + e->list->n;
    int64_t n = (int64_t)bytes;
    for (size_t i = 0; i < bytes; i++)
        ids[i] = v->byte_ids[(uint8_t)piece[i]];
    AQ_TRY(aq_bpe_merge(&e->tok->bpe, &e->work, ids, &n));
    for (int64_t i = 0; i < n; i++)
        if (ids[i] >= 0) e->list->ids[e->list->n++] = ids[i];
    return AQ_OK;
}

static aq_status encode_spm(encoding *e, const char *part, size_t bytes, bool at_start) {
    AQ_TRY(
        aq_spm_encode(&e->tok->vocabulary, &e->spm, part, bytes, e->tok->adds_blank && at_start));
    AQ_TRY(reserve(e->list, (size_t)e->spm.n));
    for (int64_t i = 0; i < e->spm.n; i++)
        e->list->ids[e->list->n++] = e->spm.ids[i];
    return AQ_OK;
}

static aq_status encode_part(void *arg, const char *part, size_t bytes, int32_t id) {
    encoding *e = arg;
    const bool at_start = e->at_start;
    e->at_start = id >= 0;
    if (id >= 0) return aq_token_list_push(e->list, id);
    if (e->tok->spelling == AQ_SPELT_SPM) return encode_spm(e, part, bytes, at_start);
    return aq_pretokenizer_split(e->tok->pre, part, bytes, encode_piece, e);
}

aq_status aq_tokenizer_encode(const aq_tokenizer *tok, const char *text, size_t bytes,
                              bool parse_special, aq_token_list *list) {
    encoding e = {.tok = tok, .list = list, .at_start = true};
    const aq_status status = aq_special_tokens_split(&tok->special, &tok->vocabulary, text, bytes,
                                                     parse_special, encode_part, &e);
    aq_bpe_work_free(&e.work);
    aq_spm_work_free(&e.spm);
    return status;
}

/* ---- reading ---- */

const char *aq_tokenizer_warning(const aq_tokenizer *tok) {
    return tok->warning[0] ? tok->warning : NULL;
}

const char *aq_tokenizer_piece(const aq_tokenizer *tok, int32_t id, bool with_special,
                               size_t *bytes) {
    *bytes = 0;
    if (id < 0 || id >= tok->vocabulary.n) return "";
    const aq_token *token = &tok->vocabulary.tokens[id];
    const bool hidden = token->kind == AQ_TOKEN_CONTROL || token->kind == AQ_TOKEN_UNKNOWN;
    if (!hidden || with_special) *bytes = token->piece_bytes;
    return token->piece;
}

int32_t aq_tokenizer_count(const aq_tokenizer *tok) {
    return tok->vocabulary.n;
}

int32_t aq_tokenizer_find(const aq_tokenizer *tok, const char *text) {
    return aq_vocabulary_find(&tok->vocabulary, text, strlen(text));
}

int32_t aq_tokenizer_bos(const aq_tokenizer *tok) {
    return tok->bos;
}

bool aq_tokenizer_adds_bos(const aq_tokenizer *tok) {
    return tok->adds_bos && tok->bos >= 0;
}

int32_t aq_tokenizer_eos(const aq_tokenizer *tok) {
    return tok->ends[0];
}

bool aq_tokenizer_ends(const aq_tokenizer *tok, int32_t id) {
    if (id < 0 || id >= tok->vocabulary.n) return false;
    for (int i = 0; i < N_END_KEY; i++)
        if (tok->ends[i] == id) return true;
    return tok->vocabulary.tokens[id].ends_turn;
}

const char *aq_tokenizer_chat_template(const aq_tokenizer *tok) {
    return tok->chat_template;
}
