#include "src/model/spm.h"

#include <stdlib.h>
#include <string.h>

#include "src/model/utf8.h"

/* U+2581, the spelling of a blank. */
static const char blank[] = {'\xe2', '\x96', '\x81'};

void aq_spm_work_free(aq_spm_work *work) {
    aq_bpe_work_free(&work->merging);
    free(work->text);
    free(work->starts);
    free(work->ids);
    *work = (aq_spm_work){0};
}

/* Room for a text of so many bytes, blanks spelt out: at most as many characters, and ids. */
static aq_status reserve(aq_spm_work *work, size_t bytes) {
    if (bytes <= work->capacity) return AQ_OK;
    const size_t capacity = bytes < 64 ? 64 : bytes + bytes / 2;
    aq_spm_work_free(work);
    work->text = malloc(capacity);
    work->starts = malloc((capacity + 1) * sizeof *work->starts);
    work->ids = malloc(capacity * sizeof *work->ids);
    if (!work->text || !work->starts || !work->ids) {
        aq_spm_work_free(work);
        return aq_fail(AQ_ERR_MEMORY, "no memory to encode a text of %zu bytes", bytes);
    }
    work->capacity = capacity;
    return AQ_OK;
}

static size_t put_blank(aq_spm_work *work, size_t at) {
    memcpy(work->text + at, blank, sizeof blank);
    return at + sizeof blank;
}

/* Copies the text with its blanks spelt out; *n is its length then. */
static aq_status spell(aq_spm_work *work, const char *text, size_t bytes, bool blank_first,
                       size_t *n) {
    size_t n_blank = blank_first, at = 0;
    for (size_t i = 0; i < bytes; i++)
        n_blank += text[i] == ' ';
    AQ_TRY(reserve(work, bytes + n_blank * sizeof blank));
    if (blank_first) at = put_blank(work, at);
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == ' ')
            at = put_blank(work, at);
        else
            work->text[at++] = text[i];
    }
    *n = at;
    return AQ_OK;
}

/* Cuts the text into characters and, where there is none, ill-formed parts of at most 3 bytes.
 * Character i is work->ids[i] = -1 - i until it is joined. */
static void cut(aq_spm_work *work, size_t bytes) {
    work->n = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        aq_utf8_next(work->text + at, bytes - at, &length);
        work->starts[work->n] = at;
        work->ids[work->n] = (int32_t)(-1 - work->n);
        work->n++;
    }
    work->starts[work->n] = bytes;
}

typedef struct {
    const aq_vocabulary *vocabulary;
    const aq_spm_work *work;
} rules;

static bool find_token(const void *arg, const int32_t *ids, int32_t at, int32_t right, int32_t end,
                       aq_bpe_join *out) {
    const rules *r = arg;
    const size_t begin = r->work->starts[at], bytes = r->work->starts[end] - begin;
    (void)ids;
    (void)right;
    if (bytes > r->vocabulary->max_text_bytes) return false;
    const int32_t id = aq_vocabulary_find(r->vocabulary, r->work->text + begin, bytes);
    if (id < 0) return false;
    *out = (aq_bpe_join){-(double)r->vocabulary->scores[id], id};
    return true;
}

/* Writes the ids of character i to `to`; returns how many. */
static int64_t character_ids(const aq_vocabulary *vocabulary, const aq_spm_work *work, int64_t i,
                             int32_t *to) {
    const char *text = work->text + work->starts[i];
    const size_t bytes = work->starts[i + 1] - work->starts[i];
    const int32_t whole = aq_vocabulary_find(vocabulary, text, bytes);
    int64_t n = 0;
    if (whole >= 0) {
        to[n++] = whole;
        return n;
    }
    for (size_t j = 0; j < bytes; j++) {
        const int32_t id = vocabulary->byte_ids[(uint8_t)text[j]];
        if (id >= 0) to[n++] = id;
    }
    return n;
}

aq_status aq_spm_encode(const aq_vocabulary *vocabulary, aq_spm_work *work, const char *text,
                        size_t bytes, bool blank_first) {
    size_t spelt_bytes;
    work->n = 0;
    AQ_TRY(spell(work, text, bytes, blank_first, &spelt_bytes));
    if (spelt_bytes > INT32_MAX)
        return aq_fail(AQ_ERR_UNSUPPORTED, "a text of %zu bytes is too long; cut it", bytes);
    if (spelt_bytes == 0) return AQ_OK;
    cut(work, spelt_bytes);
    const rules by_text = {vocabulary, work};
    AQ_TRY(aq_bpe_merge_by(find_token, &by_text, &work->merging, work->ids, &work->n));
    /* A character may become four ids, but no more than it has bytes: from the end to the back, so
     * that none is overwritten, then to the front. */
    int32_t *back = work->ids + spelt_bytes;
    for (int64_t i = work->n; i-- > 0;) {
        int32_t few[4] = {work->ids[i]};
        const int64_t n =
            few[0] < 0 ? character_ids(vocabulary, work, -1 - (int64_t)few[0], few) : 1;
        back -= n;
        memmove(back, few, (size_t)n * sizeof *few);
    }
    work->n = work->ids + spelt_bytes - back;
    memmove(work->ids, back, (size_t)work->n * sizeof *back);
    return AQ_OK;
}
