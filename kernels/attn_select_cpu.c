/* Many blocks: the team takes whole blocks one after the other. Few, as in decode: one query after
 * the other, and the team shares its tiles: members take turns at them, as chosen tokens stand
 * close together, each for all KV heads, and between the passes all join what all have found, in
 * the order of members. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/attn_select_parts.h"
#include "src/base/arena.h"
#include "src/base/clock.h"

/* Blocks a member must find on average, or their unequal lengths leave members idle. */
#define BLOCKS_PER_MEMBER 4

/* Where results of query t and KV head g go. */
static float *part_of(const aq_select_task *task, int64_t t, int g) {
    return task->args->part +
           (t * task->args->n_head + g * task->group) * (task->args->kv.d_head + 2);
}

static void give_counts(const aq_select_task *task, int64_t t, int g, const aq_select_view *view) {
    if (!task->args->counts) return;
    int32_t *counts = task->args->counts + (t * task->args->kv.n_kv_head + g) * 3;
    counts[0] = (int32_t)aq_select_count_seen(task->args, view);
    counts[1] = (int32_t)view->n_attended;
    counts[2] = (int32_t)view->n_touched;
}

static void choose_alone(aq_select_block *b, int i) {
    aq_select_weigh_tokens(b, i);
    aq_select_fill_buckets(b, i);
    aq_select_find_bound(b);
    b->view[i].least = b->search[b->g].least;
}

/* What select_totals gives of query t and KV head g. */
static void give_totals(const aq_select_task *task, int64_t t, int g, const float *m,
                        const float *l) {
    float *ml = task->totals + 2 * (t * task->args->n_head + g * task->group);
    for (int r = 0; r < task->group; r++) {
        ml[2 * r] = m[r];
        ml[2 * r + 1] = l[r];
    }
}

/* Scores of the block's tokens, which choose. */
static void sum_block(aq_select_block *b, int64_t t, int n_query, int g) {
    const int group = b->task->group;
    aq_select_take_rows(b, t, n_query, g);
    aq_select_scan_tiles(b);
    for (int i = 0; i < n_query; i++)
        give_totals(b->task, t + i, g, b->m + i * group, b->l + i * group);
}

static void attend_block(aq_select_block *b, int64_t t, int n_query, int g) {
    const aq_select_task *task = b->task;
    const size_t row_bytes = (size_t)(b->args->kv.d_head + 2) * sizeof(float);
    aq_select_take_rows(b, t, n_query, g);
    if (aq_select_by_mass(task)) {
        aq_select_scan_tiles(b);
        for (int i = 0; i < n_query; i++)
            if (b->view[i].n_seen > 0) choose_alone(b, i);
    }
    aq_select_attend_chosen(b);
    for (int i = 0; i < n_query; i++) {
        memcpy(part_of(task, t + i, g), b->part + i * task->group * (b->args->kv.d_head + 2),
               (size_t)task->group * row_bytes);
        give_counts(task, t + i, g, &b->view[i]);
    }
}

/* Takes whole blocks until none is left, those of the last queries, which see most, first. */
static void take_blocks(void *arg, int thread, int n_thread) {
    aq_select_task *task = arg;
    const aq_attn_select_args *args = task->args;
    const int64_t n_step = (args->n_q + task->n_query - 1) / task->n_query;
    aq_select_block b = aq_select_open_block(task, thread);
    (void)n_thread;
    for (;;) {
        const int64_t i = atomic_fetch_add(&task->next_block, 1);
        if (i >= n_step * args->kv.n_kv_head) return;
        const int64_t t = (n_step - 1 - i / args->kv.n_kv_head) * task->n_query;
        const int n_query = (int)aq_select_min(args->n_q - t, task->n_query);
        const int g = (int)(i % args->kv.n_kv_head);
        if (task->totals)
            sum_block(&b, t, n_query, g);
        else
            attend_block(&b, t, n_query, g);
    }
}

