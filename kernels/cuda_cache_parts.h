/* Private to kernels/: a cache as kernels of the device read it. kv_append.h says what a block
 * holds. The readers of single elements work for all types and orders, and wherever blocks begin:
 * blocks of odd sizes lie at odd addresses, so halves are put together from bytes. */
#ifndef AQ_KERNELS_CUDA_CACHE_PARTS_H
#define AQ_KERNELS_CUDA_CACHE_PARTS_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "kernels/kv_append.h"

/* A view, and what is the same for all its blocks. */
typedef struct {
    aq_kv_view kv;
    aq_code_layout keys, values; /* of coded types */
    int64_t key_bytes, value_bytes, selector_bytes;
    int64_t key_row_bytes, value_row_bytes; /* codes of a token */
    int n_code;                             /* columns of the selector */
} aq_cuda_cache;

static inline aq_cuda_cache aq_cuda_cache_of(const aq_kv_view *kv) {
    aq_cuda_cache cache = {};
    cache.kv = *kv;
    cache.key_bytes = aq_kv_key_bytes(kv);
    cache.value_bytes = aq_kv_value_bytes(kv);
    cache.selector_bytes = aq_kv_selector_bytes(kv);
    cache.n_code = aq_code_layout_columns(&kv->codes);
    if (aq_kv_type_coded(kv->key_type)) {
        cache.keys = aq_kv_type_layout(kv->key_type, kv->n_col);
        cache.key_row_bytes = aq_code_row_bytes(&cache.keys);
    }
    if (aq_kv_type_coded(kv->value_type)) {
        cache.values = aq_kv_type_layout(kv->value_type, kv->d_head);
        cache.value_row_bytes = aq_code_row_bytes(&cache.values);
    }
    return cache;
}

/* Whether rows and blocks of `bytes` bytes from `memory` on can be loaded in pieces of `align`. */
static inline bool aq_cuda_aligned(const void *memory, int64_t bytes, int align) {
    return (uintptr_t)memory % (uintptr_t)align == 0 && bytes % align == 0;
}

__device__ inline bool aq_cuda_coded(aq_kv_type type) {
    return type >= AQ_KV_Q8;
}

__device__ inline bool aq_cuda_open(const aq_cuda_cache &cache, int64_t at) {
    return cache.kv.open_keys && at == cache.kv.open_tile;
}

__device__ inline const uint8_t *aq_cuda_key_block(const aq_cuda_cache &cache, int64_t at, int g) {
    return (const uint8_t *)cache.kv.keys + (at * cache.kv.n_kv_head + g) * cache.key_bytes;
}

__device__ inline const uint8_t *aq_cuda_value_block(const aq_cuda_cache &cache, int64_t at,
                                                     int g) {
    return (const uint8_t *)cache.kv.values + (at * cache.kv.n_kv_head + g) * cache.value_bytes;
}

__device__ inline float aq_cuda_f16_at(const uint8_t *from, int64_t i) {
    const unsigned short bits = (unsigned short)(from[2 * i] | from[2 * i + 1] << 8);
    return __half2float(__ushort_as_half(bits));
}

__device__ inline float aq_cuda_bf16(uint16_t bits) {
    return __uint_as_float((uint32_t)bits << 16);
}

/* The step of a selector's column that `step8` stands for. */
__device__ inline float aq_cuda_step8_value(uint8_t step8) {
    return step8 == 0 ? 0.0f : __uint_as_float(((uint32_t)step8 << 20) + ((127u - 24u) << 23));
}

__device__ inline int aq_cuda_run_bytes(int n, int bits) {
    int bytes = 0;
    for (int width = 8; width > 0; width /= 2)
        if (bits & width) bytes += (n * width + 7) / 8;
    return bytes;
}

/* Code i of a run of n. */
__device__ inline int aq_cuda_code(const uint8_t *run, int n, int bits, int i) {
    int code = 0, shift = 0;
    for (int width = 8; width > 0; width /= 2) {
        if (!(bits & width)) continue;
        const int m = (n * width + 7) / 8;
        code |= (run[i % m] >> (i / m * width) & ((1 << width) - 1)) << shift;
        run += m;
        shift += width;
    }
    return code;
}

/* Code c of the runs of one token. */
__device__ inline int aq_cuda_row_code(const uint8_t *run, const aq_code_layout &layout, int c) {
    int i = 0;
    for (; c >= layout.segments[i].n; i++) {
        c -= layout.segments[i].n;
        run += aq_cuda_run_bytes(layout.segments[i].n, layout.segments[i].bits);
    }
    return aq_cuda_code(run, layout.segments[i].n, layout.segments[i].bits, c);
}

/* Code of token s in column c, by column. */
__device__ inline int aq_cuda_column_code(const uint8_t *run, const aq_code_layout &layout, int c,
                                          int s) {
    int i = 0;
    for (; c >= layout.segments[i].n; i++) {
        c -= layout.segments[i].n;
        run += layout.segments[i].n * layout.segments[i].bits * AQ_TILE / 8;
    }
    const int bits = layout.segments[i].bits;
    return aq_cuda_code(run + c * bits * AQ_TILE / 8, AQ_TILE, bits, s);
}

/* key[s, g, c] of the tile at place `at`. */
__device__ inline float aq_cuda_key(const aq_cuda_cache &cache, int64_t at, int g, int s, int c) {
    const aq_kv_view &kv = cache.kv;
    const bool by_column = kv.key_order == AQ_KEYS_BY_COLUMN;
    const int64_t in_block = by_column ? (int64_t)c * AQ_TILE + s : (int64_t)s * kv.n_col + c;
    if (aq_cuda_open(cache, at)) return kv.open_keys[(int64_t)g * kv.n_col * AQ_TILE + in_block];
    const uint8_t *block = aq_cuda_key_block(cache, at, g);
    if (kv.key_type == AQ_KV_F32) return ((const float *)block)[in_block];
    if (kv.key_type == AQ_KV_BF16) return aq_cuda_bf16(((const uint16_t *)block)[in_block]);
    const uint8_t *run = block + 4 * (int64_t)kv.n_col;
    const int code = by_column ? aq_cuda_column_code(run, cache.keys, c, s)
                               : aq_cuda_row_code(run + s * cache.key_row_bytes, cache.keys, c);
    return fmaf(aq_cuda_f16_at(block, kv.n_col + c), (float)code, aq_cuda_f16_at(block, c));
}

/* value[s, g, i] of the tile at place `at`. */
__device__ inline float aq_cuda_value(const aq_cuda_cache &cache, int64_t at, int g, int s, int i) {
    const aq_kv_view &kv = cache.kv;
    const int64_t in_block = (int64_t)s * kv.d_head + i;
    if (aq_cuda_open(cache, at)) return kv.open_values[(int64_t)g * kv.d_head * AQ_TILE + in_block];
    const uint8_t *block = aq_cuda_value_block(cache, at, g);
    if (kv.value_type == AQ_KV_F32) return ((const float *)block)[in_block];
    if (kv.value_type == AQ_KV_BF16) return aq_cuda_bf16(((const uint16_t *)block)[in_block]);
    const uint8_t *run = block + 3 * AQ_TILE + s * cache.value_row_bytes;
    const int code = aq_cuda_row_code(run, cache.values, i);
    return aq_cuda_f16_at(block, s) * (float)(code - block[2 * AQ_TILE + s]);
}

#endif
