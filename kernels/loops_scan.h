/* Private to kernels/, included by simd.c only: scores from the codes of a selector. simd.h says
 * what each does. A score is a sum over the columns that all tokens of a tile share, and one of
 * whole numbers: bytes of the query times levels, which are bytes too. */
#ifndef AQ_KERNELS_LOOPS_SCAN_H
#define AQ_KERNELS_LOOPS_SCAN_H

#include "kernels/loops_levels.h"

#define BYTE_TOP 127.0f

#ifdef AQ_DOT_LEVELS
typedef int8_t query_byte;

AQ_INLINE void store_query_bytes(query_byte *to, aq_vi byte) {
    aq_vi_store_i8(to, byte);
}
#else
typedef float query_byte;

AQ_INLINE void store_query_bytes(query_byte *to, aq_vi byte) {
    aq_v_store(to, aq_v_from_int(byte));
}
#endif

/* Rows of bytes, n_place from one to the next, and what their sums become scores by. */
typedef struct {
    query_byte *byte;
    float scale[AQ_SCAN_ROWS], shared[AQ_SCAN_ROWS];
} folded_rows;

/* Of a row by places: what its bytes are scaled by, and their sum over the columns' middles. */
AQ_INLINE void weigh_query_rows(const float *q, int n_place, const scan_scales *scales, int n_row,
                                aq_v *most, aq_v *middles) {
    for (int r = 0; r < n_row; r++)
        most[r] = middles[r] = aq_v_set1(0.0f);
    for (int i = 0; i < n_place; i += AQ_LANES) {
        const aq_v unit = aq_v_load(scales->unit + i), middle = aq_v_load(scales->middle + i);
        for (int r = 0; r < n_row; r++) {
            const aq_v x = aq_v_load(q + r * n_place + i);
            const aq_v factor = aq_v_mul(x, unit);
            most[r] = aq_v_max(most[r], aq_v_max(factor, aq_v_sub(aq_v_set1(0.0f), factor)));
            middles[r] = aq_v_fma(x, middle, middles[r]);
        }
    }
}

/* Rows row .. row + n_row become rows first .. of `to`, side by side, since each waits for its
 * largest factor. That levels count from their halves is the same for all tokens. */
AQ_INLINE void fold_query_rows(const aq_scan_args *a, const scan_scales *scales, int row, int n_row,
                               folded_rows *to, int first) {
    const int n_place = a->n_place;
    const float *q = a->q + (int64_t)row * n_place;
    query_byte *bytes = to->byte + (int64_t)first * n_place;
    aq_v most[AQ_SCAN_ROWS], middles[AQ_SCAN_ROWS], halves[AQ_SCAN_ROWS], inverse[AQ_SCAN_ROWS];
    weigh_query_rows(q, n_place, scales, n_row, most, middles);
    for (int r = 0; r < n_row; r++) {
        const float largest = aq_v_largest(most[r]);
        to->scale[first + r] = largest / BYTE_TOP;
        inverse[r] = aq_v_set1(largest > 0.0f ? BYTE_TOP / largest : 0.0f);
        halves[r] = aq_v_set1(0.0f);
    }
    for (int i = 0; i < n_place; i += AQ_LANES) {
        const aq_v unit = aq_v_load(scales->unit + i), half = aq_v_load(scales->half + i);
        for (int r = 0; r < n_row; r++) {
            const aq_v factor = aq_v_mul(aq_v_load(q + r * n_place + i), unit);
            const aq_vi byte = aq_vi_round(aq_v_mul(factor, inverse[r]));
            store_query_bytes(bytes + r * n_place + i, byte);
            halves[r] = aq_v_fma(aq_v_from_int(byte), half, halves[r]);
        }
    }
    for (int r = 0; r < n_row; r++) {
        const aq_v scale = aq_v_set1(to->scale[first + r]);
        to->shared[first + r] = aq_v_sum(aq_v_sub(middles[r], aq_v_mul(scale, halves[r])));
    }
}

#ifdef AQ_DOT_LEVELS
#include "kernels/loops_scan_bytes.h"
#else
#include "kernels/loops_scan_floats.h"
#endif

static void scan_codes(const aq_scan_args *a) {
    const int64_t n_place = a->n_place;
    const scan_scales scales = {a->work, a->work + n_place, a->work + 2 * n_place};
    folded_rows rows = {.byte = (query_byte *)(a->work + 3 * n_place)};
    ask_ahead(a->next, 0, 3 * a->n_code);
    take_scales(a, &scales);
    dot_levels(a, &scales, &rows, (int32_t *)(a->work + (3 + AQ_SCAN_ROWS) * n_place));
}

#endif