static void barrier(const aq_select_task *task) {
    aq_threads_barrier(task->cpu->threads);
}

static void scan_share(aq_select_block *b, int64_t t) {
    const int group = b->task->group;
    for (int g = 0; g < b->args->kv.n_kv_head; g++) {
        aq_select_take_rows(b, t, 1, g);
        aq_select_scan_tiles(b);
        memcpy(b->result.m + g * group, b->m, (size_t)group * sizeof *b->m);
        memcpy(b->result.l + g * group, b->l, (size_t)group * sizeof *b->l);
    }
}

/* m and l of the rows of KV head g over the tiles of all members. */
static void join_totals(aq_select_block *b, int g) {
    const aq_select_task *task = b->task;
    for (int r = 0; r < task->group; r++) {
        const float *m = b->result.m + g * task->group + r;
        const float *l = b->result.l + g * task->group + r;
        b->m[r] = -INFINITY;
        b->l[r] = 0.0f;
        for (int i = 0; i < task->n_share; i++)
            b->m[r] = fmaxf(b->m[r], *(const float *)aq_select_of_member(b, i, m));
        for (int i = 0; i < task->n_share; i++)
            b->l[r] += *(const float *)aq_select_of_member(b, i, l) *
                       expf(*(const float *)aq_select_of_member(b, i, m) - b->m[r]);
    }
}

static void weigh_share(aq_select_block *b, int64_t t) {
    for (int g = 0; g < b->args->kv.n_kv_head; g++) {
        aq_select_turn_to(b, t, 1, g);
        join_totals(b, g);
        aq_select_weigh_tokens(b, 0);
    }
}

static void fill_share(aq_select_block *b, int64_t t) {
    for (int g = 0; g < b->args->kv.n_kv_head; g++) {
        aq_select_turn_to(b, t, 1, g);
        aq_select_fill_buckets(b, 0);
    }
}

static void find_share(aq_select_block *b) {
    for (b->g = 0; b->g < b->args->kv.n_kv_head; b->g++)
        aq_select_find_bound(b);
}

static void attend_share(aq_select_block *b, int64_t t) {
    const size_t size = (size_t)b->task->group * (size_t)(b->args->kv.d_head + 2);
    for (int g = 0; g < b->args->kv.n_kv_head; g++) {
        aq_select_take_rows(b, t, 1, g);
        b->view->least = b->search[g].least;
        aq_select_attend_chosen(b);
        memcpy(b->result.part + (size_t)g * size, b->part, size * sizeof(float));
        b->result.n_count[2 * g] = b->view->n_attended;
        b->result.n_count[2 * g + 1] = b->view->n_touched;
    }
}

/* Joins the members' results of KV head g. */
static void join_parts(const aq_select_block *b, int64_t t, int g) {
    const aq_select_task *task = b->task;
    const int d_head = task->args->kv.d_head;
    aq_select_view view = aq_select_view_of(task->args, t);
    float *part = part_of(task, t, g);
    aq_cpu_clear_parts(part, task->group, d_head);
    for (int i = 0; i < task->n_share; i++) {
        const int64_t *n_count = aq_select_of_member(b, i, b->result.n_count + 2 * g);
        const float *one = aq_select_of_member(b, i, b->result.part);
        view.n_attended += n_count[0];
        view.n_touched += n_count[1];
        for (int r = 0; r < task->group; r++)
            aq_cpu_merge_part(part + r * (d_head + 2), one + (g * task->group + r) * (d_head + 2),
                              d_head);
    }
    give_counts(task, t, g, &view);
}

static void add_phases(const aq_select_task *task, int64_t begin_ns, int64_t scanned_ns) {
    if (!task->args->phase_ns) return;
    task->args->phase_ns[0] += scanned_ns - begin_ns;
    task->args->phase_ns[1] += aq_clock_ns() - scanned_ns;
}

