/* The rows of a KV head are its (query, head of the group) pairs: row = query * group + head. A
 * block of rows goes through tiles of keys and values, each tile read once for the whole block.
 *
 * Many blocks: the team takes whole blocks one after the other. One block, as in decode: the team
 * shares the tiles of all KV heads, and what two members did of one KV head is merged in their
 * order, so the bits depend on the number of members alone. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/kv_decode.h"

/* Rows that share a tile while it is in the nearest caches. */
#define ROWS_AT_ONCE 96

/* From this many rows on, a bf16 tile is widened once for all instead of by each few rows. */
#define ROWS_TO_WIDEN 8

/* Blocks a member must find on average, or their unequal lengths leave members idle. */
#define BLOCKS_PER_MEMBER 4

/* What one member works on, all in its scratch but args. */
typedef struct {
    const aq_attn_partial_args *args;
    const aq_simd *simd;
    int g;
    int64_t row, n_row; /* first row, number of rows */
    float *q;           /* [n_row, n_in] scaled; the chosen columns only, if sparse */
    int16_t *dims;      /* [n_row, n_dim], if sparse */
    int64_t *pos;       /* [n_row] position of the query */
    int *first_seen;    /* [n_row] first visible token of the current tile */
    int *n_seen;        /* [n_row] one past its last visible token */
    float *score;       /* [n_row, AQ_TILE] */
    float *keep;        /* [n_row] */
    float *part;        /* [n_row, d_head + 2] the result */
    float *key, *value; /* the current tile, widened; value is wide enough for keys by token */
    void *work;         /* for decoding */
    float *edge[2];     /* [n_row, d_head + 2] results of a KV head shared with other members */
} attn_block;

typedef struct {
    const aq_attn_partial_args *args;
    const aq_cpu *cpu;
    int64_t n_row;    /* rows of a KV head */
    int64_t row_step; /* rows of a block, but for the last */
    atomic_llong next_block;
    int64_t row; /* the one block shared by the team, its rows, and the tiles it sees */
    int64_t n_shared_row;
    int64_t tile; /* the first of them */
    int64_t n_tile;
} attn_task;

static int group_of(const aq_attn_partial_args *args) {
    return args->n_head / args->kv.n_kv_head;
}

/* Whether scores are summed over the chosen columns alone. If most are chosen it is faster to go
 * over all, which rows share, with zeros in the queries. */
static bool is_sparse(const aq_attn_partial_args *args) {
    return args->dims && 3 * args->n_dim <= 2 * args->kv.n_col;
}

/* Columns that a score is summed over. */
static int n_score_dim(const aq_attn_partial_args *args) {
    return is_sparse(args) ? args->n_dim : args->kv.n_col;
}

static void *carve(char **at, int64_t bytes) {
    void *memory = *at;
    *at += (bytes + 63) / 64 * 64;
    return memory;
}

/* Lays out the scratch at `at` for blocks of n_row rows; returns the first byte behind. */
static char *lay_out(attn_block *block, char *at, int64_t n_row) {
    const aq_attn_partial_args *args = block->args;
    const int64_t d_head = args->kv.d_head, n_col = args->kv.n_col, n_in = n_score_dim(args);
    const int64_t f = (int64_t)sizeof(float);
    const int64_t part_bytes = n_row * (d_head + 2) * f;
    block->key = carve(&at, AQ_TILE * n_col * f);
    block->value = carve(&at, AQ_TILE * (d_head > n_col ? d_head : n_col) * f);
    block->work = carve(&at, aq_decode_work_bytes(&args->kv));
    block->q = carve(&at, n_row * n_in * f);
    block->dims = carve(&at, is_sparse(args) ? n_row * n_in * (int64_t)sizeof *block->dims : 0);
    block->pos = carve(&at, n_row * (int64_t)sizeof *block->pos);
    block->first_seen = carve(&at, n_row * (int64_t)sizeof *block->first_seen);
    block->n_seen = carve(&at, n_row * (int64_t)sizeof *block->n_seen);
    block->score = carve(&at, n_row * AQ_TILE * f);
    block->keep = carve(&at, n_row * f);
    block->part = carve(&at, part_bytes);
    block->edge[0] = carve(&at, part_bytes);
    block->edge[1] = carve(&at, part_bytes);
    return at;
}

