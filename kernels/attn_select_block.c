/* Selecting attention: memory, and taking up queries. */
#include <string.h>

#include "kernels/attn_select_parts.h"
#include "kernels/kv_decode.h"
#include "src/base/arena.h"

static int count_quads(const aq_code_layout *layout) {
    int n = 0;
    for (int i = 0; i < layout->n_segment; i++)
        n += (layout->segments[i].n + 3) / 4;
    return n;
}

/* What the rows of a block need. */
static void carve_rows(aq_select_block *b, aq_arena *arena) {
    const size_t n_query = (size_t)b->task->n_query, n_row = n_query * (size_t)b->task->group;
    const size_t n_col = (size_t)b->args->kv.n_col, n_place = (size_t)b->task->n_place;
    const size_t f = sizeof(float);
    b->factor = aq_arena_carve(arena, n_row * (size_t)b->task->most_own, f);
    b->view = aq_arena_carve(arena, n_query, sizeof *b->view);
    b->q = aq_arena_carve(arena, n_row * n_col, f);
    b->q_turned = aq_arena_carve(arena, n_col * (size_t)aq_select_column_stride((int)n_row), f);
    b->q_code = aq_arena_carve(arena, n_row * n_place, f);
    b->score = aq_arena_carve(arena, n_row * AQ_TILE, f);
    b->hide = aq_arena_carve(arena, n_query * AQ_TILE, f);
    b->keep = aq_arena_carve(arena, n_row, f);
    b->m = aq_arena_carve(arena, n_row, f);
    b->l = aq_arena_carve(arena, n_row, f);
    b->part = aq_arena_carve(arena, n_row * (size_t)(b->args->kv.d_head + 2), f);
    b->scan_work = aq_arena_carve(arena, (3 + AQ_SCAN_ROWS + AQ_TILE / 4) * n_place, f);
}

/* What is found in a choice, of every KV head; members that share a query leave it for each other.
 */
static void carve_result(aq_select_block *b, aq_arena *arena) {
    const size_t n_head = (size_t)b->args->n_head, n_kv_head = (size_t)b->args->kv.n_kv_head;
    const size_t f = sizeof(float);
    b->search = aq_arena_carve(arena, n_kv_head, sizeof *b->search);
    b->result.sums = aq_arena_carve(arena, n_kv_head, sizeof *b->result.sums);
    b->result.bucket = aq_arena_carve(arena, n_kv_head * AQ_SELECT_BUCKETS, f);
    b->result.m = aq_arena_carve(arena, n_head, f);
    b->result.l = aq_arena_carve(arena, n_head, f);
    b->result.n_count = aq_arena_carve(arena, n_kv_head * 2, sizeof(int64_t));
    b->result.part = aq_arena_carve(arena, n_head * (size_t)(b->args->kv.d_head + 2), f);
}

/* A member's share of `work`. */
static void carve_member(aq_select_block *b, aq_arena *arena) {
    const bool shares = b->task->n_share > 1;
    const int64_t n_row = shares ? b->args->n_head : b->task->n_query * b->task->group;
    const size_t n_tile = (size_t)(n_row * b->task->most_own), f = sizeof(float);
    carve_rows(b, arena);
    carve_result(b, arena);
    b->all_tile_m = aq_arena_carve(arena, n_tile, f);
    b->all_tile_l = aq_arena_carve(arena, n_tile, f);
    b->all_z = aq_arena_carve(arena, (size_t)(n_row * b->task->z_stride), f);
}

int64_t aq_select_member_bytes(const aq_select_task *task) {
    aq_select_block b = {.task = task, .args = task->args};
    aq_arena arena = aq_arena_measure();
    carve_member(&b, &arena);
    return (int64_t)arena.used;
}

/* Rows of z are no power of two apart, or they would meet in the same lines of the cache. */
aq_select_task aq_select_make_task(aq_cpu *cpu, const aq_attn_select_args *args, int64_t n_share,
                                   int64_t n_query) {
    const int n_place = 4 * count_quads(&args->kv.codes);
    aq_select_task task = {.args = args,
                           .cpu = cpu,
                           .group = args->n_head / args->kv.n_kv_head,
                           .n_code = aq_code_layout_columns(&args->kv.codes),
                           .n_place = aq_select_column_stride(n_place),
                           .n_share = n_share,
                           .n_query = n_query,
                           .key_bytes = aq_kv_key_bytes(&args->kv),
                           .value_bytes = aq_kv_value_bytes(&args->kv),
                           .code_bytes = aq_kv_selector_bytes(&args->kv),
                           .most_own = (args->n_tile + n_share - 1) / n_share};
    task.z_stride = task.most_own * AQ_TILE + AQ_COLUMNS_ALIGN;
    task.member_bytes = aq_select_member_bytes(&task);
    task.members = args->work;
    return task;
}

