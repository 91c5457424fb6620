#include "kernels/cpu.h"

/* Elementary operations a column costs: the search looks at each about this often. */
#define OPS_PER_COLUMN 12

typedef struct {
    const aq_cpu *cpu;
    const aq_topk_dims_args *args;
} topk_task;

static void topk_part(void *arg, int thread, int n_thread) {
    const topk_task *task = arg;
    const aq_topk_dims_args *a = task->args;
    const int group = a->n_head / a->n_kv_head;
    int32_t *rank = aq_cpu_scratch(task->cpu, thread);
    int64_t begin, end;
    aq_threads_part(a->n_tok * a->n_head, thread, n_thread, &begin, &end);
    for (int64_t row = begin; row < end; row++) {
        const int64_t g = row % a->n_head / group;
        task->cpu->simd->choose(a->q + row * a->n_col, a->weight ? a->weight + g * a->n_col : NULL,
                                a->n_col, a->n_dim, rank, a->dims + row * a->n_dim);
    }
}

void aq_topk_dims_cpu(aq_cpu *cpu, const aq_topk_dims_args *args) {
    topk_task task = {cpu, args};
    aq_cpu_run(cpu, args->n_tok * args->n_head * args->n_col * OPS_PER_COLUMN, topk_part, &task);
}
