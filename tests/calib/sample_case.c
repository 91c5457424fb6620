#include "tests/calib/sample_case.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/code_column.h"
#include "src/base/rng.h"
#include "tests/support/suite.h"

enum { N_HEAD = AQ_SAMPLE_N_HEAD, N_KV = AQ_SAMPLE_N_KV_HEAD, D = AQ_SAMPLE_D };

/* Upper triangular matrices that are inverses of one another but for transposition. */
static void fill_projection(aq_rng *rng, aq_projection *p) {
    for (int i = 0; i < p->n_layer * p->n_kv_head; i++) {
        float *pq = p->pq + i * D * D, *pk = p->pk + i * D * D;
        for (int c = 0; c < D; c++) {
            const double size = 0.7 + 0.6 * aq_rng_uniform(rng);
            pq[c * D + c] = (float)size;
            pk[c * D + c] = (float)(1 / size);
            p->sigma[i * D + c] = (float)((0.6 + 0.8 * aq_rng_uniform(rng)) * pow(0.85, c));
        }
        /* A shear of the first two columns: P_q = S (1 + a e_0 e_1^T), P_k = S^-1 (1 - a e_1
         * e_0^T). */
        const float a = (float)(0.5 + aq_rng_uniform(rng));
        pq[1] = pq[0] * a;
        pk[D] = -a * pk[D + 1];
    }
}

static void fill(float *x, int n_head, double shift, aq_rng *rng) {
    for (int i = 0; i < AQ_SAMPLE_N_TOK * n_head * D; i++)
        x[i] = (float)((shift + 2.5 * aq_rng_normal(rng)) * pow(0.85, i % D));
}

aq_sample_case *aq_sample_case_open(uint64_t seed) {
    aq_sample_case *c = calloc(1, sizeof *c);
    aq_rng rng = {seed};
    if (!c) {
        fprintf(stderr, "no memory for a test\n");
        exit(1);
    }
    fill(c->q, N_HEAD, 0, &rng);
    fill(c->k, N_KV, 0.3, &rng);
    c->projection = (aq_projection){.n_layer = 2, .n_kv_head = N_KV, .d_head = D};
    aq_test_ok(aq_projection_alloc(&c->projection));
    fill_projection(&rng, &c->projection);
    static const int64_t pos[AQ_SAMPLE_N_QUERY] = {20, 150, 211, 255, AQ_SAMPLE_N_TOK - 1};
    for (int i = 0; i < AQ_SAMPLE_N_QUERY; i++)
        c->pos[i] = pos[i];
    c->sample = (aq_sample){.layer = 1,
                            .n_head = N_HEAD,
                            .n_kv_head = N_KV,
                            .d_head = D,
                            .scale = 0.25f,
                            .n_tok = AQ_SAMPLE_N_TOK,
                            .q = c->q,
                            .k = c->k,
                            .pos = c->pos,
                            .n_query = AQ_SAMPLE_N_QUERY};
    return c;
}

void aq_sample_case_close(aq_sample_case *c) {
    aq_projection_free(&c->projection);
    free(c);
}

static double project(const float *x, const float *p, int column) {
    double sum = 0;
    for (int i = 0; i < D; i++)
        sum += (double)x[i] * (double)p[i * D + column];
    return sum;
}

double aq_sample_case_key(const aq_sample_case *c, int64_t s, int kv_head, int column) {
    const float *p = c->projection.pk + (c->sample.layer * N_KV + kv_head) * D * D;
    return project(c->k + (s * N_KV + kv_head) * D, p, column);
}

double aq_sample_case_query(const aq_sample_case *c, int64_t t, int head, int column) {
    const int kv_head = head / AQ_SAMPLE_N_GROUP;
    const float *p = c->projection.pq + (c->sample.layer * N_KV + kv_head) * D * D;
    return project(c->q + (t * N_HEAD + head) * D, p, column);
}

void aq_sample_case_levels(int bits, const float *x, int shift, double *out) {
    int begin = 0;
    for (int end = AQ_TILE - shift; begin < AQ_SAMPLE_N_TOK; begin = end, end += AQ_TILE) {
        float tile[AQ_TILE], level[AQ_TILE];
        aq_column_codes codes;
        end = end < AQ_SAMPLE_N_TOK ? end : AQ_SAMPLE_N_TOK;
        for (int s = 0; s < AQ_TILE; s++)
            tile[s] = begin + s < end ? x[begin + s] : x[begin];
        aq_column_fit(tile, bits, &codes);
        aq_column_levels(&codes, bits, level);
        for (int s = begin; s < end; s++)
            out[s] = (double)level[s - begin];
    }
}