int64_t aq_attn_select_work(const aq_kv_view *kv, int n_head, int n_thread, int64_t n_tile) {
    const aq_attn_select_args args = {.n_head = n_head, .kv = *kv, .n_tile = n_tile};
    const int64_t blocks = aq_select_make_task(NULL, &args, 1, 1).member_bytes;
    const int64_t shares = aq_select_make_task(NULL, &args, n_thread, 1).member_bytes;
    return n_thread * (blocks > shares ? blocks : shares);
}

static void carve_scratch(aq_select_block *b, int thread) {
    const size_t n_col = (size_t)b->args->kv.n_col, d_head = (size_t)b->args->kv.d_head;
    const size_t f = sizeof(float);
    aq_arena arena = aq_arena_over(aq_cpu_scratch(b->task->cpu, thread), AQ_CPU_SCRATCH_BYTES);
    const size_t n_row = (size_t)aq_select_column_stride((int)(b->task->n_query * b->task->group));
    b->column = aq_arena_carve(&arena, n_row * AQ_TILE, f);
    b->key = aq_arena_carve(&arena, AQ_TILE * n_col, f);
    b->value = aq_arena_carve(&arena, AQ_TILE * d_head, f);
    b->work = aq_arena_carve(&arena, (size_t)aq_decode_work_bytes(&b->args->kv), 1);
    b->quads = aq_arena_carve(&arena, (size_t)b->task->n_place / 4, sizeof *b->quads);
    b->dims = aq_arena_carve(&arena, n_col, sizeof *b->dims);
    b->strength = aq_arena_carve(&arena, n_col, f);
    b->rank = aq_arena_carve(&arena, n_col, sizeof *b->rank);
}

aq_select_block aq_select_open_block(const aq_select_task *task, int thread) {
    const bool shares = task->n_share > 1;
    aq_select_block b = {.task = task,
                         .args = task->args,
                         .simd = task->cpu->simd,
                         .first = shares ? thread : 0,
                         .step = task->n_share};
    aq_arena arena =
        aq_arena_over(task->members + thread * task->member_bytes, (size_t)task->member_bytes);
    carve_scratch(&b, thread);
    carve_member(&b, &arena);
    return b;
}

/* Turns to queries t .. t + n_query with KV head g, without the queries themselves. */
void aq_select_turn_to(aq_select_block *b, int64_t t, int n_query, int g) {
    const int group = b->task->group;
    b->g = g;
    b->t = t;
    b->n_query = n_query;
    b->n_row = n_query * group;
    const int64_t above = b->task->n_share > 1 ? (int64_t)g * group : 0;
    b->z = b->all_z + above * b->task->z_stride;
    b->tile_m = b->all_tile_m + above * b->task->most_own;
    b->tile_l = b->all_tile_l + above * b->task->most_own;
    for (int i = 0; i < n_query; i++)
        b->view[i] = aq_select_view_of(b->args, t + i);
}

/* Takes up queries t .. t + n_query with KV head g. */
void aq_select_take_rows(aq_select_block *b, int64_t t, int n_query, int g) {
    const aq_attn_select_args *args = b->args;
    const int group = b->task->group, n_col = args->kv.n_col;
    aq_select_turn_to(b, t, n_query, g);
    for (int r = 0; r < b->n_row; r++) {
        const int64_t row = (t + r / group) * args->n_head + g * group + r % group;
        for (int c = 0; c < n_col; c++)
            b->q[r * n_col + c] = args->q[row * n_col + c] * args->scale;
    }
    if (b->n_row >= AQ_SELECT_ROWS_TO_TURN) {
        const int stride = aq_select_column_stride(b->n_row);
        b->simd->columns(&(aq_columns_args){.dtype = AQ_F32,
                                            .w = (const uint8_t *)b->q,
                                            .row_bytes = n_col * (int64_t)sizeof(float),
                                            .n_row = b->n_row,
                                            .n = n_col,
                                            .out = b->q_turned,
                                            .out_stride = stride});
    }
}
