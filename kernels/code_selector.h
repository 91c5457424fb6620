/* Makes the selector codes of some tiles again, from the keys stored there: for a cache whose slots
 * are used again one by one, where no tile is ever complete (kv_append.h says what a selector
 * holds, attn_partial.h what slot_pos is). Slots without a token do not count: their codes are
 * those of the first token of the tile. A tile without tokens keeps its codes.
 *
 * Keys are f32 or bf16, by token. Tolerance: exact, as kv_append codes a whole tile of these keys.
 */
#ifndef AQ_KERNELS_CODE_SELECTOR_H
#define AQ_KERNELS_CODE_SELECTOR_H

#include "kernels/kv_append.h"

typedef struct {
    aq_kv_view kv;           /* open buffers are not used */
    const int64_t *slot_pos; /* [places, AQ_TILE] */
    const int64_t *tile;     /* [n_tile] places, distinct */
    int64_t n_tile;
} aq_code_selector_args;

#endif
