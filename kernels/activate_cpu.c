/* Activation. Contract: activate.h. */
#include "kernels/cpu.h"

/* Operations an element costs, against a multiplication. */
#define ELEMENT_OPS 16

typedef struct {
    const aq_simd *simd;
    const aq_activate_args *args;
} activate_task;

static void activate_part(void *arg, int thread, int n_thread) {
    const activate_task *task = arg;
    aq_activate_args part = *task->args;
    int64_t begin, end;
    aq_threads_part(part.n, thread, n_thread, &begin, &end);
    part.x += begin;
    if (part.up) part.up += begin;
    part.n = end - begin;
    part.y += begin;
    task->simd->activate(&part);
}

void aq_activate_cpu(aq_cpu *cpu, const aq_activate_args *args) {
    activate_task task = {cpu->simd, args};
    aq_cpu_run(cpu, args->n * ELEMENT_OPS, activate_part, &task);
}
