/* Product with a stored weight. Contract: matmul.h.
 *
 * Few tokens are the business of matmul_each_cpu.c. Many: a member dequantises a panel of
 * PANEL_ROWS rows by PANEL_IN columns into its scratch, turned so that a vector holds one column of
 * many rows, and multiplies it with its tokens. Every sum is taken in the same order however the
 * work is shared, so the bits do not depend on the members. */
#include "kernels/cpu.h"

#define PANEL_ROWS 64
#define PANEL_IN   1024 /* a multiple of every type's block */
#define PIECE_TOKS 96   /* tokens of an item of work */

typedef struct {
    float panel[PANEL_IN * PANEL_ROWS];
    float keep[PIECE_TOKS]; /* ones */
} matmul_scratch;

_Static_assert(sizeof(matmul_scratch) <= AQ_CPU_SCRATCH_BYTES, "panel fits scratch");
_Static_assert(PANEL_ROWS % AQ_COLUMNS_ALIGN == 0, "whole vectors");

typedef struct {
    aq_cpu *cpu;
    const aq_matmul_args *args;
    int64_t row_bytes;
} matmul_task;

static int64_t pieces(int64_t n, int64_t size) {
    return (n + size - 1) / size;
}

static int64_t lesser(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Columns i .. i + n_in of rows j .. j + n_row of the weight, times tokens [begin, end). */
static void multiply_panel(const matmul_task *task, matmul_scratch *scratch, int64_t j,
                           int64_t n_row, int64_t i, int64_t n_in, int64_t begin, int64_t end) {
    const aq_matmul_args *a = task->args;
    const aq_simd *simd = task->cpu->simd;
    simd->columns(&(aq_columns_args){.dtype = a->dtype,
                                     .w = (const uint8_t *)a->w + j * task->row_bytes +
                                          aq_dtype_row_bytes(a->dtype, i),
                                     .row_bytes = task->row_bytes,
                                     .n_row = n_row,
                                     .n = n_in,
                                     .out = scratch->panel,
                                     .out_stride = PANEL_ROWS});
    for (int64_t t = begin; t < end; t += PIECE_TOKS)
        simd->panel(&(aq_panel_args){.a = a->x + t * a->n_in + i,
                                     .a_stride = a->n_in,
                                     .n_row = lesser(PIECE_TOKS, end - t),
                                     .n_in = n_in,
                                     .b = scratch->panel,
                                     .b_dtype = AQ_F32,
                                     .b_stride = PANEL_ROWS,
                                     .n_out = n_row,
                                     .keep = i > 0 || a->accumulate ? scratch->keep : NULL,
                                     .c = a->y + t * a->n_out + j,
                                     .c_stride = a->n_out});
}

/* An item of work is one panel's rows with PIECE_TOKS tokens; items of one panel follow each other,
 * so that a member makes a panel once for all of its tokens. */
static void many_part(void *arg, int thread, int n_thread) {
    const matmul_task *task = arg;
    const aq_matmul_args *a = task->args;
    matmul_scratch *scratch = aq_cpu_scratch(task->cpu, thread);
    for (int t = 0; t < PIECE_TOKS; t++)
        scratch->keep[t] = 1.0f;
    const int64_t n_piece = pieces(a->n_tok, PIECE_TOKS);
    int64_t begin, end;
    aq_threads_part(pieces(a->n_out, PANEL_ROWS) * n_piece, thread, n_thread, &begin, &end);
    while (begin < end) {
        const int64_t j = begin / n_piece * PANEL_ROWS, piece = begin % n_piece;
        const int64_t n_here = lesser(n_piece - piece, end - begin);
        for (int64_t i = 0; i < a->n_in; i += PANEL_IN)
            multiply_panel(task, scratch, j, lesser(PANEL_ROWS, a->n_out - j), i,
                           lesser(PANEL_IN, a->n_in - i), piece * PIECE_TOKS,
                           lesser((piece + n_here) * PIECE_TOKS, a->n_tok));
        begin += n_here;
    }
}

void aq_matmul_cpu(aq_cpu *cpu, const aq_matmul_args *args) {
    if (args->n_tok <= AQ_CPU_FEW_TOKS) {
        const aq_matmul_part part = {.w = args->w,
                                     .dtype = args->dtype,
                                     .n_out = args->n_out,
                                     .y = args->y,
                                     .accumulate = args->accumulate};
        aq_matmul_each_cpu(cpu, &(aq_matmul_each_args){.parts = &part,
                                                       .n_part = 1,
                                                       .n_in = args->n_in,
                                                       .n_tok = args->n_tok,
                                                       .x = args->x});
        return;
    }
    matmul_task task = {cpu, args, aq_dtype_row_bytes(args->dtype, args->n_in)};
    aq_cpu_run(cpu, args->n_tok * args->n_out * args->n_in, many_part, &task);
}
