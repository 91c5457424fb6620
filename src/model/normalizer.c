#include "src/model/normalizer.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "src/model/utf8.h"

/* A text may become so many times as long: Unicode's forms make 11 times, blanks 3 times. */
#define MAX_GROWTH 256
#define MAX_BYTES  ((size_t)INT32_MAX)

struct aq_normalizer {
    int n;
    aq_normalizer_step steps[AQ_MAX_NORMALIZER];
    char *texts; /* all texts of the steps */
};

static size_t length_of(const char *text) {
    return text ? strlen(text) + 1 : 0;
}

static const char *keep(char **next, const char *text) {
    const size_t n = length_of(text);
    char *kept = *next;
    if (n == 0) return NULL;
    memcpy(kept, text, n);
    *next += n;
    return kept;
}

aq_status aq_normalizer_open(const aq_normalizer_step *steps, int n, aq_normalizer **out) {
    size_t bytes = 1;
    aq_normalizer *made = *out = calloc(1, sizeof *made);
    for (int i = 0; i < n; i++)
        bytes += length_of(steps[i].from) + length_of(steps[i].text);
    if (made) made->texts = malloc(bytes);
    if (!made || !made->texts) {
        free(made);
        *out = NULL;
        return aq_fail(AQ_ERR_MEMORY, "no memory for a normaliser");
    }
    char *next = made->texts;
    made->n = n;
    for (int i = 0; i < n; i++) {
        made->steps[i].kind = steps[i].kind;
        made->steps[i].from = keep(&next, steps[i].from);
        made->steps[i].text = keep(&next, steps[i].text);
    }
    return AQ_OK;
}

void aq_normalizer_close(aq_normalizer *normalizer) {
    if (!normalizer) return;
    free(normalizer->texts);
    free(normalizer);
}

static aq_status put(aq_normalizer_buffer *out, const char *text, size_t bytes) {
    if (bytes > out->limit - out->bytes)
        return aq_fail(AQ_ERR_LIMIT, "a text is too long when normalised; cut it");
    if (out->bytes + bytes > out->capacity) {
        const size_t capacity = (out->bytes + bytes) * 2 + 64;
        char *larger = realloc(out->data, capacity);
        if (!larger) return aq_fail(AQ_ERR_MEMORY, "no memory to normalise a text");
        out->data = larger;
        out->capacity = capacity;
    }
    if (bytes > 0) memcpy(out->data + out->bytes, text, bytes);
    out->bytes += bytes;
    return AQ_OK;
}

static aq_status replace(const aq_normalizer_step *step, const char *text, size_t bytes,
                         aq_normalizer_buffer *out) {
    const size_t n_from = strlen(step->from), n_text = strlen(step->text);
    size_t kept = 0;
    for (size_t at = 0; at < bytes;) {
        if (bytes - at < n_from || memcmp(text + at, step->from, n_from) != 0) {
            at++;
            continue;
        }
        AQ_TRY(put(out, text + kept, at - kept));
        AQ_TRY(put(out, step->text, n_text));
        kept = at += n_from;
    }
    return put(out, text + kept, bytes - kept);
}

/* Appends the Unicode form of well-formed text. */
static aq_status put_form(utf8proc_option_t form, const char *text, size_t bytes,
                          aq_normalizer_buffer *out) {
    utf8proc_uint8_t *made = NULL;
    bool ascii = true;
    for (size_t i = 0; ascii && i < bytes; i++)
        ascii = (uint8_t)text[i] < 0x80;
    if (ascii) return put(out, text, bytes); /* every form leaves it alone */
    const utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &made, form);
    if (n < 0) {
        free(made);
        return aq_fail(n == UTF8PROC_ERROR_NOMEM ? AQ_ERR_MEMORY : AQ_ERR_LIMIT,
                       "a text of %zu bytes cannot be normalised: %s", bytes, utf8proc_errmsg(n));
    }
    const aq_status status = put(out, (const char *)made, (size_t)n);
    free(made);
    return status;
}

