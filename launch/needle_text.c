#include "launch/needle_text.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"

#define TEXT_BYTES 256

static const char instruction[] =
    "There is important information hidden inside a lot of irrelevant text. Find it and memorize "
    "it.\n";

static const char *const names[AQ_NEEDLE_MAX] = {
    "Paris", "Rome",   "Cairo",  "Tokyo",  "Delhi",  "Lima",   "Oslo",   "Seoul",
    "Quito", "Lisbon", "Vienna", "Boston", "Dublin", "Prague", "Havana", "Athens"};

/* One key: its sentence and where that stands. */
typedef struct {
    char key[AQ_NEEDLE_KEY];
    char of[32];       /* " of Paris", "" if there is one key alone */
    aq_token_list ids; /* of the sentence */
    int64_t at;        /* ids of the haystack in front of it */
} needle;

static uint64_t below(aq_rng *rng, uint64_t n) {
    return (uint64_t)(aq_rng_uniform(rng) * (double)n);
}

static aq_rng seeded(uint64_t seed, int64_t length, double depth, int64_t attempt) {
    const uint64_t numbers[] = {(uint64_t)length, (uint64_t)llround(depth * 1e6),
                                (uint64_t)attempt};
    aq_rng rng = {seed};
    for (int i = 0; i < 3; i++)
        rng.state = aq_rng_next(&rng) ^ numbers[i];
    return rng;
}

static void draw_key(aq_rng *rng, bool uuid, char key[AQ_NEEDLE_KEY]) {
    const uint64_t a = aq_rng_next(rng), b = aq_rng_next(rng);
    if (uuid) /* version 4, RFC 9562 */
        snprintf(key, AQ_NEEDLE_KEY,
                 "%08" PRIx64 "-%04" PRIx64 "-4%03" PRIx64 "-%04" PRIx64 "-%012" PRIx64, a >> 32,
                 a >> 16 & 0xffff, a & 0xfff, (b >> 48 & 0x3fff) | 0x8000, b & 0xffffffffffff);
    else
        snprintf(key, AQ_NEEDLE_KEY, "%" PRIu64, 10000 + a % 90000);
}

static bool drawn_before(const needle *needles, int n) {
    for (int i = 0; i < n; i++)
        if (strcmp(needles[i].key, needles[n].key) == 0) return true;
    return false;
}

