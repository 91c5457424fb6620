/* A block of rows (attn_scores_parts.h) goes through tiles of keys and values, each tile read once
 * for the whole block.
 *
 * Many blocks: the team takes whole blocks one after the other. One block, as in decode: the team
 * shares the tiles of all KV heads, and what two members did of one KV head is merged in their
 * order, so the bits depend on the number of members alone. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/attn_scores_parts.h"
#include "kernels/kv_decode.h"

/* Rows that share a tile while it is in the nearest caches. */
#define ROWS_AT_ONCE 96

/* Blocks a member must find on average, or their unequal lengths leave members idle. */
#define BLOCKS_PER_MEMBER 4

/* What one member works on, all in its scratch. */
typedef struct {
    aq_score_block scores;
    float *keep;    /* [n_row] */
    float *part;    /* [n_row, d_head + 2] the result */
    float *edge[2]; /* [n_row, d_head + 2] results of a KV head shared with other members */
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

/* Lays out the scratch at `at` for blocks of n_row rows; returns the first byte behind. */
static char *lay_out(attn_block *block, char *at, int64_t n_row) {
    const int64_t f = (int64_t)sizeof(float);
    const int64_t part_bytes = n_row * (block->scores.args->kv.d_head + 2) * f;
    at = aq_score_lay_out(&block->scores, at, n_row);
    block->keep = aq_score_carve(&at, n_row * f);
    block->part = aq_score_carve(&at, part_bytes);
    block->edge[0] = aq_score_carve(&at, part_bytes);
    block->edge[1] = aq_score_carve(&at, part_bytes);
    return at;
}

static attn_block open_block(const attn_task *task, int thread) {
    attn_block block = {.scores = {.args = task->args, .simd = task->cpu->simd}};
    lay_out(&block, aq_cpu_scratch(task->cpu, thread), task->row_step);
    return block;
}

/* ROWS_AT_ONCE, or fewer if heads are so wide that the scratch holds no more. */
static int64_t rows_that_fit(const attn_task *task) {
    int64_t n_row = ROWS_AT_ONCE;
    for (; n_row > 1; n_row /= 2) {
        attn_block block = {.scores = {.args = task->args}};
        char *base = aq_cpu_scratch(task->cpu, 0);
        if ((size_t)(lay_out(&block, base, n_row) - base) <= AQ_CPU_SCRATCH_BYTES) break;
    }
    return n_row;
}

/* Takes up rows row .. row + n_row of KV head g, with an empty result. */
static void take_rows(attn_block *block, int g, int64_t row, int64_t n_row, float *part) {
    const int d_head = block->scores.args->kv.d_head;
    aq_score_take(&block->scores, g, row, n_row);
    block->part = part;
    aq_cpu_clear_parts(part, n_row, d_head);
}

/* The values of tokens first .. first + n of that tile, [n, d_head] of type *dtype. */
static const void *fetch_values(const aq_score_block *block, int64_t at, int first, int n,
                                aq_dtype *dtype) {
    const aq_kv_view *kv = &block->args->kv;
    const int64_t token = (int64_t)block->g * AQ_TILE + first;
    *dtype = AQ_F32;
    if (aq_kv_is_open(kv, at)) return kv->open_values + token * kv->d_head;
    if (aq_kv_type_coded(kv->value_type)) {
        aq_decode_values(block->simd, kv, at, block->g, first, n, block->work, block->spare);
        return block->spare;
    }
    *dtype = aq_kv_type_dtype(kv->value_type);
    return aq_score_fetch(block, kv->values, dtype,
                          (at * kv->n_kv_head * AQ_TILE + token) * kv->d_head,
                          (int64_t)n * kv->d_head, block->spare);
}

/* Adds the values of the tile stored at place `at`, weighted, to the results; of 8 bits, as they
 * lie. */
static void mix_bytes(const attn_block *block, int64_t at, const aq_score_view *view) {
    const aq_score_block *scores = &block->scores;
    const aq_kv_view *kv = &scores->args->kv;
    const int64_t begin = view->begin, width = kv->d_head + 2;
    const aq_kv_rows values =
        aq_kv_value_rows(scores->simd, kv, aq_score_values(scores, at), scores->work);
    const uint8_t *next = aq_score_ask(scores, aq_score_values(scores, scores->next), 3 * AQ_TILE);
    scores->simd->mix_bytes(&(aq_mix_bytes_args){.rows = values.rows + view->first,
                                                 .n = view->last - view->first,
                                                 .step = values.step + view->first,
                                                 .low = values.low + view->first,
                                                 .a = scores->score + begin * AQ_TILE + view->first,
                                                 .a_stride = AQ_TILE,
                                                 .n_row = (int)(view->end - begin),
                                                 .n_out = kv->d_head,
                                                 .keep = block->keep + begin,
                                                 .c = block->part + begin * width,
                                                 .c_stride = width,
                                                 .next = next});
}

/* The same from numbers. */
static void mix_numbers(const attn_block *block, int64_t at, const aq_score_view *view) {
    const aq_kv_view *kv = &block->scores.args->kv;
    const int64_t begin = view->begin;
    const int n_token = view->last - view->first;
    const bool ask = block->scores.next >= 0 && !aq_kv_type_coded(kv->value_type);
    aq_dtype dtype;
    const void *values = fetch_values(&block->scores, at, view->first, n_token, &dtype);
    block->scores.simd->panel(
        &(aq_panel_args){.a = block->scores.score + begin * AQ_TILE + view->first,
                         .a_stride = AQ_TILE,
                         .n_row = view->end - begin,
                         .n_in = n_token,
                         .b = values,
                         .b_dtype = dtype,
                         .b_stride = kv->d_head,
                         .n_out = kv->d_head,
                         .keep = block->keep + begin,
                         .c = block->part + begin * (kv->d_head + 2),
                         .c_stride = kv->d_head + 2,
                         .next = ask ? aq_score_values(&block->scores, block->scores.next) : NULL});
}

/* With few rows a tile is gone through faster than memory brings the next one, which lies
 * elsewhere: it is asked for in time. */
static void attend_tiles(attn_block *block, int64_t tile, int64_t tile_end) {
    aq_score_block *scores = &block->scores;
    const aq_kv_view *kv = &scores->args->kv;
    const int d_head = kv->d_head;
    const bool ahead = aq_score_few_rows(scores->args);
    for (; tile < tile_end; tile++) {
        const aq_score_view view = aq_score_see(scores, tile);
        if (view.begin >= view.end) continue;
        const int64_t at = aq_score_place(scores->args, tile);
        scores->next = ahead && tile + 1 < tile_end ? aq_score_place(scores->args, tile + 1) : -1;
        aq_score_tile(scores, tile, &view);
        for (int64_t r = view.begin; r < view.end; r++) {
            float *ml = block->part + r * (d_head + 2) + d_head;
            block->keep[r] = scores->simd->soften(
                scores->score + r * AQ_TILE, scores->first_seen[r], scores->n_seen[r], ml, ml + 1);
        }
        if (aq_score_takes_bytes(scores, kv->value_type, at))
            mix_bytes(block, at, &view);
        else
            mix_numbers(block, at, &view);
    }
}

/* Where the result of a row goes. */
static float *result_of(const aq_attn_partial_args *args, int g, int64_t row) {
    return args->part + aq_score_row(args, g, row) * (args->kv.d_head + 2);
}

static void give_rows(const attn_block *block) {
    const aq_score_block *scores = &block->scores;
    const int64_t width = scores->args->kv.d_head + 2;
    for (int64_t r = 0; r < scores->n_row; r++)
        memcpy(result_of(scores->args, scores->g, scores->row + r), block->part + r * width,
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
        aq_score_tiles(args, row, n_row, &tile, &tile_end);
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
        aq_cpu_clear_parts(result_of(task->args, g, task->row + r), 1, d_head);
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
        aq_score_tiles(args, task->row, task->n_shared_row, &task->tile, &tile_end);
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
    attn_task task = {.args = args, .cpu = cpu, .n_row = args->n_q * aq_score_group(args)};
    const int64_t n_pair = args->n_q * args->n_head * args->n_tile * AQ_TILE;
    const int64_t n_op = n_pair * (aq_score_columns(args) + args->kv.d_head);
    const int n_thread = n_op < AQ_CPU_ALONE_OPS ? 1 : aq_threads_count(cpu->threads);
    task.row_step = rows_that_fit(&task);
    atomic_init(&task.next_block, 0);
    const int64_t n_block = (task.n_row + task.row_step - 1) / task.row_step;
    if (n_block <= 1 || n_block * args->kv.n_kv_head < (int64_t)BLOCKS_PER_MEMBER * n_thread)
        share_blocks(&task, n_thread);
    else
        aq_threads_run(cpu->threads, take_blocks, &task);
}
