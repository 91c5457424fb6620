/* Layer norm. Contract: layernorm.h. */
#include <math.h>

#include "kernels/cpu.h"

/* Operations an element costs: it is gone over three times. */
#define ELEMENT_OPS 3

typedef struct {
    const aq_simd *simd;
    const aq_layernorm_args *args;
} layernorm_task;

static void layernorm_part(void *arg, int thread, int n_thread) {
    const layernorm_task *task = arg;
    const aq_layernorm_args *a = task->args;
    int64_t begin, end;
    aq_threads_part(a->n_tok, thread, n_thread, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        const float *x = a->x + t * a->d_model;
        const float mean = task->simd->sum(x, a->d_model) / (float)a->d_model;
        const float var = task->simd->sum_squares(x, mean, a->d_model) / (float)a->d_model;
        task->simd->scale_by(&(aq_scale_by_args){.x = x,
                                                 .shift = mean,
                                                 .scale = 1.0f / sqrtf(var + a->eps),
                                                 .w = a->w,
                                                 .b = a->b,
                                                 .n = a->d_model,
                                                 .y = a->y + t * a->d_model,
                                                 .accumulate = a->accumulate});
    }
}

void aq_layernorm_cpu(aq_cpu *cpu, const aq_layernorm_args *args) {
    layernorm_task task = {cpu->simd, args};
    aq_cpu_run(cpu, args->n_tok * args->d_model * ELEMENT_OPS, layernorm_part, &task);
}
