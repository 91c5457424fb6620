#define _POSIX_C_SOURCE 200809L
#include "src/model/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/file.h"
#include "src/model/added_tokens.h"
#include "src/model/bpe.h"
#include "src/model/normalizer.h"
#include "src/model/pretokenizer.h"
#include "src/model/special_tokens.h"
#include "src/model/spm.h"
#include "src/model/symbols.h"
#include "src/model/tokenizer_gguf.h"
#include "src/model/tokenizer_json.h"
#include "src/model/vocabulary.h"

struct aq_tokenizer {
    aq_merge_kind merging;
    bool added_tokens; /* which of the two is used: special, or added and normalized */
    aq_vocabulary vocabulary;
    aq_special_tokens special;
    aq_added_tokens added;
    aq_added_tokens normalized;
    /* AQ_MERGE_RANKED, AQ_MERGE_SYMBOLS: */
    aq_normalizer *normalizer; /* NULL: none */
    aq_normalizer *blanks;     /* of the lead; NULL: none */
    aq_source_lead lead;
    char *lead_text;
    aq_pretokenizer *pre;
    aq_symbols symbols;
    aq_bpe bpe;
    bool ignore_merges;
    /* AQ_MERGE_SCORED: */
    bool adds_blank; /* in front of a text, and of text after a special token */

    bool adds_bos;
    int32_t bos;
    int32_t eos;
    int32_t ends[AQ_MAX_END]; /* [n_end] */
    int n_end;
    char *chat_template;
    char warning[256];
};

/* ---- opening ---- */

/* The rule of a merge; false if a part, or what they make, is no token. */
static bool make_rule(const aq_vocabulary *v, const aq_source_merge *merge, int32_t rank,
                      aq_bpe_rule *out) {
    const aq_text left = merge->left, right = merge->right;
    char joined[256];
    if (left.bytes == 0 || right.bytes == 0 || left.bytes > v->max_text_bytes ||
        right.bytes > v->max_text_bytes)
        return false;
    const size_t bytes = left.bytes + right.bytes;
    char *whole = bytes <= sizeof joined ? joined : malloc(bytes);
    if (!whole) return false;
    memcpy(whole, left.data, left.bytes);
    memcpy(whole + left.bytes, right.data, right.bytes);
    *out = (aq_bpe_rule){aq_vocabulary_find(v, left.data, left.bytes),
                         aq_vocabulary_find(v, right.data, right.bytes), rank,
                         aq_vocabulary_find(v, whole, bytes)};
    if (whole != joined) free(whole);
    return out->left >= 0 && out->right >= 0 && out->result >= 0;
}

/* Of rules given twice GGUF's readers take the first, the tokenizers package the last. */
static aq_status make_rules(const aq_tokenizer_source *source, aq_tokenizer *tok) {
    const bool last_counts = source->merging == AQ_MERGE_SYMBOLS;
    AQ_TRY(aq_bpe_make(source->n_merge, &tok->bpe));
    for (int64_t i = 0; i < source->n_merge; i++) {
        const int64_t rank = last_counts ? source->n_merge - 1 - i : i;
        const aq_source_merge *merge = &source->merges[rank];
        aq_bpe_rule rule;
        if (!make_rule(&tok->vocabulary, merge, (int32_t)rank, &rule))
            return aq_fail(AQ_ERR_FORMAT,
                           "%s: %s: entry %lld, \"%.*s %.*s\", does not join two tokens of the "
                           "vocabulary to a third; %s",
                           source->path, source->merges_part, (long long)rank,
                           (int)(merge->left.bytes < 32 ? merge->left.bytes : 32), merge->left.data,
                           (int)(merge->right.bytes < 32 ? merge->right.bytes : 32),
                           merge->right.data, source->advice);
        aq_bpe_add(&tok->bpe, rule);
    }
    return AQ_OK;
}

/* A copy that ends in NUL, or NULL. */
static char *copy_of(const char *text, size_t bytes) {
    char *copy = malloc(bytes + 1);
    if (!copy) return NULL;
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    return copy;
}

