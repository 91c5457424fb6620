/* Selecting attention: exact attention to the chosen tokens. */
#include <math.h>
#include <string.h>

#include "kernels/attn_select_parts.h"

/* From this many rows on, packed keys are turned to columns instead of multiplied row by row. */
#define ROWS_TO_TURN 12

/* Rows of keys or values of a tile. */
typedef struct {
    const uint8_t *rows;
    int64_t row_bytes;
    aq_dtype dtype; /* of rows as packed */
    bool coded;
    aq_code_layout layout;
    int n; /* elements of a row */
} tile_rows;

static tile_rows plain_rows(const void *rows, aq_dtype dtype, int n) {
    return (tile_rows){
        .rows = rows, .row_bytes = n * (dtype == AQ_F32 ? 4 : 2), .dtype = dtype, .n = n};
}

/* The keys of tile `tile`; of coded ones reads low and step too. */
static tile_rows keys_of(const aq_select_block *b, int64_t tile) {
    const aq_kv_view *kv = &b->args->kv;
    const int n_col = kv->n_col;
    if (tile == kv->open_tile)
        return plain_rows(kv->open_keys + (int64_t)b->g * AQ_TILE * n_col, AQ_F32, n_col);
    const uint8_t *block =
        (const uint8_t *)kv->keys + (tile * kv->n_kv_head + b->g) * aq_kv_key_bytes(kv);
    if (!aq_kv_type_coded(kv->key_type))
        return plain_rows(block, aq_kv_type_dtype(kv->key_type), n_col);
    b->simd->dequantise(AQ_F16, block, n_col, b->low);
    b->simd->dequantise(AQ_F16, block + 2 * n_col, n_col, b->step);
    const aq_code_layout layout = aq_kv_type_layout(kv->key_type, n_col);
    return (tile_rows){.rows = block + 4 * n_col,
                       .row_bytes = aq_code_row_bytes(&layout),
                       .coded = true,
                       .layout = layout,
                       .n = n_col};
}

static tile_rows values_of(const aq_select_block *b, int64_t tile) {
    const aq_kv_view *kv = &b->args->kv;
    const int d_head = kv->d_head;
    if (tile == kv->open_tile)
        return plain_rows(kv->open_values + (int64_t)b->g * AQ_TILE * d_head, AQ_F32, d_head);
    const uint8_t *block =
        (const uint8_t *)kv->values + (tile * kv->n_kv_head + b->g) * aq_kv_value_bytes(kv);
    if (!aq_kv_type_coded(kv->value_type))
        return plain_rows(block, aq_kv_type_dtype(kv->value_type), d_head);
    const aq_code_layout layout = aq_kv_type_layout(kv->value_type, d_head);
    return (tile_rows){.rows = block + 3 * AQ_TILE,
                       .row_bytes = aq_code_row_bytes(&layout),
                       .coded = true,
                       .layout = layout,
                       .n = d_head};
}

/* Packs key row s to place `at`. */
static void pack_key(const aq_select_block *b, const tile_rows *keys, int s, int at) {
    const uint8_t *row = keys->rows + s * keys->row_bytes;
    if (keys->coded)
        b->simd->code_row(&(aq_code_row_args){.row = row,
                                              .layout = &keys->layout,
                                              .low = b->low,
                                              .step = b->step,
                                              .each = true,
                                              .out = (float *)b->key + at * keys->n});
    else
        memcpy(b->key + at * keys->row_bytes, row, (size_t)keys->row_bytes);
}

/* Packs value row s to place `at`. The steps and zeros of a tile stand before its rows. */
static void pack_value(const aq_select_block *b, const tile_rows *values, int s, int at) {
    const uint8_t *row = values->rows + s * values->row_bytes;
    if (!values->coded) {
        memcpy(b->value + at * values->row_bytes, row, (size_t)values->row_bytes);
        return;
    }
    const uint8_t *zeros = values->rows - AQ_TILE, *steps = zeros - 2 * AQ_TILE;
    uint16_t half;
    memcpy(&half, steps + 2 * s, sizeof half);
    const float step = aq_f16_to_f32(half), low = -step * (float)zeros[s];
    b->simd->code_row(&(aq_code_row_args){.row = row,
                                          .layout = &values->layout,
                                          .low = &low,
                                          .step = &step,
                                          .out = (float *)b->value + at * values->n});
}

/* Packs the keys of all tokens of a tile. */
void aq_select_pack_keys(aq_select_block *b, int64_t tile) {
    const tile_rows keys = keys_of(b, tile);
    b->key_dtype = keys.dtype;
    for (int s = 0; s < AQ_TILE; s++)
        pack_key(b, &keys, s, s);
}

/* Scores of the packed rows from `from` on, n of them, with n_row rows of the block from `row` on.
 */
