#include "kernels/attn_scores_parts.h"

#include <math.h>
#include <string.h>

#include "kernels/kv_decode.h"

int aq_score_columns(const aq_attn_partial_args *args) {
    return aq_score_sparse(args) ? args->n_dim : args->kv.n_col;
}

char *aq_score_lay_out(aq_score_block *block, char *at, int64_t n_row) {
    const aq_attn_partial_args *args = block->args;
    const int64_t d_head = args->kv.d_head, n_col = args->kv.n_col;
    const int64_t n_in = aq_score_columns(args), f = (int64_t)sizeof(float);
    const int64_t n_dim = aq_score_sparse(args) ? n_in : 0;
    block->key = aq_score_carve(&at, AQ_TILE * n_col * f);
    block->spare = aq_score_carve(&at, AQ_TILE * (d_head > n_col ? d_head : n_col) * f);
    block->work = aq_score_carve(&at, aq_decode_work_bytes(&args->kv));
    block->q = aq_score_carve(&at, n_row * n_in * f);
    block->dims = aq_score_carve(&at, n_row * n_dim * (int64_t)sizeof *block->dims);
    block->pos = aq_score_carve(&at, n_row * (int64_t)sizeof *block->pos);
    block->first_seen = aq_score_carve(&at, n_row * (int64_t)sizeof *block->first_seen);
    block->n_seen = aq_score_carve(&at, n_row * (int64_t)sizeof *block->n_seen);
    block->score = aq_score_carve(&at, n_row * AQ_TILE * f);
    return at;
}

/* The scaled query of (query, head) pair `from` becomes row r of the block. */
static void take_query(const aq_score_block *block, int64_t from, int64_t r) {
    const aq_attn_partial_args *args = block->args;
    const int n_in = aq_score_columns(args);
    const float *q = args->q + from * args->kv.n_col;
    const int16_t *dims = args->dims ? args->dims + from * args->n_dim : NULL;
    float *to = block->q + r * n_in;
    if (!dims) {
        for (int c = 0; c < n_in; c++)
            to[c] = q[c] * args->scale;
    } else if (aq_score_sparse(args)) {
        memcpy(block->dims + r * n_in, dims, (size_t)n_in * sizeof *dims);
        for (int j = 0; j < n_in; j++)
            to[j] = q[dims[j]] * args->scale;
    } else {
        memset(to, 0, (size_t)n_in * sizeof *to);
        for (int j = 0; j < args->n_dim; j++)
            to[dims[j]] = q[dims[j]] * args->scale;
    }
}

void aq_score_take(aq_score_block *block, int g, int64_t row, int64_t n_row) {
    const aq_attn_partial_args *args = block->args;
    const int group = aq_score_group(args);
    block->g = g;
    block->key_bytes = aq_kv_key_bytes(&args->kv);
    block->value_bytes = aq_kv_value_bytes(&args->kv);
    block->row = row;
    block->n_row = n_row;
    for (int64_t r = 0; r < n_row; r++) {
        block->pos[r] = args->q_pos[(row + r) / group];
        take_query(block, aq_score_row(args, g, row + r), r);
    }
}

void aq_score_tiles(const aq_attn_partial_args *args, int64_t row, int64_t n_row, int64_t *begin,
                    int64_t *end) {
    const int group = aq_score_group(args);
    int64_t first = INT64_MAX, last = INT64_MIN;
    for (int64_t t = row / group; t <= (row + n_row - 1) / group; t++) {
        if (args->q_pos[t] < first) first = args->q_pos[t];
        if (args->q_pos[t] > last) last = args->q_pos[t];
    }
    *begin = 0;
    *end = args->n_tile;
    while (*end > 0 && args->tile_pos[*end - 1] > last)
        --*end;
    if (args->window == 0) return;
    while (*begin < *end && args->tile_pos[*begin] + AQ_TILE <= first - args->window + 1)
        ++*begin;
}

static int clamp_to_tile(int64_t token) {
    return token <= 0 ? 0 : token < AQ_TILE ? (int)token : AQ_TILE;
}