static aq_status copy_settings(const aq_tokenizer_source *source, aq_tokenizer *tok) {
    const aq_text template = source->chat_template;
    tok->ignore_merges = source->ignore_merges;
    tok->adds_blank = source->adds_blank;
    tok->adds_bos = source->adds_bos;
    tok->bos = source->bos;
    tok->eos = source->eos;
    tok->n_end = source->n_end;
    memcpy(tok->ends, source->ends, sizeof tok->ends);
    memcpy(tok->warning, source->warning, sizeof tok->warning);
    tok->symbols = (aq_symbols){&tok->vocabulary, source->spelling, source->byte_fallback,
                                source->fuse_unk, source->unk};
    if (!template.data) return AQ_OK;
    tok->chat_template = copy_of(template.data, template.bytes);
    return tok->chat_template
               ? AQ_OK
               : aq_fail(AQ_ERR_MEMORY, "no memory for the chat template of %s", source->path);
}

static aq_status open_lead(const aq_source_lead *lead, aq_tokenizer *tok) {
    tok->lead = *lead;
    if (lead->text) {
        tok->lead.text = tok->lead_text = copy_of(lead->text, strlen(lead->text));
        if (!tok->lead_text) return aq_fail(AQ_ERR_MEMORY, "no memory for a tokeniser");
    }
    if (!lead->blank_text) return AQ_OK;
    const aq_normalizer_step step = {AQ_NORMALIZE_REPLACE, " ", lead->blank_text};
    tok->lead.blank_text = NULL;
    return aq_normalizer_open(&step, 1, &tok->blanks);
}

static aq_status open_pieces(const aq_tokenizer_source *source, aq_tokenizer *tok) {
    AQ_TRY(make_rules(source, tok));
    AQ_TRY(open_lead(&source->lead, tok));
    if (source->n_normalizer > 0)
        AQ_TRY(aq_normalizer_open(source->normalizer, source->n_normalizer, &tok->normalizer));
    aq_status status = aq_pretokenizer_open_stages(source->stages, source->n_stage, &tok->pre);
    if (status == AQ_OK || !source->added_tokens) return status;
    char why[256];
    snprintf(why, sizeof why, "%s", aq_error_text());
    return aq_fail(status, "%s: pre_tokenizer: %s", source->path, why);
}

static aq_status open_special(const aq_tokenizer_source *source, aq_tokenizer *tok) {
    tok->added_tokens = source->added_tokens;
    if (!source->added_tokens) return aq_special_tokens_open(&tok->vocabulary, &tok->special);
    AQ_TRY(aq_added_tokens_open(source, &tok->vocabulary, false, tok->normalizer, &tok->added));
    return aq_added_tokens_open(source, &tok->vocabulary, true, tok->normalizer, &tok->normalized);
}

aq_status aq_tokenizer_build(const aq_tokenizer_source *source, aq_tokenizer **out) {
    aq_tokenizer *tok = calloc(1, sizeof *tok);
    *out = NULL;
    if (!tok) return aq_fail(AQ_ERR_MEMORY, "no memory for a tokeniser");
    tok->merging = source->merging;
    aq_status status = aq_vocabulary_open(source, &tok->vocabulary);
    if (status == AQ_OK && tok->merging != AQ_MERGE_SCORED) status = open_pieces(source, tok);
    if (status == AQ_OK) status = open_special(source, tok);
    if (status == AQ_OK) status = copy_settings(source, tok);
    if (status == AQ_OK)
        *out = tok;
    else
        aq_tokenizer_close(tok);
    return status;
}

aq_status aq_tokenizer_open_as(const aq_gguf *file, const char *pre, aq_tokenizer **out) {
    aq_tokenizer_source source;
    *out = NULL;
    aq_status status = aq_tokenizer_gguf_read(file, pre, &source);
    if (status == AQ_OK) status = aq_tokenizer_build(&source, out);
    aq_tokenizer_source_close(&source);
    return status;
}

aq_status aq_tokenizer_open(const aq_gguf *file, aq_tokenizer **out) {
    return aq_tokenizer_open_as(file, NULL, out);
}

