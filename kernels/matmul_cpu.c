/* Product with a stored weight. Contract: matmul.h.
 *
 * Few tokens: each member takes a part of the rows and reads them once, dequantising in registers.
 * Many: the product is cut into pieces of PANEL_ROWS rows by PIECE_TOKS tokens by PIECE_IN columns;
 * a member dequantises the panel into its scratch and calls the BLAS, single-threaded. The cut does
 * not depend on the number of members, so neither do the bits. */
#include <cblas.h>

#include "kernels/cpu.h"

/* Measured on 1536 x 576 Q4_1, AVX-512, two threads, OpenBLAS 0.3.21: matrix-vector kernels win up
 * to 4 tokens (27 us against 54 at one token), the BLAS from 5 to 12 (133 us against 176 at twelve)
 * and from 24 on; in between the BLAS is 2 to 31 % slower. One line is drawn, at the first
 * crossing. */
#define FEW_TOKS   4
#define ROW_ALIGN  4
#define PANEL_ROWS 96
#define PIECE_IN   4096 /* PANEL_ROWS * PIECE_IN floats fill the scratch */
#define PIECE_TOKS 256

_Static_assert(PANEL_ROWS *PIECE_IN * sizeof(float) <= AQ_CPU_SCRATCH_BYTES, "panel fits scratch");

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

static void few_part(void *arg, int thread, int n_thread) {
    const matmul_task *task = arg;
    const aq_matmul_args *a = task->args;
    int64_t begin, end;
    aq_threads_part(pieces(a->n_out, ROW_ALIGN), thread, n_thread, &begin, &end);
    begin *= ROW_ALIGN;
    end = lesser(end * ROW_ALIGN, a->n_out);
    const aq_dot_rows_args rows = {
        .dtype = a->dtype,
        .w = (const uint8_t *)a->w + begin * task->row_bytes,
        .row_bytes = task->row_bytes,
        .n_row = end - begin,
        .n_in = a->n_in,
        .x = a->x,
        .n_tok = a->n_tok,
        .y = a->y + begin,
        .y_stride = a->n_out,
        .accumulate = a->accumulate,
    };
    task->cpu->simd->dot_rows(&rows);
}

/* Rows j .. j + n_row of the product for tokens t .. t + n_tok. */
static void one_piece(const matmul_task *task, float *panel, int64_t j, int64_t n_row, int64_t t,
                      int64_t n_tok) {
    const aq_matmul_args *a = task->args;
    for (int64_t i = 0; i < a->n_in; i += PIECE_IN) {
        const int64_t n_in = lesser(PIECE_IN, a->n_in - i);
        const int64_t skip_bytes = aq_dtype_row_bytes(a->dtype, i);
        for (int64_t r = 0; r < n_row; r++)
            task->cpu->simd->dequantise(
                a->dtype, (const uint8_t *)a->w + (j + r) * task->row_bytes + skip_bytes, n_in,
                panel + r * n_in);
        const float keep = i > 0 || a->accumulate ? 1.0f : 0.0f;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n_tok, (int)n_row, (int)n_in,
                    1.0f, a->x + t * a->n_in + i, (int)a->n_in, panel, (int)n_in, keep,
                    a->y + t * a->n_out + j, (int)a->n_out);
    }
}

static void many_part(void *arg, int thread, int n_thread) {
    const matmul_task *task = arg;
    const aq_matmul_args *a = task->args;
    float *panel = aq_cpu_scratch(task->cpu, thread);
    const int64_t n_panel = pieces(a->n_out, PANEL_ROWS);
    int64_t begin, end;
    aq_threads_part(n_panel * pieces(a->n_tok, PIECE_TOKS), thread, n_thread, &begin, &end);
    for (int64_t p = begin; p < end; p++) {
        const int64_t j = p % n_panel * PANEL_ROWS, t = p / n_panel * PIECE_TOKS;
        one_piece(task, panel, j, lesser(PANEL_ROWS, a->n_out - j), t,
                  lesser(PIECE_TOKS, a->n_tok - t));
    }
}

void aq_matmul_cpu(aq_cpu *cpu, const aq_matmul_args *args) {
    matmul_task task = {cpu, args, aq_dtype_row_bytes(args->dtype, args->n_in)};
    const int64_t n_op = args->n_tok * args->n_out * args->n_in;
    aq_cpu_run(cpu, n_op, args->n_tok <= FEW_TOKS ? few_part : many_part, &task);
}
