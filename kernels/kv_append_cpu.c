#include "kernels/cpu.h"

/* Stores n floats to elements at, at + stride, ... of a tensor. */
static void store(void *to, aq_kv_type type, int64_t at, int64_t stride, const float *from, int n) {
    if (type == AQ_KV_BF16) {
        uint16_t *out = (uint16_t *)to + at;
        for (int i = 0; i < n; i++)
            out[i * stride] = aq_f32_to_bf16(from[i]);
    } else {
        float *out = (float *)to + at;
        for (int i = 0; i < n; i++)
            out[i * stride] = from[i];
    }
}

static void append_part(void *arg, int thread, int n_thread) {
    const aq_kv_append_args *a = arg;
    const aq_kv_view *kv = &a->kv;
    int64_t begin, end;
    aq_threads_part(a->n_tok, thread, n_thread, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        const int64_t tile = a->slot[t] / AQ_TILE, slot = a->slot[t] % AQ_TILE;
        for (int g = 0; g < kv->n_kv_head; g++) {
            const int64_t from = t * kv->n_kv_head + g, to = tile * kv->n_kv_head + g;
            store(kv->keys, kv->key_type, to * kv->n_col * AQ_TILE + slot, AQ_TILE,
                  a->key + from * kv->n_col, kv->n_col);
            store(kv->values, kv->value_type, (to * AQ_TILE + slot) * kv->d_head, 1,
                  a->value + from * kv->d_head, kv->d_head);
        }
    }
}

void aq_kv_append_cpu(aq_cpu *cpu, const aq_kv_append_args *args) {
    aq_kv_append_args copy = *args;
    const int64_t n_elem = args->n_tok * args->kv.n_kv_head * (args->kv.n_col + args->kv.d_head);
    aq_cpu_run(cpu, n_elem, append_part, &copy);
}
