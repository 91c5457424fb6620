/* Private to kernels/, included by loops_scan.h only: sums of levels times bytes of the query, both
 * as floats, which hold them exactly. */
#ifndef AQ_KERNELS_LOOPS_SCAN_FLOATS_H
#define AQ_KERNELS_LOOPS_SCAN_FLOATS_H

/* Scores of n_row rows, out[r, ...], as sums of whole numbers in floats. */
AQ_INLINE void scan_rows(const aq_scan_args *a, const folded_rows *rows, const int32_t *level,
                         float *out, int n_row) {
    const int64_t n_place = a->n_place;
    for (int s = 0; s < AQ_TILE; s += 2 * AQ_LANES) {
        aq_v sum[AQ_SCAN_ROWS][2];
        for (int r = 0; r < n_row; r++)
            sum[r][0] = sum[r][1] = aq_v_set1(0.0f);
        for (int64_t j = 0; j < a->n_quad; j++) {
            const float *bytes = rows->byte + a->quads[j].place;
            const aq_vi byte = aq_vi_set1(255);
            const aq_vi low = aq_vi_load(level + AQ_TILE * j + s);
            const aq_vi high = aq_vi_load(level + AQ_TILE * j + s + AQ_LANES);
            for (int k = 0; k < 4; k++) {
                const aq_v x = aq_v_from_int(aq_vi_and(aq_vi_right(low, 8 * k), byte));
                const aq_v y = aq_v_from_int(aq_vi_and(aq_vi_right(high, 8 * k), byte));
                for (int r = 0; r < n_row; r++) {
                    const aq_v factor = aq_v_set1(bytes[r * n_place + k]);
                    sum[r][0] = aq_v_fma(factor, x, sum[r][0]);
                    sum[r][1] = aq_v_fma(factor, y, sum[r][1]);
                }
            }
        }
        for (int r = 0; r < n_row; r++)
            for (int v = 0; v < 2; v++)
                aq_v_store(
                    out + r * a->out_stride + s + v * AQ_LANES,
                    aq_v_fma(sum[r][v], aq_v_set1(rows->scale[r]), aq_v_set1(rows->shared[r])));
    }
}

/* Levels of the quads that are read, for all rows. */
static void keep_levels(const aq_scan_args *a, int32_t *kept) {
    for (int64_t j = 0; j < a->n_quad; j++) {
        const aq_scan_quad *quad = &a->quads[j];
        aq_vi level[TILE_VECTORS];
        ask_ahead(a->next, quad->at, quad->width * quad->bits * (AQ_TILE / 8));
        open_quad(a, quad, quad_kind(quad), level);
        for (int v = 0; v < TILE_VECTORS; v++)
            aq_vi_store(kept + AQ_TILE * j + AQ_LANES * v, level[v]);
    }
}

static void dot_levels(const aq_scan_args *a, const scan_scales *scales, folded_rows *rows,
                       int32_t *kept) {
    keep_levels(a, kept);
    for (int row = 0; row < a->n_row; row += AQ_SCAN_ROWS) {
        const int n_row = a->n_row - row < AQ_SCAN_ROWS ? a->n_row - row : AQ_SCAN_ROWS;
        float *out = a->out + row * a->out_stride;
        for (int r = 0; r < n_row; r++)
            fold_query_rows(a, scales, row + r, 1, rows, r);
        switch (n_row) {
        case 1:
            scan_rows(a, rows, kept, out, 1);
            break;
        case 2:
            scan_rows(a, rows, kept, out, 2);
            break;
        case 3:
            scan_rows(a, rows, kept, out, 3);
            break;
        case 4:
            scan_rows(a, rows, kept, out, 4);
            break;
        case 5:
            scan_rows(a, rows, kept, out, 5);
            break;
        default:
            scan_rows(a, rows, kept, out, 6);
            break;
        }
    }
}

#endif
