/* Selecting attention: exact attention to the chosen tokens. */
#include <math.h>
#include <string.h>

#include "kernels/attn_select_parts.h"
#include "kernels/kv_decode.h"

#define LINE_BYTES 64

/* Keys of tokens s .. s + n of a tile to `out`; of codes, their scales are in b->work. */
static void read_keys(const aq_select_block *b, int64_t tile, int s, int n, float *out) {
    const aq_kv_view *kv = &b->args->kv;
    const int64_t n_col = kv->n_col, size = n * n_col;
    if (aq_kv_is_open(kv, tile)) {
        memcpy(out, kv->open_keys + ((int64_t)b->g * AQ_TILE + s) * n_col,
               (size_t)size * sizeof(float));
    } else if (aq_kv_type_coded(kv->key_type)) {
        for (int i = 0; i < n; i++)
            aq_decode_key(b->simd, kv, tile, b->g, s + i, b->work, out + i * n_col);
    } else {
        const aq_dtype dtype = aq_kv_type_dtype(kv->key_type);
        const int64_t at = ((tile * kv->n_kv_head + b->g) * AQ_TILE + s) * n_col;
        b->simd->dequantise(dtype, (const uint8_t *)kv->keys + aq_dtype_row_bytes(dtype, at), size,
                            out);
    }
}

static void read_values(const aq_select_block *b, int64_t tile, int s, int n, float *out) {
    const aq_kv_view *kv = &b->args->kv;
    const int64_t d_head = kv->d_head, size = n * d_head;
    if (aq_kv_is_open(kv, tile)) {
        memcpy(out, kv->open_values + ((int64_t)b->g * AQ_TILE + s) * d_head,
               (size_t)size * sizeof(float));
    } else if (aq_kv_type_coded(kv->value_type)) {
        aq_decode_values(b->simd, kv, tile, b->g, s, n, b->work, out);
    } else {
        const aq_dtype dtype = aq_kv_type_dtype(kv->value_type);
        const int64_t at = ((tile * kv->n_kv_head + b->g) * AQ_TILE + s) * d_head;
        b->simd->dequantise(dtype, (const uint8_t *)kv->values + aq_dtype_row_bytes(dtype, at),
                            size, out);
    }
}

static void read_scales(const aq_select_block *b, int64_t tile) {
    const aq_kv_view *kv = &b->args->kv;
    if (aq_kv_type_coded(kv->key_type) && !aq_kv_is_open(kv, tile))
        aq_decode_key_scales(b->simd, kv, tile, b->g, b->work);
}

void aq_select_pack_keys(const aq_select_block *b, int64_t tile) {
    read_scales(b, tile);
    read_keys(b, tile, 0, AQ_TILE, b->key);
}

void aq_select_dot_packed(const aq_select_block *b, int from, int n, int row, int n_row, float *out,
                          int64_t out_stride) {
    const int64_t n_col = b->args->kv.n_col;
    b->simd->dot_rows(&(aq_dot_rows_args){.dtype = AQ_F32,
                                          .w = (const uint8_t *)(b->key + from * n_col),
                                          .row_bytes = n_col * (int64_t)sizeof(float),
                                          .n_row = n,
                                          .n_in = n_col,
                                          .x = b->q + row * n_col,
                                          .n_tok = n_row,
                                          .y = out,
                                          .y_stride = out_stride});
}

/* Scores of all rows with the packed keys. Few rows: as sums along the rows of keys. Many: queries
 * are the columns of a product, and the scores are turned, which are fewer than keys. */
static void score_packed(const aq_select_block *b) {
    const int n_col = b->args->kv.n_col, n = b->n_packed;
    const int stride = aq_select_column_stride(b->n_row);
    if (b->n_row < AQ_SELECT_ROWS_TO_TURN) {
        aq_select_dot_packed(b, 0, n, 0, b->n_row, b->score, AQ_TILE);
        return;
    }
    b->simd->panel(&(aq_panel_args){.a = b->key,
                                    .a_stride = n_col,
                                    .n_row = n,
                                    .n_in = n_col,
                                    .b = b->q_turned,
                                    .b_dtype = AQ_F32,
                                    .b_stride = stride,
                                    .n_out = stride,
                                    .c = b->column,
                                    .c_stride = stride});
    b->simd->columns(&(aq_columns_args){.dtype = AQ_F32,
                                        .w = (const uint8_t *)b->column,
                                        .row_bytes = stride * (int64_t)sizeof(float),
                                        .n_row = n,
                                        .n = b->n_row,
                                        .out = b->score,
                                        .out_stride = AQ_TILE});
}

/* Takes packed tokens that a row's query did not choose out of its scores, and places without one.
 * All rows before the next step: a vector cannot be loaded while its parts are being stored. */
static void hide_scores(const aq_select_block *b) {
    for (int r = 0; r < b->n_row; r++) {
        float *score = b->score + r * AQ_TILE;
        const float *hide = b->hide + r / b->task->group * AQ_TILE;
        for (int s = 0; s < b->n_packed && b->n_query > 1; s++)
            score[s] += hide[s];
        for (int s = b->n_packed; s < AQ_TILE; s++)
            score[s] = -INFINITY;
    }
}

