/* Private to kernels/, and what calibration tries selectors with: the codes of one column of a
 * selector over one tile, as kv_append.h says what they stand for. All Local; memory is the
 * caller's; plain C, the same bits on every processor. */
#ifndef AQ_KERNELS_CODE_COLUMN_H
#define AQ_KERNELS_CODE_COLUMN_H

#include <stdint.h>

#include "kernels/kv_append.h"

typedef struct {
    uint16_t base; /* f16 */
    uint8_t step8;
    uint8_t code[AQ_TILE];
} aq_column_codes;

/* Chooses base, step8 and codes of `bits` bits (1 .. 8) for x[AQ_TILE] so that
 *
 *     sum_s (x[s] - base - step level(code[s]))^2
 *
 * is small, and never larger than with the range of x laid over the codes (3 bits and more) or its
 * mean and standard deviation (1 and 2 bits): from there a few rounds of nearest level and
 * regression, then base and step rounded both ways. A tail is clipped where that pays.
 *
 * Source: Lloyd 1982 (nearest level, then the best levels), with levels a step apart. */
void aq_column_fit(const float *x, int bits, aq_column_codes *out);

/* out[s] = base + step level(code[s]), s < AQ_TILE. */
void aq_column_levels(const aq_column_codes *codes, int bits, float *out);

#endif
