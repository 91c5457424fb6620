#include "bench/kernel_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_SINK      4
#define N_RECENT    64
#define N_HALVE     12 /* steps of the search for the spread of the scores */
#define MOST_SPREAD 8.0

const char *aq_kernel_name(aq_kernel_kind kind) {
    static const char *const names[] = {[AQ_KERNEL_DENSE] = "attn_partial dense",
                                        [AQ_KERNEL_AQUA] = "attn_partial aqua",
                                        [AQ_KERNEL_SELECT] = "attn_select",
                                        [AQ_KERNEL_PREFILL] = "attn_prefill",
                                        [AQ_KERNEL_MATMUL] = "matmul"};
    return names[kind];
}

const char *aq_kernel_type(const aq_kernel_setting *setting) {
    if (setting->kind == AQ_KERNEL_MATMUL) return aq_dtype_any_name(setting->dtype);
    return aq_kv_type_name(setting->type);
}

static aq_kv_view view_of(const aq_kernel_setting *s) {
    return aq_made_view(&s->shape, s->type, s->kind == AQ_KERNEL_SELECT);
}

int64_t aq_kernel_bytes(const aq_kernel_setting *s) {
    if (s->kind == AQ_KERNEL_MATMUL) return s->n_out * aq_dtype_row_bytes(s->dtype, s->n_in);
    const aq_kv_view view = view_of(s);
    return aq_made_cache_bytes(&view, s->n_tile);
}

static void call_partial(aq_kernel_case *kernel, int i) {
    const aq_head_shape *shape = &kernel->setting.shape;
    kernel->be->ops->attn_partial(
        kernel->be, &(aq_attn_partial_args){.q = kernel->x,
                                            .dims = kernel->dims,
                                            .n_dim = kernel->n_dim,
                                            .q_pos = kernel->q_pos,
                                            .n_q = kernel->n_q,
                                            .n_head = shape->n_head,
                                            .scale = 1.0f / sqrtf((float)shape->d_head),
                                            .kv = aq_made_cache_view(&kernel->cache, i),
                                            .tile_pos = kernel->cache.tile_pos,
                                            .n_tile = kernel->cache.n_tile,
                                            .part = kernel->y});
}

static void call_select(aq_kernel_case *kernel, int i) {
    const aq_head_shape *shape = &kernel->setting.shape;
    kernel->be->ops->attn_select(kernel->be,
                                 &(aq_attn_select_args){.q = kernel->x,
                                                        .q_pos = kernel->q_pos,
                                                        .n_q = 1,
                                                        .n_head = shape->n_head,
                                                        .scale = 1.0f / sqrtf((float)shape->d_head),
                                                        .kv = aq_made_cache_view(&kernel->cache, i),
                                                        .tile_pos = kernel->cache.tile_pos,
                                                        .n_tile = kernel->cache.n_tile,
                                                        .mass = AQ_KERNEL_MASS,
                                                        .n_sink = N_SINK,
                                                        .n_recent = N_RECENT,
                                                        .work = kernel->work,
                                                        .work_bytes = kernel->work_bytes,
                                                        .part = kernel->y,
                                                        .counts = kernel->device_counts,
                                                        .phase_ns = kernel->phase_ns});
}

static void call_matmul(aq_kernel_case *kernel, int i) {
    const aq_kernel_setting *s = &kernel->setting;
    kernel->be->ops->matmul(kernel->be,
                            &(aq_matmul_args){.w = kernel->weights + i * aq_kernel_bytes(s),
                                              .dtype = s->dtype,
                                              .n_out = s->n_out,
                                              .n_in = s->n_in,
                                              .n_tok = 1,
                                              .x = kernel->x,
                                              .y = kernel->y});
}

void aq_kernel_call(aq_kernel_case *kernel, int i) {
    switch (kernel->setting.kind) {
    case AQ_KERNEL_MATMUL:
        call_matmul(kernel, i);
        break;
    case AQ_KERNEL_SELECT:
        call_select(kernel, i);
        break;
    default:
        call_partial(kernel, i);
        break;
    }
}

double aq_kernel_attended(const aq_kernel_case *kernel) {
    double n_seen = 0, n_attended = 0;
    for (int g = 0; g < kernel->setting.shape.n_kv_head; g++) {
        n_seen += kernel->counts[3 * g];
        n_attended += kernel->counts[3 * g + 1];
    }
    return n_attended / n_seen;
}

aq_status aq_kernel_finish(aq_kernel_case *kernel) {
    aq_backend *be = kernel->be;
    const size_t counts_bytes = 3 * (size_t)kernel->setting.shape.n_kv_head * sizeof(int32_t);
    if (kernel->counts) be->ops->download(be, kernel->counts, kernel->device_counts, counts_bytes);
    be->ops->download(be, kernel->host_y, kernel->y + (kernel->n_q - 1) * kernel->n_y,
                      (size_t)kernel->n_y * sizeof(float));
    return be->ops->sync(be);
}

