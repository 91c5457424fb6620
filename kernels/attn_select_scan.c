/* Selecting attention: scores from the codes. */
#include <math.h>
#include <string.h>

#include "kernels/attn_select_parts.h"
#include "kernels/kv_decode.h"

/* The columns of the selector that query i reads, into dims; returns their number. */
static int choose_columns(const aq_select_block *b, int i) {
    const int n_col = b->args->kv.n_col, n_code = b->task->n_code, group = b->task->group;
    const float *q = b->q + (int64_t)i * group * n_col;
    if (b->args->n_dynamic == 0 || b->args->n_dynamic >= n_code) {
        for (int c = 0; c < n_code; c++)
            b->dims[c] = (int16_t)c;
        return n_code;
    }
    memset(b->strength, 0, (size_t)n_code * sizeof(float));
    for (int h = 0; h < group; h++)
        for (int c = 0; c < n_code; c++)
            b->strength[c] += fabsf(q[h * n_col + c]);
    b->simd->choose(b->strength, b->args->weight + (int64_t)b->g * n_col, n_code,
                    b->args->n_dynamic, b->rank, b->dims);
    return b->args->n_dynamic;
}

/* The quads of the selector's blocks of which read[] says that any column is read. */
static void take_quads(aq_select_block *b, const uint8_t *read) {
    const aq_code_layout *layout = &b->args->kv.codes;
    int at = 3 * b->task->n_code, place = 0;
    b->n_quad = 0;
    for (int i = 0; i < layout->n_segment; i++) {
        const int n = layout->segments[i].n, bits = layout->segments[i].bits;
        for (int c = 0; c < n; c += 4, place += 4) {
            const int width = n - c < 4 ? n - c : 4;
            if (read[place / 4])
                b->quads[b->n_quad++] = (aq_scan_quad){.at = at,
                                                       .place = (int16_t)place,
                                                       .width = (uint8_t)width,
                                                       .bits = (uint8_t)bits};
            at += width * bits * (AQ_TILE / 8);
        }
    }
}

/* Queries by places, 0 where a query does not read, and the quads of which any is read. */
static void take_columns(aq_select_block *b) {
    const int n_col = b->args->kv.n_col, n_place = b->task->n_place, group = b->task->group;
    const aq_code_layout *layout = &b->args->kv.codes;
    uint8_t *read = memset(b->rank, 0, (size_t)n_place / 4);
    memset(b->q_code, 0, (size_t)b->n_row * (size_t)n_place * sizeof *b->q_code);
    for (int i = 0; i < b->n_query; i++) {
        const int n = choose_columns(b, i);
        const aq_code_segment *segment = layout->segments;
        int first = 0, at = 0; /* column and place where the segment begins */
        for (int j = 0; j < n; j++) {
            const int c = b->dims[j];
            for (; c >= first + segment->n; segment++) {
                first += segment->n;
                at += (segment->n + 3) / 4 * 4;
            }
            const int place = at + c - first;
            read[place / 4] = 1;
            for (int r = i * group; r < (i + 1) * group; r++)
                b->q_code[r * n_place + place] = b->q[r * n_col + c];
        }
    }
    take_quads(b, read);
}

/* Puts exact scores in place of those of the codes, for query i: tokens `needed` of tile k, whose
 * keys are in their places. */
static void score_exactly(const aq_select_block *b, int i, int64_t k, uint64_t needed) {
    const int group = b->task->group;
    const int64_t stride = b->task->z_stride;
    float *z = b->z + (int64_t)i * group * stride + k * AQ_TILE;
    while (needed != 0) {
        int first;
        const int n = aq_select_run(needed, &first);
        aq_select_dot_packed(b, first, n, i * group, group, z + first, stride);
        needed &= ~aq_select_bits_between(first, first + n);
    }
}

