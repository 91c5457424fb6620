/* Bias. Contract: add_bias.h. */
#include "kernels/cpu.h"

typedef struct {
    const aq_simd *simd;
    const aq_add_bias_args *args;
} add_bias_task;

static void add_bias_part(void *arg, int thread, int n_thread) {
    const add_bias_task *task = arg;
    const aq_add_bias_args *a = task->args;
    int64_t begin, end;
    aq_threads_part(a->n_tok, thread, n_thread, &begin, &end);
    for (int64_t t = begin; t < end; t++)
        task->simd->add_scaled(a->b, 1.0f, a->width, a->y + t * a->width);
}

void aq_add_bias_cpu(aq_cpu *cpu, const aq_add_bias_args *args) {
    add_bias_task task = {cpu->simd, args};
    aq_cpu_run(cpu, args->n_tok * args->width, add_bias_part, &task);
}
