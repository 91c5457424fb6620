/* Embedding rows, dequantised. Contract: embed.h. */
#include "kernels/cpu.h"

_Static_assert(AQ_EMBED_MAX_MODEL * sizeof(float) <= AQ_CPU_SCRATCH_BYTES, "a row fits scratch");

typedef struct {
    const aq_cpu *cpu;
    const aq_embed_args *args;
} embed_task;

static void embed_part(void *arg, int thread, int n_thread) {
    const embed_task *task = arg;
    const aq_embed_args *a = task->args;
    const int64_t row_bytes = aq_dtype_row_bytes(a->dtype, a->d_model);
    float *scratch = aq_cpu_scratch(task->cpu, thread);
    int64_t begin, end;
    aq_threads_part(a->n_tok, thread, n_thread, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        float *out = a->out + t * a->d_model;
        float *row = a->accumulate ? scratch : out;
        task->cpu->simd->dequantise(a->dtype, (const uint8_t *)a->table + a->ids[t] * row_bytes,
                                    a->d_model, row);
        if (a->accumulate)
            task->cpu->simd->add_scaled(row, a->scale, a->d_model, out);
        else if (a->scale != 1.0f)
            for (int64_t i = 0; i < a->d_model; i++)
                out[i] *= a->scale;
    }
}

void aq_embed_cpu(aq_cpu *cpu, const aq_embed_args *args) {
    embed_task task = {cpu, args};
    aq_cpu_run(cpu, args->n_tok * args->d_model, embed_part, &task);
}
