#include "src/model/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "src/model/utf8.h"

/* ---- opening ---- */

static bool is_added(const aq_source_token *token, bool normalized) {
    return token->text.bytes > 0 && token->normalized == normalized &&
           (token->kind == AQ_TOKEN_CONTROL || token->kind == AQ_TOKEN_USER);
}

static int longest_first(const void *a, const void *b) {
    const aq_added_token *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static aq_status fill(const aq_source_token *from, int32_t id, bool special,
                      const aq_normalizer *normalizer, aq_added_token *out) {
    aq_normalizer_buffer text = {0};
    if (from->normalized && normalizer) {
        const aq_status status =
            aq_normalizer_apply(normalizer, from->text.data, from->text.bytes, &text);
        if (status != AQ_OK) {
            free(text.data);
            return status;
        }
    } else {
        text.data = malloc(from->text.bytes);
        if (!text.data) return aq_fail(AQ_ERR_MEMORY, "no memory for added tokens");
        memcpy(text.data, from->text.data, from->text.bytes);
        text.bytes = from->text.bytes;
    }
    *out = (aq_added_token){
        text.data, text.bytes, id, special, from->lstrip, from->rstrip,
    };
    return AQ_OK;
}

/* Tokens that have become empty, or alike, are not looked for: of the latter the first is. */
static aq_status index_tokens(aq_added_tokens *out) {
    qsort(out->tokens, (size_t)out->n, sizeof *out->tokens, longest_first);
    out->lengths = calloc((size_t)out->n + 1, sizeof *out->lengths);
    if (!out->lengths) return aq_fail(AQ_ERR_MEMORY, "no memory for added tokens");
    AQ_TRY(aq_name_index_open((uint64_t)out->n, &out->by_text));
    for (int64_t i = 0; i < out->n; i++) {
        const aq_added_token *token = &out->tokens[i];
        if (token->bytes == 0) continue;
        if (out->n_length == 0 || out->lengths[out->n_length - 1].bytes != token->bytes)
            out->lengths[out->n_length++].bytes = (uint32_t)token->bytes;
        out->lengths[out->n_length - 1].begins[(uint8_t)token->text[0]] = true;
        aq_name_index_add(&out->by_text, token->text, token->bytes, i);
    }
    return AQ_OK;
}

aq_status aq_added_tokens_open(const aq_tokenizer_source *source, const aq_vocabulary *vocabulary,
                               bool normalized, const aq_normalizer *normalizer,
                               aq_added_tokens *out) {
    int64_t n = 0;
    aq_status status = AQ_OK;
    *out = (aq_added_tokens){0};
    for (int32_t id = 0; id < source->n; id++)
        n += is_added(&source->tokens[id], normalized);
    out->tokens = calloc((size_t)n + 1, sizeof *out->tokens);
    if (!out->tokens) return aq_fail(AQ_ERR_MEMORY, "no memory for added tokens");
    for (int32_t id = 0; id < source->n && status == AQ_OK; id++)
        if (is_added(&source->tokens[id], normalized))
            status = fill(&source->tokens[id], id, vocabulary->tokens[id].kind == AQ_TOKEN_CONTROL,
                          normalizer, &out->tokens[out->n++]);
    if (status == AQ_OK) status = index_tokens(out);
    if (status != AQ_OK) aq_added_tokens_close(out);
    return status;
}

void aq_added_tokens_close(aq_added_tokens *added) {
    for (int64_t i = 0; i < added->n; i++)
        free(added->tokens[i].text);
    free(added->tokens);
    free(added->lengths);
    aq_name_index_close(&added->by_text);
    *added = (aq_added_tokens){0};
}

/* ---- splitting ---- */

/* The longest token at text[at], or NULL. */
static const aq_added_token *token_at(const aq_added_tokens *added, const char *text, size_t bytes,
                                      size_t at) {
    for (int64_t i = 0; i < added->n_length; i++) {
        const aq_special_length *length = &added->lengths[i];
        if (length->bytes > bytes - at || !length->begins[(uint8_t)text[at]]) continue;
        const int64_t found = aq_name_index_find(&added->by_text, text + at, length->bytes);
        if (found >= 0) return &added->tokens[found];
    }
    return NULL;
}

/* The bytes of the blank (Unicode's White_Space) at text[0 .. n), 0 if there is none. */
static size_t blank_at(const char *text, size_t n) {
    static const char *const blanks[] = {
        " ",      "\t",     "\n",     "\v",     "\f",     "\r",     "\xc2\x85", "\u00a0", "\u1680",
        "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",   "\u2007", "\u2008",
        "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
    for (size_t i = 0; i < sizeof blanks / sizeof *blanks; i++) {
        const size_t bytes = strlen(blanks[i]);
        if (bytes <= n && memcmp(text, blanks[i], bytes) == 0) return bytes;
    }
    return 0;
}

/* The beginning of the blanks that end at text[end], not before `from`. */
static size_t blanks_before(const char *text, size_t from, size_t end) {
    while (end > from) {
        size_t n = 1;
        for (; n <= 3 && n <= end - from; n++)
            if (blank_at(text + end - n, n) == n) break;
        if (n > 3 || n > end - from) break;
        end -= n;
    }
    return end;
}

aq_status aq_added_tokens_split(const aq_added_tokens *added, const char *text, size_t bytes,
                                bool parse_special, aq_part_sink sink, void *arg) {
    size_t done = 0, length;
    for (size_t at = 0; at < bytes;) {
        const aq_added_token *token = token_at(added, text, bytes, at);
        size_t begin = at, end = token ? at + token->bytes : at + 1;
        at = end;
        if (!token || (token->special && !parse_special)) continue;
        if (token->lstrip) begin = blanks_before(text, done, begin);
        while (token->rstrip && (length = blank_at(text + end, bytes - end)) > 0)
            end += length;
        if (end > at) at = end;
        if (begin > done) AQ_TRY(sink(arg, text + done, begin - done, -1));
        AQ_TRY(sink(arg, text + begin, end - begin, token->id));
        done = end;
    }
    return done < bytes ? sink(arg, text + done, bytes - done, -1) : AQ_OK;
}
