/* What a selector may look like: layouts of codes that cost a query the same bytes. */
#ifndef AQ_CALIB_SELECTOR_H
#define AQ_CALIB_SELECTOR_H

#include "src/base/kv_type.h"
#include "src/base/status.h"

typedef struct {
    aq_code_layout codes;
    int n_dynamic; /* columns that a query reads: those of largest sigma sum_h abs(q^); 0: all */
} aq_selector;

/* Bits of a token and KV head that a query reads. With n_dynamic all columns have as many bits as
 * the first. Local. */
int aq_selector_bits(const aq_selector *selector);

/* Bytes of the same that are stored. Local. */
double aq_selector_stored(const aq_selector *selector);

/* All selectors that are tried at `bytes` bytes read, in a fixed order: layouts with bits falling
 * from 4, 3, 2 to 1 along the columns, whose borders are eighths of d_head, and dynamic ones, of
 * one number of bits for 1 .. 8 eighths of the columns, which read fewer of them. Each reads at
 * most 8 bytes bits; static ones more than that less an eighth of d_head. The caller frees *out.
 * AQ_ERR_USAGE (an eighth of the columns of 1 bit takes more, or all of 4 bits take less),
 * AQ_ERR_MEMORY. Local. */
aq_status aq_selector_list(int d_head, double bytes, aq_selector **out, int *n);

#endif
