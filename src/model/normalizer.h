/* What a text goes through before it is cut into pieces: steps, one after the other. Bytes that are
 * no UTF-8 pass unchanged. Source: the `normalizer` of tokenizer.json; Unicode forms: UAX 15. */
#ifndef AQ_MODEL_NORMALIZER_H
#define AQ_MODEL_NORMALIZER_H

#include <stddef.h>

#include "src/base/status.h"

typedef enum {
    AQ_NORMALIZE_PREPEND, /* `text` goes in front of a text that is not empty */
    AQ_NORMALIZE_REPLACE, /* every `from`, left to right, becomes `text` */
    AQ_NORMALIZE_NFC,
    AQ_NORMALIZE_NFD,
    AQ_NORMALIZE_NFKC,
    AQ_NORMALIZE_NFKD
} aq_normalizer_kind;

/* A step; its texts end in NUL and are borrowed until the normaliser is made. `from` is not empty.
 */
typedef struct {
    aq_normalizer_kind kind;
    const char *from;
    const char *text;
} aq_normalizer_step;

enum { AQ_MAX_NORMALIZER = 16 };

typedef struct aq_normalizer aq_normalizer;

/* Steps 0 .. n; n at most AQ_MAX_NORMALIZER. The caller closes *out, which many threads may use at
 * a time. AQ_ERR_MEMORY. Local. */
aq_status aq_normalizer_open(const aq_normalizer_step *steps, int n, aq_normalizer **out);
void aq_normalizer_close(aq_normalizer *normalizer);

/* Text being normalised; free(buffer->data) when done. Start from a zeroed struct. */
typedef struct {
    char *data;
    size_t bytes;
    size_t capacity;
    size_t limit; /* bytes that it may become */
} aq_normalizer_buffer;

/* Writes the normal form of any bytes to *out, whose memory is reused. AQ_ERR_MEMORY, AQ_ERR_LIMIT
 * (it would be 256 times as long, or 2^31 bytes). Local. */
aq_status aq_normalizer_apply(const aq_normalizer *normalizer, const char *text, size_t bytes,
                              aq_normalizer_buffer *out);

#endif
