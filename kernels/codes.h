/* Private to kernels/: making the blocks of a cache from a whole tile of f32 numbers. kv_append.h
 * says what a block holds. All Local; memory is the caller's. */
#ifndef AQ_KERNELS_CODES_H
#define AQ_KERNELS_CODES_H

#include <stdint.h>
#include <string.h>

#include "kernels/kv_append.h"

/* Packs n codes of `bits` bits as a run of aq_code_run_bytes(n, bits) bytes. */
void aq_codes_pack(const uint8_t *codes, int n, int bits, uint8_t *run);

/* The step of a selector's column that `step8` stands for: its bits are the upper ones of a float
 * whose exponent is moved. */
static inline float aq_step8_value(uint8_t step8) {
    const uint32_t bits = step8 == 0 ? 0 : ((uint32_t)step8 << 20) + ((127u - 24u) << 23);
    float step;
    memcpy(&step, &bits, sizeof step);
    return step;
}

/* The step8 next to a step >= 0; the least that is not below it, or 255. */
uint8_t aq_step8_near(float step);
uint8_t aq_step8_above(float step);

/* Levels of codes of 1 and 2 bits, level[bits - 1][code]. */
extern const float aq_code_levels[2][4];

/* Bytes of working memory that coding a tile needs. */
int64_t aq_code_work_bytes(const aq_kv_view *kv);

/* Make the block of keys, values or selector codes of one KV head from `tile`, which lies as in
 * kv->open_keys or kv->open_values. Types that are numbers are copied or rounded.
 *
 * Keys: the codes nearest to the numbers under the rounded low and step, which are chosen so that
 * nothing is further than half a step from a code. Values likewise, over a range that takes in 0. A
 * selector's columns: code_column.h. */
void aq_code_keys(const aq_kv_view *kv, const float *tile, uint8_t *work, void *block);
void aq_code_values(const aq_kv_view *kv, const float *tile, uint8_t *work, void *block);
void aq_code_selector(const aq_kv_view *kv, const float *tile, void *block);

#endif
