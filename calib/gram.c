#include "calib/gram.h"

#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_TOK = 32, /* tokens converted to double at a time: 32 KiB at d 128, stays in cache */
    BAND = 32,      /* rows of a matrix in one unit of work */
    UNROLL = 4      /* tokens added per pass over a row; divides BLOCK_TOK */
};

static int64_t problem_doubles(const aq_gram *gram) {
    const int64_t d = gram->d_head;
    return 2 * d * d + d + 1;
}

aq_status aq_gram_open(int n_layer, int n_head, int n_kv_head, int d_head, aq_threads *team,
                       aq_gram *out) {
    *out = (aq_gram){.n_layer = n_layer, .n_head = n_head, .n_kv_head = n_kv_head};
    out->d_head = d_head;
    out->team = team;
    if (n_layer < 1 || n_kv_head < 1 || d_head < 1 || n_head < 1 || n_head % n_kv_head != 0)
        return aq_fail(AQ_ERR_USAGE,
                       "Gram sums of %d layers, %d heads, %d KV heads and %d dims make no sense",
                       n_layer, n_head, n_kv_head, d_head);
    const int n_thread = team ? aq_threads_count(team) : 1;
    out->n = (int64_t)n_layer * n_kv_head * problem_doubles(out);
    out->data = calloc((size_t)out->n, sizeof *out->data);
    out->block = calloc((size_t)n_thread * BLOCK_TOK * (size_t)d_head, sizeof *out->block);
    if (out->data && out->block) return AQ_OK;
    const double mib = (double)out->n * sizeof *out->data / (1 << 20);
    aq_gram_close(out);
    return aq_fail(AQ_ERR_MEMORY, "no memory for Gram sums of %.0f MiB", mib);
}

void aq_gram_close(aq_gram *gram) {
    free(gram->data);
    free(gram->block);
    gram->data = gram->block = NULL;
}

/* Rows [i0, i1) of G, from the diagonal on, += sum over t of x_t x_t^T, where x_t[i] stands in
 * x[t * width + i - i0]; n_tok is a multiple of UNROLL. */
static void add_band(double *restrict g, int d, int i0, int i1, const double *restrict x,
                     int n_tok) {
    const int width = d - i0;
    for (int i = i0; i < i1; i++) {
        double *restrict row = g + (int64_t)i * d + i0;
        for (int t = 0; t < n_tok; t += UNROLL) {
            const double *restrict x0 = x + (int64_t)t * width;
            const double *restrict x1 = x0 + width;
            const double *restrict x2 = x1 + width;
            const double *restrict x3 = x2 + width;
            const double a0 = x0[i - i0], a1 = x1[i - i0], a2 = x2[i - i0], a3 = x3[i - i0];
            for (int j = i - i0; j < width; j++)
                row[j] += a0 * x0[j] + a1 * x1[j] + a2 * x2[j] + a3 * x3[j];
        }
    }
}

/* The same from fp32 vectors `stride` floats apart; adds the vectors to s, if not NULL. */
static void add_vectors(double *g, double *s, int d, int i0, int i1, const float *vectors,
                        int64_t stride, int64_t n_tok, double *block) {
    const int width = d - i0;
    for (int64_t begin = 0; begin < n_tok; begin += BLOCK_TOK) {
        const int n = (int)(n_tok - begin < BLOCK_TOK ? n_tok - begin : BLOCK_TOK);
        const int n_padded = (n + UNROLL - 1) / UNROLL * UNROLL;
        for (int t = 0; t < n; t++) {
            const float *from = vectors + (begin + t) * stride + i0;
            double *to = block + (int64_t)t * width;
            for (int j = 0; j < width; j++)
                to[j] = (double)from[j];
            for (int j = 0; s && j < i1 - i0; j++)
                s[i0 + j] += to[j];
        }
        memset(block + (int64_t)n * width, 0,
               (size_t)(n_padded - n) * (size_t)width * sizeof *block);
        add_band(g, d, i0, i1, block, n_padded);
    }
}

typedef struct {
    aq_gram *gram;
    int layer;
    const float *q;
    const float *k;
    int64_t n_tok;
} add_task;

/* One unit: rows [i0, i1) of both matrices of one KV head. */
static void add_unit(const add_task *task, int head, int i0, int i1, double *block) {
    const aq_gram *gram = task->gram;
    const int d = gram->d_head, n_group = gram->n_head / gram->n_kv_head;
    const int64_t i = (int64_t)task->layer * gram->n_kv_head + head;
    double *gk = gram->data + i * problem_doubles(gram);
    double *gq = gk + (int64_t)d * d, *sk = gq + (int64_t)d * d;
    add_vectors(gk, sk, d, i0, i1, task->k + (int64_t)head * d, (int64_t)gram->n_kv_head * d,
                task->n_tok, block);
    for (int h = head * n_group; h < (head + 1) * n_group; h++)
        add_vectors(gq, NULL, d, i0, i1, task->q + (int64_t)h * d, (int64_t)gram->n_head * d,
                    task->n_tok, block);
    if (i0 == 0) sk[d] += (double)task->n_tok;
}

/* Units are dealt in turn, long bands first, because bands shorten towards the last row. */
static void add_share(void *arg, int thread, int n_thread) {
    const add_task *task = arg;
    const aq_gram *gram = task->gram;
    const int d = gram->d_head, n_unit = (d + BAND - 1) / BAND * gram->n_kv_head;
    double *block = gram->block + (int64_t)thread * BLOCK_TOK * d;
    for (int unit = thread; unit < n_unit; unit += n_thread) {
        const int i0 = unit / gram->n_kv_head * BAND;
        add_unit(task, unit % gram->n_kv_head, i0, i0 + BAND < d ? i0 + BAND : d, block);
    }
}

void aq_gram_add(aq_gram *gram, int layer, const float *q, const float *k, int64_t n_tok) {
    add_task task = {gram, layer, q, k, n_tok};
    if (gram->team)
        aq_threads_run(gram->team, add_share, &task);
    else
        add_share(&task, 0, 1);
}

void aq_gram_add_from(aq_gram *gram, int layer, int64_t first, const int64_t *pos, int64_t n_tok,
                      const float *q, const float *k) {
    int64_t skip = 0;
    while (skip < n_tok && pos[skip] < first)
        skip++;
    aq_gram_add(gram, layer, q + skip * gram->n_head * gram->d_head,
                k + skip * gram->n_kv_head * gram->d_head, n_tok - skip);
}

aq_gram_sums aq_gram_get(const aq_gram *gram, int64_t i) {
    const int64_t d = gram->d_head;
    const double *gk = gram->data + i * problem_doubles(gram);
    return (aq_gram_sums){gk, gk + d * d, gk + 2 * d * d, (int64_t)gk[2 * d * d + d]};
}
