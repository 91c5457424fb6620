/* What a cache stands for, read by the formats of kernels/kv_append.h and src/base/kv_type.h in
 * double precision and on its own (no code shared with kernels/). Elements of the open tile come
 * from its buffers. `tile` is a place; bugs can be planted. */
#ifndef AQ_TESTS_SUPPORT_ORACLE_CACHE_H
#define AQ_TESTS_SUPPORT_ORACLE_CACHE_H

#include <stdint.h>

#include "kernels/kv_append.h"

/* What can be wrong on purpose. */
typedef enum {
    AQ_CACHE_RIGHT,
    AQ_CACHE_PLANES,    /* the plane of fewest bits is taken for the first */
    AQ_CACHE_PAIRS,     /* entries of a byte are neighbours */
    AQ_CACHE_NEIGHBOUR, /* step of the next column (values: token) */
    AQ_CACHE_ZERO,      /* the zero point is ignored */
    AQ_CACHE_CLOSED,    /* the open tile is read from its blocks */
    AQ_CACHE_ORDER,     /* keys by column are taken for keys by token and the reverse; selector:
                           a quad is taken for columns one after the other */
    AQ_CACHE_LEVELS,    /* selector: levels of 2 bits are taken for min-max */
    AQ_CACHE_STEP8,     /* selector: the step's mantissa is ignored */
    AQ_CACHE_BUGS
} aq_cache_bug;

/* key[s, c] and value[s, i] of KV head g as attention has to see them. */
double aq_cache_key(const aq_kv_view *kv, int64_t tile, int g, int s, int c, aq_cache_bug bug);
double aq_cache_value(const aq_kv_view *kv, int64_t tile, int g, int s, int i, aq_cache_bug bug);

/* base[c] + step[c] level(code[s, c]) of the selector's block, for any closed tile. */
double aq_cache_selector(const aq_kv_view *kv, int64_t tile, int g, int s, int c, aq_cache_bug bug);

/* What the smallest and the largest code of a selector's column stand for, on average. */
double aq_cache_selector_middle(const aq_kv_view *kv, int64_t tile, int g, int c);

/* The step of a key's column, of a value's token, of a selector's column; 0 for numbers. */
double aq_cache_key_step(const aq_kv_view *kv, int64_t tile, int g, int c);
double aq_cache_value_step(const aq_kv_view *kv, int64_t tile, int g, int s);
double aq_cache_selector_step(const aq_kv_view *kv, int64_t tile, int g, int c);

/* Bytes of a block. */
int64_t aq_cache_key_bytes(const aq_kv_view *kv);
int64_t aq_cache_value_bytes(const aq_kv_view *kv);
int64_t aq_cache_selector_bytes(const aq_kv_view *kv);

/* Writes number x to element i of a tensor of f32 or bf16; reads it. */
void aq_cache_set(void *tensor, aq_kv_type type, int64_t i, float x);
double aq_cache_get(const void *tensor, aq_kv_type type, int64_t i);

#endif
