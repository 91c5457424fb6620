#include "calib/spread.h"

#include "src/engine/session.h"

/* The rows of one kind, moved on. */
static const float *rotate(const aq_spread *s, const aq_twin *rows, int n_head, int64_t n_tok,
                           const float *x) {
    const size_t bytes = (size_t)(n_tok * n_head * s->gram->d_head) * sizeof *x;
    aq_backend *be = s->engine->be;
    be->ops->upload(be, rows->there, x, bytes);
    be->ops->rope(be, &(aq_rope_args){.table = s->table,
                                      .n_tok = n_tok,
                                      .n_head = n_head,
                                      .d_head = s->gram->d_head,
                                      .n_rot = s->engine->config.n_rot,
                                      .x = (float *)(void *)rows->there});
    aq_twin_pull(be, rows, rows->host, bytes);
    return (const float *)(const void *)rows->host;
}

/* Where a step's queries and keys are moved to, further on in the context. */
static void make_table(const aq_spread *s, const int64_t *pos, int64_t n_tok) {
    aq_backend *be = s->engine->be;
    int64_t *shift = (int64_t *)(void *)s->shift.host;
    for (int64_t t = 0; t < n_tok; t++)
        shift[t] = pos[t] % s->n_shift * s->n;
    aq_twin_push(be, &s->shift, shift, (size_t)n_tok * sizeof *shift);
    be->ops->rope_table(be, &(aq_rope_table_args){.pos = aq_twin_there(&s->shift, shift),
                                                  .inv_freq = s->inv_freq,
                                                  .scale = 1.0f,
                                                  .n_tok = n_tok,
                                                  .n_rot = s->engine->config.n_rot,
                                                  .table = s->table});
}

void aq_spread_add(const aq_spread *s, int layer, const int64_t *pos, int64_t n_tok, const float *q,
                   const float *k) {
    if (s->table) {
        make_table(s, pos, n_tok);
        q = rotate(s, &s->q, s->gram->n_head, n_tok, q);
        k = rotate(s, &s->k, s->gram->n_kv_head, n_tok, k);
    }
    aq_gram_add_from(s->gram, layer, s->n_skip, pos, n_tok, q, k);
}

aq_status aq_spread_open(aq_engine *engine, const aq_session *session, int64_t n_ctx,
                         int64_t n_skip, aq_gram *gram, aq_spread *out) {
    const aq_model_config *config = &engine->config;
    const int64_t n_dense = session->options.n_ctx;
    const size_t n = (size_t)session->shape.n_tok_max, d = (size_t)config->d_head;
    aq_backend *be = engine->be;
    *out = (aq_spread){.engine = engine,
                       .gram = gram,
                       .n_skip = n_skip,
                       .n = n_dense,
                       .n_shift = (n_ctx + n_dense - 1) / n_dense,
                       .inv_freq = session->rope.inv_freq};
    if (out->n_shift <= 1 || config->n_rot == 0) return AQ_OK;
    AQ_TRY(aq_twin_open(be, n * sizeof(int64_t), &out->shift));
    AQ_TRY(aq_twin_open(be, n * (size_t)config->n_head * d * sizeof(float), &out->q));
    AQ_TRY(aq_twin_open(be, n * (size_t)config->n_kv_head * d * sizeof(float), &out->k));
    return be->ops->alloc(be, n * (size_t)config->n_rot * sizeof(float), (void **)&out->table);
}

void aq_spread_close(aq_spread *spread) {
    aq_twin *const twins[] = {&spread->shift, &spread->q, &spread->k};
    for (size_t i = 0; i < sizeof twins / sizeof twins[0]; i++)
        if (spread->engine) aq_twin_close(spread->engine->be, twins[i]);
    if (spread->table) spread->engine->be->ops->release(spread->engine->be, spread->table);
    *spread = (aq_spread){.table = NULL};
}
