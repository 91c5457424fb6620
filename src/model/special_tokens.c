#include "src/model/special_tokens.h"

#include <stdlib.h>
#include <string.h>

static bool is_special(const aq_token *token) {
    return token->text_bytes > 0 &&
           (token->kind == AQ_TOKEN_CONTROL || token->kind == AQ_TOKEN_UNKNOWN ||
            token->kind == AQ_TOKEN_USER);
}

/* ---- opening ---- */

static int longest_first(const void *a, const void *b) {
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x < y) - (x > y);
}

/* Puts the lengths of the special tokens, longest first and each once, into the table. */
static aq_status list_lengths(const aq_vocabulary *vocabulary, int64_t n, aq_special_tokens *out) {
    uint32_t *bytes = malloc(((size_t)n + 1) * sizeof *bytes);
    if (!bytes) return aq_fail(AQ_ERR_MEMORY, "no memory for %lld special tokens", (long long)n);
    int64_t n_byte = 0;
    for (int32_t id = 0; id < vocabulary->n; id++)
        if (is_special(&vocabulary->tokens[id]))
            bytes[n_byte++] = vocabulary->tokens[id].text_bytes;
    qsort(bytes, (size_t)n, sizeof *bytes, longest_first);
    int64_t n_length = 0;
    for (int64_t i = 0; i < n; i++)
        if (i == 0 || bytes[i] != bytes[n_length - 1]) bytes[n_length++] = bytes[i];
    out->lengths = calloc((size_t)n_length + 1, sizeof *out->lengths);
    for (int64_t i = 0; out->lengths && i < n_length; i++)
        out->lengths[i].bytes = bytes[i];
    out->n_length = n_length;
    free(bytes);
    return out->lengths ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for special tokens");
}

/* The entry of a length that is there. */
static aq_special_length *length_of(const aq_special_tokens *special, uint32_t bytes) {
    int64_t low = 0, high = special->n_length - 1;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (special->lengths[middle].bytes > bytes)
            low = middle + 1;
        else
            high = middle;
    }
    return &special->lengths[low];
}

aq_status aq_special_tokens_open(const aq_vocabulary *vocabulary, aq_special_tokens *out) {
    int64_t n = 0;
    *out = (aq_special_tokens){.n_length = 0};
    for (int32_t id = 0; id < vocabulary->n; id++)
        n += is_special(&vocabulary->tokens[id]);
    aq_status status = aq_name_index_open((uint64_t)n, &out->by_text);
    if (status == AQ_OK) status = list_lengths(vocabulary, n, out);
    for (int32_t id = 0; status == AQ_OK && id < vocabulary->n; id++) {
        const aq_token *token = &vocabulary->tokens[id];
        if (!is_special(token)) continue;
        aq_name_index_add(&out->by_text, token->text, token->text_bytes, id);
        length_of(out, token->text_bytes)->begins[(uint8_t)token->text[0]] = true;
    }
    if (status != AQ_OK) aq_special_tokens_close(out);
    return status;
}

void aq_special_tokens_close(aq_special_tokens *special) {
    aq_name_index_close(&special->by_text);
    free(special->lengths);
    *special = (aq_special_tokens){.n_length = 0};
}

/* ---- splitting ---- */

/* A place where a special token is spelt. */
typedef struct {
    size_t at;
    int32_t id;
} match;

/* One call of split. `taken` says who has which byte of the text: 0 nobody, else id + 1 of the
 * token that lies over it; it is made when the first special token is found. */
typedef struct {
    const aq_special_tokens *special;
    const aq_vocabulary *vocabulary;
    const char *text;
    size_t bytes;
    bool parse_special;
    uint32_t *taken;
    match *matches; /* [n_match], of one length */
    size_t n_match;
    size_t capacity;
} splitting;

static aq_status add_match(splitting *s, size_t at, int32_t id) {
    if (s->n_match == s->capacity) {
        const size_t capacity = 2 * s->capacity + 16;
        match *larger = realloc(s->matches, capacity * sizeof *larger);
        if (!larger)
            return aq_fail(AQ_ERR_MEMORY, "no memory for %zu special tokens in a text", capacity);
        s->matches = larger;
        s->capacity = capacity;
    }
    s->matches[s->n_match++] = (match){at, id};
    return AQ_OK;
}

/* Whether nobody has text[at .. at + n). What is taken is no shorter than n, so it would reach over
 * one of the ends. */
static bool is_free(const splitting *s, size_t at, size_t n) {
    return !s->taken || (s->taken[at] == 0 && s->taken[at + n - 1] == 0);
}

static int by_id(const void *a, const void *b) {
    const match *x = a, *y = b;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

/* Finds the special tokens of one length in what is free, lowest id first, from left to right. */
static aq_status find_matches(splitting *s, const aq_special_length *length) {
    const size_t n = length->bytes;
    bool in_order = true;
    s->n_match = 0;
    for (size_t at = 0; at + n <= s->bytes; at++) {
        if (!length->begins[(uint8_t)s->text[at]] || !is_free(s, at, n)) continue;
        const int64_t id = aq_name_index_find(&s->special->by_text, s->text + at, n);
        if (id < 0) continue;
        if (!s->parse_special && s->vocabulary->tokens[id].kind != AQ_TOKEN_USER) continue;
        in_order = in_order && (s->n_match == 0 || s->matches[s->n_match - 1].id <= id);
        AQ_TRY(add_match(s, at, (int32_t)id));
    }
    if (!in_order) qsort(s->matches, s->n_match, sizeof *s->matches, by_id);
    return AQ_OK;
}

static aq_status take_matches(splitting *s, size_t n) {
    if (s->n_match > 0 && !s->taken) s->taken = calloc(s->bytes, sizeof *s->taken);
    if (s->n_match > 0 && !s->taken)
        return aq_fail(AQ_ERR_MEMORY, "no memory to find special tokens in a text of %zu bytes",
                       s->bytes);
    for (size_t i = 0; i < s->n_match; i++) {
        const match *m = &s->matches[i];
        if (!is_free(s, m->at, n)) continue;
        for (size_t j = m->at; j < m->at + n; j++)
            s->taken[j] = (uint32_t)m->id + 1;
    }
    return AQ_OK;
}

/* Tells the sink who has what. */
static aq_status hand_over(const splitting *s, aq_part_sink sink, void *arg) {
    for (size_t at = 0, n; at < s->bytes; at += n) {
        const uint32_t owner = s->taken ? s->taken[at] : 0;
        if (owner > 0) {
            n = s->vocabulary->tokens[owner - 1].text_bytes;
        } else {
            for (n = 1; s->taken && at + n < s->bytes && s->taken[at + n] == 0;)
                n++;
            if (!s->taken) n = s->bytes;
        }
        AQ_TRY(sink(arg, s->text + at, n, (int32_t)owner - 1));
    }
    return AQ_OK;
}

aq_status aq_special_tokens_split(const aq_special_tokens *special, const aq_vocabulary *vocabulary,
                                  const char *text, size_t bytes, bool parse_special,
                                  aq_part_sink sink, void *arg) {
    splitting s = {special, vocabulary, text, bytes, parse_special, NULL, NULL, 0, 0};
    aq_status status = AQ_OK;
    for (int64_t i = 0; i < special->n_length && status == AQ_OK; i++) {
        status = find_matches(&s, &special->lengths[i]);
        if (status == AQ_OK) status = take_matches(&s, special->lengths[i].bytes);
    }
    if (status == AQ_OK) status = hand_over(&s, sink, arg);
    free(s.matches);
    free(s.taken);
    return status;
}