/* Finds what each row sees of the tile that begins at position `tile_pos`. */
static aq_score_view see_tile(const aq_score_block *block, int64_t tile_pos) {
    const int64_t window = block->args->window;
    aq_score_view view = {block->n_row, 0, AQ_TILE, 0};
    for (int64_t r = 0; r < block->n_row; r++) {
        const int64_t ahead = block->pos[r] - tile_pos + 1;
        const int n_seen = clamp_to_tile(ahead);
        const int first_seen = window > 0 ? clamp_to_tile(ahead - window) : 0;
        block->first_seen[r] = first_seen;
        block->n_seen[r] = n_seen;
        if (first_seen >= n_seen) continue;
        if (first_seen < view.first) view.first = first_seen;
        if (n_seen > view.last) view.last = n_seen;
        if (r < view.begin) view.begin = r;
        view.end = r + 1;
    }
    return view;
}

/* The same where every slot has a position of its own: rows that see any token go over all. */
static aq_score_view see_slots(const aq_score_block *block, const int64_t *slot_pos) {
    aq_score_view view = {block->n_row, 0, 0, AQ_TILE};
    int64_t first = INT64_MAX;
    for (int s = 0; s < AQ_TILE; s++)
        first = slot_pos[s] < first ? slot_pos[s] : first;
    for (int64_t r = 0; r < block->n_row; r++) {
        block->first_seen[r] = 0;
        block->n_seen[r] = block->pos[r] < first ? 0 : AQ_TILE;
        if (block->n_seen[r] == 0) continue;
        if (r < view.begin) view.begin = r;
        view.end = r + 1;
    }
    return view;
}

aq_score_view aq_score_see(const aq_score_block *block, int64_t tile) {
    const aq_attn_partial_args *args = block->args;
    if (!args->slot_pos) return see_tile(block, args->tile_pos[tile]);
    return see_slots(block, args->slot_pos + aq_score_place(args, tile) * AQ_TILE);
}

/* Takes the tokens that rows begin .. end do not see out of their scores. Positions are compared as
 * 32 bits, counted from the first row's, which is quicker and exact: no context is as long. */
static void hide_slots(const aq_score_block *block, const int64_t *slot_pos, int64_t begin,
                       int64_t end) {
    const int64_t from = block->pos[begin];
    int32_t ahead[AQ_TILE];
    for (int s = 0; s < AQ_TILE; s++) {
        const int64_t apart = slot_pos[s] - from;
        ahead[s] = apart < INT32_MAX ? (int32_t)apart : INT32_MAX;
    }
    for (int64_t r = begin; r < end; r++) {
        const int32_t last = (int32_t)(block->pos[r] - from);
        float *score = block->score + r * AQ_TILE;
        for (int s = 0; s < AQ_TILE; s++)
            score[s] = ahead[s] <= last ? score[s] : -INFINITY;
    }
}

const void *aq_score_fetch(const aq_score_block *block, const void *tensor, aq_dtype *dtype,
                           int64_t at, int64_t n, float *wide) {
    if (*dtype == AQ_F32) return (const float *)tensor + at;
    const uint8_t *from = (const uint8_t *)tensor + 2 * at;
    if (block->n_row < AQ_SCORE_ROWS_TO_WIDEN) return from;
    block->simd->dequantise(*dtype, from, n, wide);
    *dtype = AQ_F32;
    return wide;
}

/* n_col keys by token, AQ_TILE of them, as columns. */
static const void *transpose(const aq_score_block *block, const void *keys, aq_dtype *dtype) {
    const int64_t n_col = block->args->kv.n_col;
    block->simd->columns(&(aq_columns_args){.dtype = *dtype,
                                            .w = keys,
                                            .row_bytes = aq_dtype_row_bytes(*dtype, n_col),
                                            .n_row = AQ_TILE,
                                            .n = n_col,
                                            .out = block->key,
                                            .out_stride = AQ_TILE});
    *dtype = AQ_F32;
    return block->key;
}

