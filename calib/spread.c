#include "calib/spread.h"

#include <string.h>

#include "src/engine/session.h"

static void rotate(const aq_spread *s, int n_head, int64_t n_tok, float *x) {
    aq_backend *be = s->engine->be;
    be->ops->rope(be, &(aq_rope_args){.table = s->table,
                                      .n_tok = n_tok,
                                      .n_head = n_head,
                                      .d_head = s->gram->d_head,
                                      .n_rot = s->engine->config.n_rot,
                                      .x = x});
}

/* Copies of a step's queries and keys, further on in the context. */
static void move_on(const aq_spread *s, const int64_t *pos, int64_t n_tok, const float *q,
                    const float *k) {
    aq_backend *be = s->engine->be;
    const aq_gram *gram = s->gram;
    const size_t row = (size_t)(n_tok * gram->d_head) * sizeof(float);
    for (int64_t t = 0; t < n_tok; t++)
        s->shift[t] = pos[t] % s->n_shift * s->n;
    be->ops->rope_table(be, &(aq_rope_table_args){.pos = s->shift,
                                                  .inv_freq = s->inv_freq,
                                                  .scale = 1.0f,
                                                  .n_tok = n_tok,
                                                  .n_rot = s->engine->config.n_rot,
                                                  .table = s->table});
    memcpy(s->q, q, row * (size_t)gram->n_head);
    memcpy(s->k, k, row * (size_t)gram->n_kv_head);
    rotate(s, gram->n_head, n_tok, s->q);
    rotate(s, gram->n_kv_head, n_tok, s->k);
}

void aq_spread_add(const aq_spread *s, int layer, const int64_t *pos, int64_t n_tok, const float *q,
                   const float *k) {
    if (s->table) {
        move_on(s, pos, n_tok, q, k);
        q = s->q;
        k = s->k;
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
    AQ_TRY(be->ops->alloc(be, n * sizeof *out->shift, (void **)&out->shift));
    AQ_TRY(be->ops->alloc(be, n * (size_t)config->n_head * d * sizeof(float), (void **)&out->q));
    AQ_TRY(be->ops->alloc(be, n * (size_t)config->n_kv_head * d * sizeof(float), (void **)&out->k));
    return be->ops->alloc(be, n * (size_t)config->n_rot * sizeof(float), (void **)&out->table);
}

void aq_spread_close(aq_spread *spread) {
    void *const blocks[] = {spread->shift, spread->q, spread->k, spread->table};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        if (blocks[i]) spread->engine->be->ops->release(spread->engine->be, blocks[i]);
    *spread = (aq_spread){.table = NULL};
}
