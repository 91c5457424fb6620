/* Rows by index. Contract: rows.h. */
#include <string.h>

#include "kernels/cpu.h"

/* Members share columns in multiples of this, a cache line. */
#define COLUMN_ALIGN 16

typedef struct {
    const aq_simd *simd;
    const aq_scatter_add_rows_args *args;
} scatter_task;

static void gather_part(void *arg, int thread, int n_thread) {
    const aq_gather_rows_args *a = arg;
    int64_t begin, end;
    aq_threads_part(a->n_row, thread, n_thread, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        memcpy(a->out + i * a->width, a->x + a->index[i] * a->width,
               (size_t)a->width * sizeof *a->out);
}

void aq_gather_rows_cpu(aq_cpu *cpu, const aq_gather_rows_args *args) {
    aq_gather_rows_args copy = *args;
    aq_cpu_run(cpu, args->n_row * args->width, gather_part, &copy);
}

/* A member has some columns of all rows, so that rows of one index meet in order. */
static void scatter_part(void *arg, int thread, int n_thread) {
    const scatter_task *task = arg;
    const aq_scatter_add_rows_args *a = task->args;
    int64_t begin, end;
    aq_threads_part_of(a->width, COLUMN_ALIGN, thread, n_thread, &begin, &end);
    if (begin >= end) return;
    for (int64_t i = 0; i < a->n_row; i++)
        task->simd->add_scaled(a->x + i * a->width + begin, a->scale[i], end - begin,
                               a->y + a->index[i] * a->width + begin);
}

void aq_scatter_add_rows_cpu(aq_cpu *cpu, const aq_scatter_add_rows_args *args) {
    scatter_task task = {cpu->simd, args};
    aq_cpu_run(cpu, args->n_row * args->width, scatter_part, &task);
}