/* The keys of the tile stored at place `at`, [n_col, AQ_TILE] of type *dtype. */
static const void *fetch_keys(const aq_score_block *block, int64_t at, aq_dtype *dtype) {
    const aq_kv_view *kv = &block->args->kv;
    const int64_t n = (int64_t)kv->n_col * AQ_TILE, from = (at * kv->n_kv_head + block->g) * n;
    const bool by_token = kv->key_order == AQ_KEYS_BY_TOKEN;
    const void *keys;
    *dtype = AQ_F32;
    if (aq_kv_is_open(kv, at)) {
        keys = kv->open_keys + block->g * n;
    } else if (aq_kv_type_coded(kv->key_type)) {
        float *wide = by_token ? block->spare : block->key;
        aq_decode_keys(block->simd, kv, at, block->g, block->work, wide);
        keys = wide;
    } else {
        *dtype = aq_kv_type_dtype(kv->key_type);
        if (!by_token) return aq_score_fetch(block, kv->keys, dtype, from, n, block->key);
        keys = (const uint8_t *)kv->keys + aq_dtype_row_bytes(*dtype, from);
    }
    return by_token ? transpose(block, keys, dtype) : keys;
}

/* Scores of rows begin .. end with keys that are numbers, or are made numbers. */
static void score_numbers(const aq_score_block *block, int64_t at, int64_t begin, int64_t end) {
    const aq_attn_partial_args *args = block->args;
    const bool ask = block->next >= 0 && !aq_kv_type_coded(args->kv.key_type);
    aq_dtype dtype;
    const void *keys = fetch_keys(block, at, &dtype);
    if (aq_score_sparse(args))
        for (int64_t r = begin; r < end; r++)
            block->simd->score_chosen(block->q + r * args->n_dim, block->dims + r * args->n_dim,
                                      args->n_dim, keys, dtype, block->score + r * AQ_TILE);
    else
        block->simd->panel(
            &(aq_panel_args){.a = block->q + begin * args->kv.n_col,
                             .a_stride = args->kv.n_col,
                             .n_row = end - begin,
                             .n_in = args->kv.n_col,
                             .b = keys,
                             .b_dtype = dtype,
                             .b_stride = AQ_TILE,
                             .n_out = AQ_TILE,
                             .c = block->score + begin * AQ_TILE,
                             .c_stride = AQ_TILE,
                             .next = ask ? aq_score_keys(block, block->next) : NULL});
}

/* The same with keys of 8 bits, as they lie. */
static void score_bytes(const aq_score_block *block, int64_t at, int64_t begin, int64_t end) {
    const aq_kv_view *kv = &block->args->kv;
    const aq_kv_rows keys = aq_kv_key_rows(block->simd, kv, aq_score_keys(block, at), block->work);
    const float *q = block->q + begin * kv->n_col;
    float *score = block->score + begin * AQ_TILE;
    const int64_t head = 4 * (int64_t)kv->n_col;
    const uint8_t *next = aq_score_ask(block, aq_score_keys(block, block->next), head);
    if (kv->key_order == AQ_KEYS_BY_TOKEN)
        block->simd->dot_bytes(&(aq_dot_bytes_args){.rows = keys.rows,
                                                    .n = AQ_TILE,
                                                    .step = keys.step,
                                                    .low = keys.low,
                                                    .n_in = kv->n_col,
                                                    .x = q,
                                                    .x_stride = kv->n_col,
                                                    .n_row = (int)(end - begin),
                                                    .y = score,
                                                    .y_stride = AQ_TILE,
                                                    .next = next});
    else
        block->simd->mix_bytes(&(aq_mix_bytes_args){.rows = keys.rows,
                                                    .n = kv->n_col,
                                                    .step = keys.step,
                                                    .low = keys.low,
                                                    .a = q,
                                                    .a_stride = kv->n_col,
                                                    .n_row = (int)(end - begin),
                                                    .n_out = AQ_TILE,
                                                    .c = score,
                                                    .c_stride = AQ_TILE,
                                                    .next = next});
}

bool aq_score_takes_bytes(const aq_score_block *block, aq_kv_type type, int64_t at) {
    return type == AQ_KV_Q8 && aq_score_few_rows(block->args) &&
           !aq_kv_is_open(&block->args->kv, at);
}

void aq_score_tile(const aq_score_block *block, int64_t tile, const aq_score_view *view) {
    const aq_attn_partial_args *args = block->args;
    const int64_t at = aq_score_place(args, tile);
    if (aq_score_takes_bytes(block, args->kv.key_type, at))
        score_bytes(block, at, view->begin, view->end);
    else
        score_numbers(block, at, view->begin, view->end);
    if (args->slot_pos) hide_slots(block, args->slot_pos + at * AQ_TILE, view->begin, view->end);
}
