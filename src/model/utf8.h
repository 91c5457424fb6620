/* UTF-8, one character at a time. */
#ifndef AQ_MODEL_UTF8_H
#define AQ_MODEL_UTF8_H

#include <stddef.h>

typedef enum {
    AQ_UTF8_WHOLE,     /* a well-formed character */
    AQ_UTF8_BAD,       /* bytes that no following byte can make well-formed */
    AQ_UTF8_UNFINISHED /* the text ends inside a character that is well-formed so far */
} aq_utf8_kind;

/* The kind of what stands at text[0 .. n), n > 0, and its length: a character, or the maximal
 * subpart of an ill-formed one (at least 1 byte), which is what U+FFFD replaces.
 * Source: The Unicode Standard, table 3-7 and section 3.9. Local. */
aq_utf8_kind aq_utf8_next(const char *text, size_t n, size_t *length);

#endif
