#include "src/model/special_tokens.h"

#include <stdlib.h>
#include <string.h>

static int by_key(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static bool is_special(const aq_token *token) {
    return token->text_bytes > 0 &&
           (token->kind == AQ_TOKEN_CONTROL || token->kind == AQ_TOKEN_UNKNOWN ||
            token->kind == AQ_TOKEN_USER);
}

aq_status aq_special_tokens_open(const aq_vocabulary *vocabulary, aq_special_tokens *out) {
    int32_t n = 0;
    for (int32_t id = 0; id < vocabulary->n; id++)
        n += is_special(&vocabulary->tokens[id]);
    uint64_t *keys = malloc(((size_t)n + 1) * sizeof *keys);
    out->ids = malloc(((size_t)n + 1) * sizeof *out->ids);
    out->n = 0;
    if (!keys || !out->ids) {
        free(keys);
        aq_special_tokens_close(out);
        return aq_fail(AQ_ERR_MEMORY, "no memory for %d special tokens", (int)n);
    }
    for (int32_t id = 0; id < vocabulary->n; id++) {
        const aq_token *token = &vocabulary->tokens[id];
        if (is_special(token))
            keys[out->n++] = (uint64_t)(UINT32_MAX - token->text_bytes) << 32 | (uint32_t)id;
    }
    qsort(keys, (size_t)n, sizeof *keys, by_key);
    for (int32_t i = 0; i < n; i++)
        out->ids[i] = (int32_t)(keys[i] & UINT32_MAX);
    free(keys);
    return AQ_OK;
}

void aq_special_tokens_close(aq_special_tokens *special) {
    free(special->ids);
    *special = (aq_special_tokens){NULL, 0};
}

/* Who has which byte of a text: 0 nobody, else id + 1 of the token that lies over it. Made when the
 * first special token is found. */
typedef struct {
    const char *text;
    size_t bytes;
    uint32_t *taken;
} ownership;

/* Takes text[at .. at + n) unless part of it is taken. What was taken before is no shorter, so it
 * would reach over one of the ends. */
static aq_status take(ownership *o, size_t at, size_t n, int32_t id, bool *took) {
    if (!o->taken) o->taken = calloc(o->bytes, sizeof *o->taken);
    if (!o->taken)
        return aq_fail(AQ_ERR_MEMORY, "no memory to find special tokens in a text of %zu bytes",
                       o->bytes);
    *took = o->taken[at] == 0 && o->taken[at + n - 1] == 0;
    for (size_t i = at; *took && i < at + n; i++)
        o->taken[i] = (uint32_t)id + 1;
    return AQ_OK;
}

static aq_status take_all(ownership *o, const aq_token *token, int32_t id) {
    const size_t n = token->text_bytes;
    for (size_t at = 0; at + n <= o->bytes;) {
        const char *hit = memchr(o->text + at, token->text[0], o->bytes - at - n + 1);
        if (!hit) break;
        at = (size_t)(hit - o->text);
        bool took = false;
        if (memcmp(hit, token->text, n) == 0) AQ_TRY(take(o, at, n, id, &took));
        at += took ? n : 1;
    }
    return AQ_OK;
}

/* Tells the sink who has what. */
static aq_status hand_over(const ownership *o, const aq_vocabulary *vocabulary, aq_part_sink sink,
                           void *arg) {
    for (size_t at = 0, n; at < o->bytes; at += n) {
        const uint32_t owner = o->taken ? o->taken[at] : 0;
        if (owner > 0) {
            n = vocabulary->tokens[owner - 1].text_bytes;
        } else {
            for (n = 1; o->taken && at + n < o->bytes && o->taken[at + n] == 0;)
                n++;
            if (!o->taken) n = o->bytes;
        }
        AQ_TRY(sink(arg, o->text + at, n, (int32_t)owner - 1));
    }
    return AQ_OK;
}

aq_status aq_special_tokens_split(const aq_special_tokens *special, const aq_vocabulary *vocabulary,
                                  const char *text, size_t bytes, bool parse_special,
                                  aq_part_sink sink, void *arg) {
    ownership o = {text, bytes, NULL};
    aq_status status = AQ_OK;
    for (int32_t i = 0; i < special->n && status == AQ_OK; i++) {
        const aq_token *token = &vocabulary->tokens[special->ids[i]];
        if (parse_special || token->kind == AQ_TOKEN_USER)
            status = take_all(&o, token, special->ids[i]);
    }
    if (status == AQ_OK) status = hand_over(&o, vocabulary, sink, arg);
    free(o.taken);
    return status;
}
