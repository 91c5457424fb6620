/* Private to kernels/: the state of the CPU backend, which every <op>_cpu.c receives.
 *
 * One operation runs at a time. It may use the whole scratch of each thread and leaves nothing of
 * value there; it allocates nothing. */
#ifndef AQ_KERNELS_CPU_H
#define AQ_KERNELS_CPU_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/simd.h"
#include "src/base/threads.h"

/* Scratch of one thread: a multiple of the page size; fits the second-level cache about. */
#define AQ_CPU_SCRATCH_BYTES ((size_t)2 << 20)

/* Work below this many elementary operations is not worth waking the team for. */
#define AQ_CPU_ALONE_OPS 32768

/* Up to so many tokens are multiplied with rows, more with panels. Measured on 1536 x 576 Q4_1,
 * AVX-512, two threads: 16 tokens take 164 us as rows, 208 as a panel; 24 take 246 and 235. */
#define AQ_CPU_FEW_TOKS 16

typedef struct {
    aq_backend base; /* first: an aq_backend * of this kind is an aq_cpu * */
    aq_threads *threads;
    aq_cpu_isa isa;
    const aq_simd *simd; /* the inner loops compiled for isa */
    char *scratch;       /* [n_thread, AQ_CPU_SCRATCH_BYTES], 64-byte aligned */
} aq_cpu;

/* The scratch of member `thread` of a task, 64-byte aligned. */
static inline void *aq_cpu_scratch(const aq_cpu *cpu, int thread) {
    return cpu->scratch + (size_t)thread * AQ_CPU_SCRATCH_BYTES;
}

/* Runs fn on the team, or by the caller alone when `n_op` operations are too few to share. The
 * results of fn must not depend on the number of members. */
static inline void aq_cpu_run(aq_cpu *cpu, int64_t n_op, aq_task_fn fn, void *arg) {
    if (n_op < AQ_CPU_ALONE_OPS)
        fn(arg, 0, 1);
    else
        aq_threads_run(cpu->threads, fn, arg);
}

/* Makes n_row rows of partial results neutral: o = 0, m = -inf, l = 0. */
static inline void aq_cpu_clear_parts(float *part, int64_t n_row, int d_head) {
    memset(part, 0, (size_t)n_row * (size_t)(d_head + 2) * sizeof *part);
    for (int64_t r = 0; r < n_row; r++)
        part[r * (d_head + 2) + d_head] = -INFINITY;
}

/* Adds the partial result `from` of a row of attention (attn_partial.h) to `to`; either may be
 * neutral. */
static inline void aq_cpu_merge_part(float *to, const float *from, int d_head) {
    const float a = to[d_head], b = from[d_head];
    if (b == -INFINITY) return;
    const float m = a > b ? a : b;
    const float keep = expf(a - m), factor = expf(b - m);
    for (int i = 0; i < d_head; i++)
        to[i] = keep * to[i] + factor * from[i];
    to[d_head] = m;
    to[d_head + 1] = keep * to[d_head + 1] + factor * from[d_head + 1];
}

void aq_embed_cpu(aq_cpu *cpu, const aq_embed_args *args);
void aq_rmsnorm_cpu(aq_cpu *cpu, const aq_rmsnorm_args *args);
void aq_layernorm_cpu(aq_cpu *cpu, const aq_layernorm_args *args);
void aq_matmul_cpu(aq_cpu *cpu, const aq_matmul_args *args);
void aq_matmul_each_cpu(aq_cpu *cpu, const aq_matmul_each_args *args);
void aq_add_bias_cpu(aq_cpu *cpu, const aq_add_bias_args *args);
void aq_rope_table_cpu(aq_cpu *cpu, const aq_rope_table_args *args);
void aq_rope_cpu(aq_cpu *cpu, const aq_rope_args *args);
void aq_activate_cpu(aq_cpu *cpu, const aq_activate_args *args);
void aq_route_cpu(aq_cpu *cpu, const aq_route_args *args);
void aq_gather_rows_cpu(aq_cpu *cpu, const aq_gather_rows_args *args);
void aq_scatter_add_rows_cpu(aq_cpu *cpu, const aq_scatter_add_rows_args *args);
void aq_pack_rows_cpu(aq_cpu *cpu, const aq_pack_rows_args *args);
void aq_unpack_rows_cpu(aq_cpu *cpu, const aq_unpack_rows_args *args);
void aq_project_cpu(aq_cpu *cpu, const aq_project_args *args);
void aq_topk_dims_cpu(aq_cpu *cpu, const aq_topk_dims_args *args);
void aq_prune_dims_cpu(aq_cpu *cpu, const aq_prune_dims_args *args);
void aq_kv_append_cpu(aq_cpu *cpu, const aq_kv_append_args *args);
void aq_kv_read_cpu(aq_cpu *cpu, const aq_kv_read_args *args);
void aq_code_selector_cpu(aq_cpu *cpu, const aq_code_selector_args *args);
void aq_attn_partial_cpu(aq_cpu *cpu, const aq_attn_partial_args *args);
void aq_attn_select_cpu(aq_cpu *cpu, const aq_attn_select_args *args);
void aq_select_totals_cpu(aq_cpu *cpu, const aq_select_totals_args *args);
void aq_attn_mass_cpu(aq_cpu *cpu, const aq_attn_mass_args *args);
void aq_attn_merge_cpu(aq_cpu *cpu, const aq_attn_merge_args *args);
void aq_attn_pages_cpu(aq_cpu *cpu, const aq_attn_pages_args *args);

/* What this processor can run, found by asking it; the environment is not looked at. */
aq_cpu_isa aq_cpu_isa_detect(void);

/* The loops of an instruction set. Static. Local. */
const aq_simd *aq_cpu_simd(aq_cpu_isa isa);

#endif