static attn_block open_block(const attn_task *task, int thread) {
    attn_block block = {.args = task->args, .simd = task->cpu->simd};
    lay_out(&block, aq_cpu_scratch(task->cpu, thread), task->row_step);
    return block;
}

/* ROWS_AT_ONCE, or fewer if heads are so wide that the scratch holds no more. */
static int64_t rows_that_fit(const attn_task *task) {
    int64_t n_row = ROWS_AT_ONCE;
    for (; n_row > 1; n_row /= 2) {
        attn_block block = {.args = task->args};
        char *base = aq_cpu_scratch(task->cpu, 0);
        if ((size_t)(lay_out(&block, base, n_row) - base) <= AQ_CPU_SCRATCH_BYTES) break;
    }
    return n_row;
}

/* The scaled query of (query, head) pair `from` becomes row r of the block. */
static void take_query(const attn_block *block, int64_t from, int64_t r) {
    const aq_attn_partial_args *args = block->args;
    const int n_in = n_score_dim(args);
    const float *q = args->q + from * args->kv.n_col;
    const int16_t *dims = args->dims ? args->dims + from * args->n_dim : NULL;
    float *to = block->q + r * n_in;
    if (!dims) {
        for (int c = 0; c < n_in; c++)
            to[c] = q[c] * args->scale;
    } else if (is_sparse(args)) {
        memcpy(block->dims + r * n_in, dims, (size_t)n_in * sizeof *dims);
        for (int j = 0; j < n_in; j++)
            to[j] = q[dims[j]] * args->scale;
    } else {
        memset(to, 0, (size_t)n_in * sizeof *to);
        for (int j = 0; j < args->n_dim; j++)
            to[dims[j]] = q[dims[j]] * args->scale;
    }
}

static void clear_result(float *result, int d_head) {
    memset(result, 0, (size_t)(d_head + 2) * sizeof *result);
    result[d_head] = -INFINITY;
}

/* Takes up rows row .. row + n_row of KV head g, with an empty result. */
static void take_rows(attn_block *block, int g, int64_t row, int64_t n_row, float *part) {
    const aq_attn_partial_args *args = block->args;
    const int group = group_of(args), d_head = args->kv.d_head;
    block->g = g;
    block->row = row;
    block->n_row = n_row;
    block->part = part;
    for (int64_t r = 0; r < n_row; r++) {
        const int64_t t = (row + r) / group;
        take_query(block, t * args->n_head + (int64_t)g * group + (row + r) % group, r);
        block->pos[r] = args->q_pos[t];
        clear_result(part + r * (d_head + 2), d_head);
    }
}

/* What a block sees of a tile: rows begin .. end see something of tokens first .. last; within, not
 * every row sees every token, or any. */
typedef struct {
    int64_t begin, end;
    int first, last;
} tile_view;

static int clamp_to_tile(int64_t token) {
    return token <= 0 ? 0 : token < AQ_TILE ? (int)token : AQ_TILE;
}