/* z of the shared query, and x. */
static void share_choice(aq_select_block *b, int64_t t, int thread) {
    const int64_t begin_ns = aq_clock_ns();
    scan_share(b, t);
    barrier(b->task);
    const int64_t scanned_ns = aq_clock_ns();
    weigh_share(b, t);
    barrier(b->task);
    fill_share(b, t);
    barrier(b->task);
    find_share(b);
    if (thread == 0) add_phases(b->task, begin_ns, scanned_ns);
}

/* One query after the other, each shared by the team. */
static void share_queries(void *arg, int thread, int n_thread) {
    const aq_select_task *task = arg;
    aq_select_block b = aq_select_open_block(task, thread);
    for (int64_t t = 0; t < task->args->n_q; t++) {
        if (aq_select_by_mass(task) && aq_select_view_of(task->args, t).n_seen > 0)
            share_choice(&b, t, thread);
        attend_share(&b, t);
        barrier(task);
        for (int g = thread; g < task->args->kv.n_kv_head; g += n_thread)
            join_parts(&b, t, g);
        barrier(task);
    }
}

/* The same of select_totals; of what all members found each gives some KV heads. */
static void share_totals(void *arg, int thread, int n_thread) {
    const aq_select_task *task = arg;
    aq_select_block b = aq_select_open_block(task, thread);
    for (int64_t t = 0; t < task->args->n_q; t++) {
        const int64_t begin_ns = aq_clock_ns();
        scan_share(&b, t);
        barrier(task);
        for (int g = thread; g < task->args->kv.n_kv_head; g += n_thread) {
            join_totals(&b, g);
            give_totals(task, t, g, b.m, b.l);
        }
        barrier(task);
        if (thread == 0) add_phases(task, begin_ns, aq_clock_ns());
    }
}

/* Queries of a block: as many as n_thread members have room for, but few enough that there are
 * blocks for all. */
static int64_t queries_at_once(aq_cpu *cpu, const aq_attn_select_args *args, int n_thread) {
    const int64_t n_pair = args->n_q * args->kv.n_kv_head;
    int64_t n = AQ_SELECT_ROWS / (args->n_head / args->kv.n_kv_head);
    if (n_thread > 1) n = aq_select_min(n, n_pair / (BLOCKS_PER_MEMBER * n_thread));
    while (n > 1 && n_thread * aq_select_make_task(cpu, args, 1, n).member_bytes > args->work_bytes)
        n--;
    return n > 1 ? n : 1;
}

/* The queries in blocks or one by one, as there are many or few. `totals` as in the task. */
static void run(aq_cpu *cpu, const aq_attn_select_args *args, float *totals) {
    const int64_t n_pair = args->n_q * args->n_head * args->n_tile * AQ_TILE;
    const int64_t n_op = n_pair * (args->kv.n_col + args->kv.d_head);
    const int n_thread = n_op < AQ_CPU_ALONE_OPS ? 1 : aq_threads_count(cpu->threads);
    const bool shares =
        n_thread > 1 && args->n_q * args->kv.n_kv_head < BLOCKS_PER_MEMBER * n_thread;
    aq_select_task task = aq_select_make_task(cpu, args, shares ? n_thread : 1,
                                              shares ? 1 : queries_at_once(cpu, args, n_thread));
    task.totals = totals;
    atomic_init(&task.next_block, 0);
    if (shares)
        aq_threads_run(cpu->threads, totals ? share_totals : share_queries, &task);
    else if (n_thread == 1)
        take_blocks(&task, 0, 1);
    else
        aq_threads_run(cpu->threads, take_blocks, &task);
}

void aq_attn_select_cpu(aq_cpu *cpu, const aq_attn_select_args *args) {
    run(cpu, args, NULL);
}

void aq_select_totals_cpu(aq_cpu *cpu, const aq_select_totals_args *args) {
    run(cpu, &args->select, args->ml);
}