static void put_x(aq_kernel_case *kernel) {
    kernel->be->ops->upload(kernel->be, kernel->x, kernel->host_x,
                            (size_t)kernel->n_x * sizeof(float));
}

/* Scores that spread wider leave the mass to fewer tokens. */
static aq_status find_spread(aq_kernel_case *kernel) {
    double low = 0, high = MOST_SPREAD;
    for (int i = 0; i < N_HALVE; i++) {
        const double spread = 0.5 * (low + high);
        aq_made_query(&kernel->setting.shape, spread, kernel->host_x);
        put_x(kernel);
        aq_kernel_call(kernel, 0);
        AQ_TRY(aq_kernel_finish(kernel));
        if (aq_kernel_attended(kernel) > kernel->setting.needed)
            low = spread;
        else
            high = spread;
    }
    return AQ_OK;
}

/* *out, a pointer of any type, = `bytes` bytes of backend memory. */
static aq_status alloc(const aq_kernel_case *kernel, int64_t bytes, void *out) {
    void *memory = NULL;
    const aq_status status = kernel->be->ops->alloc(kernel->be, (size_t)bytes, &memory);
    memcpy(out, &memory, sizeof memory);
    return status;
}

static aq_status open_matmul(aq_kernel_case *kernel) {
    const aq_kernel_setting *s = &kernel->setting;
    AQ_TRY(alloc(kernel, s->n_copy * aq_kernel_bytes(s), &kernel->weights));
    for (int64_t i = 0; i < s->n_in; i++)
        kernel->host_x[i] = (float)(i % 7) - 3.0f;
    put_x(kernel);
    return aq_made_weights(kernel->be, kernel->weights, aq_kernel_bytes(s), s->n_copy);
}

/* Chooses the columns of aqua. */
static aq_status choose_dims(aq_kernel_case *kernel) {
    const aq_head_shape *shape = &kernel->setting.shape;
    aq_backend *be = kernel->be;
    kernel->n_dim = (int)(AQ_KERNEL_K_RATIO * shape->d_head);
    const size_t n = (size_t)shape->n_head * (size_t)kernel->n_dim;
    kernel->host_dims = calloc(n, sizeof(int16_t));
    if (!kernel->host_dims) return aq_fail(AQ_ERR_MEMORY, "no memory for a query");
    AQ_TRY(alloc(kernel, (int64_t)(n * sizeof(int16_t)), &kernel->dims));
    be->ops->topk_dims(be, &(aq_topk_dims_args){.q = kernel->x,
                                                .n_tok = 1,
                                                .n_head = shape->n_head,
                                                .n_kv_head = shape->n_kv_head,
                                                .n_col = shape->d_head,
                                                .n_dim = kernel->n_dim,
                                                .dims = kernel->dims});
    be->ops->download(be, kernel->host_dims, kernel->dims, n * sizeof(int16_t));
    return be->ops->sync(be);
}

static aq_status open_select(aq_kernel_case *kernel, const aq_kv_view *view) {
    const aq_head_shape *shape = &kernel->setting.shape;
    const int n_thread = kernel->be->host_memory ? aq_backend_cpu_threads(kernel->be) : 1;
    const size_t n_count = 3 * (size_t)shape->n_kv_head;
    kernel->work_bytes = aq_attn_select_work(view, shape->n_head, n_thread, kernel->setting.n_tile);
    AQ_TRY(alloc(kernel, kernel->work_bytes, &kernel->work));
    AQ_TRY(alloc(kernel, (int64_t)(n_count * sizeof(int32_t)), &kernel->device_counts));
    kernel->counts = calloc(n_count, sizeof *kernel->counts);
    if (!kernel->counts) return aq_fail(AQ_ERR_MEMORY, "no memory for a query");
    return find_spread(kernel);
}

/* The last n_q positions. */
static aq_status place_queries(aq_kernel_case *kernel) {
    const size_t bytes = (size_t)kernel->n_q * sizeof(int64_t);
    AQ_TRY(alloc(kernel, (int64_t)bytes, &kernel->q_pos));
    int64_t *pos = malloc(bytes);
    if (!pos) return aq_fail(AQ_ERR_MEMORY, "no memory for %zu bytes", bytes);
    for (int64_t t = 0; t < kernel->n_q; t++)
        pos[t] = kernel->setting.n_tile * AQ_TILE - kernel->n_q + t;
    kernel->be->ops->upload(kernel->be, kernel->q_pos, pos, bytes);
    free(pos);
    return AQ_OK;
}

/* One query, or a tile of them that stands for all. */
static void make_queries(aq_kernel_case *kernel) {
    const aq_head_shape *shape = &kernel->setting.shape;
    const int64_t n = shape->n_head * shape->d_head;
    const int n_made = (int)(kernel->n_x / n);
    const aq_head_shape made = {shape->d_head, n_made * shape->n_head, n_made * shape->n_kv_head};
    aq_made_query(&made, 1.0, kernel->host_x);
    put_x(kernel);
    for (int64_t at = kernel->n_x; at < kernel->n_q * n; at += kernel->n_x)
        kernel->be->ops->copy(kernel->be, kernel->x + at, kernel->x,
                              (size_t)kernel->n_x * sizeof(float));
}

