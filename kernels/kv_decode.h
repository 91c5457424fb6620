/* Private to kernels/: blocks of a cache back to f32, one tile of one KV head at a time.
 * kv_append.h says what a block holds. Coded types only, and closed tiles, but for blocks.
 * All Local; `work` is the caller's, aq_decode_work_bytes of it. */
#ifndef AQ_KERNELS_KV_DECODE_H
#define AQ_KERNELS_KV_DECODE_H

#include "kernels/kv_append.h"
#include "kernels/simd.h"

/* Whether the tile at place `tile` lies in the open buffers. */
static inline bool aq_kv_is_open(const aq_kv_view *kv, int64_t tile) {
    return kv->open_keys && tile == kv->open_tile;
}

/* The block of keys or values of a tile, of any type. */
const uint8_t *aq_kv_key_block(const aq_kv_view *kv, int64_t tile, int g);
const uint8_t *aq_kv_value_block(const aq_kv_view *kv, int64_t tile, int g);

/* Working memory, 64-byte aligned, that the functions below need. */
int64_t aq_decode_work_bytes(const aq_kv_view *kv);

/* All keys, in their own order: [n_col, AQ_TILE] by column, [AQ_TILE, n_col] by token. */
void aq_decode_keys(const aq_simd *simd, const aq_kv_view *kv, int64_t tile, int g, void *work,
                    float *out);

/* Keys by token, one by one: first the scales of the tile into `work`, then any of its tokens s,
 * out[n_col]. */
void aq_decode_key_scales(const aq_simd *simd, const aq_kv_view *kv, int64_t tile, int g,
                          void *work);
void aq_decode_key(const aq_simd *simd, const aq_kv_view *kv, int64_t tile, int g, int s,
                   void *work, float *out);

/* Values of tokens first .. first + n: out[n, d_head]. Leaves the scales of keys in place. */
void aq_decode_values(const aq_simd *simd, const aq_kv_view *kv, int64_t tile, int g, int first,
                      int n, void *work, float *out);

/* Rows of codes of 8 bits where they lie in a block, and what they stand for, in `work`: for the
 * loops of bytes (simd.h). */
typedef struct {
    const uint8_t **rows;
    const float *step, *low;
} aq_kv_rows;

/* Keys of type AQ_KV_Q8: by column [n_col] rows of AQ_TILE codes with a step and low each, by token
 * [AQ_TILE] rows of n_col codes, step and low for each place. */
aq_kv_rows aq_kv_key_rows(const aq_simd *simd, const aq_kv_view *kv, const uint8_t *block,
                          void *work);

/* Values of type AQ_KV_Q8: [AQ_TILE] rows of d_head codes, with a step and low each. Leaves the
 * scales of keys in place, but not their rows. */
aq_kv_rows aq_kv_value_rows(const aq_simd *simd, const aq_kv_view *kv, const uint8_t *block,
                            void *work);

#endif
