/* Products with the same tokens. Contract: matmul_each.h.
 *
 * Few tokens: each member takes a part of the rows of every weight and reads them once, in integers
 * where the processor is good at that (loops_dot.h) and dequantising in registers elsewhere. Every
 * sum is taken in the same order however the rows are shared, so the bits do not depend on the
 * members. */
#include "kernels/cpu.h"

#define ROW_ALIGN 4

_Static_assert(AQ_CODED_BYTES(AQ_MATMUL_MAX_IN) <= AQ_CPU_SCRATCH_BYTES, "a token fits scratch");

typedef struct {
    aq_cpu *cpu;
    const aq_matmul_each_args *args;
} each_task;

static int64_t lesser(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Rows [begin, end) of a part. `coded` is the token if the part multiplies in integers. */
static void multiply_rows(const each_task *task, const aq_matmul_part *part, int64_t begin,
                          int64_t end, void *coded) {
    const aq_matmul_each_args *a = task->args;
    const aq_simd *simd = task->cpu->simd;
    const int64_t row_bytes = aq_dtype_row_bytes(part->dtype, a->n_in);
    const aq_dot_rows_args rows = {
        .dtype = part->dtype,
        .w = (const uint8_t *)part->w + begin * row_bytes,
        .row_bytes = row_bytes,
        .n_row = end - begin,
        .n_in = a->n_in,
        .x = a->x,
        .n_tok = a->n_tok,
        .y = part->y + begin,
        .y_stride = part->n_out,
        .accumulate = part->accumulate,
    };
    if (coded)
        simd->dot_coded(&rows, coded);
    else
        simd->dot_rows(&rows);
    for (int64_t t = 0; part->b && t < a->n_tok; t++)
        simd->add_scaled(part->b + begin, 1.0f, end - begin, part->y + t * part->n_out + begin);
}

/* The rows of a part that a member takes. */
static void share_rows(int64_t n_out, int thread, int n_thread, int64_t *begin, int64_t *end) {
    aq_threads_part((n_out + ROW_ALIGN - 1) / ROW_ALIGN, thread, n_thread, begin, end);
    *begin *= ROW_ALIGN;
    *end = lesser(*end * ROW_ALIGN, n_out);
}

static void few_part(void *arg, int thread, int n_thread) {
    const each_task *task = arg;
    const aq_matmul_each_args *a = task->args;
    const aq_simd *simd = task->cpu->simd;
    void *coded = NULL;
    int64_t begin = 0, end = 0; /* the rows of one part; equal for all if they are activated */
    for (int p = 0; p < a->n_part; p++) {
        const aq_matmul_part *part = &a->parts[p];
        share_rows(part->n_out, thread, n_thread, &begin, &end);
        if (p == 0 || part->dtype != part[-1].dtype) {
            coded = aq_cpu_scratch(task->cpu, thread);
            if (a->n_tok > 1 || !simd->code_token(part->dtype, a->x, a->n_in, coded)) coded = NULL;
        }
        multiply_rows(task, part, begin, end, coded);
    }
    for (int64_t t = 0; a->activated && t < a->n_tok; t++) {
        const int64_t at = t * a->parts[0].n_out + begin;
        simd->activate(&(aq_activate_args){.kind = a->activation,
                                           .x = a->parts[0].y + at,
                                           .up = a->n_part > 1 ? a->parts[1].y + at : NULL,
                                           .n = end - begin,
                                           .y = a->parts[0].y + at});
    }
}

static void one_by_one(aq_cpu *cpu, const aq_matmul_each_args *a) {
    for (int p = 0; p < a->n_part; p++) {
        const aq_matmul_part *part = &a->parts[p];
        aq_matmul_cpu(cpu, &(aq_matmul_args){.w = part->w,
                                             .dtype = part->dtype,
                                             .n_out = part->n_out,
                                             .n_in = a->n_in,
                                             .n_tok = a->n_tok,
                                             .x = a->x,
                                             .y = part->y,
                                             .accumulate = part->accumulate});
        if (part->b)
            aq_add_bias_cpu(
                cpu, &(aq_add_bias_args){
                         .b = part->b, .n_tok = a->n_tok, .width = part->n_out, .y = part->y});
    }
    if (a->activated)
        aq_activate_cpu(cpu, &(aq_activate_args){.kind = a->activation,
                                                 .x = a->parts[0].y,
                                                 .up = a->n_part > 1 ? a->parts[1].y : NULL,
                                                 .n = a->n_tok * a->parts[0].n_out,
                                                 .y = a->parts[0].y});
}

void aq_matmul_each_cpu(aq_cpu *cpu, const aq_matmul_each_args *args) {
    if (args->n_tok > AQ_CPU_FEW_TOKS) {
        one_by_one(cpu, args);
        return;
    }
    each_task task = {cpu, args};
    int64_t n_op = 0;
    for (int p = 0; p < args->n_part; p++)
        n_op += args->n_tok * args->parts[p].n_out * args->n_in;
    aq_cpu_run(cpu, n_op, few_part, &task);
}
