/* Root-mean-square norm. Contract: rmsnorm.h. */
#include <math.h>

#include "kernels/cpu.h"

typedef struct {
    const aq_simd *simd;
    const aq_rmsnorm_args *args;
} rmsnorm_task;

static void rmsnorm_part(void *arg, int thread, int n_thread) {
    const rmsnorm_task *task = arg;
    const aq_rmsnorm_args *a = task->args;
    int64_t begin, end;
    aq_threads_part(a->n_tok, thread, n_thread, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        const float *x = a->x + t * a->d_model;
        const float mean = task->simd->sum_squares(x, 0.0f, a->d_model) / (float)a->d_model;
        task->simd->scale_by(&(aq_scale_by_args){.x = x,
                                                 .scale = 1.0f / sqrtf(mean + a->eps),
                                                 .w = a->w,
                                                 .n = a->d_model,
                                                 .y = a->y + t * a->d_model,
                                                 .accumulate = a->accumulate});
    }
}

void aq_rmsnorm_cpu(aq_cpu *cpu, const aq_rmsnorm_args *args) {
    rmsnorm_task task = {cpu->simd, args};
    aq_cpu_run(cpu, args->n_tok * args->d_model, rmsnorm_part, &task);
}
