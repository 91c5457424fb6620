#include "bench/made_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"

#define MADE_TILES  64 /* that differ */
#define N_DRAW      64
#define N_HALVE     16 /* steps of the search for the spread of the scores */
#define MOST_SPREAD 16.0

aq_status aq_made_ids(const char *model, int64_t n, int32_t *ids) {
    aq_model_file *file = NULL;
    aq_model_config config;
    aq_rng rng = {5};
    AQ_TRY(aq_model_file_open(model, &file));
    const aq_status status = aq_model_config_read(file, &config);
    aq_model_file_close(file);
    for (int64_t i = 0; status == AQ_OK && i < n; i++)
        ids[i] = (int32_t)(aq_rng_next(&rng) % (uint64_t)config.n_vocab);
    return status;
}

static void make_identity(aq_projection *p) {
    const int64_t n_row = (int64_t)p->n_layer * p->n_kv_head * p->d_head;
    for (int64_t row = 0; row < n_row; row++) {
        const int64_t diagonal = row * p->d_head + row % p->d_head;
        p->pq[diagonal] = p->pk[diagonal] = 1.0f;
        p->sigma[row] = p->spectrum[row] = 1.0f;
    }
}

aq_status aq_made_projection(aq_engine *engine) {
    aq_projection p = {.basis = AQ_BASIS_IDENTITY,
                       .n_layer = engine->config.n_layer,
                       .n_kv_head = engine->config.n_kv_head,
                       .d_head = engine->config.d_head};
    snprintf(p.domain, sizeof p.domain, "made");
    memcpy(p.fingerprint, engine->weights.fingerprint, sizeof p.fingerprint);
    aq_status status = aq_comm_agree(engine->comm, aq_projection_alloc(&p));
    if (status == AQ_OK) {
        make_identity(&p);
        status = aq_engine_set_projection(engine, &p);
    }
    aq_projection_free(&p);
    return status;
}

/* A standard normal score of a token. */
typedef struct {
    double z;
    int64_t token;
} scored;

/* Scores of the heads of a group, drawn some times. */
typedef struct {
    int64_t n_tok;
    int n_head;
    scored *scores; /* [N_DRAW, n_head, n_tok], each head's falling */
    bool *needed;   /* [n_tok] */
} draws;

static int falling(const void *a, const void *b) {
    const double x = ((const scored *)a)->z, y = ((const scored *)b)->z;
    return (x < y) - (x > y);
}

static aq_status draw(int64_t n_tok, int n_head, draws *out) {
    aq_rng rng = {7};
    const int64_t n_row = (int64_t)N_DRAW * n_head;
    *out = (draws){.n_tok = n_tok, .n_head = n_head};
    out->scores = malloc((size_t)(n_row * n_tok) * sizeof *out->scores);
    out->needed = malloc((size_t)n_tok * sizeof *out->needed);
    if (!out->scores || !out->needed)
        return aq_fail(AQ_ERR_MEMORY, "no memory to make a context from");
    for (int64_t i = 0; i < n_row * n_tok; i++)
        out->scores[i] = (scored){aq_rng_normal(&rng), i % n_tok};
    for (int64_t row = 0; row < n_row; row++)
        qsort(out->scores + row * n_tok, (size_t)n_tok, sizeof *out->scores, falling);
    return AQ_OK;
}

/* Marks the fewest tokens whose exp(spread z) hold the share `mass` of all. */
static void mark(const draws *d, const scored *scores, double spread, double mass) {
    double sum = 0, held = 0;
    for (int64_t t = 0; t < d->n_tok; t++)
        sum += exp(spread * scores[t].z);
    for (int64_t t = 0; t < d->n_tok && held < mass * sum; t++) {
        held += exp(spread * scores[t].z);
        d->needed[scores[t].token] = true;
    }
}

/* Share of the tokens that a head of the group needs, mean over the draws. */
static double needed_share(const draws *d, double spread, double mass) {
    int64_t n = 0;
    for (int i = 0; i < N_DRAW; i++) {
        memset(d->needed, 0, (size_t)d->n_tok * sizeof *d->needed);
        for (int h = 0; h < d->n_head; h++)
            mark(d, d->scores + ((int64_t)i * d->n_head + h) * d->n_tok, spread, mass);
        for (int64_t t = 0; t < d->n_tok; t++)
            n += d->needed[t];
    }
    return (double)n / (double)(N_DRAW * d->n_tok);
}

aq_status aq_made_spread(double mass, double needed, int n_head, int64_t n_tok, double *spread) {
    draws d;
    double low = 0, high = MOST_SPREAD;
    aq_status status = draw(n_tok, n_head, &d);
    for (int i = 0; i < N_HALVE && status == AQ_OK; i++) {
        const double middle = 0.5 * (low + high);
        if (needed_share(&d, middle, mass) > needed)
            low = middle;
        else
            high = middle;
    }
    free(d.scores);
    free(d.needed);
    *spread = high;
    return status;
}

aq_status aq_made_context_open(const aq_engine *engine, double mass, double needed,
                               aq_made_context *out) {
    const aq_model_config *config = &engine->config;
    const int64_t n_tok = MADE_TILES * AQ_TILE, n = n_tok * config->n_kv_head * config->d_head;
    const int n_head = config->n_head / config->n_kv_head;
    aq_rng rng = {6};
    double spread;
    AQ_TRY(aq_made_spread(mass, needed, n_head, n_tok, &spread));
    const double length = spread / ((double)config->attn_scale * sqrt((double)config->d_head));
    float *key = malloc(2 * (size_t)n * sizeof *key);
    if (!key) return aq_fail(AQ_ERR_MEMORY, "no memory to make a context from");
    for (int64_t i = 0; i < n; i++)
        key[i] = (float)(length * aq_rng_normal(&rng));
    for (int64_t i = 0; i < n; i++)
        key[n + i] = (float)aq_rng_normal(&rng);
    *out = (aq_made_context){.rows = {key, key + n, n_tok}, .memory = key};
    return AQ_OK;
}

void aq_made_context_close(aq_made_context *context) {
    free(context->memory);
    *context = (aq_made_context){.memory = NULL};
}
