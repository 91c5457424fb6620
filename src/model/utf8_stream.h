/* Text that arrives in pieces of bytes, given out in whole UTF-8 characters.
 *
 * Tokens of a byte-level vocabulary may end inside a character; those bytes wait for the rest.
 * Bytes that can never become a character are replaced by U+FFFD. */
#ifndef AQ_MODEL_UTF8_STREAM_H
#define AQ_MODEL_UTF8_STREAM_H

#include <stddef.h>

typedef struct {
    char pending[4];
    int n_pending;
} aq_utf8_stream;

/* Called with valid UTF-8 only; bytes > 0. */
typedef void (*aq_utf8_sink)(void *arg, const char *text, size_t bytes);

/* Takes n bytes and passes on all characters complete so far. A zeroed struct is an empty stream.
 * Local. */
void aq_utf8_stream_push(aq_utf8_stream *stream, const char *bytes, size_t n, aq_utf8_sink sink,
                         void *arg);

/* The end of the text: an unfinished character becomes U+FFFD. Local. */
void aq_utf8_stream_finish(aq_utf8_stream *stream, aq_utf8_sink sink, void *arg);

#endif
