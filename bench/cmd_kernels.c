/* aqua-dist-bench kernels: attention of one query and matrix-vector products alone, on a device
 * prefill attention too, through the backend's table, on caches and weights made up for it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_commands.h"
#include "bench/bench_row.h"
#include "bench/bench_setup.h"
#include "bench/kernel_case.h"
#include "bench/statistics.h"
#include "src/base/clock.h"
#include "src/engine/device.h"

#define SAMPLE_NS    10000000 /* at least, of calls that are timed together */
#define MOST_PREFILL 65536    /* tokens of a context whose prefill is measured */

typedef struct {
    const aq_bench_options *options;
    aq_bench_table table;
    aq_backend *be;
    aq_device device;
    int n_thread; /* of the CPU; 1 on a device */
    double *us;   /* [n_repeat] of a call */
    bool valid;
} kernels_state;

/* What the repetitions of one kernel took. */
typedef struct {
    double median_us, least_us, most_us;
    double scan_us, choose_us; /* of select: means over all calls */
} timing;

/* Calls `n` times, the copies in turns, and waits; *ns is what that took. */
static aq_status time_calls(aq_kernel_case *kernel, int64_t n, int64_t *ns) {
    const int64_t start_ns = aq_clock_ns();
    for (int64_t i = 0; i < n; i++)
        aq_kernel_call(kernel, (int)(i % kernel->setting.n_copy));
    const aq_status status = kernel->be->ops->sync(kernel->be);
    *ns = aq_clock_ns() - start_ns;
    return status;
}

static aq_status time_kernel(const kernels_state *state, aq_kernel_case *kernel, timing *out) {
    const int n_repeat = (int)state->options->n_repeat;
    int64_t n_call = kernel->setting.n_copy, ns = 0;
    while (ns < SAMPLE_NS) {
        AQ_TRY(time_calls(kernel, n_call, &ns));
        if (ns < SAMPLE_NS) n_call *= 2;
    }
    memset(kernel->phase_ns, 0, sizeof kernel->phase_ns);
    for (int r = 0; r < n_repeat; r++) {
        AQ_TRY(time_calls(kernel, n_call, &ns));
        state->us[r] = (double)ns * 1e-3 / (double)n_call;
    }
    const double median_us = aq_statistics_of(state->us, (size_t)n_repeat).median; /* sorts */
    const double n_all = (double)n_call * n_repeat;
    *out = (timing){.median_us = median_us,
                    .least_us = state->us[0],
                    .most_us = state->us[n_repeat - 1],
                    .scan_us = (double)kernel->phase_ns[0] * 1e-3 / n_all,
                    .choose_us = (double)kernel->phase_ns[1] * 1e-3 / n_all};
    return aq_kernel_finish(kernel);
}

static void write_shape(const aq_kernel_setting *s, char *out, size_t bytes) {
    if (s->kind == AQ_KERNEL_MATMUL)
        snprintf(out, bytes, "%" PRId64 " x %" PRId64, s->n_out, s->n_in);
    else
        snprintf(out, bytes, "d %d, %d / %d heads", s->shape.d_head, s->shape.n_head,
                 s->shape.n_kv_head);
}

static const char *device_text(const kernels_state *state) {
    return state->device.cuda ? "cuda" : "cpu";
}

static double gbs_of(const aq_kernel_case *kernel, const timing *t) {
    return aq_kernel_reads(kernel) * 1e-3 / t->median_us;
}

static double tflops_of(const aq_kernel_case *kernel, const timing *t) {
    return aq_kernel_operations(kernel) * 1e-6 / t->median_us;
}

static void print_row(const kernels_state *state, const aq_kernel_case *kernel, const timing *t) {
    const aq_kernel_setting *s = &kernel->setting;
    const double machine = state->table.bandwidth.bytes_per_s * 1e-9;
    char shape[64], text[32] = "";
    write_shape(s, shape, sizeof shape);
    if (s->kind != AQ_KERNEL_MATMUL) snprintf(text, sizeof text, "%" PRId64, s->n_tile * AQ_TILE);
    printf("| %s | %s | %s | %s | %s |", aq_kernel_name(s->kind), device_text(state),
           aq_kernel_type(s), shape, text);
    text[0] = '\0';
    if (s->kind == AQ_KERNEL_SELECT)
        snprintf(text, sizeof text, "%.1f %%", 100 * aq_kernel_attended(kernel));
    printf(" %d | %s | %.1f (%.1f to %.1f) | %.2f | %.1f | %.0f %% |", s->n_copy, text,
           t->median_us, t->least_us, t->most_us, aq_kernel_reads(kernel) / 1048576,
           gbs_of(kernel, t), 100 * gbs_of(kernel, t) / machine);
    text[0] = '\0';
    if (s->kind == AQ_KERNEL_PREFILL) snprintf(text, sizeof text, "%.1f", tflops_of(kernel, t));
    printf(" %s |", text);
    if (s->kind == AQ_KERNEL_SELECT && t->scan_us > 0)
        printf(" %.1f | %.1f |", t->scan_us, t->choose_us);
    else
        printf(" | |");
    printf(" %s |\n", aq_kernel_finite(kernel) ? "valid" : "**INVALID**");
}

