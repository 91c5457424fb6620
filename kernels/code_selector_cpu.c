#include <string.h>

#include "kernels/codes.h"
#include "kernels/cpu.h"

/* Elementary operations that coding one number costs, about. */
#define OPS_PER_NUMBER 8

typedef struct {
    const aq_cpu *cpu;
    const aq_code_selector_args *args;
} selector_task;

/* keys[AQ_TILE, n_col] = those stored at place `tile` for KV head g. */
static void load_keys(const selector_task *task, int64_t tile, int g, float *keys) {
    const aq_kv_view *kv = &task->args->kv;
    const int64_t n = (int64_t)AQ_TILE * kv->n_col;
    const aq_dtype dtype = aq_kv_type_dtype(kv->key_type);
    const int64_t n_before = (tile * kv->n_kv_head + g) * n;
    const uint8_t *from = (const uint8_t *)kv->keys + aq_dtype_row_bytes(dtype, n_before);
    task->cpu->simd->dequantise(dtype, from, n, keys);
}

/* Gives slots without a token the key of the first one that has. Returns whether there is one. */
static bool fill_free_slots(const int64_t *slot_pos, int n_col, float *keys) {
    int first = 0;
    while (first < AQ_TILE && slot_pos[first] == INT64_MAX)
        first++;
    if (first == AQ_TILE) return false;
    for (int s = 0; s < AQ_TILE; s++)
        if (slot_pos[s] == INT64_MAX)
            memcpy(keys + s * n_col, keys + first * n_col, (size_t)n_col * sizeof *keys);
    return true;
}

static void code_part(void *arg, int thread, int n_thread) {
    const selector_task *task = arg;
    const aq_code_selector_args *a = task->args;
    const aq_kv_view *kv = &a->kv;
    float *keys = aq_cpu_scratch(task->cpu, thread);
    int64_t begin, end;
    aq_threads_part(a->n_tile * kv->n_kv_head, thread, n_thread, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        const int64_t tile = a->tile[i / kv->n_kv_head], g = i % kv->n_kv_head;
        load_keys(task, tile, (int)g, keys);
        if (!fill_free_slots(a->slot_pos + tile * AQ_TILE, kv->n_col, keys)) continue;
        aq_code_selector(
            kv, keys, (char *)kv->selector + (tile * kv->n_kv_head + g) * aq_kv_selector_bytes(kv));
    }
}

void aq_code_selector_cpu(aq_cpu *cpu, const aq_code_selector_args *args) {
    selector_task task = {cpu, args};
    const int64_t n_number = args->n_tile * args->kv.n_kv_head * AQ_TILE * args->kv.n_col;
    aq_cpu_run(cpu, n_number * OPS_PER_NUMBER, code_part, &task);
}
