#include "src/model/utf8.h"

#include <stdint.h>

/* Bytes a character has that begins with `lead`, 0 if none begins so; and the range its second byte
 * must lie in, which excludes overlong forms, surrogates and numbers past U+10FFFF. */
static size_t lead_length(uint8_t lead, uint8_t *second_min, uint8_t *second_max) {
    *second_min = 0x80;
    *second_max = 0xbf;
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    if (lead < 0xe0) return 2;
    if (lead == 0xe0) *second_min = 0xa0;
    if (lead == 0xed) *second_max = 0x9f;
    if (lead < 0xf0) return 3;
    if (lead == 0xf0) *second_min = 0x90;
    if (lead == 0xf4) *second_max = 0x8f;
    return 4;
}

aq_utf8_kind aq_utf8_next(const char *text, size_t n, size_t *length) {
    uint8_t min, max;
    const size_t whole = lead_length((uint8_t)text[0], &min, &max);
    *length = 1;
    if (whole == 0) return AQ_UTF8_BAD;
    for (; *length < whole; (*length)++) {
        if (*length == n) return AQ_UTF8_UNFINISHED;
        const uint8_t byte = (uint8_t)text[*length];
        if (byte < min || byte > max) return AQ_UTF8_BAD;
        min = 0x80;
        max = 0xbf;
    }
    return AQ_UTF8_WHOLE;
}