static void describe(const kernels_state *state, const aq_kernel_case *kernel, const timing *t,
                     aq_report *report) {
    const aq_kernel_setting *s = &kernel->setting;
    aq_bench_table_describe(&state->table, aq_cpu_isa_name(aq_cpu_isa_best()), 1, state->n_thread,
                            report);
    aq_report_text(report, "kernel", aq_kernel_name(s->kind));
    aq_report_text(report, "device", device_text(state));
    aq_report_text(report, "type", aq_kernel_type(s));
    if (s->kind == AQ_KERNEL_MATMUL) {
        aq_report_int(report, "n_out", s->n_out);
        aq_report_int(report, "n_in", s->n_in);
    } else {
        aq_report_int(report, "d_head", s->shape.d_head);
        aq_report_int(report, "n_head", s->shape.n_head);
        aq_report_int(report, "n_kv_head", s->shape.n_kv_head);
        aq_report_int(report, "context", s->n_tile * AQ_TILE);
    }
    aq_report_int(report, "copies", s->n_copy);
    aq_report_real(report, "us_median", t->median_us);
    aq_report_real(report, "us_least", t->least_us);
    aq_report_real(report, "us_most", t->most_us);
    aq_report_real(report, "read_bytes", aq_kernel_reads(kernel));
    aq_report_real(report, "read_gbs", gbs_of(kernel, t));
    if (s->kind == AQ_KERNEL_PREFILL) aq_report_real(report, "tflops", tflops_of(kernel, t));
    if (s->kind == AQ_KERNEL_SELECT) {
        aq_report_real(report, "attended", aq_kernel_attended(kernel));
        aq_report_real(report, "scan_us", t->scan_us);
        aq_report_real(report, "choose_us", t->choose_us);
    }
    aq_report_int(report, "valid", aq_kernel_finite(kernel));
}

static aq_status add_row(const kernels_state *state, const aq_kernel_case *kernel,
                         const timing *t) {
    aq_report *report = NULL;
    if (state->table.markdown) print_row(state, kernel, t);
    AQ_TRY(aq_report_open(&report));
    describe(state, kernel, t, report);
    const aq_status status = aq_bench_table_line(&state->table, report);
    aq_report_close(report);
    return status;
}

/* Measures a setting, unless it is left out; with as many copies as twice the last-level cache
 * holds, of those asked for. */
static aq_status run_setting(kernels_state *state, aq_kernel_setting setting) {
    const char *only = state->options->only;
    if (only && strncmp(aq_kernel_name(setting.kind), only, strlen(only)) != 0) return AQ_OK;
    const int64_t n_fit = 2 * aq_last_level_cache() / aq_kernel_bytes(&setting);
    setting.n_copy = (int)state->options->n_copy;
    if (setting.n_copy > n_fit) setting.n_copy = n_fit > 1 ? (int)n_fit : 1;
    aq_kernel_case kernel;
    aq_status status = aq_kernel_open(state->be, &setting, &kernel);
    timing t;
    if (status == AQ_OK) status = time_kernel(state, &kernel, &t);
    if (status == AQ_OK) {
        if (!aq_kernel_finite(&kernel)) state->valid = false;
        status = add_row(state, &kernel, &t);
    }
    aq_kernel_close(&kernel);
    return status;
}

/* Tiles that hold n_tok tokens, or, of 0, twice the last-level cache. */
static int64_t tiles_of(const aq_kernel_setting *setting, int64_t n_tok) {
    aq_kernel_setting one = *setting;
    one.n_tile = 1;
    if (n_tok == 0) return 2 * aq_last_level_cache() / aq_kernel_bytes(&one) + 1;
    return (n_tok + AQ_TILE - 1) / AQ_TILE;
}

static aq_status run_attention(kernels_state *state, const aq_head_shape *shape, int64_t n_tok) {
    static const aq_kernel_setting cases[] = {
        {.kind = AQ_KERNEL_DENSE, .type = AQ_KV_F32},
        {.kind = AQ_KERNEL_DENSE, .type = AQ_KV_BF16},
        {.kind = AQ_KERNEL_DENSE, .type = AQ_KV_Q8},
        {.kind = AQ_KERNEL_AQUA, .type = AQ_KV_BF16},
        {.kind = AQ_KERNEL_SELECT, .type = AQ_KV_Q8, .needed = 0.03},
        {.kind = AQ_KERNEL_SELECT, .type = AQ_KV_Q8, .needed = 0.08},
        {.kind = AQ_KERNEL_SELECT, .type = AQ_KV_Q8, .needed = 0.15},
        {.kind = AQ_KERNEL_PREFILL, .type = AQ_KV_BF16},
        {.kind = AQ_KERNEL_PREFILL, .type = AQ_KV_Q8},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        aq_kernel_setting setting = cases[i];
        if (setting.kind == AQ_KERNEL_PREFILL && (!state->device.cuda || n_tok > MOST_PREFILL))
            continue;
        setting.shape = *shape;
        setting.n_tile = tiles_of(&setting, n_tok);
        AQ_TRY(run_setting(state, setting));
    }
    return AQ_OK;
}