/* Finds what each row sees of the tile that begins at position `tile_pos`. */
static tile_view see_tile(const attn_block *block, int64_t tile_pos) {
    const int64_t window = block->args->window;
    tile_view view = {block->n_row, 0, AQ_TILE, 0};
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
static tile_view see_slots(const attn_block *block, const int64_t *slot_pos) {
    tile_view view = {block->n_row, 0, 0, AQ_TILE};
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

/* Takes the tokens that a query at `pos` does not see out of a tile of scores. */
static void hide_slots(const int64_t *slot_pos, int64_t pos, float *score) {
    for (int s = 0; s < AQ_TILE; s++)
        score[s] = slot_pos[s] <= pos ? score[s] : -INFINITY;
}

/* The n elements of a tensor that begin at element `at`: widened into `wide` if there are rows
 * enough to use them, else as they are. */
static const void *fetch(const attn_block *block, const void *tensor, aq_dtype *dtype, int64_t at,
                         int64_t n, float *wide) {
    if (*dtype == AQ_F32) return (const float *)tensor + at;
    const uint8_t *from = (const uint8_t *)tensor + 2 * at;
    if (block->n_row < ROWS_TO_WIDEN) return from;
    block->simd->dequantise(*dtype, from, n, wide);
    *dtype = AQ_F32;
    return wide;
}

/* n_col keys by token, AQ_TILE of them, as columns. */
static const void *transpose(const attn_block *block, const void *keys, aq_dtype *dtype) {
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
static const void *fetch_keys(const attn_block *block, int64_t at, aq_dtype *dtype) {
    const aq_kv_view *kv = &block->args->kv;
    const int64_t n = (int64_t)kv->n_col * AQ_TILE, from = (at * kv->n_kv_head + block->g) * n;
    const bool by_token = kv->key_order == AQ_KEYS_BY_TOKEN;
    const void *keys;
    *dtype = AQ_F32;
    if (aq_kv_is_open(kv, at)) {
        keys = kv->open_keys + block->g * n;
    } else if (aq_kv_type_coded(kv->key_type)) {
        float *wide = by_token ? block->value : block->key;
        aq_decode_keys(block->simd, kv, at, block->g, block->work, wide);
        keys = wide;
    } else {
        *dtype = aq_kv_type_dtype(kv->key_type);
        if (!by_token) return fetch(block, kv->keys, dtype, from, n, block->key);
        keys = (const uint8_t *)kv->keys + aq_dtype_row_bytes(*dtype, from);
    }
    return by_token ? transpose(block, keys, dtype) : keys;
}

/* The values of tokens first .. first + n of that tile, [n, d_head] of type *dtype. */
static const void *fetch_values(const attn_block *block, int64_t at, int first, int n,
                                aq_dtype *dtype) {
    const aq_kv_view *kv = &block->args->kv;
    const int64_t token = (int64_t)block->g * AQ_TILE + first;
    *dtype = AQ_F32;
    if (aq_kv_is_open(kv, at)) return kv->open_values + token * kv->d_head;
    if (aq_kv_type_coded(kv->value_type)) {
        aq_decode_values(block->simd, kv, at, block->g, first, n, block->work, block->value);
        return block->value;
    }
    *dtype = aq_kv_type_dtype(kv->value_type);
    return fetch(block, kv->values, dtype, (at * kv->n_kv_head * AQ_TILE + token) * kv->d_head,
                 (int64_t)n * kv->d_head, block->value);
}

/* Scores of the tile stored at place `at`. */
static void score_rows(const attn_block *block, int64_t at, const tile_view *view) {
    const aq_attn_partial_args *args = block->args;
    const int64_t begin = view->begin, end = view->end;
    aq_dtype dtype;
    const void *keys = fetch_keys(block, at, &dtype);
    if (is_sparse(args)) {
        for (int64_t r = begin; r < end; r++)
            block->simd->score_chosen(block->q + r * args->n_dim, block->dims + r * args->n_dim,
                                      args->n_dim, keys, dtype, block->score + r * AQ_TILE);
        return;
    }
    block->simd->panel(&(aq_panel_args){.a = block->q + begin * args->kv.n_col,
                                        .a_stride = args->kv.n_col,
                                        .n_row = end - begin,
                                        .n_in = args->kv.n_col,
                                        .b = keys,
                                        .b_dtype = dtype,
                                        .b_stride = AQ_TILE,
                                        .n_out = AQ_TILE,
                                        .c = block->score + begin * AQ_TILE,
                                        .c_stride = AQ_TILE});
}

/* Adds the values of the tile stored at place `at`, weighted, to the results. */
static void mix_values(const attn_block *block, int64_t at, const tile_view *view) {
    const aq_kv_view *kv = &block->args->kv;
    const int64_t begin = view->begin;
    const int n_token = view->last - view->first;
    aq_dtype dtype;
    const void *values = fetch_values(block, at, view->first, n_token, &dtype);
    block->simd->panel(&(aq_panel_args){.a = block->score + begin * AQ_TILE + view->first,
                                        .a_stride = AQ_TILE,
                                        .n_row = view->end - begin,
                                        .n_in = n_token,
                                        .b = values,
                                        .b_dtype = dtype,
                                        .b_stride = kv->d_head,
                                        .n_out = kv->d_head,
                                        .keep = block->keep + begin,
                                        .c = block->part + begin * (kv->d_head + 2),
                                        .c_stride = kv->d_head + 2});
}

static void attend_tiles(const attn_block *block, int64_t tile, int64_t tile_end) {
    const aq_attn_partial_args *args = block->args;
    const int d_head = args->kv.d_head;
    for (; tile < tile_end; tile++) {
        const int64_t at = args->tile_at ? args->tile_at[tile] : tile;
        const int64_t *slot_pos = args->slot_pos ? args->slot_pos + at * AQ_TILE : NULL;
        const tile_view view =
            slot_pos ? see_slots(block, slot_pos) : see_tile(block, args->tile_pos[tile]);
        if (view.begin >= view.end) continue;
        score_rows(block, at, &view);
        for (int64_t r = view.begin; r < view.end; r++) {
            float *ml = block->part + r * (d_head + 2) + d_head;
            if (slot_pos) hide_slots(slot_pos, block->pos[r], block->score + r * AQ_TILE);
            block->keep[r] = block->simd->soften(block->score + r * AQ_TILE, block->first_seen[r],
                                                 block->n_seen[r], ml, ml + 1);
        }
        mix_values(block, at, &view);
    }
}

/* The tiles that rows row .. row + n_row can see something of: *begin .. *end. */
static void find_tiles(const aq_attn_partial_args *args, int64_t row, int64_t n_row, int64_t *begin,
                       int64_t *end) {
    const int group = group_of(args);
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

/* Where the result of a row goes. */
static float *result_of(const aq_attn_partial_args *args, int g, int64_t row) {
    const int group = group_of(args);
    const int64_t to = row / group * args->n_head + (int64_t)g * group + row % group;
    return args->part + to * (args->kv.d_head + 2);
}

static void give_rows(const attn_block *block) {
    const int64_t width = block->args->kv.d_head + 2;
    for (int64_t r = 0; r < block->n_row; r++)
        memcpy(result_of(block->args, block->g, block->row + r), block->part + r * width,
               (size_t)width * sizeof(float));
}

/* Takes whole blocks until none is left, those with the most tiles first. */
static void take_blocks(void *arg, int thread, int n_thread) {
    attn_task *task = arg;
    const aq_attn_partial_args *args = task->args;
    attn_block block = open_block(task, thread);
    const int64_t n_step = (task->n_row + task->row_step - 1) / task->row_step;
    (void)n_thread;
    for (;;) {
        const int64_t i = atomic_fetch_add(&task->next_block, 1);
        if (i >= n_step * args->kv.n_kv_head) return;
        const int64_t row = (n_step - 1 - i / args->kv.n_kv_head) * task->row_step;
        const int64_t left = task->n_row - row;
        const int64_t n_row = left < task->row_step ? left : task->row_step;
        take_rows(&block, (int)(i % args->kv.n_kv_head), row, n_row, block.part);
        int64_t tile, tile_end;
        find_tiles(args, row, n_row, &tile, &tile_end);
        attend_tiles(&block, tile, tile_end);
        give_rows(&block);
    }
}

/* This member's share of the (KV head, tile) pairs of one block. A KV head that others have tiles
 * of stays in the scratch: at edge 0 if it is the first of the share, else at edge 1. */
static void share_tiles(void *arg, int thread, int n_thread) {
    const attn_task *task = arg;
    attn_block block = open_block(task, thread);
    float *whole = block.part;
    int64_t begin, end;
    aq_threads_part(task->args->kv.n_kv_head * task->n_tile, thread, n_thread, &begin, &end);
    for (int64_t at = begin; at < end;) {
        const int64_t g = at / task->n_tile, tile = at % task->n_tile;
        const int64_t left = end - g * task->n_tile;
        const int64_t tile_end = left < task->n_tile ? left : task->n_tile;
        const bool alone = tile == 0 && tile_end == task->n_tile;
        take_rows(&block, (int)g, task->row, task->n_shared_row,
                  alone ? whole : block.edge[at == begin ? 0 : 1]);
        attend_tiles(&block, task->tile + tile, task->tile + tile_end);
        if (alone) give_rows(&block);
        at = g * task->n_tile + tile_end;
    }
}

/* Adds what member `thread` left at an edge to the results of KV head g. */
static void merge_edge(const attn_task *task, int thread, int edge, int g) {
    const attn_block block = open_block(task, thread);
    const int d_head = task->args->kv.d_head;
    for (int64_t r = 0; r < task->n_shared_row; r++)
        aq_cpu_merge_part(result_of(task->args, g, task->row + r),
                          block.edge[edge] + r * (d_head + 2), d_head);
}

/* Makes rows of the result neutral, as those of a KV head that starts to be merged. */
static void clear_results(const attn_task *task, int g) {
    const int d_head = task->args->kv.d_head;
    for (int64_t r = 0; r < task->n_shared_row; r++)
        clear_result(result_of(task->args, g, task->row + r), d_head);
}

/* Merges the KV heads that several members had tiles of. */
static void merge_shared(const attn_task *task, int n_thread) {
    int64_t cleared = -1;
    for (int thread = 0; thread < n_thread; thread++) {
        int64_t begin, end;
        aq_threads_part(task->args->kv.n_kv_head * task->n_tile, thread, n_thread, &begin, &end);
        if (begin == end) continue;
        const int64_t first = begin / task->n_tile, last = (end - 1) / task->n_tile;
        for (int64_t g = first; g <= last; g++) {
            if (begin <= g * task->n_tile && end >= (g + 1) * task->n_tile) continue;
            if (g != cleared) clear_results(task, (int)g);
            cleared = g;
            merge_edge(task, thread, g == first ? 0 : 1, (int)g);
        }
    }
}

/* One block after the other, each shared by the team. */
static void share_blocks(attn_task *task, int n_thread) {
    const aq_attn_partial_args *args = task->args;
    for (task->row = 0; task->row < task->n_row; task->row += task->row_step) {
        const int64_t left = task->n_row - task->row;
        task->n_shared_row = left < task->row_step ? left : task->row_step;
        int64_t tile_end;
        find_tiles(args, task->row, task->n_shared_row, &task->tile, &tile_end);
        task->n_tile = tile_end - task->tile;
        if (task->n_tile == 0) {
            for (int g = 0; g < args->kv.n_kv_head; g++)
                clear_results(task, g);
            continue;
        }
        if (n_thread == 1)
            share_tiles(task, 0, 1);
        else
            aq_threads_run(task->cpu->threads, share_tiles, task);
        merge_shared(task, n_thread);
    }
}

void aq_attn_partial_cpu(aq_cpu *cpu, const aq_attn_partial_args *args) {
    attn_task task = {.args = args, .cpu = cpu, .n_row = args->n_q * group_of(args)};
    const int64_t n_pair = args->n_q * args->n_head * args->n_tile * AQ_TILE;
    const int64_t n_op = n_pair * (n_score_dim(args) + args->kv.d_head);
    const int n_thread = n_op < AQ_CPU_ALONE_OPS ? 1 : aq_threads_count(cpu->threads);
    task.row_step = rows_that_fit(&task);
    atomic_init(&task.next_block, 0);
    const int64_t n_block = (task.n_row + task.row_step - 1) / task.row_step;
    if (n_block <= 1 || n_block * args->kv.n_kv_head < (int64_t)BLOCKS_PER_MEMBER * n_thread)
        share_blocks(&task, n_thread);
    else
        aq_threads_run(cpu->threads, take_blocks, &task);
}
