/* Private to kernels/: what the files of attn_select do with bits, of tiles and of floats. */
#ifndef AQ_KERNELS_ATTN_SELECT_BITS_PARTS_H
#define AQ_KERNELS_ATTN_SELECT_BITS_PARTS_H

#include <stdint.h>
#include <string.h>

#include "kernels/kv_append.h"

static inline int64_t aq_select_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Bits begin .. end of 64, as far as there are such. */
static inline uint64_t aq_select_bits_between(int64_t begin, int64_t end) {
    end = aq_select_min(end, AQ_TILE);
    if (begin < 0) begin = 0;
    if (begin >= end) return 0;
    return ~(uint64_t)0 >> (AQ_TILE - (end - begin)) << begin;
}

/* The first run of bits that are set: *first, and its length. */
static inline int aq_select_run(uint64_t bits, int *first) {
    *first = __builtin_ctzll(bits);
    const uint64_t rest = ~(bits >> *first);
    return rest == 0 ? AQ_TILE : __builtin_ctzll(rest);
}

static inline float aq_select_float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t aq_select_bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

#endif
