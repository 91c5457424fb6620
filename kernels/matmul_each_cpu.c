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

/* Tokens [first, first + n), and what a member knows of them. */
typedef struct {
    int64_t first, n;
    char *coded; /* [n, AQ_CODED_BYTES(n_in)] for the type in work, or NULL */
} token_run;

static int64_t lesser(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Rows [begin, end) of a part. */
static void multiply_rows(const each_task *task, const token_run *toks, const aq_matmul_part *part,
                          int64_t begin, int64_t end) {
    const aq_matmul_each_args *a = task->args;
    const aq_simd *simd = task->cpu->simd;
    const int64_t row_bytes = aq_dtype_row_bytes(part->dtype, a->n_in);
    float *y = part->y + toks->first * part->n_out + begin;
    const aq_dot_rows_args rows = {
        .dtype = part->dtype,
        .w = (const uint8_t *)part->w + begin * row_bytes,
        .row_bytes = row_bytes,
        .n_row = end - begin,
        .n_in = a->n_in,
        .x = a->x + toks->first * a->n_in,
        .n_tok = toks->n,
        .y = y,
        .y_stride = part->n_out,
        .accumulate = part->accumulate,
    };
    if (toks->coded)
        simd->dot_coded(&rows, toks->coded);
    else
        simd->dot_rows(&rows);
    for (int64_t t = 0; part->b && t < toks->n; t++)
        simd->add_scaled(part->b + begin, 1.0f, end - begin, y + t * part->n_out);
}

/* The tokens coded for `dtype` in `memory`, or NULL where it is not multiplied in integers. */
static char *code_tokens(const each_task *task, const token_run *toks, aq_dtype dtype,
                         char *memory) {
    const int64_t n_in = task->args->n_in;
    const float *x = task->args->x + toks->first * n_in;
    for (int64_t t = 0; t < toks->n; t++)
        if (!task->cpu->simd->code_token(dtype, x + t * n_in, n_in,
                                         memory + t * AQ_CODED_BYTES(n_in)))
            return NULL;
    return memory;
}

/* A member's rows of all parts, times some tokens. */
static void multiply_parts(const each_task *task, token_run toks, int thread, int n_thread) {
    const aq_matmul_each_args *a = task->args;
    int64_t begin = 0, end = 0; /* the rows of one part; equal for all if they are activated */
    for (int p = 0; p < a->n_part; p++) {
        const aq_matmul_part *part = &a->parts[p];
        aq_threads_part_of(part->n_out, ROW_ALIGN, thread, n_thread, &begin, &end);
        if (p == 0 || part->dtype != part[-1].dtype)
            toks.coded = code_tokens(task, &toks, part->dtype, aq_cpu_scratch(task->cpu, thread));
        multiply_rows(task, &toks, part, begin, end);
    }
    for (int64_t t = toks.first; a->activated && t < toks.first + toks.n; t++) {
        const int64_t at = t * a->parts[0].n_out + begin;
        task->cpu->simd->activate(
            &(aq_activate_args){.kind = a->activation,
                                .x = a->parts[0].y + at,
                                .up = a->n_part > 1 ? a->parts[1].y + at : NULL,
                                .n = end - begin,
                                .y = a->parts[0].y + at});
    }
}

/* As many tokens at once as fit the scratch. */
static void few_part(void *arg, int thread, int n_thread) {
    const each_task *task = arg;
    const aq_matmul_each_args *a = task->args;
    const int64_t at_once = (int64_t)AQ_CPU_SCRATCH_BYTES / AQ_CODED_BYTES(a->n_in);
    for (int64_t tok = 0; tok < a->n_tok; tok += at_once)
        multiply_parts(task, (token_run){tok, lesser(at_once, a->n_tok - tok), NULL}, thread,
                       n_thread);
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
