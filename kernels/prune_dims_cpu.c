#include <stdatomic.h>

#include "kernels/cpu.h"

/* Elementary operations a column costs: two searches look at each about this often. */
#define OPS_PER_COLUMN 24

typedef struct {
    const aq_cpu *cpu;
    const aq_prune_dims_args *args;
    atomic_llong n_kept;
} prune_task;

/* The scratch of a member. */
typedef struct {
    int32_t *rank; /* [n_col], and so on, each rounded up to whole vectors */
    float *energy;
    int16_t *dims; /* [n_col] the columns that are kept */
} prune_scratch;

static prune_scratch open_scratch(const prune_task *task, int thread) {
    const int64_t n = (task->args->n_col + AQ_COLUMNS_ALIGN - 1) / AQ_COLUMNS_ALIGN;
    int32_t *rank = aq_cpu_scratch(task->cpu, thread);
    float *energy = (float *)(rank + n * AQ_COLUMNS_ALIGN);
    return (prune_scratch){rank, energy, (int16_t *)(energy + n * AQ_COLUMNS_ALIGN)};
}

/* Columns of at least that energy, but 1 if there are none. */
static int count_reaching(const float *q, const float *weight, int n_col, float least) {
    int n = 0;
    for (int i = 0; i < n_col; i++) {
        const float value = weight ? q[i] * weight[i] : q[i];
        n += value * value >= least;
    }
    return n > 0 ? n : 1;
}

/* Prunes one query of KV head g; returns the number of columns it keeps. */
static int prune_row(const prune_task *task, const prune_scratch *scratch, float *q, int64_t g) {
    const aq_prune_dims_args *a = task->args;
    const aq_simd *simd = task->cpu->simd;
    const float *weight = a->weight ? a->weight + g * a->n_col : NULL;
    const int n = a->tau > 0 ? simd->fewest(q, weight, a->n_col, (float)a->tau, scratch->rank,
                                            scratch->energy)
                             : count_reaching(q, weight, a->n_col, a->least);
    simd->choose(q, weight, a->n_col, n, scratch->rank, scratch->dims);
    for (int i = 0, kept = 0; i < a->n_col; i++) {
        if (kept < n && scratch->dims[kept] == i)
            kept++;
        else
            q[i] = 0.0f;
    }
    return n;
}

static void prune_part(void *arg, int thread, int n_thread) {
    prune_task *task = arg;
    const aq_prune_dims_args *a = task->args;
    const prune_scratch scratch = open_scratch(task, thread);
    int64_t begin, end, n_kept = 0;
    aq_threads_part(a->n_tok * a->n_head, thread, n_thread, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        n_kept += prune_row(task, &scratch, a->q + row * a->n_col,
                            row % a->n_head / (a->n_head / a->n_kv_head));
    atomic_fetch_add(&task->n_kept, n_kept);
}

void aq_prune_dims_cpu(aq_cpu *cpu, const aq_prune_dims_args *args) {
    prune_task task = {.cpu = cpu, .args = args};
    atomic_init(&task.n_kept, 0);
    aq_cpu_run(cpu, args->n_tok * args->n_head * args->n_col * OPS_PER_COLUMN, prune_part, &task);
    *args->n_kept += atomic_load(&task.n_kept);
}
