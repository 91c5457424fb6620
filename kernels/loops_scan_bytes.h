/* Private to kernels/, included by loops_scan.h only: sums of levels times bytes of the query,
 * where instructions multiply bytes. */
#ifndef AQ_KERNELS_LOOPS_SCAN_BYTES_H
#define AQ_KERNELS_LOOPS_SCAN_BYTES_H

/* Sums of a few rows for all tokens of the tile are in registers. */
#define SCAN_AT_ONCE (AQ_LANES > 8 ? 4 : 1)

/* Rows row .. row + n_row. The first rows open the codes, and keep the levels if others follow. */
typedef struct {
    const aq_scan_args *a;
    const folded_rows *rows;
    int32_t *kept; /* [n_quad, AQ_TILE] */
    int row;
} scan_step;

AQ_INLINE void take_levels(const scan_step *step, int64_t j, int kind, int n_row, aq_vi *level) {
    int32_t *kept = step->kept + AQ_TILE * j;
    if (step->row > 0) {
        for (int v = 0; v < TILE_VECTORS; v++)
            level[v] = aq_vi_load(kept + AQ_LANES * v);
        return;
    }
    open_quad(step->a, &step->a->quads[j], kind, level);
    for (int v = 0; v < TILE_VECTORS && n_row < step->a->n_row; v++)
        aq_vi_store(kept + AQ_LANES * v, level[v]);
}

/* Levels of 8 bits are too large for some instructions: half of them twice, and the rest. */
AQ_INLINE aq_vi dot_quad(aq_vi sum, aq_vi level, aq_vi bytes, bool wide) {
#ifdef AQ_DOT_BYTES
    (void)wide;
    return aq_vi_dot_bytes(sum, level, bytes);
#else
    if (!wide) return aq_vi_dot_levels(sum, level, bytes);
    const aq_vi half = aq_vi_and(aq_vi_right(level, 1), aq_vi_set1(0x7f7f7f7f));
    sum = aq_vi_dot_levels(sum, aq_vi_and(level, aq_vi_set1(0x01010101)), bytes);
    return aq_vi_dot_levels(aq_vi_dot_levels(sum, half, bytes), half, bytes);
#endif
}

/* Adds the quads from j on that are of this kind; returns where they end. */
AQ_INLINE int64_t dot_quads(const scan_step *step, int64_t j, int kind, int n_row,
                            aq_vi sum[][TILE_VECTORS]) {
    const aq_scan_args *a = step->a;
    for (; j < a->n_quad && quad_kind(&a->quads[j]) == kind; j++) {
        const aq_scan_quad *quad = &a->quads[j];
        aq_vi level[TILE_VECTORS];
        take_levels(step, j, kind, n_row, level);
        if (step->row == 0) ask_ahead(a->next, quad->at, quad->width * quad->bits * (AQ_TILE / 8));
        for (int r = 0; r < n_row; r++) {
            int32_t bytes;
            memcpy(&bytes, step->rows->byte + (int64_t)r * a->n_place + quad->place, sizeof bytes);
            for (int v = 0; v < TILE_VECTORS; v++)
                sum[r][v] =
                    dot_quad(sum[r][v], level[v], aq_vi_set1(bytes), kind == 0 && quad->bits == 8);
        }
    }
    return j;
}

AQ_INLINE void scan_rows(const scan_step *step, const scan_scales *scales, folded_rows *rows,
                         int n_row) {
    const aq_scan_args *a = step->a;
    fold_query_rows(a, scales, step->row, n_row, rows, 0);
    aq_vi sum[SCAN_AT_ONCE][TILE_VECTORS];
    for (int r = 0; r < n_row; r++)
        for (int v = 0; v < TILE_VECTORS; v++)
            sum[r][v] = aq_vi_set1(0);
    for (int64_t j = 0; j < a->n_quad;) {
        j = dot_quads(step, j, 4, n_row, sum);
        j = dot_quads(step, j, 2, n_row, sum);
        j = dot_quads(step, j, 1, n_row, sum);
        j = dot_quads(step, j, 0, n_row, sum);
    }
    for (int r = 0; r < n_row; r++) {
        const aq_v scale = aq_v_set1(step->rows->scale[r]);
        const aq_v shared = aq_v_set1(step->rows->shared[r]);
        float *out = a->out + (step->row + r) * a->out_stride;
        for (int v = 0; v < TILE_VECTORS; v++)
            aq_v_store(out + AQ_LANES * v, aq_v_fma(aq_v_from_int(sum[r][v]), scale, shared));
    }
}

static void dot_levels(const aq_scan_args *a, const scan_scales *scales, folded_rows *rows,
                       int32_t *kept) {
    for (int row = 0; row < a->n_row; row += SCAN_AT_ONCE) {
        const int n_row = a->n_row - row < SCAN_AT_ONCE ? a->n_row - row : SCAN_AT_ONCE;
        const scan_step step = {a, rows, kept, row};
        switch (n_row) {
        case 1:
            scan_rows(&step, scales, rows, 1);
            break;
        case 2:
            scan_rows(&step, scales, rows, 2);
            break;
        case 3:
            scan_rows(&step, scales, rows, 3);
            break;
        default:
            scan_rows(&step, scales, rows, SCAN_AT_ONCE);
            break;
        }
    }
}

#endif
