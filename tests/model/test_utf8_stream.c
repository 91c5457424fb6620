/* Text in pieces comes out as the whole text would: valid UTF-8 in every call, nothing held back
 * that is complete, ill-formed bytes as U+FFFD. */
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/model/utf8_stream.h"
#include "tests/support/suite.h"
#include "tests/support/utf8_oracle.h"

#define MOST 64

typedef struct {
    char text[3 * MOST + 16];
    size_t n;
    int n_bad_call; /* empty, too long, or not UTF-8 by itself */
} output;

static void take(void *arg, const char *text, size_t bytes) {
    output *out = arg;
    bool whole = true;
    if (bytes == 0 || bytes > sizeof out->text - out->n) {
        out->n_bad_call++;
        return;
    }
    for (size_t at = 0; at < bytes && whole;)
        at += oracle_subpart((const uint8_t *)text + at, bytes - at, &whole);
    out->n_bad_call += !whole;
    memcpy(out->text + out->n, text, bytes);
    out->n += bytes;
}

/* The whole text at once; `finished`: what is unfinished at its end is replaced, else left out. */
static output expect(const uint8_t *bytes, size_t n, bool finished) {
    output out = {.n = 0};
    bool whole;
    for (size_t at = 0, length; at < n; at += length) {
        length = oracle_subpart(bytes + at, n - at, &whole);
        if (!whole && !finished && at + length == n && oracle_begins(bytes + at, length)) break;
        memcpy(out.text + out.n, whole ? (const void *)(bytes + at) : "\xef\xbf\xbd",
               whole ? length : 3);
        out.n += whole ? length : 3;
    }
    return out;
}

static bool same(const output *a, const output *b) {
    return a->n_bad_call == 0 && a->n == b->n && memcmp(a->text, b->text, a->n) == 0;
}

typedef void push_function(aq_utf8_stream *stream, const char *bytes, size_t n, aq_utf8_sink sink,
                           void *arg);

/* Ill-formed and well-formed pieces, cut anywhere. */
static size_t random_text(aq_rng *rng, uint8_t text[MOST]) {
    static const char *const parts[] = {"a",        "\xc3\xa9",         "\xe2\x82\xac",
                                        "\xed\xa0", "\xf0\x9f\x98\x80", "\xf4\x90",
                                        "\x80",     "\xe0\xa0",         "\xff"};
    const size_t most = aq_rng_next(rng) % MOST;
    size_t n = 0;
    while (n < most) {
        const char *part = parts[aq_rng_next(rng) % (sizeof parts / sizeof parts[0])];
        const size_t bytes = aq_rng_next(rng) % 4 ? strlen(part) : 1;
        for (size_t i = 0; i < bytes && n < most; i++)
            text[n++] = (uint8_t)part[i];
        if (aq_rng_next(rng) % 16 == 0 && n < most) text[n++] = (uint8_t)aq_rng_next(rng);
    }
    return n;
}

/* How many of 5000 random texts, split at random, come out wrong. */
static int count_wrong(push_function *push) {
    aq_rng rng = {7};
    int n_wrong = 0;
    aq_utf8_stream stream = {.n_pending = 0}; /* after finish it is as new */
    for (int round = 0; round < 5000; round++) {
        uint8_t text[MOST];
        const size_t n = random_text(&rng, text);
        output out = {.n = 0}, expected;
        bool good = true;
        for (size_t at = 0, step; at < n; at += step) {
            step = aq_rng_next(&rng) % 6;
            if (step > n - at) step = n - at;
            char *piece = malloc(step + 1); /* of its own: nothing of it may be kept */
            if (!piece) return -1;
            memcpy(piece, text + at, step);
            push(&stream, piece, step, take, &out);
            free(piece);
            expected = expect(text, at + step, false);
            good = good && same(&out, &expected);
        }
        aq_utf8_stream_finish(&stream, take, &out);
        expected = expect(text, n, true);
        n_wrong += !(good && same(&out, &expected));
    }
    return n_wrong;
}

static void test_random(void) {
    CU_ASSERT_EQUAL(count_wrong(aq_utf8_stream_push), 0);
}

static void pass_through(aq_utf8_stream *stream, const char *bytes, size_t n, aq_utf8_sink sink,
                         void *arg) {
    (void)stream;
    if (n > 0) sink(arg, bytes, n);
}

/* Gives characters up at the end of each piece. */
static void no_memory(aq_utf8_stream *stream, const char *bytes, size_t n, aq_utf8_sink sink,
                      void *arg) {
    aq_utf8_stream_push(stream, bytes, n, sink, arg);
    aq_utf8_stream_finish(stream, sink, arg);
}

static void test_planted(void) {
    CU_ASSERT_NOT_EQUAL(count_wrong(pass_through), 0);
    CU_ASSERT_NOT_EQUAL(count_wrong(no_memory), 0);
}

/* By hand: the euro sign in three pieces, then one that breaks off. */
static void test_known(void) {
    aq_utf8_stream stream = {.n_pending = 0};
    output out = {.n = 0};
    aq_utf8_stream_push(&stream, "x\xe2", 2, take, &out);
    CU_ASSERT_EQUAL(out.n, 1);
    aq_utf8_stream_push(&stream, "\x82", 1, take, &out);
    aq_utf8_stream_push(&stream, "", 0, take, &out);
    CU_ASSERT_EQUAL(out.n, 1);
    aq_utf8_stream_push(&stream, "\xac\xe2\x82", 3, take, &out);
    CU_ASSERT_EQUAL(out.n, 4);
    aq_utf8_stream_push(&stream, "y\xf0\x9f", 3, take, &out);
    aq_utf8_stream_finish(&stream, take, &out);
    aq_utf8_stream_finish(&stream, take, &out);
    CU_ASSERT_EQUAL(out.n, 11);
    CU_ASSERT_EQUAL(memcmp(out.text, "x\xe2\x82\xac\xef\xbf\xbdy\xef\xbf\xbd", 11), 0);
    CU_ASSERT_EQUAL(out.n_bad_call, 0);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "random", test_random);
    CU_add_test(suite, "planted", test_planted);
    CU_add_test(suite, "known", test_known);
}
