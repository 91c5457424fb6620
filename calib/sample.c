#include "calib/sample.h"

#include <stdlib.h>
#include <string.h>

#include "src/engine/engine.h"

#define LEAST_HELD_OUT 256

static int64_t min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

int64_t aq_sample_held_out(int64_t n, int64_t n_ctx) {
    const int64_t held = min(min(n / 4, AQ_SAMPLE_TOKENS), n_ctx);
    return held < LEAST_HELD_OUT ? 0 : held;
}

int64_t aq_sample_position(int64_t i, int64_t n_query, int64_t n_tok) {
    return n_tok - 1 - i * (n_tok - n_tok / 2) / n_query;
}

/* What the tap needs. */
typedef struct {
    const aq_model_config *config;
    aq_sample sample;
    aq_sample_fn take;
    void *arg;
} sampler;

static aq_status take_layer(void *arg, int layer, const int64_t *pos, int64_t n_tok, const float *q,
                            const float *k) {
    sampler *s = arg;
    (void)pos; /* the chunk is one step of one rank: row t is position t */
    if (aq_model_windowed(s->config, layer)) return AQ_OK;
    s->sample.layer = layer;
    s->sample.n_tok = n_tok;
    s->sample.q = q;
    s->sample.k = k;
    return s->take(s->arg, &s->sample);
}

/* This rank's queries, rising; the caller frees *pos. */
static aq_status deal_queries(const aq_comm *comm, int64_t n_query, int64_t n_tok, int64_t **pos,
                              int64_t *n_mine) {
    const int rank = aq_comm_rank(comm), n_rank = aq_comm_size(comm);
    n_query = min(n_query, n_tok - n_tok / 2);
    *pos = malloc((size_t)(n_query + 1) * sizeof **pos);
    if (!*pos) return aq_fail(AQ_ERR_MEMORY, "no memory for sampled queries");
    *n_mine = 0;
    for (int64_t i = n_query - 1; i >= 0; i--)
        if (i % n_rank == rank) (*pos)[(*n_mine)++] = aq_sample_position(i, n_query, n_tok);
    return AQ_OK;
}

static aq_status run_chunk(aq_engine *engine, const int32_t *ids, int64_t n, sampler *s) {
    const aq_session_options options = {.n_ctx = n,
                                        .n_batch = n,
                                        .attn = AQ_ATTN_DENSE,
                                        .key_type = AQ_KV_F32,
                                        .value_type = AQ_KV_F32};
    const aq_hooks hooks = {.arg = s, .tap = take_layer};
    aq_session *session = NULL;
    AQ_TRY(aq_session_open(engine, &options, &session));
    const aq_status status = aq_session_prefill(session, ids, n, &hooks);
    aq_session_close(session);
    return status;
}

/* With a BOS in front it takes the place of the last id, so that a chunk as long as the context
 * still fits. The caller frees *out. */
static aq_status chunk_ids(const int32_t *ids, int64_t n, int32_t bos, int32_t **out) {
    if (n < 1) return aq_fail(AQ_ERR_USAGE, "a sample of attention needs at least one token");
    *out = malloc((size_t)n * sizeof **out);
    if (!*out) return aq_fail(AQ_ERR_MEMORY, "no memory for a sample's tokens");
    const int64_t n_bos = bos >= 0 && n > 1;
    if (n_bos) (*out)[0] = bos;
    memcpy(*out + n_bos, ids, (size_t)(n - n_bos) * sizeof *ids);
    return AQ_OK;
}

static aq_status sample_local(aq_engine *engine, const aq_comm *comm, const int32_t *ids, int64_t n,
                              const aq_sample_options *options, sampler *s) {
    const int64_t n_query = options->n_query > 0 ? options->n_query : AQ_SAMPLE_QUERIES;
    int64_t *pos = NULL;
    int32_t *chunk = NULL;
    if (aq_comm_size(engine->comm) != 1)
        return aq_fail(AQ_ERR_USAGE, "sampling needs an engine of one rank on every rank");
    aq_status status = chunk_ids(ids, n, options->bos, &chunk);
    if (status == AQ_OK) status = deal_queries(comm, n_query, n, &pos, &s->sample.n_query);
    if (status == AQ_OK) status = aq_threads_open(engine->n_thread, &s->sample.team);
    s->sample.pos = pos;
    if (status == AQ_OK) status = run_chunk(engine, chunk, n, s);
    aq_threads_close(s->sample.team);
    free(pos);
    free(chunk);
    return status;
}

aq_status aq_sample_run(aq_engine *engine, aq_comm *comm, const int32_t *ids, int64_t n,
                        const aq_sample_options *options, aq_sample_fn take, void *arg) {
    const aq_model_config *config = &engine->config;
    sampler s = {.config = config, .take = take, .arg = arg};
    s.sample = (aq_sample){.n_head = config->n_head,
                           .n_kv_head = config->n_kv_head,
                           .d_head = config->d_head,
                           .scale = config->attn_scale};
    return aq_comm_agree(comm, sample_local(engine, comm, ids, n, options, &s));
}