/* Characters that have a form only since Unicode 12.1: the tokenizers package, whose tables are
 * older, leaves them alone, and models have learnt what it gives. */
static const struct {
    uint32_t first;
    uint32_t last;
} since_12_1[] = {
    {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},   {0xab69, 0xab69},   {0x10781, 0x10785},
    {0x10787, 0x107b0}, {0x107b2, 0x107ba}, {0x11930, 0x11930}, {0x11938, 0x11938},
    {0x1e030, 0x1e06d}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9},
};

/* Whether the well-formed character of 3 or 4 bytes at `text` is one of them. */
static bool is_newer(const char *text, size_t length) {
    const uint8_t *byte = (const uint8_t *)text;
    uint32_t character = length == 3 ? byte[0] & 15u : byte[0] & 7u;
    for (size_t i = 1; i < length; i++)
        character = character << 6 | (byte[i] & 0x3fu);
    for (size_t i = 0; i < sizeof since_12_1 / sizeof *since_12_1; i++)
        if (character >= since_12_1[i].first && character <= since_12_1[i].last) return true;
    return false;
}

/* Forms the stretches between what stays: bytes that are no character, and newer ones. */
static aq_status form(utf8proc_option_t option, const char *text, size_t bytes,
                      aq_normalizer_buffer *out) {
    size_t begin = 0, length;
    for (size_t at = 0; at < bytes; at += length) {
        const bool whole = aq_utf8_next(text + at, bytes - at, &length) == AQ_UTF8_WHOLE;
        if (whole && (length < 3 || !is_newer(text + at, length))) continue;
        AQ_TRY(put_form(option, text + begin, at - begin, out));
        AQ_TRY(put(out, text + at, length));
        begin = at + length;
    }
    return put_form(option, text + begin, bytes - begin, out);
}

static aq_status take(const aq_normalizer_step *step, const char *text, size_t bytes,
                      aq_normalizer_buffer *out) {
    const utf8proc_option_t stable = UTF8PROC_STABLE;
    switch (step->kind) {
    case AQ_NORMALIZE_PREPEND:
        if (bytes > 0) AQ_TRY(put(out, step->text, strlen(step->text)));
        return put(out, text, bytes);
    case AQ_NORMALIZE_REPLACE:
        return replace(step, text, bytes, out);
    case AQ_NORMALIZE_NFC:
        return form(stable | UTF8PROC_COMPOSE, text, bytes, out);
    case AQ_NORMALIZE_NFD:
        return form(stable | UTF8PROC_DECOMPOSE, text, bytes, out);
    case AQ_NORMALIZE_NFKC:
        return form(stable | UTF8PROC_COMPOSE | UTF8PROC_COMPAT, text, bytes, out);
    case AQ_NORMALIZE_NFKD:
        return form(stable | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, text, bytes, out);
    }
    return aq_fail(AQ_ERR_USAGE, "no normaliser %d", (int)step->kind);
}

aq_status aq_normalizer_apply(const aq_normalizer *normalizer, const char *text, size_t bytes,
                              aq_normalizer_buffer *out) {
    aq_normalizer_buffer other = {0};
    aq_status status = AQ_OK;
    out->bytes = 0;
    out->limit = bytes < MAX_BYTES / MAX_GROWTH ? (bytes + 16) * MAX_GROWTH : MAX_BYTES;
    if (normalizer->n == 0) return put(out, text, bytes);
    for (int i = 0; i < normalizer->n && status == AQ_OK; i++) {
        if (i > 0) { /* the step before has written `out`: read it, write the other one */
            const aq_normalizer_buffer written = *out;
            *out = other;
            other = written;
            out->bytes = 0;
            out->limit = written.limit;
            text = other.data;
            bytes = other.bytes;
        }
        status = take(&normalizer->steps[i], bytes > 0 ? text : "", bytes, out);
    }
    free(other.data);
    return status;
}
