/* Gated unit. Contract: swiglu.h. */
#include "kernels/cpu.h"

/* Operations an element costs, against a multiplication. */
#define ELEMENT_OPS 16

typedef struct {
    const aq_simd *simd;
    const aq_swiglu_args *args;
} swiglu_task;

static void swiglu_part(void *arg, int thread, int n_thread) {
    const swiglu_task *task = arg;
    const aq_swiglu_args *a = task->args;
    int64_t begin, end;
    aq_threads_part(a->n, thread, n_thread, &begin, &end);
    task->simd->swiglu(a->gate + begin, a->up + begin, end - begin, a->y + begin);
}

void aq_swiglu_cpu(aq_cpu *cpu, const aq_swiglu_args *args) {
    swiglu_task task = {cpu->simd, args};
    aq_cpu_run(cpu, args->n * ELEMENT_OPS, swiglu_part, &task);
}