void aq_select_dot_packed(const aq_select_block *b, int from, int n, int row, int n_row, float *out,
                          int64_t out_stride) {
    const int n_col = b->args->kv.n_col;
    const int64_t row_bytes = n_col * (b->key_dtype == AQ_F32 ? 4 : 2);
    b->simd->dot_rows(&(aq_dot_rows_args){.dtype = b->key_dtype,
                                          .w = (const uint8_t *)b->key + from * row_bytes,
                                          .row_bytes = row_bytes,
                                          .n_row = n,
                                          .n_in = n_col,
                                          .x = b->q + (int64_t)row * n_col,
                                          .n_tok = n_row,
                                          .y = out,
                                          .y_stride = out_stride});
}

void aq_select_clear_part(float *part, int n_row, int d_head) {
    memset(part, 0, (size_t)n_row * (size_t)(d_head + 2) * sizeof *part);
    for (int r = 0; r < n_row; r++)
        part[r * (d_head + 2) + d_head] = -INFINITY;
}

/* Scores of all rows with the packed keys. */
static void score_packed(const aq_select_block *b) {
    const int n_col = b->args->kv.n_col, n = b->n_packed;
    const int whole = (n + AQ_COLUMNS_ALIGN - 1) / AQ_COLUMNS_ALIGN * AQ_COLUMNS_ALIGN;
    if (b->n_row < ROWS_TO_TURN) {
        aq_select_dot_packed(b, 0, n, 0, b->n_row, b->score, AQ_TILE);
        return;
    }
    b->simd->columns(&(aq_columns_args){.dtype = b->key_dtype,
                                        .w = (const uint8_t *)b->key,
                                        .row_bytes = n_col * (b->key_dtype == AQ_F32 ? 4 : 2),
                                        .n_row = n,
                                        .n = n_col,
                                        .out = b->column,
                                        .out_stride = AQ_TILE});
    b->simd->panel(&(aq_panel_args){.a = b->q,
                                    .a_stride = n_col,
                                    .n_row = b->n_row,
                                    .n_in = n_col,
                                    .b = b->column,
                                    .b_dtype = AQ_F32,
                                    .b_stride = AQ_TILE,
                                    .n_out = whole,
                                    .c = b->score,
                                    .c_stride = AQ_TILE});
}

/* One step of the online softmax over the packed tokens. */
static void attend_packed(aq_select_block *b) {
    const int d_head = b->args->kv.d_head, n = b->n_packed;
    if (n == 0) return;
    score_packed(b);
    for (int r = 0; r < b->n_row; r++) {
        float *score = b->score + r * AQ_TILE, *ml = b->part + r * (d_head + 2) + d_head;
        const float *hide = b->hide + r / b->task->group * AQ_TILE;
        for (int s = 0; s < n && b->n_query > 1; s++)
            score[s] += hide[s];
        b->keep[r] = b->simd->soften(score, 0, n, ml, ml + 1);
    }
    b->simd->panel(&(aq_panel_args){.a = b->score,
                                    .a_stride = AQ_TILE,
                                    .n_row = b->n_row,
                                    .n_in = n,
                                    .b = b->value,
                                    .b_dtype = b->value_dtype,
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
    const uint64_t seen = aq_select_bits_between(0, view->n_seen, tile);
    if (seen == 0 || !aq_select_by_mass(b->task)) return seen;
    const float *w = b->z + (int64_t)i * b->task->group * b->task->z_stride + tile * AQ_TILE;
    return seen & (b->simd->bits_from(w, view->least) | aq_select_near_bits(view, tile));
}

/* Packs the tokens `any` of a tile; those of `chosen` are query i's. */
static void pack_tile(aq_select_block *b, int64_t tile, uint64_t any, const uint64_t *chosen) {
    const tile_rows keys = keys_of(b, tile), values = values_of(b, tile);
    if (b->n_packed + __builtin_popcountll(any) > AQ_TILE || keys.dtype != b->key_dtype ||
        values.dtype != b->value_dtype)
        attend_packed(b);
    b->key_dtype = keys.dtype;
    b->value_dtype = values.dtype;
    for (; any != 0; any &= any - 1) {
        const int s = __builtin_ctzll(any), at = b->n_packed++;
        pack_key(b, &keys, s, at);
        pack_value(b, &values, s, at);
        for (int i = 0; i < b->n_query; i++)
            b->hide[i * AQ_TILE + at] = chosen[i] >> s & 1 ? 0.0f : -INFINITY;
    }
}

/* Attends to what the queries chose of tiles tile, tile + step, ... below tile_end. */
void aq_select_attend_chosen(aq_select_block *b, int64_t tile, int64_t step, int64_t tile_end) {
    uint64_t chosen[AQ_SELECT_ROWS];
    aq_select_clear_part(b->part, b->n_row, b->args->kv.d_head);
    b->n_packed = 0;
    for (; tile < tile_end; tile += step) {
        uint64_t any = 0;
        for (int i = 0; i < b->n_query; i++) {
            chosen[i] = chosen_bits(b, i, tile);
            b->view[i].n_attended += __builtin_popcountll(chosen[i]);
            b->view[i].n_touched += chosen[i] != 0;
            any |= chosen[i];
        }
        if (any != 0) pack_tile(b, tile, any, chosen);
    }
    attend_packed(b);
}
