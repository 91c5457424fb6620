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

static void attend_block(aq_select_block *b, int64_t t, int n_query, int g) {
    const aq_select_task *task = b->task;
    const size_t row_bytes = (size_t)(b->args->kv.d_head + 2) * sizeof(float);
    aq_select_take_rows(b, t, n_query, g);
    if (aq_select_by_mass(task)) {
        aq_select_scan_tiles(b);
        for (int i = 0; i < n_query; i++)
            if (b->view[i].n_seen > 0) aq_select_find_bound(b, i);
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
        attend_block(&b, t, (int)aq_select_min(args->n_q - t, task->n_query),
                     (int)(i % args->kv.n_kv_head));
    }
}

/* What member i left. */
static aq_select_result result_of(const aq_select_task *task, int i) {
    return aq_select_open_block(task, i).result;
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
        const int h = g * task->group + r;
        float m = -INFINITY, l = 0.0f;
        for (int i = 0; i < task->n_share; i++)
            m = fmaxf(m, result_of(task, i).m[h]);
        for (int i = 0; i < task->n_share; i++) {
            const aq_select_result result = result_of(task, i);
            l += result.l[h] * expf(result.m[h] - m);
        }
        b->m[r] = m;
        b->l[r] = l;
    }
}

static void weigh_share(aq_select_block *b, int64_t t) {
    for (int g = 0; g < b->args->kv.n_kv_head; g++) {
        float *total = b->result.total + 2 * g;
        aq_select_turn_to(b, t, 1, g);
        join_totals(b, g);
        aq_select_weigh_tokens(b, 0, &total[0], &total[1]);
    }
}

static void start_searches(aq_select_block *b) {
    for (int g = 0; g < b->args->kv.n_kv_head; g++) {
        float total = 0.0f, near = 0.0f;
        for (int i = 0; i < b->task->n_share; i++) {
            total += result_of(b->task, i).total[2 * g];
            near += result_of(b->task, i).total[2 * g + 1];
        }
        b->search[g] = aq_select_start_search(b->args->mass, (double)total, (double)near,
                                              aq_select_largest(b->task), b->view->n_seen);
    }
}

/* Narrows the searches, answers `turn`; returns whether all have ended. Every member does this by
 * itself, and all find the same. */
static bool narrow_searches(aq_select_block *b, int turn) {
    bool ended = true;
    for (int g = 0; g < b->args->kv.n_kv_head; g++) {
        float least[AQ_MASS_BOUNDS], mass[AQ_MASS_BOUNDS] = {0};
        if (aq_select_search_ends(&b->search[g])) continue;
        for (int i = 0; i < b->task->n_share; i++)
            for (int k = 0; k < AQ_MASS_BOUNDS; k++)
                mass[k] += result_of(b->task, i).mass[turn][g * AQ_MASS_BOUNDS + k];
        aq_select_try_bounds(&b->search[g], least);
        aq_select_narrow(&b->search[g], least, mass);
        ended = ended && aq_select_search_ends(&b->search[g]);
    }
    return ended;
}

/* Others may still read the answers before last when this member gives new ones, but not those
 * before. */
static void search_share(aq_select_block *b, int64_t t) {
    float least[AQ_MASS_BOUNDS];
    int turn = 0;
    start_searches(b);
    do {
        turn = 1 - turn;
        for (int g = 0; g < b->args->kv.n_kv_head; g++) {
            if (aq_select_search_ends(&b->search[g])) continue;
            aq_select_turn_to(b, t, 1, g);
            aq_select_try_bounds(&b->search[g], least);
            aq_select_mass_from(b, 0, least, b->result.mass[turn] + g * AQ_MASS_BOUNDS);
        }
        barrier(b->task);
    } while (!narrow_searches(b, turn));
}

static void attend_share(aq_select_block *b, int64_t t) {
    const size_t size = (size_t)b->task->group * (size_t)(b->args->kv.d_head + 2);
    for (int g = 0; g < b->args->kv.n_kv_head; g++) {
        aq_select_take_rows(b, t, 1, g);
        b->view->least = aq_select_float_of(b->search[g].low);
        aq_select_attend_chosen(b);
        memcpy(b->result.part + (size_t)g * size, b->part, size * sizeof(float));
        b->result.n_count[2 * g] = b->view->n_attended;
        b->result.n_count[2 * g + 1] = b->view->n_touched;
    }
}

/* Joins the members' results of KV head g. */
static void join_parts(const aq_select_task *task, int64_t t, int g) {
    const int d_head = task->args->kv.d_head;
    aq_select_view view = aq_select_view_of(task->args, t);
    float *part = part_of(task, t, g);
    aq_cpu_clear_parts(part, task->group, d_head);
    for (int i = 0; i < task->n_share; i++) {
        const aq_select_result result = result_of(task, i);
        view.n_attended += result.n_count[2 * g];
        view.n_touched += result.n_count[2 * g + 1];
        for (int r = 0; r < task->group; r++)
            aq_cpu_merge_part(part + r * (d_head + 2),
                              result.part + (g * task->group + r) * (d_head + 2), d_head);
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
    search_share(b, t);
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
            join_parts(task, t, g);
        barrier(task);
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

void aq_attn_select_cpu(aq_cpu *cpu, const aq_attn_select_args *args) {
    const int64_t n_pair = args->n_q * args->n_head * args->n_tile * AQ_TILE;
    const int64_t n_op = n_pair * (args->kv.n_col + args->kv.d_head);
    const int n_thread = n_op < AQ_CPU_ALONE_OPS ? 1 : aq_threads_count(cpu->threads);
    const bool shares =
        n_thread > 1 && args->n_q * args->kv.n_kv_head < BLOCKS_PER_MEMBER * n_thread;
    aq_select_task task = aq_select_make_task(cpu, args, shares ? n_thread : 1,
                                              shares ? 1 : queries_at_once(cpu, args, n_thread));
    atomic_init(&task.next_block, 0);
    if (shares)
        aq_threads_run(cpu->threads, share_queries, &task);
    else if (n_thread == 1)
        take_blocks(&task, 0, 1);
    else
        aq_threads_run(cpu->threads, take_blocks, &task);
}
