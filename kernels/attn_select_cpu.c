/* Many blocks: the team takes whole blocks one after the other. Few, as in decode: one query after
 * the other, and the team shares its tiles: each member goes over its part of the tiles for all KV
 * heads, and what the members found is joined in their order between the passes. */
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
    int64_t n_seen = 0;
    aq_select_take_rows(b, t, n_query, g);
    for (int i = 0; i < n_query; i++)
        if (b->view[i].n_seen > n_seen) n_seen = b->view[i].n_seen;
    if (aq_select_by_mass(task) && n_seen > 0) {
        aq_select_take_columns(b);
        aq_select_scan_tiles(b, 0, aq_select_tiles_of(n_seen));
        for (int i = 0; i < n_query; i++)
            if (b->view[i].n_seen > 0) aq_select_find_bound(b, i);
    }
    aq_select_attend_chosen(b, 0, 1, aq_select_tiles_of(n_seen));
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

/* Takes up KV head g of the shared query, with what the team knows of it. */
static void take_shared(aq_select_block *b, int g) {
    const aq_select_task *task = b->task;
    aq_select_take_rows(b, task->t, 1, g);
    b->z = task->z + (int64_t)g * task->group * task->z_stride;
    b->m = task->m + g * task->group;
    b->log_l = task->log_l + g * task->group;
    b->view->least = aq_select_float_of(task->search[g].low);
}

/* This member's share of the tiles that the shared query sees. */
static void share_of(const aq_select_task *task, int thread, int n_thread, int64_t *begin,
                     int64_t *end) {
    const aq_select_view view = aq_select_view_of(task->args, task->t);
    aq_threads_part(aq_select_tiles_of(view.n_seen), thread, n_thread, begin, end);
}

static void scan_share(void *arg, int thread, int n_thread) {
    const aq_select_task *task = arg;
    aq_select_block b = aq_select_open_member(task, thread);
    int64_t begin, end;
    share_of(task, thread, n_thread, &begin, &end);
    for (int g = 0; g < b.args->kv.n_kv_head; g++) {
        take_shared(&b, g);
        aq_select_take_columns(&b);
        aq_select_scan_tiles(&b, begin, end);
        for (int r = 0; r < b.n_row; r++) {
            const int h = g * task->group + r;
            b.result.m[h] = -INFINITY;
            b.result.l[h] = 0.0f;
            if (begin < end)
                b.simd->soft_total(b.z + r * task->z_stride + begin * AQ_TILE,
                                   (end - begin) * AQ_TILE, &b.result.m[h], &b.result.l[h]);
        }
    }
}

/* Joins the members' m and l. */
static void join_totals(const aq_select_task *task, int n_thread) {
    for (int h = 0; h < task->args->n_head; h++) {
        float m = -INFINITY, l = 0.0f;
        for (int i = 0; i < n_thread; i++)
            m = fmaxf(m, aq_select_open_member(task, i).result.m[h]);
        for (int i = 0; i < n_thread; i++) {
            const aq_select_result result = aq_select_open_member(task, i).result;
            l += result.l[h] * expf(result.m[h] - m);
        }
        task->m[h] = m;
        task->log_l[h] = logf(l);
    }
}

static void weigh_share(void *arg, int thread, int n_thread) {
    const aq_select_task *task = arg;
    aq_select_block b = aq_select_open_member(task, thread);
    int64_t begin, end;
    share_of(task, thread, n_thread, &begin, &end);
    for (int g = 0; g < b.args->kv.n_kv_head; g++) {
        float *mass = b.result.mass + g * AQ_MASS_BOUNDS;
        take_shared(&b, g);
        mass[0] = aq_select_weigh_tokens(&b, 0, begin * AQ_TILE, (end - begin) * AQ_TILE, &mass[1]);
        mass[2] = aq_select_take_near(&b, 0, begin, end);
    }
}

static void start_searches(const aq_select_task *task, int n_thread) {
    const int64_t n_seen = aq_select_view_of(task->args, task->t).n_seen;
    for (int g = 0; g < task->args->kv.n_kv_head; g++) {
        float total = 0.0f, near = 0.0f, largest = 0.0f;
        for (int i = 0; i < n_thread; i++) {
            const float *mass = aq_select_open_member(task, i).result.mass + g * AQ_MASS_BOUNDS;
            total += mass[0];
            largest = fmaxf(largest, mass[1]);
            near += mass[2];
        }
        task->search[g] = aq_select_start_search(task->args->mass, total, near, largest, n_seen);
    }
}

static void try_share(void *arg, int thread, int n_thread) {
    const aq_select_task *task = arg;
    aq_select_block b = aq_select_open_member(task, thread);
    int64_t begin, end;
    float least[AQ_MASS_BOUNDS];
    share_of(task, thread, n_thread, &begin, &end);
    for (int g = 0; g < b.args->kv.n_kv_head; g++) {
        if (aq_select_search_ends(&task->search[g])) continue;
        aq_select_try_bounds(&task->search[g], least);
        b.simd->mass_from(task->z + (int64_t)g * task->group * task->z_stride + begin * AQ_TILE,
                          (end - begin) * AQ_TILE, least, b.result.mass + g * AQ_MASS_BOUNDS);
    }
}