/* Keys that differ, under names in an order of their own. */
static void draw_needles(const aq_needle_source *source, aq_rng *rng, needle *needles) {
    int order[AQ_NEEDLE_MAX] = {0};
    for (int i = 0; i < AQ_NEEDLE_MAX; i++) {
        const int j = (int)below(rng, (uint64_t)i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (int i = 0; i < source->n_needle; i++) {
        needles[i] = (needle){.key = ""};
        do
            draw_key(rng, source->uuid, needles[i].key);
        while (drawn_before(needles, i));
        if (source->n_needle > 1)
            snprintf(needles[i].of, sizeof needles[i].of, " of %s", names[order[i]]);
    }
}

static aq_status encode(const aq_needle_source *source, const char *text, aq_token_list *list) {
    return aq_tokenizer_encode(source->tok, text, strlen(text), false, list);
}

static aq_status encode_needle(const aq_needle_source *source, needle *needle) {
    char text[TEXT_BYTES];
    snprintf(text, sizeof text, "\nThe pass key%s is %s. Remember it. %s is the pass key%s.\n",
             needle->of, needle->key, needle->key, needle->of);
    return encode(source, text, &needle->ids);
}

static aq_status encode_question(const aq_needle_source *source, const needle *asked,
                                 aq_token_list *list) {
    char text[TEXT_BYTES];
    snprintf(text, sizeof text, "\nWhat is the pass key%s? The pass key%s is %s", asked->of,
             asked->of, asked->key);
    return encode(source, text, list);
}

static aq_status encode_front(const aq_needle_source *source, aq_token_list *list) {
    if (aq_tokenizer_adds_bos(source->tok))
        AQ_TRY(aq_token_list_push(list, aq_tokenizer_bos(source->tok)));
    return encode(source, instruction, list);
}

static aq_status append(aq_token_list *list, const int32_t *ids, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        AQ_TRY(aq_token_list_push(list, ids[i]));
    return AQ_OK;
}

/* How many ids of the haystack there is room for. */
static aq_status fit_body(const aq_needle_source *source, int64_t length, int64_t n_fixed,
                          int64_t *n_body) {
    *n_body = length - n_fixed;
    if (*n_body < 0)
        return aq_fail(AQ_ERR_USAGE,
                       "--lengths: a text of %" PRId64 " tokens is too short; the key, the "
                       "question and what else must stand in it are %" PRId64,
                       length, n_fixed);
    if (*n_body > source->haystack.n)
        return aq_fail(AQ_ERR_USAGE,
                       "--lengths: a text of %" PRId64 " tokens needs a haystack (-f) of %" PRId64
                       ", which has %" PRId64,
                       length, *n_body, source->haystack.n);
    return AQ_OK;
}

static int by_place(const void *a, const void *b) {
    const int64_t x = ((const needle *)a)->at, y = ((const needle *)b)->at;
    return (x > y) - (x < y);
}

/* The body of n ids of the haystack with the needles in it; their order changes. */
static aq_status append_body(const int32_t *haystack, int64_t n, needle *needles, int n_needle,
                             aq_token_list *list) {
    int64_t done = 0;
    qsort(needles, (size_t)n_needle, sizeof *needles, by_place);
    for (int i = 0; i < n_needle; i++) {
        AQ_TRY(append(list, haystack + done, needles[i].at - done));
        AQ_TRY(append(list, needles[i].ids.ids, needles[i].ids.n));
        done = needles[i].at;
    }
    return append(list, haystack + done, n - done);
}

/* Ids in front of those that hold the last `bytes` bytes of the text. */
static int64_t ids_before(const aq_tokenizer *tok, const aq_token_list *list, size_t bytes) {
    int64_t n = list->n;
    for (size_t got = 0, piece; n > 0 && got < bytes; got += piece)
        aq_tokenizer_piece(tok, list->ids[--n], false, &piece);
    return n;
}

/* `question` and the ids of the needles are the caller's to free. */
static aq_status make(const aq_needle_source *source, int64_t length, double depth, aq_rng *rng,
                      needle *needles, aq_token_list *question, aq_needle_text *out) {
    int64_t n_fixed, n_body;
    draw_needles(source, rng, needles);
    snprintf(out->key, sizeof out->key, "%s", needles[0].key);
    AQ_TRY(encode_front(source, &out->ids));
    AQ_TRY(encode_question(source, &needles[0], question));
    n_fixed = out->ids.n + question->n;
    for (int i = 0; i < source->n_needle; i++) {
        AQ_TRY(encode_needle(source, &needles[i]));
        n_fixed += needles[i].ids.n;
    }
    AQ_TRY(fit_body(source, length, n_fixed, &n_body));
    const uint64_t begin = below(rng, (uint64_t)(source->haystack.n - n_body) + 1);
    for (int i = 0; i < source->n_needle; i++)
        needles[i].at = (int64_t)((i == 0 ? depth : aq_rng_uniform(rng)) * (double)n_body);
    AQ_TRY(append_body(source->haystack.ids + begin, n_body, needles, source->n_needle, &out->ids));
    AQ_TRY(append(&out->ids, question->ids, question->n));
    out->n_prompt = ids_before(source->tok, &out->ids, strlen(out->key));
    return AQ_OK;
}

aq_status aq_needle_make(const aq_needle_source *source, int64_t length, double depth,
                         int64_t attempt, aq_needle_text *out) {
    aq_rng rng = seeded(source->seed, length, depth, attempt);
    needle needles[AQ_NEEDLE_MAX] = {{.key = ""}};
    aq_token_list question = {NULL, 0, 0};
    *out = (aq_needle_text){.n_prompt = 0};
    const aq_status status = make(source, length, depth, &rng, needles, &question, out);
    for (int i = 0; i < source->n_needle; i++)
        free(needles[i].ids.ids);
    free(question.ids);
    if (status != AQ_OK) {
        free(out->ids.ids);
        out->ids = (aq_token_list){NULL, 0, 0};
    }
    return status;
}

bool aq_needle_answered(const char *answer, const char *key) {
    const size_t n = strlen(key);
    while (isspace((unsigned char)*answer))
        answer++;
    return strncmp(answer, key, n) == 0 && !isalnum((unsigned char)answer[n]);
}
