/* Brings what the kernels read of a model into backend memory: weights once, when the engine opens,
 * and the projection. Where the backend uses the host's memory they stay where they are, most of
 * them in the map of the file. */
#include "src/engine/engine.h"
#include "src/engine/twin.h"

/* Weights are placed one behind the other in one block: once over no memory, for its size. */
typedef struct {
    aq_backend *be;
    aq_arena arena;
    const aq_synth *synth; /* of a made model, which is made piece by piece; else NULL */
} placing;

static const void *place(placing *p, const void *from, int64_t bytes) {
    if (!from) return NULL;
    void *to = aq_arena_carve(&p->arena, (size_t)bytes, 1);
    if (!to) return NULL;
    if (p->synth) aq_synth_make(p->synth, from, bytes);
    p->be->ops->upload(p->be, to, from, (size_t)bytes);
    if (p->synth) aq_synth_forget(p->synth, from, bytes);
    return to;
}

static const float *place_floats(placing *p, const float *from, int64_t n) {
    return place(p, from, n * (int64_t)sizeof *from);
}

static void place_weight(placing *p, const aq_weight *from, aq_weight *to) {
    if (!from->data) return;
    to->data = place(p, from->data, from->n_out * aq_dtype_row_bytes(from->dtype, from->n_in));
    to->bias = place_floats(p, from->bias, from->n_out);
}

static void place_norm(placing *p, const aq_norm_weight *from, int64_t n, aq_norm_weight *to) {
    to->w = place_floats(p, from->w, n);
    to->b = place_floats(p, from->b, n);
}

static void place_ffn(placing *p, const aq_ffn_weights *from, aq_ffn_weights *to) {
    place_weight(p, &from->w_gate, &to->w_gate);
    place_weight(p, &from->w_up, &to->w_up);
    place_weight(p, &from->w_down, &to->w_down);
}

static void place_layer(placing *p, const aq_model_config *config, const aq_layer_weights *from,
                        aq_layer_weights *to) {
    const int64_t d_model = config->d_model, d_head = config->d_head;
    const bool each = config->qk_norm_per_head;
    place_norm(p, &from->attn_norm, d_model, &to->attn_norm);
    place_norm(p, &from->attn_post_norm, d_model, &to->attn_post_norm);
    place_norm(p, &from->ffn_norm, d_model, &to->ffn_norm);
    place_norm(p, &from->ffn_post_norm, d_model, &to->ffn_post_norm);
    place_weight(p, &from->wq, &to->wq);
    place_weight(p, &from->wk, &to->wk);
    place_weight(p, &from->wv, &to->wv);
    place_weight(p, &from->wo, &to->wo);
    to->q_norm = place_floats(p, from->q_norm, each ? d_head : config->n_head * d_head);
    to->k_norm = place_floats(p, from->k_norm, each ? d_head : config->n_kv_head * d_head);
    place_ffn(p, &from->ffn, &to->ffn);
    place_weight(p, &from->router, &to->router);
    for (int e = 0; from->experts && e < config->n_expert; e++)
        place_ffn(p, &from->experts[e], &to->experts[e]);
}

static void place_all(placing *p, aq_engine *engine) {
    const aq_model_weights *from = &engine->kept;
    const aq_weight *output = &engine->weights.output;
    aq_model_weights *to = &engine->placed;
    place_weight(p, &from->embed, &to->embed);
    place_weight(p, &from->pos_embed, &to->pos_embed);
    place_norm(p, &from->output_norm, engine->config.d_model, &to->output_norm);
    engine->output = *output;
    if (output->data == from->embed.data)
        engine->output.data = to->embed.data;
    else
        place_weight(p, output, &engine->output);
    to->output = aq_share_of(&engine->output, engine->shard.share);
    for (int i = 0; i < engine->config.n_layer; i++)
        place_layer(p, &engine->config, &from->layers[i], &to->layers[i]);
}

static aq_status place_rows(aq_engine *engine) {
    aq_backend *be = engine->be;
    const size_t row = AQ_ENGINE_LOGIT_ROWS * sizeof(float);
    AQ_TRY(be->ops->alloc(be, row * (size_t)engine->config.d_model, (void **)&engine->rows));
    return be->ops->alloc(be, row * (size_t)engine->weights.output.n_out,
                          (void **)&engine->row_logits);
}

static aq_status place_on_device(aq_engine *engine) {
    aq_backend *be = engine->be;
    placing p = {be, aq_arena_measure(), aq_model_file_synth(engine->file)};
    AQ_TRY(aq_model_share_open(&engine->kept, &engine->config, (aq_share){1, 0}, &engine->placed));
    place_all(&p, engine);
    const size_t bytes = p.arena.used;
    if (be->ops->alloc(be, bytes, &engine->placed_memory) != AQ_OK)
        return aq_fail(AQ_ERR_MEMORY, "no memory for %.1f MiB of weights: %s",
                       (double)bytes / 1048576.0, aq_error_text());
    p.arena = aq_arena_over(engine->placed_memory, bytes);
    place_all(&p, engine);
    AQ_TRY(place_rows(engine));
    return be->ops->sync(be);
}

aq_status aq_engine_place(aq_engine *engine) {
    const aq_share share = engine->shard.share;
    AQ_TRY(aq_model_share_open(&engine->weights, &engine->config, share, &engine->kept));
    if (!engine->be->host_memory) AQ_TRY(place_on_device(engine));
    if (engine->be->host_memory) {
        engine->placed = engine->kept;
        engine->output = engine->weights.output;
    }
    return aq_shard_place(engine);
}

static void release_projection(aq_engine *engine) {
    float *const blocks[] = {engine->pq, engine->pk};
    for (int i = 0; i < 2 && !engine->be->host_memory; i++)
        if (blocks[i]) engine->be->ops->release(engine->be, blocks[i]);
    engine->pq = engine->pk = NULL;
}

aq_status aq_engine_place_projection(aq_engine *engine) {
    const aq_projection *p = &engine->projection;
    const size_t n_row = (size_t)p->n_layer * (size_t)p->n_kv_head * (size_t)p->d_head;
    const size_t bytes = n_row * (size_t)p->d_head * sizeof(float);
    release_projection(engine);
    if (!p->pq) return AQ_OK;
    if (engine->be->host_memory) {
        engine->pq = p->pq;
        engine->pk = p->pk;
        return AQ_OK;
    }
    AQ_TRY(aq_twin_place(engine->be, p->pq, bytes, (void **)&engine->pq));
    return aq_twin_place(engine->be, p->pk, bytes, (void **)&engine->pk);
}

void aq_engine_unplace(aq_engine *engine) {
    aq_backend *be = engine->be;
    if (!be) return;
    release_projection(engine);
    aq_model_share_close(&engine->kept, &engine->config);
    if (be->host_memory) return;
    void *const blocks[] = {engine->placed_memory, engine->rows, engine->row_logits};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        if (blocks[i]) be->ops->release(be, blocks[i]);
    aq_model_share_close(&engine->placed, &engine->config);
}
