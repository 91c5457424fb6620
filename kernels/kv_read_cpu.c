#include "kernels/cpu.h"
#include "kernels/kv_decode.h"

/* The block of n numbers that begins at element `at`, as f32: in place, or in `wide`. */
static const float *widen_numbers(const aq_cpu *cpu, const void *tensor, aq_kv_type type,
                                  int64_t at, int64_t n, float *wide) {
    if (type == AQ_KV_F32) return (const float *)tensor + at;
    cpu->simd->dequantise(AQ_BF16, (const uint8_t *)tensor + 2 * at, n, wide);
    return wide;
}

/* All keys of KV head g in their own order. */
static const float *read_keys(const aq_cpu *cpu, const aq_kv_read_args *a, int g, void *work,
                              float *wide) {
    const aq_kv_view *kv = &a->kv;
    const int64_t n = (int64_t)kv->n_col * AQ_TILE;
    if (aq_kv_is_open(kv, a->tile)) return kv->open_keys + g * n;
    if (!aq_kv_type_coded(kv->key_type))
        return widen_numbers(cpu, kv->keys, kv->key_type, (a->tile * kv->n_kv_head + g) * n, n,
                             wide);
    aq_decode_keys(cpu->simd, kv, a->tile, g, work, wide);
    return wide;
}

/* The values of KV head g. */
static const float *read_values(const aq_cpu *cpu, const aq_kv_read_args *a, int g, void *work,
                                float *wide) {
    const aq_kv_view *kv = &a->kv;
    const int64_t n = (int64_t)kv->d_head * AQ_TILE;
    if (aq_kv_is_open(kv, a->tile)) return kv->open_values + g * n;
    if (!aq_kv_type_coded(kv->value_type))
        return widen_numbers(cpu, kv->values, kv->value_type, (a->tile * kv->n_kv_head + g) * n, n,
                             wide);
    aq_decode_values(cpu->simd, kv, a->tile, g, 0, (int)a->n_tok, work, wide);
    return wide;
}

typedef struct {
    const aq_kv_read_args *args;
    const aq_cpu *cpu;
} read_task;

static void read_heads(void *arg, int thread, int n_thread) {
    const read_task *task = arg;
    const aq_kv_read_args *a = task->args;
    const int n_col = a->kv.n_col, d_head = a->kv.d_head, n_kv_head = a->kv.n_kv_head;
    float *wide = aq_cpu_scratch(task->cpu, thread);
    void *work = wide + (int64_t)AQ_TILE * (n_col > d_head ? n_col : d_head);
    const bool by_column = a->kv.key_order == AQ_KEYS_BY_COLUMN;
    const int64_t c_stride = by_column ? AQ_TILE : 1, s_stride = by_column ? 1 : n_col;
    int64_t begin, end;
    aq_threads_part(n_kv_head, thread, n_thread, &begin, &end);
    for (int64_t g = begin; g < end; g++) {
        const float *keys = read_keys(task->cpu, a, (int)g, work, wide);
        for (int64_t s = 0; s < a->n_tok; s++)
            for (int64_t c = 0; c < n_col; c++)
                a->key[(s * n_kv_head + g) * n_col + c] = keys[c * c_stride + s * s_stride];
        const float *values = read_values(task->cpu, a, (int)g, work, wide);
        for (int64_t s = 0; s < a->n_tok; s++)
            memcpy(a->value + (s * n_kv_head + g) * d_head, values + s * d_head,
                   (size_t)d_head * sizeof *values);
    }
}

void aq_kv_read_cpu(aq_cpu *cpu, const aq_kv_read_args *args) {
    read_task task = {args, cpu};
    const int64_t n_elem = args->n_tok * args->kv.n_kv_head * (args->kv.n_col + args->kv.d_head);
    aq_cpu_run(cpu, n_elem, read_heads, &task);
}