/* Narrows the searches by what the members found; returns whether all have ended. */
static bool narrow_searches(const aq_select_task *task, int n_thread) {
    bool ended = true;
    for (int g = 0; g < task->args->kv.n_kv_head; g++) {
        float least[AQ_MASS_BOUNDS], mass[AQ_MASS_BOUNDS] = {0};
        if (aq_select_search_ends(&task->search[g])) continue;
        for (int i = 0; i < n_thread; i++)
            for (int k = 0; k < AQ_MASS_BOUNDS; k++)
                mass[k] += aq_select_open_member(task, i).result.mass[g * AQ_MASS_BOUNDS + k];
        aq_select_try_bounds(&task->search[g], least);
        aq_select_narrow(&task->search[g], least, mass);
        ended = ended && aq_select_search_ends(&task->search[g]);
    }
    return ended;
}

/* Members take turns at the tiles, as chosen tokens stand close together. */
static void attend_share(void *arg, int thread, int n_thread) {
    const aq_select_task *task = arg;
    aq_select_block b = aq_select_open_member(task, thread);
    const int64_t row_size = b.args->kv.d_head + 2;
    for (int g = 0; g < b.args->kv.n_kv_head; g++) {
        take_shared(&b, g);
        b.part = b.result.part + g * task->group * row_size;
        aq_select_attend_chosen(&b, thread, n_thread, aq_select_tiles_of(b.view->n_seen));
        b.result.n_count[2 * g] = b.view->n_attended;
        b.result.n_count[2 * g + 1] = b.view->n_touched;
    }
}

static void join_parts(const aq_select_task *task, int n_thread) {
    const int d_head = task->args->kv.d_head;
    for (int g = 0; g < task->args->kv.n_kv_head; g++) {
        aq_select_view view = aq_select_view_of(task->args, task->t);
        float *part = part_of(task, task->t, g);
        aq_cpu_clear_parts(part, task->group, d_head);
        for (int i = 0; i < n_thread; i++) {
            const aq_select_result result = aq_select_open_member(task, i).result;
            view.n_attended += result.n_count[2 * g];
            view.n_touched += result.n_count[2 * g + 1];
            for (int r = 0; r < task->group; r++)
                aq_cpu_merge_part(part + r * (d_head + 2),
                                  result.part + (g * task->group + r) * (d_head + 2), d_head);
        }
        give_counts(task, task->t, g, &view);
    }
}

static void add_phases(const aq_select_task *task, int64_t begin_ns, int64_t scanned_ns) {
    if (!task->args->phase_ns) return;
    task->args->phase_ns[0] += scanned_ns - begin_ns;
    task->args->phase_ns[1] += aq_clock_ns() - scanned_ns;
}

/* z of the shared query, and x. */
static void share_choice(aq_select_task *task, int n_thread) {
    aq_threads *team = task->cpu->threads;
    const int64_t begin_ns = aq_clock_ns();
    aq_threads_run(team, scan_share, task);
    join_totals(task, n_thread);
    const int64_t scanned_ns = aq_clock_ns();
    aq_threads_run(team, weigh_share, task);
    start_searches(task, n_thread);
    do {
        aq_threads_run(team, try_share, task);
    } while (!narrow_searches(task, n_thread));
    add_phases(task, begin_ns, scanned_ns);
}

/* One query after the other, each shared by the team. */
static void share_queries(aq_select_task *task, int n_thread) {
    aq_threads *team = task->cpu->threads;
    for (task->t = 0; task->t < task->args->n_q; task->t++) {
        if (aq_select_by_mass(task) && aq_select_view_of(task->args, task->t).n_seen > 0)
            share_choice(task, n_thread);
        aq_threads_run(team, attend_share, task);
        join_parts(task, n_thread);
    }
}

/* Queries of a block: as many as n_thread members have room for, but few enough that there are
 * blocks for all. */
static int64_t queries_at_once(const aq_select_task *task, int n_thread) {
    const int64_t n_pair = task->args->n_q * task->args->kv.n_kv_head;
    int64_t n = AQ_SELECT_ROWS / task->group;
    if (n_thread > 1) n = aq_select_min(n, n_pair / (BLOCKS_PER_MEMBER * n_thread));
    while (n > 1 && n_thread * aq_select_block_bytes(task, n) > task->args->work_bytes)
        n--;
    return n > 1 ? n : 1;
}

void aq_attn_select_cpu(aq_cpu *cpu, const aq_attn_select_args *args) {
    aq_select_task task = aq_select_make_task(cpu, args);
    const int64_t n_pair = args->n_q * args->n_head * args->n_tile * AQ_TILE;
    const int64_t n_op = n_pair * (args->kv.n_col + args->kv.d_head);
    const int n_thread = n_op < AQ_CPU_ALONE_OPS ? 1 : aq_threads_count(cpu->threads);
    atomic_init(&task.next_block, 0);
    task.n_query = queries_at_once(&task, n_thread);
    if (n_thread > 1 && args->n_q * args->kv.n_kv_head < BLOCKS_PER_MEMBER * n_thread) {
        aq_arena arena = aq_arena_over(args->work, (size_t)args->work_bytes);
        aq_select_carve_shared(&task, &arena);
        task.members = (char *)args->work + arena.used;
        task.member_bytes = aq_select_member_bytes(&task);
        share_queries(&task, n_thread);
        return;
    }
    task.members = args->work;
    task.member_bytes = aq_select_block_bytes(&task, task.n_query);
    if (n_thread == 1)
        take_blocks(&task, 0, 1);
    else
        aq_threads_run(cpu->threads, take_blocks, &task);
}