aq_status aq_tokenizer_open_hf(const aq_tokenizer_files *files, aq_tokenizer **out) {
    aq_tokenizer_source source;
    aq_tokenizer_json *json;
    *out = NULL;
    aq_status status = aq_tokenizer_json_read(files, &json, &source);
    if (status == AQ_OK) status = aq_tokenizer_build(&source, out);
    aq_tokenizer_source_close(&source);
    aq_tokenizer_json_close(json);
    return status;
}

/* Reads a file of the folder; without the file, *out stays as it is. */
static aq_status read_file(const char *folder, const char *name, aq_text *out, char **memory) {
    const size_t n = strlen(folder) + strlen(name) + 2;
    char *path = malloc(n);
    if (!path) return aq_fail(AQ_ERR_MEMORY, "no memory for the tokeniser of %s", folder);
    snprintf(path, n, "%s/%s", folder, name);
    aq_status status = AQ_OK;
    if (access(path, F_OK) == 0) {
        status = aq_file_read(path, memory, &out->bytes);
        out->data = *memory;
    }
    free(path);
    return status;
}

aq_status aq_tokenizer_open_folder(const char *path, aq_tokenizer **out) {
    aq_tokenizer_files files = {.folder = path};
    const struct {
        const char *name;
        aq_text *text;
    } parts[] = {{"tokenizer.json", &files.tokenizer},
                 {"tokenizer_config.json", &files.tokenizer_config},
                 {"generation_config.json", &files.generation_config},
                 {"config.json", &files.config},
                 {"chat_template.jinja", &files.chat_template}};
    enum { N_PART = sizeof parts / sizeof *parts };
    char *memory[N_PART] = {NULL};
    aq_status status = AQ_OK;
    *out = NULL;
    for (int i = 0; i < N_PART && status == AQ_OK; i++)
        status = read_file(path, parts[i].name, parts[i].text, &memory[i]);
    if (status == AQ_OK) status = aq_tokenizer_open_hf(&files, out);
    for (int i = 0; i < N_PART; i++)
        free(memory[i]);
    return status;
}

aq_status aq_tokenizer_open_model(const aq_model_file *file, aq_tokenizer **out) {
    const aq_gguf *gguf = aq_model_file_gguf(file);
    *out = NULL;
    if (gguf) return aq_tokenizer_open(gguf, out);
    if (aq_model_file_synth(file))
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s is made and has no tokeniser; it serves aqua-dist-bench decode and "
                       "prefill, and plan",
                       aq_model_file_path(file));
    return aq_tokenizer_open_folder(aq_model_file_path(file), out);
}

void aq_tokenizer_close(aq_tokenizer *tok) {
    if (!tok) return;
    aq_pretokenizer_close(tok->pre);
    aq_normalizer_close(tok->normalizer);
    aq_normalizer_close(tok->blanks);
    aq_bpe_free(&tok->bpe);
    aq_special_tokens_close(&tok->special);
    aq_added_tokens_close(&tok->added);
    aq_added_tokens_close(&tok->normalized);
    aq_vocabulary_close(&tok->vocabulary);
    free(tok->lead_text);
    free(tok->chat_template);
    free(tok);
}

/* ---- encoding ---- */

