/* Without an open tile tokens are stored one by one. With one, the unit of work is a tile of one KV
 * head: a tile that comes whole is put together in scratch, any other in the open buffers. */
#include "kernels/codes.h"
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

/* Stores a token of KV head g, key `key` of the tile whose keys begin at element `at`. */
static void store_key(const aq_kv_view *kv, void *to, aq_kv_type type, int64_t at, int64_t slot,
                      const float *key) {
    if (kv->key_order == AQ_KEYS_BY_COLUMN)
        store(to, type, at + slot, AQ_TILE, key, kv->n_col);
    else
        store(to, type, at + slot * kv->n_col, 1, key, kv->n_col);
}

static void append_tokens(void *arg, int thread, int n_thread) {
    const aq_kv_append_args *a = arg;
    const aq_kv_view *kv = &a->kv;
    int64_t begin, end;
    aq_threads_part(a->n_tok, thread, n_thread, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        const int64_t tile = a->slot[t] / AQ_TILE, slot = a->slot[t] % AQ_TILE;
        for (int g = 0; g < kv->n_kv_head; g++) {
            const int64_t from = t * kv->n_kv_head + g, to = tile * kv->n_kv_head + g;
            store_key(kv, kv->keys, kv->key_type, to * kv->n_col * AQ_TILE, slot,
                      a->key + from * kv->n_col);
            store(kv->values, kv->value_type, (to * AQ_TILE + slot) * kv->d_head, 1,
                  a->value + from * kv->d_head, kv->d_head);
        }
    }
}

/* Tokens begin .. begin + n_tok, n_tile tiles or parts of tiles; all but the last reach the end of
 * their tile, and all but the first begin at its first slot. */
typedef struct {
    const aq_kv_append_args *args;
    const aq_cpu *cpu;
    int64_t begin, n_tok, n_tile;
} append_task;

/* Tokens first .. first + n, of one tile, for KV head g: into the buffers of a tile, and from there
 * into its blocks if they complete it. */
static void append_part(const aq_kv_append_args *a, int64_t first, int64_t n, int g,
                        char *scratch) {
    const aq_kv_view *kv = &a->kv;
    const int64_t n_key = (int64_t)kv->n_col * AQ_TILE, n_value = (int64_t)kv->d_head * AQ_TILE;
    const int64_t to = a->slot[first] / AQ_TILE * kv->n_kv_head + g;
    float *keys = kv->open_keys + g * n_key, *values = kv->open_values + g * n_value;
    if (n == AQ_TILE) {
        keys = (float *)scratch;
        values = keys + n_key;
        scratch = (char *)(values + n_value);
    }
    for (int64_t t = first; t < first + n; t++) {
        const int64_t from = t * kv->n_kv_head + g, slot = a->slot[t] % AQ_TILE;
        store_key(kv, keys, AQ_KV_F32, 0, slot, a->key + from * kv->n_col);
        memcpy(values + slot * kv->d_head, a->value + from * kv->d_head,
               (size_t)kv->d_head * sizeof *values);
    }
    if (a->slot[first + n - 1] % AQ_TILE != AQ_TILE - 1) return;
    uint8_t *work = (uint8_t *)scratch;
    aq_code_keys(kv, keys, work, (char *)kv->keys + to * aq_kv_key_bytes(kv));
    aq_code_values(kv, values, work, (char *)kv->values + to * aq_kv_value_bytes(kv));
    if (kv->codes.n_segment > 0)
        aq_code_selector(kv, keys, (char *)kv->selector + to * aq_kv_selector_bytes(kv));
}

static void append_tiles(void *arg, int thread, int n_thread) {
    const append_task *task = arg;
    const aq_kv_append_args *a = task->args;
    int64_t begin, end;
    aq_threads_part(task->n_tile * a->kv.n_kv_head, thread, n_thread, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        const int64_t first = i / a->kv.n_kv_head * AQ_TILE;
        const int64_t left = task->n_tok - first, n = left < AQ_TILE ? left : AQ_TILE;
        append_part(a, task->begin + first, n, (int)(i % a->kv.n_kv_head),
                    aq_cpu_scratch(task->cpu, thread));
    }
}

/* The tokens that go on with the open tile come first, for later ones may open another. */
static void append_by_tile(aq_cpu *cpu, const aq_kv_append_args *a) {
    const int64_t n_elem = a->kv.n_kv_head * ((int64_t)a->kv.n_col + a->kv.d_head);
    const int64_t slot = a->n_tok > 0 ? a->slot[0] % AQ_TILE : 0;
    const int64_t room = slot > 0 ? AQ_TILE - slot : 0, n_on = room < a->n_tok ? room : a->n_tok;
    const int64_t n_new = a->n_tok - n_on;
    append_task on = {a, cpu, 0, n_on, n_on > 0 ? 1 : 0};
    append_task new = {a, cpu, n_on, n_new, (n_new + AQ_TILE - 1) / AQ_TILE};
    const bool completes = n_on > 0 && n_on == room;
    if (n_on > 0) aq_cpu_run(cpu, (completes ? AQ_TILE : n_on) * n_elem, append_tiles, &on);
    if (n_new > 0) aq_cpu_run(cpu, n_new * n_elem, append_tiles, &new);
}

void aq_kv_append_cpu(aq_cpu *cpu, const aq_kv_append_args *args) {
    aq_kv_append_args copy = *args;
    const int64_t n_elem = args->n_tok * args->kv.n_kv_head * (args->kv.n_col + args->kv.d_head);
    if (aq_kv_has_open_tile(&args->kv))
        append_by_tile(cpu, args);
    else
        aq_cpu_run(cpu, n_elem, append_tokens, &copy);
}
