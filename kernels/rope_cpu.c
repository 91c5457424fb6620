/* Rotary position embedding. Contract: rope.h. */
#include <math.h>

#include "kernels/cpu.h"

/* Operations a sine and cosine cost, against a multiplication. */
#define TABLE_OPS 64

typedef struct {
    aq_cpu *cpu;
    const aq_rope_args *args;
} rope_task;

static void rope_table_part(void *arg, int thread, int n_thread) {
    const aq_rope_table_args *a = arg;
    const int half = a->n_rot / 2;
    int64_t begin, end;
    aq_threads_part(a->n_tok, thread, n_thread, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        const float pos = (float)a->pos[t];
        float *row = a->table + t * a->n_rot;
        for (int i = 0; i < half; i++) {
            const float angle = pos * a->inv_freq[i];
            row[2 * i] = a->scale * cosf(angle);
            row[2 * i + 1] = a->scale * sinf(angle);
        }
    }
}

void aq_rope_table_cpu(aq_cpu *cpu, const aq_rope_table_args *args) {
    aq_rope_table_args copy = *args;
    aq_cpu_run(cpu, args->n_tok * args->n_rot * TABLE_OPS, rope_table_part, &copy);
}

static void rope_part(void *arg, int thread, int n_thread) {
    const rope_task *task = arg;
    const aq_rope_args *a = task->args;
    const int half = a->n_rot / 2;
    float *cos = aq_cpu_scratch(task->cpu, thread), *sin = cos + half;
    int64_t begin, end;
    aq_threads_part(a->n_tok, thread, n_thread, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        const float *row = a->table + t * a->n_rot;
        for (int i = 0; i < half; i++) {
            cos[i] = row[2 * i];
            sin[i] = row[2 * i + 1];
        }
        for (int h = 0; h < a->n_head; h++)
            task->cpu->simd->rotate(a->x + (t * a->n_head + h) * a->d_head, cos, sin, half);
    }
}

void aq_rope_cpu(aq_cpu *cpu, const aq_rope_args *args) {
    rope_task task = {cpu, args};
    aq_cpu_run(cpu, args->n_tok * args->n_head * args->n_rot, rope_part, &task);
}