/* One call of encode. */
typedef struct {
    const aq_tokenizer *tok;
    aq_token_list *list;
    bool parse_special;
    bool at_start; /* AQ_MERGE_SCORED: or behind a special token */
    aq_bpe_work work;
    aq_spm_work spm;
    aq_normalizer_buffer normalized;
    aq_normalizer_buffer led;
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

/* The token that a piece is as a whole, or -1. */
static int32_t whole_piece(const aq_tokenizer *tok, const char *piece, size_t bytes) {
    const aq_vocabulary *v = &tok->vocabulary;
    if (!tok->ignore_merges) return -1;
    if (tok->symbols.spelling == AQ_SPELT_GPT2) return aq_vocabulary_find_piece(v, piece, bytes);
    const int32_t id = aq_vocabulary_find(v, piece, bytes);
    return id >= 0 && v->tokens[id].kind == AQ_TOKEN_NORMAL ? id : -1;
}

/* Bytes that the vocabulary of a GGUF file lacks are kept while merging, because they part their
 * neighbours. */
static aq_status encode_piece(void *arg, const char *piece, size_t bytes) {
    encoding *e = arg;
    const aq_vocabulary *v = &e->tok->vocabulary;
    const int32_t whole = whole_piece(e->tok, piece, bytes);
    if (whole >= 0) return aq_token_list_push(e->list, whole);
    AQ_TRY(reserve(e->list, bytes));
    int32_t *ids = e->list->ids + e->list->n;
    int64_t n = (int64_t)bytes;
    if (e->tok->merging == AQ_MERGE_SYMBOLS)
        n = aq_symbols_of(&e->tok->symbols, piece, bytes, ids);
    else
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
    if (e->tok->merging == AQ_MERGE_SCORED) return encode_spm(e, part, bytes, at_start);
    return aq_pretokenizer_split(e->tok->pre, part, bytes, encode_piece, e);
}

/* Whether the lead goes in front of a part. */
static bool leads(const aq_source_lead *lead, const char *part, size_t bytes, bool at_start) {
    if (!lead->text || (lead->at_start && !at_start)) return false;
    const size_t n = strlen(lead->text);
    return !lead->unless_there || bytes < n || memcmp(part, lead->text, n) != 0;
}

/* A part of normalised text, or an added token in it. */
static aq_status encode_normalized(void *arg, const char *part, size_t bytes, int32_t id) {
    encoding *e = arg;
    const aq_tokenizer *tok = e->tok;
    const bool at_start = e->at_start;
    e->at_start = false;
    if (id >= 0) return aq_token_list_push(e->list, id);
    if (tok->blanks) {
        AQ_TRY(aq_normalizer_apply(tok->blanks, part, bytes, &e->led));
        part = e->led.data;
        bytes = e->led.bytes;
    }
    if (!leads(&tok->lead, part, bytes, at_start))
        return aq_pretokenizer_split(tok->pre, part, bytes, encode_piece, e);
    const size_t n = strlen(tok->lead.text);
    char *led = malloc(n + bytes);
    if (!led) return aq_fail(AQ_ERR_MEMORY, "no memory to encode a text of %zu bytes", bytes);
    memcpy(led, tok->lead.text, n);
    memcpy(led + n, part, bytes);
    const aq_status status = aq_pretokenizer_split(tok->pre, led, n + bytes, encode_piece, e);
    free(led);
    return status;
}

/* A part of the text as it is, or an added token in it. */
static aq_status encode_section(void *arg, const char *part, size_t bytes, int32_t id) {
    encoding *e = arg;
    const aq_tokenizer *tok = e->tok;
    if (id >= 0) {
        e->at_start = false;
        return aq_token_list_push(e->list, id);
    }
    if (tok->normalizer) {
        AQ_TRY(aq_normalizer_apply(tok->normalizer, part, bytes, &e->normalized));
        part = e->normalized.data;
        bytes = e->normalized.bytes;
    }
    return aq_added_tokens_split(&tok->normalized, part, bytes, e->parse_special, encode_normalized,
                                 e);
}

aq_status aq_tokenizer_encode(const aq_tokenizer *tok, const char *text, size_t bytes,
                              bool parse_special, aq_token_list *list) {
    encoding e = {.tok = tok, .list = list, .parse_special = parse_special, .at_start = true};
    const aq_status status =
        tok->added_tokens
            ? aq_added_tokens_split(&tok->added, text, bytes, parse_special, encode_section, &e)
            : aq_special_tokens_split(&tok->special, &tok->vocabulary, text, bytes, parse_special,
                                      encode_part, &e);
    aq_bpe_work_free(&e.work);
    aq_spm_work_free(&e.spm);
    free(e.normalized.data);
    free(e.led.data);
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
    return tok->eos;
}

bool aq_tokenizer_ends(const aq_tokenizer *tok, int32_t id) {
    if (id < 0 || id >= tok->vocabulary.n) return false;
    for (int i = 0; i < tok->n_end; i++)
        if (tok->ends[i] == id) return true;
    return tok->vocabulary.tokens[id].ends_turn;
}

const char *aq_tokenizer_chat_template(const aq_tokenizer *tok) {
    return tok->chat_template;
}
