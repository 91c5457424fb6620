#include "src/model/utf8_stream.h"

#include <string.h>

#include "src/model/utf8.h"

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

static void replace(aq_utf8_sink sink, void *arg) {
    sink(arg, replacement, sizeof replacement - 1);
}

/* Takes bytes one by one until no character is open; returns how many it took. */
static size_t close_pending(aq_utf8_stream *stream, const char *bytes, size_t n, aq_utf8_sink sink,
                            void *arg) {
    size_t taken = 0;
    while (stream->n_pending > 0 && taken < n) {
        size_t length;
        stream->pending[stream->n_pending] = bytes[taken];
        switch (aq_utf8_next(stream->pending, (size_t)stream->n_pending + 1, &length)) {
        case AQ_UTF8_UNFINISHED:
            stream->n_pending++;
            taken++;
            break;
        case AQ_UTF8_WHOLE:
            stream->n_pending = 0;
            taken++;
            sink(arg, stream->pending, length);
            break;
        case AQ_UTF8_BAD: /* this byte does not belong to it: looked at again by the caller */
            stream->n_pending = 0;
            replace(sink, arg);
            break;
        }
    }
    return taken;
}

void aq_utf8_stream_push(aq_utf8_stream *stream, const char *bytes, size_t n, aq_utf8_sink sink,
                         void *arg) {
    size_t at = close_pending(stream, bytes, n, sink, arg), given = at, length;
    for (; at < n; at += length) {
        const aq_utf8_kind kind = aq_utf8_next(bytes + at, n - at, &length);
        if (kind == AQ_UTF8_WHOLE) continue;
        if (at > given) sink(arg, bytes + given, at - given);
        given = at + length;
        if (kind == AQ_UTF8_BAD) {
            replace(sink, arg);
        } else {
            memcpy(stream->pending, bytes + at, length);
            stream->n_pending = (int)length;
        }
    }
    if (at > given) sink(arg, bytes + given, at - given);
}

void aq_utf8_stream_finish(aq_utf8_stream *stream, aq_utf8_sink sink, void *arg) {
    if (stream->n_pending > 0) replace(sink, arg);
    stream->n_pending = 0;
}
