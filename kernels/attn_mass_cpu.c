/* The team shares the tiles: each slot is added to by one member alone, row after row, so that the
 * bits do not depend on the team. */
#include <stdatomic.h>

#include "kernels/attn_scores_parts.h"

/* Rows that share a tile while it is in the nearest caches. */
#define ROWS_AT_ONCE 96

/* Tiles that a member takes at a time: a block of queries is prepared once for all of them. */
#define TILES_AT_ONCE 8

typedef struct {
    const aq_attn_mass_args *args;
    const aq_cpu *cpu;
    int64_t n_row;    /* rows of a KV head */
    int64_t row_step; /* rows of a block, but for the last */
    atomic_llong next_tile;
} mass_task;

/* Adds the shares of the rows of a block in one tile to acc[AQ_TILE]. */
static void add_tile(const aq_score_block *block, int64_t tile, const float *ml, float *acc) {
    const aq_score_view view = aq_score_see(block, tile);
    if (view.begin >= view.end) return;
    aq_score_tile(block, tile, &view);
    for (int64_t r = view.begin; r < view.end; r++) {
        const float *row = ml + 2 * aq_score_row(block->args, block->g, block->row + r);
        const int first = block->first_seen[r], n = block->n_seen[r] - first;
        float *score = block->score + r * AQ_TILE + first;
        if (n <= 0 || row[1] == 0.0f) continue;
        block->simd->exp_shifted(score, row[0], n, score);
        block->simd->add_scaled(score, 1.0f / row[1], n, acc + first);
    }
}

/* Adds the shares of all rows in tiles tile .. tile_end. */
static void add_tiles(const mass_task *task, aq_score_block *block, int64_t tile,
                      int64_t tile_end) {
    const aq_attn_partial_args *a = &task->args->scores;
    for (int g = 0; g < a->kv.n_kv_head; g++)
        for (int64_t row = 0; row < task->n_row; row += task->row_step) {
            const int64_t left = task->n_row - row;
            aq_score_take(block, g, row, left < task->row_step ? left : task->row_step);
            for (int64_t j = tile; j < tile_end; j++)
                add_tile(block, j, task->args->ml,
                         task->args->acc + aq_score_place(a, j) * AQ_TILE);
        }
}

/* Takes runs of tiles until none is left. */
static void take_tiles(void *arg, int thread, int n_thread) {
    mass_task *task = arg;
    const int64_t n_tile = task->args->scores.n_tile;
    aq_score_block block = {.args = &task->args->scores, .simd = task->cpu->simd, .next = -1};
    aq_score_lay_out(&block, aq_cpu_scratch(task->cpu, thread), task->row_step);
    (void)n_thread;
    for (;;) {
        const int64_t tile = atomic_fetch_add(&task->next_tile, TILES_AT_ONCE);
        if (tile >= n_tile) return;
        const int64_t left = n_tile - tile;
        add_tiles(task, &block, tile, tile + (left < TILES_AT_ONCE ? left : TILES_AT_ONCE));
    }
}

/* ROWS_AT_ONCE, or fewer if heads are so wide that the scratch holds no more. */
static int64_t rows_that_fit(const mass_task *task) {
    int64_t n_row = ROWS_AT_ONCE;
    for (; n_row > 1; n_row /= 2) {
        aq_score_block block = {.args = &task->args->scores};
        char *base = aq_cpu_scratch(task->cpu, 0);
        if ((size_t)(aq_score_lay_out(&block, base, n_row) - base) <= AQ_CPU_SCRATCH_BYTES) break;
    }
    return n_row;
}

void aq_attn_mass_cpu(aq_cpu *cpu, const aq_attn_mass_args *args) {
    const aq_attn_partial_args *a = &args->scores;
    mass_task task = {.args = args, .cpu = cpu, .n_row = a->n_q * aq_score_group(a)};
    const int64_t n_pair = a->n_q * a->n_head * a->n_tile * AQ_TILE;
    task.row_step = rows_that_fit(&task);
    atomic_init(&task.next_tile, 0);
    aq_cpu_run(cpu, n_pair * aq_score_columns(a), take_tiles, &task);
}
