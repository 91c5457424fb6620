#include <math.h>
#include <string.h>

#include "kernels/cpu.h"

static void merge_row(const aq_attn_merge_args *a, int64_t row) {
    const int64_t width = a->d_head + 2, part_stride = a->n_row * width;
    const float *first = a->parts + row * width;
    float *out = a->out + row * a->d_head;
    float m = -INFINITY, l = 0.0f;
    for (int p = 0; p < a->n_part; p++)
        m = fmaxf(m, first[p * part_stride + a->d_head]);
    memset(out, 0, (size_t)a->d_head * sizeof *out);
    for (int p = 0; p < a->n_part; p++) {
        const float *part = first + p * part_stride;
        if (part[a->d_head] == -INFINITY) continue;
        const float factor = expf(part[a->d_head] - m);
        l += factor * part[a->d_head + 1];
        for (int i = 0; i < a->d_head; i++)
            out[i] += factor * part[i];
    }
    if (a->ml) {
        a->ml[2 * row] = m;
        a->ml[2 * row + 1] = l;
    }
    if (m == -INFINITY) return;
    for (int i = 0; i < a->d_head; i++)
        out[i] /= l;
}

static void merge_part(void *arg, int thread, int n_thread) {
    const aq_attn_merge_args *a = arg;
    int64_t begin, end;
    aq_threads_part(a->n_row, thread, n_thread, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        merge_row(a, row);
}

void aq_attn_merge_cpu(aq_cpu *cpu, const aq_attn_merge_args *args) {
    aq_attn_merge_args copy = *args;
    aq_cpu_run(cpu, args->n_part * args->n_row * args->d_head, merge_part, &copy);
}
