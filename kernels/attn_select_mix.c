/* Selecting attention: exact attention to the chosen tokens. Keys and values of codes of 8 bits are
 * multiplied where they lie; others are packed as numbers first. */
#include <math.h>
#include <string.h>

#include "kernels/attn_select_parts.h"
#include "kernels/kv_decode.h"

#define LINE_BYTES 64

/* Tiles between the choice of tokens and their use, while memory fetches them. */
#define AHEAD 8

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

void aq_select_place_keys(const aq_select_block *b, int64_t tile, uint64_t any) {
    read_scales(b, tile);
    while (any != 0) {
        int s;
        const int n = aq_select_run(any, &s);
        read_keys(b, tile, s, n, b->key + (int64_t)s * b->args->kv.n_col);
        any &= ~aq_select_bits_between(s, s + n);
    }
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

/* Adds the packed values, times the weights in b->score, to the result. */
static void mix_packed(const aq_select_block *b) {
    const int d_head = b->args->kv.d_head, n = b->n_packed;
    if (!b->packs_bytes) {
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
        return;
    }
    float step[AQ_TILE], low[AQ_TILE];
    b->simd->dequantise(AQ_F16, (const uint8_t *)b->value_step, n, step);
    for (int s = 0; s < n; s++)
        low[s] = -step[s] * (float)b->value_zero[s];
    b->simd->mix_bytes(&(aq_mix_bytes_args){.rows = b->value_row,
                                            .n = n,
                                            .step = step,
                                            .low = low,
                                            .a = b->score,
                                            .a_stride = AQ_TILE,
                                            .n_row = b->n_row,
                                            .n_out = d_head,
                                            .keep = b->keep,
                                            .c = b->part,
                                            .c_stride = d_head + 2});
}

/* One step of the online softmax over the packed tokens. */
static void attend_packed(aq_select_block *b) {
    const int d_head = b->args->kv.d_head;
    if (b->n_packed == 0) return;
    if (!b->packs_bytes) score_packed(b);
    hide_scores(b);
    for (int r = 0; r < b->n_row; r++) {
        float *ml = b->part + r * (d_head + 2) + d_head;
        b->keep[r] = b->simd->soften(b->score + r * AQ_TILE, 0, AQ_TILE, ml, ml + 1);
    }
    mix_packed(b);
    b->n_packed = 0;
}

/* The tokens of tile k that query i attends to, as bits. */
static uint64_t chosen_bits(const aq_select_block *b, int i, int64_t k) {
    const aq_select_view *view = &b->view[i];
    const int64_t tile = b->first + k * b->step;
    const uint64_t seen = aq_select_seen_bits(b->args, view, tile);
    if (seen == 0 || !aq_select_by_mass(b->task)) return seen;
    const float *w = b->z + (int64_t)i * b->task->group * b->task->z_stride + k * AQ_TILE;
    return seen & (b->simd->bits_from(w, view->least) | aq_select_near_bits(b->args, view, tile));
}

/* Notes which of the tokens `any`, packed from `at` on, each query chose: those of chosen[i]. */
static void note_chosen(const aq_select_block *b, int at, uint64_t any, const uint64_t *chosen) {
    for (; any != 0; any &= any - 1, at++)
        for (int i = 0; i < b->n_query; i++)
            b->hide[i * AQ_TILE + at] = chosen[i] >> __builtin_ctzll(any) & 1 ? 0.0f : -INFINITY;
}

/* Packs the tokens `any` of a tile as numbers, run by run. */
static void pack_numbers(aq_select_block *b, int64_t tile, uint64_t any) {
    const int64_t n_col = b->args->kv.n_col, d_head = b->args->kv.d_head;
    read_scales(b, tile);
    while (any != 0) {
        int s;
        const int n = aq_select_run(any, &s);
        read_keys(b, tile, s, n, b->key + b->n_packed * n_col);
        read_values(b, tile, s, n, b->value + b->n_packed * d_head);
        b->n_packed += n;
        any &= ~aq_select_bits_between(s, s + n);
    }
}

/* Packs tokens by the addresses of their rows of bytes. Scores are made at once: the steps of keys
 * are those of the tile. */
static void pack_bytes(aq_select_block *b, int64_t tile, uint64_t any) {
    const aq_kv_view *kv = &b->args->kv;
    const int n_col = kv->n_col, d_head = kv->d_head, from = b->n_packed;
    const int64_t at = tile * kv->n_kv_head + b->g;
    const uint8_t *keys = (const uint8_t *)kv->keys + at * b->task->key_bytes;
    const uint8_t *values = (const uint8_t *)kv->values + at * b->task->value_bytes;
    const uint8_t *key_row[AQ_TILE];
    for (; any != 0; any &= any - 1) {
        const int s = __builtin_ctzll(any), to = b->n_packed++;
        key_row[to - from] = keys + 4 * n_col + s * n_col;
        b->value_row[to] = values + 3 * AQ_TILE + s * d_head;
        memcpy(&b->value_step[to], values + 2 * s, sizeof b->value_step[to]);
        b->value_zero[to] = values[2 * AQ_TILE + s];
    }
    float *low = b->work, *step = low + n_col;
    b->simd->dequantise(AQ_F16, keys, 2 * n_col, low);
    b->simd->dot_bytes(&(aq_dot_bytes_args){.rows = key_row,
                                            .n = b->n_packed - from,
                                            .step = step,
                                            .low = low,
                                            .n_in = n_col,
                                            .x = b->q,
                                            .x_stride = n_col,
                                            .n_row = b->n_row,
                                            .y = b->score + from,
                                            .y_stride = AQ_TILE});
}

static void pack_tile(aq_select_block *b, int64_t tile, uint64_t any, const uint64_t *chosen) {
    const aq_kv_view *kv = &b->args->kv;
    const bool bytes = kv->key_type == AQ_KV_Q8 && kv->value_type == AQ_KV_Q8;
    const bool packs_bytes = bytes && !aq_kv_is_open(kv, tile);
    if (packs_bytes != b->packs_bytes || b->n_packed + __builtin_popcountll(any) > AQ_TILE)
        attend_packed(b);
    b->packs_bytes = packs_bytes;
    if (b->n_query > 1) note_chosen(b, b->n_packed, any, chosen);
    if (packs_bytes)
        pack_bytes(b, tile, any);
    else
        pack_numbers(b, tile, any);
}

/* Asks memory for the rows `any` of a block, behind `head` bytes that all of them need. Inlined, or
 * gcc takes it for a function without effect and drops it. */
static inline __attribute__((always_inline)) void fetch_rows(const uint8_t *block, int64_t head,
                                                             int64_t bytes, uint64_t any) {
    const int64_t row_bytes = (bytes - head) / AQ_TILE;
    for (int64_t at = 0; at < head && any != 0; at += LINE_BYTES)
        __builtin_prefetch(block + at, 0, 2);
    for (; any != 0; any &= any - 1) {
        const uint8_t *row = block + head + __builtin_ctzll(any) * row_bytes;
        for (int64_t at = 0; at < row_bytes; at += LINE_BYTES)
            __builtin_prefetch(row + at, 0, 2);
    }
}

static inline __attribute__((always_inline)) void fetch_tokens(const aq_select_block *b,
                                                               int64_t tile, uint64_t any) {
    const aq_kv_view *kv = &b->args->kv;
    const int64_t at = tile * kv->n_kv_head + b->g;
    const int64_t key_bytes = b->task->key_bytes, value_bytes = b->task->value_bytes;
    if (aq_kv_is_open(kv, tile)) return;
    fetch_rows((const uint8_t *)kv->keys + at * key_bytes,
               aq_kv_type_coded(kv->key_type) ? 4 * kv->n_col : 0, key_bytes, any);
    fetch_rows((const uint8_t *)kv->values + at * value_bytes,
               aq_kv_type_coded(kv->value_type) ? 3 * AQ_TILE : 0, value_bytes, any);
}

/* Finds what the queries chose of tile k, and returns the tokens of any of them. */
static uint64_t choose_tokens(aq_select_block *b, int64_t k, uint64_t *chosen) {
    uint64_t any = 0;
    for (int i = 0; i < b->n_query; i++) {
        chosen[i] = chosen_bits(b, i, k);
        b->view[i].n_attended += __builtin_popcountll(chosen[i]);
        b->view[i].n_touched += chosen[i] != 0;
        any |= chosen[i];
    }
    return any;
}

/* What is chosen is known AHEAD tiles before it is attended to. For one query, as in decode, memory
 * is asked for it meanwhile: the processor does not foresee rows here and there, while those of
 * several queries are often at hand. */
void aq_select_attend_chosen(aq_select_block *b) {
    const int64_t n = aq_select_most_tiles(b);
    const bool fetches = b->n_query == 1 && aq_select_by_mass(b->task);
    uint64_t chosen[AHEAD][AQ_SELECT_ROWS], any[AHEAD];
    aq_cpu_clear_parts(b->part, b->n_row, b->args->kv.d_head);
    b->n_packed = 0;
    for (int64_t k = 0; k < n + AHEAD; k++) {
        const int64_t tile = b->first + k * b->step, now = k % AHEAD;
        if (k >= AHEAD && any[now] != 0)
            pack_tile(b, tile - AHEAD * b->step, any[now], chosen[now]);
        if (k >= n) continue;
        any[now] = choose_tokens(b, k, chosen[now]);
        if (fetches) fetch_tokens(b, tile, any[now]);
    }
    attend_packed(b);
}