static aq_status open_attention(aq_kernel_case *kernel) {
    const aq_kernel_setting *s = &kernel->setting;
    const aq_kv_view view = view_of(s);
    AQ_TRY(aq_made_cache_open(kernel->be, &s->shape, &view, s->n_tile, s->n_copy, &kernel->cache));
    AQ_TRY(place_queries(kernel));
    make_queries(kernel);
    if (s->kind == AQ_KERNEL_AQUA) return choose_dims(kernel);
    return s->kind == AQ_KERNEL_SELECT ? open_select(kernel, &view) : AQ_OK;
}

aq_status aq_kernel_open(aq_backend *be, const aq_kernel_setting *setting, aq_kernel_case *out) {
    const bool matmul = setting->kind == AQ_KERNEL_MATMUL;
    const int64_t n_head = setting->shape.n_head, d_head = setting->shape.d_head;
    const bool prefill = setting->kind == AQ_KERNEL_PREFILL;
    *out = (aq_kernel_case){.be = be, .setting = *setting};
    out->n_q = prefill ? setting->n_tile * AQ_TILE : 1;
    out->n_x = matmul ? setting->n_in : (prefill ? AQ_TILE : 1) * n_head * d_head;
    out->n_y = matmul ? setting->n_out : n_head * (d_head + 2);
    out->host_x = calloc((size_t)(out->n_x + out->n_y), sizeof *out->host_x);
    if (!out->host_x) return aq_fail(AQ_ERR_MEMORY, "no memory for a query");
    out->host_y = out->host_x + out->n_x;
    const int64_t n_all_x = prefill ? out->n_q * n_head * d_head : out->n_x;
    AQ_TRY(alloc(out, n_all_x * (int64_t)sizeof(float), &out->x));
    AQ_TRY(alloc(out, out->n_q * out->n_y * (int64_t)sizeof(float), &out->y));
    return matmul ? open_matmul(out) : open_attention(out);
}

void aq_kernel_close(aq_kernel_case *kernel) {
    void *const memory[] = {
        kernel->weights, kernel->work,         kernel->x, kernel->y, kernel->dims,
        kernel->q_pos,   kernel->device_counts};
    if (kernel->cache.be) aq_made_cache_close(&kernel->cache);
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        if (memory[i]) kernel->be->ops->release(kernel->be, memory[i]);
    free(kernel->host_x);
    free(kernel->host_dims);
    free(kernel->counts);
    *kernel = (aq_kernel_case){0};
}

/* Columns that a query head of KV head g scores with, of aqua. */
static int count_columns(const aq_kernel_case *kernel, int g) {
    const int group = kernel->setting.shape.n_head / kernel->setting.shape.n_kv_head;
    const int16_t *dims = kernel->host_dims + (int64_t)g * group * kernel->n_dim;
    int n = 0;
    for (int c = 0; c < kernel->setting.shape.d_head; c++) {
        int j = 0;
        while (j < group * kernel->n_dim && dims[j] != c)
            j++;
        n += j < group * kernel->n_dim;
    }
    return n;
}

static double select_reads(const aq_kernel_case *kernel, const aq_kv_view *view) {
    const double scales = aq_kv_type_coded(view->key_type) ? 4.0 * view->n_col : 0;
    const double token =
        ((double)(aq_kv_key_bytes(view) + aq_kv_value_bytes(view)) - scales) / AQ_TILE;
    double bytes = (double)kernel->cache.selector_bytes;
    for (int g = 0; g < view->n_kv_head; g++)
        bytes += token * kernel->counts[3 * g + 1] + scales * kernel->counts[3 * g + 2];
    return bytes;
}

double aq_kernel_reads(const aq_kernel_case *kernel) {
    const aq_kernel_setting *s = &kernel->setting;
    const aq_kv_view *view = &kernel->cache.view;
    if (s->kind == AQ_KERNEL_SELECT) return select_reads(kernel, view);
    if (s->kind != AQ_KERNEL_AQUA) return (double)aq_kernel_bytes(s);
    double bytes = (double)kernel->cache.value_bytes;
    for (int g = 0; g < s->shape.n_kv_head; g++)
        bytes += (double)kernel->cache.key_bytes / s->shape.n_kv_head * count_columns(kernel, g) /
                 s->shape.d_head;
    return bytes;
}

double aq_kernel_operations(const aq_kernel_case *kernel) {
    const aq_head_shape *shape = &kernel->setting.shape;
    const double n = (double)kernel->n_q;
    if (kernel->setting.kind != AQ_KERNEL_PREFILL) return 0;
    return 4.0 * shape->d_head * shape->n_head * n * n / 2;
}

bool aq_kernel_finite(const aq_kernel_case *kernel) {
    for (int64_t i = 0; i < kernel->n_y; i++)
        if (!isfinite(kernel->host_y[i])) return false;
    return true;
}