/* A small matrix, a large one, and one of twice the last-level cache. */
static aq_status run_matmul(kernels_state *state, aq_dtype dtype) {
    static const int64_t sizes[][2] = {{1536, 576}, {4096, 4096}, {0, 4096}};
    const int block = aq_dtype_find(dtype)->block_elems;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        aq_kernel_setting setting = {
            .kind = AQ_KERNEL_MATMUL, .dtype = dtype, .n_out = sizes[i][0], .n_in = sizes[i][1]};
        if (setting.n_in % block != 0) continue;
        if (setting.n_out == 0)
            setting.n_out = 2 * aq_last_level_cache() / aq_dtype_row_bytes(dtype, setting.n_in);
        AQ_TRY(run_setting(state, setting));
    }
    return AQ_OK;
}

/* The backend, and how fast its memory is. */
static aq_status open_backend(kernels_state *state, aq_comm *world) {
    AQ_TRY(aq_device_choose(state->options->device, world, &state->device));
    state->n_thread = state->device.cuda ? 1 : aq_bench_threads(state->options, world);
    if (state->device.cuda) {
        aq_device_name(&state->device, state->table.cpu, sizeof state->table.cpu);
        AQ_TRY(aq_backend_cuda_open(state->device.index, &state->be));
        return aq_bandwidth_copy(state->be, &state->table.bandwidth);
    }
    AQ_TRY(
        aq_bandwidth_measure(world, state->n_thread, AQ_BANDWIDTH_PASSES, &state->table.bandwidth));
    return aq_backend_cpu_open(state->n_thread, aq_cpu_isa_best(), &state->be);
}

/* Attention of heads of one shape over every context. */
static aq_status run_shape(kernels_state *state, const aq_head_shape *shape) {
    static const aq_bench_list host = {{4096, 16384, 0}, 3};
    static const aq_bench_list device = {{4096, 16384, 65536, 262144, 1048576}, 5};
    const aq_bench_list *contexts = &state->options->contexts;
    if (contexts->n == 0) contexts = state->device.cuda ? &device : &host;
    for (int i = 0; i < contexts->n; i++)
        AQ_TRY(run_attention(state, shape, contexts->values[i]));
    return AQ_OK;
}

/* The shapes of three models, or all that can be made of their parts. */
static aq_status run_shapes(kernels_state *state) {
    static const aq_head_shape shapes[] = {{64, 9, 3}, {128, 32, 8}, {256, 4, 1}};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            const aq_head_shape shape = {shapes[i].d_head, shapes[j].n_head, shapes[j].n_kv_head};
            if (i == j || state->options->all_shapes) AQ_TRY(run_shape(state, &shape));
        }
    return AQ_OK;
}

static aq_status run_all(kernels_state *state, aq_comm *world) {
    static const aq_dtype dtypes[] = {AQ_F32,  AQ_F16,  AQ_BF16, AQ_Q4_0, AQ_Q4_1, AQ_Q5_0,
                                      AQ_Q5_1, AQ_Q8_0, AQ_Q4_K, AQ_Q5_K, AQ_Q6_K};
    const aq_bench_options *options = state->options;
    AQ_TRY(aq_bench_table_open(options, aq_comm_host(world), &state->table));
    AQ_TRY(open_backend(state, world));
    state->us = malloc((size_t)options->n_repeat * sizeof *state->us);
    if (!state->us) return aq_fail(AQ_ERR_MEMORY, "no memory for the measurements");
    aq_bench_table_head(&state->table);
    AQ_TRY(run_shapes(state));
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        AQ_TRY(run_matmul(state, dtypes[i]));
    return aq_bench_table_close(&state->table);
}

aq_status aq_bench_kernels(const aq_bench_options *options, aq_comm *world, bool *valid) {
    kernels_state state = {.options = options, .valid = true};
    if (aq_comm_size(world) > 1)
        return aq_fail(AQ_ERR_USAGE,
                       "kernels are measured on one rank, not on %d; leave out mpirun",
                       aq_comm_size(world));
    const aq_status status = run_all(&state, world);
    aq_bench_table_drop(&state.table);
    if (state.be) state.be->ops->close(state.be);
    free(state.us);
    *valid = state.valid;
    return status;
}
