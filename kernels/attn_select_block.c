/* Selecting attention: memory, and taking up queries. */
#include <string.h>

#include "kernels/attn_select_parts.h"
#include "kernels/kv_decode.h"
#include "src/base/arena.h"

/* Carves what grows with the rows of a block. */
static void carve_rows(aq_select_block *b, aq_arena *arena, size_t n_query) {
    const size_t n_row = n_query * (size_t)b->task->group, f = sizeof(float);
    const size_t n_col = (size_t)b->args->kv.n_col, d_head = (size_t)b->args->kv.d_head;
    b->view = aq_arena_carve(arena, n_query, sizeof *b->view);
    b->q = aq_arena_carve(arena, n_row * n_col, f);
    b->q_turned = aq_arena_carve(arena, n_col * (size_t)aq_select_column_stride((int)n_row), f);
    b->q_code = aq_arena_carve(arena, n_row * (size_t)b->task->n_code, f);
    b->score = aq_arena_carve(arena, n_row * AQ_TILE, f);
    b->hide = aq_arena_carve(arena, n_query * AQ_TILE, f);
    b->keep = aq_arena_carve(arena, n_row, f);
    b->m = aq_arena_carve(arena, n_row, f);
    b->log_l = aq_arena_carve(arena, n_row, f);
    b->part = aq_arena_carve(arena, n_row * (d_head + 2), f);
}

/* A member's share of `work` when it takes whole blocks. */
static void carve_block(aq_select_block *b, aq_arena *arena, int64_t n_query) {
    carve_rows(b, arena, (size_t)n_query);
    b->z = aq_arena_carve(arena, (size_t)(n_query * b->task->group * b->task->z_stride),
                          sizeof(float));
}

/* A member's share of `work` when the team shares a query. */
static void carve_member(aq_select_block *b, aq_arena *arena) {
    const size_t n_head = (size_t)b->args->n_head, n_kv_head = (size_t)b->args->kv.n_kv_head;
    const size_t f = sizeof(float);
    carve_rows(b, arena, 1);
    b->result.m = aq_arena_carve(arena, n_head, f);
    b->result.l = aq_arena_carve(arena, n_head, f);
    b->result.mass = aq_arena_carve(arena, n_kv_head * AQ_MASS_BOUNDS, f);
    b->result.n_count = aq_arena_carve(arena, n_kv_head * 2, sizeof(int64_t));
    b->result.part = aq_arena_carve(arena, n_head * (size_t)(b->args->kv.d_head + 2), f);
}

/* What the members share of a query. */
void aq_select_carve_shared(aq_select_task *task, aq_arena *arena) {
    const size_t n_head = (size_t)task->args->n_head, f = sizeof(float);
    task->z = aq_arena_carve(arena, n_head * (size_t)task->z_stride, f);
    task->m = aq_arena_carve(arena, n_head, f);
    task->log_l = aq_arena_carve(arena, n_head, f);
    task->search = aq_arena_carve(arena, (size_t)task->args->kv.n_kv_head, sizeof *task->search);
}

int64_t aq_select_block_bytes(const aq_select_task *task, int64_t n_query) {
    aq_select_block b = {.task = task, .args = task->args};
    aq_arena arena = aq_arena_measure();
    carve_block(&b, &arena, n_query);
    return (int64_t)arena.used;
}

int64_t aq_select_member_bytes(const aq_select_task *task) {
    aq_select_block b = {.task = task, .args = task->args};
    aq_arena arena = aq_arena_measure();
    carve_member(&b, &arena);
    return (int64_t)arena.used;
}

static int64_t shared_bytes(const aq_select_task *task) {
    aq_select_task copy = *task;
    aq_arena arena = aq_arena_measure();
    aq_select_carve_shared(&copy, &arena);
    return (int64_t)arena.used;
}

/* Rows of z are no power of two apart, or they would meet in the same lines of the cache. */
aq_select_task aq_select_make_task(aq_cpu *cpu, const aq_attn_select_args *args) {
    return (aq_select_task){.args = args,
                            .cpu = cpu,
                            .group = args->n_head / args->kv.n_kv_head,
                            .n_code = aq_code_layout_columns(&args->kv.codes),
                            .z_stride = args->n_tile * AQ_TILE + AQ_COLUMNS_ALIGN};
}

int64_t aq_attn_select_work(const aq_kv_view *kv, int n_head, int n_thread, int64_t n_tile) {
    const aq_attn_select_args args = {.n_head = n_head, .kv = *kv, .n_tile = n_tile};
    const aq_select_task task = aq_select_make_task(NULL, &args);
    const int64_t blocks = n_thread * aq_select_block_bytes(&task, 1);
    const int64_t shared = shared_bytes(&task) + n_thread * aq_select_member_bytes(&task);
    return blocks > shared ? blocks : shared;
}

static void carve_scratch(aq_select_block *b, int thread) {
    const size_t n_col = (size_t)b->args->kv.n_col, d_head = (size_t)b->args->kv.d_head;
    const size_t f = sizeof(float);
    aq_arena arena = aq_arena_over(aq_cpu_scratch(b->task->cpu, thread), AQ_CPU_SCRATCH_BYTES);
    const size_t n_row = (size_t)aq_select_column_stride(b->task->group);
    b->column = aq_arena_carve(&arena, (n_col > n_row ? n_col : n_row) * AQ_TILE, f);
    b->key = aq_arena_carve(&arena, AQ_TILE * n_col, f);
    b->value = aq_arena_carve(&arena, AQ_TILE * d_head, f);
    b->work = aq_arena_carve(&arena, (size_t)aq_decode_work_bytes(&b->args->kv), 1);
    b->columns = aq_arena_carve(&arena, n_col, sizeof *b->columns);
    b->dims = aq_arena_carve(&arena, n_col, sizeof *b->dims);
    b->strength = aq_arena_carve(&arena, n_col, f);
    b->rank = aq_arena_carve(&arena, n_col, sizeof *b->rank);
}

aq_select_block aq_select_open_block(const aq_select_task *task, int thread) {
    aq_select_block b = {.task = task, .args = task->args, .simd = task->cpu->simd};
    aq_arena arena =
        aq_arena_over(task->members + thread * task->member_bytes, (size_t)task->member_bytes);
    carve_scratch(&b, thread);
    carve_block(&b, &arena, task->n_query);
    return b;
}

/* What member `thread` of the team works with on a shared query. */
aq_select_block aq_select_open_member(const aq_select_task *task, int thread) {
    aq_select_block b = {.task = task, .args = task->args, .simd = task->cpu->simd};
    aq_arena arena =
        aq_arena_over(task->members + thread * task->member_bytes, (size_t)task->member_bytes);
    carve_scratch(&b, thread);
    carve_member(&b, &arena);
    return b;
}

/* Takes up queries t .. t + n_query with KV head g. */
void aq_select_take_rows(aq_select_block *b, int64_t t, int n_query, int g) {
    const aq_attn_select_args *args = b->args;
    const int group = b->task->group, n_col = args->kv.n_col;
    b->g = g;
    b->t = t;
    b->n_query = n_query;
    b->n_row = n_query * group;
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
    for (int i = 0; i < n_query; i++)
        b->view[i] = aq_select_view_of(args, t + i);
}
