#include "tests/support/tiny_projection.h"

#include <math.h>
#include <string.h>

#include "src/base/rng.h"

/* A random orthogonal basis, by Gram and Schmidt: q[d, d], the vectors in columns. */
static void random_basis(aq_rng *rng, int d, double *q) {
    for (int j = 0; j < d; j++) {
        double squares = 0;
        for (int i = 0; i < d; i++)
            q[i * d + j] = aq_rng_normal(rng);
        for (int before = 0; before < j; before++) {
            double along = 0;
            for (int i = 0; i < d; i++)
                along += q[i * d + j] * q[i * d + before];
            for (int i = 0; i < d; i++)
                q[i * d + j] -= along * q[i * d + before];
        }
        for (int i = 0; i < d; i++)
            squares += q[i * d + j] * q[i * d + j];
        for (int i = 0; i < d; i++)
            q[i * d + j] /= sqrt(squares);
    }
}

static void fill(aq_projection *p, uint64_t seed) {
    const int d = p->d_head;
    aq_rng rng = {seed};
    double basis[AQ_TINY_PROJECTION_MAX_D * AQ_TINY_PROJECTION_MAX_D];
    for (int64_t problem = 0; problem < (int64_t)p->n_layer * p->n_kv_head; problem++) {
        random_basis(&rng, d, basis);
        for (int j = 0; j < d; j++) {
            const double apart = 0.5 + 1.5 * aq_rng_uniform(&rng);
            for (int i = 0; i < d; i++) {
                p->pq[(problem * d + i) * d + j] = (float)(basis[i * d + j] * apart);
                p->pk[(problem * d + i) * d + j] = (float)(basis[i * d + j] / apart);
            }
            p->sigma[problem * d + j] = (float)((0.5 + aq_rng_uniform(&rng)) * pow(0.93, j));
            p->spectrum[problem * d + j] = (float)(d - j);
        }
    }
}

aq_status aq_tiny_projection_make(const char *path, uint64_t seed, aq_projection *out) {
    aq_model_file *file = NULL;
    aq_model_config config;
    aq_model_weights weights = {0};
    *out = (aq_projection){.basis = AQ_BASIS_JOINT, .n_tok_calib = 1, .domain = "random"};
    aq_status status = aq_model_file_open(path, &file);
    if (status == AQ_OK) status = aq_model_config_read(file, &config);
    if (status == AQ_OK) status = aq_model_weights_open(file, &config, &weights);
    if (status == AQ_OK && config.d_head > AQ_TINY_PROJECTION_MAX_D)
        status = aq_fail(AQ_ERR_USAGE, "heads of %d are too wide for a tiny one", config.d_head);
    if (status == AQ_OK) {
        out->n_layer = config.n_layer;
        out->n_kv_head = config.n_kv_head;
        out->d_head = config.d_head;
        memcpy(out->fingerprint, weights.fingerprint, AQ_FINGERPRINT_BYTES);
        status = aq_projection_alloc(out);
    }
    if (status == AQ_OK) fill(out, seed);
    aq_model_weights_close(&weights);
    aq_model_file_close(file);
    return status;
}
