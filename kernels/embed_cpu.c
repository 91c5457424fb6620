/* Embedding rows, dequantised. Contract: embed.h. */
#include "kernels/cpu.h"

typedef struct {
    const aq_simd *simd;
    const aq_embed_args *args;
} embed_task;

static void embed_part(void *arg, int thread, int n_thread) {
    const embed_task *task = arg;
    const aq_embed_args *a = task->args;
    const int64_t row_bytes = aq_dtype_row_bytes(a->dtype, a->d_model);
    int64_t begin, end;
    aq_threads_part(a->n_tok, thread, n_thread, &begin, &end);
    for (int64_t t = begin; t < end; t++)
        task->simd->dequantise(a->dtype, (const uint8_t *)a->table + a->ids[t] * row_bytes,
                               a->d_model, a->out + t * a->d_model);
}

void aq_embed_cpu(aq_cpu *cpu, const aq_embed_args *args) {
    embed_task task = {cpu->simd, args};
    aq_cpu_run(cpu, args->n_tok * args->d_model, embed_part, &task);
}