/* One step of the online softmax over the packed tokens. */
static void attend_packed(aq_select_block *b) {
    const int d_head = b->args->kv.d_head, n = b->n_packed;
    if (n == 0) return;
    score_packed(b);
    hide_scores(b);
    for (int r = 0; r < b->n_row; r++) {
        float *ml = b->part + r * (d_head + 2) + d_head;
        b->keep[r] = b->simd->soften(b->score + r * AQ_TILE, 0, AQ_TILE, ml, ml + 1);
    }
    b->simd->panel(&(aq_panel_args){.a = b->score,
                                    .a_stride = AQ_TILE,
                                    .n_row = b->n_row,
                                    .n_in = n,
                                    .b = b->value,
                                    .b_dtype = AQ_F32,
                                    .b_stride = d_head,
                                    .n_out = d_head,
                                    .keep = b->keep,
                                    .c = b->part,
                                    .c_stride = d_head + 2});
    b->n_packed = 0;
}

/* The tokens of tile `tile` that query i attends to, as bits. */
static uint64_t chosen_bits(const aq_select_block *b, int i, int64_t tile) {
    const aq_select_view *view = &b->view[i];
    const uint64_t seen = aq_select_seen_bits(b->args, view, tile);
    if (seen == 0 || !aq_select_by_mass(b->task)) return seen;
    const float *w = b->z + (int64_t)i * b->task->group * b->task->z_stride + tile * AQ_TILE;
    return seen & (b->simd->bits_from(w, view->least) | aq_select_near_bits(b->args, view, tile));
}

/* Packs the tokens `any` of a tile, run by run; those of chosen[i] are query i's. */
static void pack_tile(aq_select_block *b, int64_t tile, uint64_t any, const uint64_t *chosen) {
    const int64_t n_col = b->args->kv.n_col, d_head = b->args->kv.d_head;
    read_scales(b, tile);
    if (b->n_packed + __builtin_popcountll(any) > AQ_TILE) attend_packed(b);
    while (any != 0) {
        const int at = b->n_packed;
        int s;
        const int n = aq_select_run(any, &s);
        read_keys(b, tile, s, n, b->key + at * n_col);
        read_values(b, tile, s, n, b->value + at * d_head);
        for (int i = 0; i < b->n_query && b->n_query > 1; i++)
            for (int j = 0; j < n; j++)
                b->hide[i * AQ_TILE + at + j] = chosen[i] >> (s + j) & 1 ? 0.0f : -INFINITY;
        b->n_packed += n;
        any &= ~aq_select_bits_between(s, s + n);
    }
}

/* Asks memory for rows of `bytes` bytes, those of the bits `any`. */
static void fetch_rows(const uint8_t *rows, int64_t bytes, uint64_t any) {
    for (; any != 0; any &= any - 1) {
        const uint8_t *row = rows + __builtin_ctzll(any) * bytes;
        for (int64_t at = 0; at < bytes; at += LINE_BYTES)
            __builtin_prefetch(row + at);
    }
}

/* Finds what the queries chose of tile `tile`, and returns the tokens of any of them. For one
 * query, as in decode, memory is asked for their keys and values: the processor does not foresee
 * rows here and there, while those of several queries are often at hand. */
static uint64_t choose_tokens(aq_select_block *b, int64_t tile, uint64_t *chosen) {
    const aq_kv_view *kv = &b->args->kv;
    const int64_t at = tile * kv->n_kv_head + b->g;
    uint64_t any = 0;
    for (int i = 0; i < b->n_query; i++) {
        chosen[i] = chosen_bits(b, i, tile);
        b->view[i].n_attended += __builtin_popcountll(chosen[i]);
        b->view[i].n_touched += chosen[i] != 0;
        any |= chosen[i];
    }
    if (b->n_query == 1 && aq_select_by_mass(b->task) && !aq_kv_is_open(kv, tile)) {
        const int64_t key_bytes = aq_kv_key_bytes(kv), value_bytes = aq_kv_value_bytes(kv);
        fetch_rows((const uint8_t *)kv->keys + at * key_bytes, key_bytes / AQ_TILE, any);
        fetch_rows((const uint8_t *)kv->values + at * value_bytes, value_bytes / AQ_TILE, any);
    }
    return any;
}

void aq_select_attend_chosen(aq_select_block *b, int64_t tile, int64_t step, int64_t tile_end) {
    uint64_t chosen[2][AQ_SELECT_ROWS], any[2] = {0, 0};
    aq_cpu_clear_parts(b->part, b->n_row, b->args->kv.d_head);
    b->n_packed = 0;
    if (tile < tile_end) any[0] = choose_tokens(b, tile, chosen[0]);
    for (int now = 0; tile < tile_end; tile += step, now = 1 - now) {
        any[1 - now] = tile + step < tile_end ? choose_tokens(b, tile + step, chosen[1 - now]) : 0;
        if (any[now] != 0) pack_tile(b, tile, any[now], chosen[now]);
    }
    attend_packed(b);
}