/* Exact scores where a query needs them. */
static void score_near(const aq_select_block *b, int64_t k, int64_t tile) {
    const bool open = aq_kv_is_open(&b->args->kv, tile);
    uint64_t needed[AQ_SELECT_ROWS], any = 0;
    for (int i = 0; i < b->n_query; i++) {
        needed[i] = open ? aq_select_seen_bits(b->args, &b->view[i], tile)
                         : aq_select_near_bits(b->args, &b->view[i], tile);
        any |= needed[i];
    }
    if (any == 0) return;
    aq_select_place_keys(b, tile, any);
    for (int i = 0; i < b->n_query; i++)
        score_exactly(b, i, k, needed[i]);
}

/* Scores of tile k by its codes. */
static void score_codes(const aq_select_block *b, int64_t k, int64_t tile) {
    const aq_kv_view *kv = &b->args->kv;
    const int64_t bytes = b->task->code_bytes;
    const uint8_t *block = (const uint8_t *)kv->selector + (tile * kv->n_kv_head + b->g) * bytes;
    const bool last = tile + b->step >= b->args->n_tile;
    b->simd->scan_codes(
        &(aq_scan_args){.block = block,
                        .next = last ? block : block + b->step * kv->n_kv_head * bytes,
                        .layout = &kv->codes,
                        .n_code = b->task->n_code,
                        .quads = b->quads,
                        .n_quad = b->n_quad,
                        .q = b->q_code,
                        .n_place = b->task->n_place,
                        .n_row = b->n_row,
                        .out = b->z + k * AQ_TILE,
                        .out_stride = b->task->z_stride,
                        .work = b->scan_work});
}

/* Gives -inf to tokens of tile k that query i does not see, and softens the scores of its rows. */
static void soften_tile(const aq_select_block *b, int i, int64_t k, int64_t tile) {
    const int group = b->task->group;
    uint64_t unseen = ~aq_select_seen_bits(b->args, &b->view[i], tile);
    for (; unseen != 0; unseen &= unseen - 1)
        for (int r = i * group; r < (i + 1) * group; r++)
            b->z[r * b->task->z_stride + k * AQ_TILE + __builtin_ctzll(unseen)] = -INFINITY;
    const int64_t row = (int64_t)i * group, at = row * b->task->most_own + k;
    b->simd->soften_rows(&(aq_soften_args){.z = b->z + row * b->task->z_stride + k * AQ_TILE,
                                           .z_stride = b->task->z_stride,
                                           .n_row = group,
                                           .m = b->tile_m + at,
                                           .l = b->tile_l + at,
                                           .tile_stride = b->task->most_own});
}

/* m and l of a row over n tiles. */
static void join_tiles(const aq_select_block *b, int r, int64_t n) {
    const float *tile_m = b->tile_m + r * b->task->most_own;
    const float *tile_l = b->tile_l + r * b->task->most_own;
    float *keep = b->factor;
    b->m[r] = -INFINITY;
    b->l[r] = 0.0f;
    for (int64_t k = 0; k < n; k++)
        b->m[r] = tile_m[k] > b->m[r] ? tile_m[k] : b->m[r];
    if (b->m[r] == -INFINITY) return;
    b->simd->exp_shifted(tile_m, b->m[r], n, keep);
    for (int64_t k = 0; k < n; k++)
        b->l[r] += keep[k] * tile_l[k];
}

void aq_select_scan_tiles(aq_select_block *b) {
    const int group = b->task->group;
    const int64_t n = aq_select_most_tiles(b);
    take_columns(b);
    for (int64_t k = 0; k < n; k++) {
        const int64_t tile = b->first + k * b->step;
        if (!aq_kv_is_open(&b->args->kv, tile)) score_codes(b, k, tile);
        score_near(b, k, tile);
        for (int i = 0; i < b->n_query; i++)
            if (k < aq_select_own_tiles(b, i)) soften_tile(b, i, k, tile);
    }
    for (int r = 0; r < b->n_row; r++)
        join_tiles(b, r, aq_select_own_tiles(b, r / group));
}
