/* UTF-8 by arithmetic, for tests of src/model/utf8 and utf8_stream, which go by a table of bytes.
 */
#ifndef AQ_TESTS_SUPPORT_UTF8_ORACLE_H
#define AQ_TESTS_SUPPORT_UTF8_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that a character beginning with this byte would have; 0: none begins so. */
static inline int oracle_whole(uint8_t lead) {
    return lead < 0x80   ? 1
           : lead < 0xc0 ? 0
           : lead < 0xe0 ? 2
           : lead < 0xf0 ? 3
           : lead < 0xf8 ? 4
                         : 0;
}

/* Whether n bytes are the first n of some character: some number that begins with their bits is a
 * scalar value that needs this many bytes. */
static inline bool oracle_begins(const uint8_t *bytes, size_t n) {
    static const uint32_t first[] = {0, 0, 0x80, 0x800, 0x10000};
    static const uint32_t last[] = {0, 0x7f, 0x7ff, 0xffff, 0x10ffff};
    const int whole = oracle_whole(bytes[0]);
    if (whole == 0 || n > (size_t)whole) return false;
    uint32_t low = whole == 1 ? bytes[0] : bytes[0] & ((1u << (7 - whole)) - 1);
    for (size_t i = 1; i < n; i++) {
        if ((bytes[i] & 0xc0) != 0x80) return false;
        low = low << 6 | (bytes[i] & 0x3f);
    }
    const int open = 6 * (whole - (int)n);
    low <<= open;
    uint32_t high = low | ((1u << open) - 1);
    if (low < first[whole]) low = first[whole];
    if (high > last[whole]) high = last[whole];
    return low <= high && !(low >= 0xd800 && high <= 0xdfff);
}

/* The maximal subpart at bytes[0 .. n): its length, and whether it is a whole character. */
static inline size_t oracle_subpart(const uint8_t *bytes, size_t n, bool *whole) {
    size_t length = 1;
    while (length < n && oracle_begins(bytes, length + 1))
        length++;
    *whole = oracle_begins(bytes, length) && (size_t)oracle_whole(bytes[0]) == length;
    return length;
}

#endif
