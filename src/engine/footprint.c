#include "src/engine/footprint.h"

#include "src/engine/merge.h"
#include "src/engine/score.h"
#include "src/engine/session.h"

/* Numbers of a projection: two matrices and two rows of d_head for each layer and KV head. */
static int64_t projection_bytes(const aq_model_config *config) {
    const int64_t d = config->d_head, n_row = (int64_t)config->n_layer * config->n_kv_head;
    return n_row * (2 * d * d + 2 * d) * (int64_t)sizeof(float);
}

void aq_footprint_weights(const aq_engine *engine, const aq_plan *plan, int n_tp,
                          aq_footprint *out) {
    out->weights = engine->weights.bytes;
    out->moved = (int64_t)engine->weights.owned_bytes;
    if (n_tp <= 1) return;
    const aq_share share = {n_tp, plan->rank % n_tp};
    out->weights = aq_model_share_bytes(&engine->weights, &engine->config, share).kept;
    out->moved = 0;
}

aq_status aq_footprint_of(aq_engine *engine, const aq_plan *plan, int n_tp,
                          const aq_session_options *options, aq_footprint *out) {
    aq_session_bytes bytes;
    AQ_TRY(aq_session_measure(engine, plan, options, &bytes));
    const bool projects = aq_score_full(options, engine->config.d_head).projects;
    *out = (aq_footprint){.keys = bytes.cache.keys,
                          .values = bytes.cache.values,
                          .selector = bytes.cache.selector,
                          .open_tile = bytes.open_tile,
                          .step = bytes.step,
                          .other = bytes.other + aq_shard_bytes(engine, n_tp)};
    aq_footprint_weights(engine, plan, n_tp, out);
    if (projects || engine->projection.pq) out->projection = projection_bytes(&engine->config);
    if (engine->be->host_memory) out->other += aq_backend_cpu_bytes(engine->n_thread);
    return AQ_OK;
}

int64_t aq_footprint_own(const aq_footprint *f) {
    return f->moved + f->projection + f->keys + f->values + f->selector + f->open_tile + f->step +
           f->other;
}

/* Bytes of a row of each head as it travels. */
static int64_t rows_bytes(const aq_row_form *form, int n_head) {
    return n_head * aq_row_words(form) * (int64_t)sizeof(uint32_t);
}

/* What all other ranks and the token's own send each other for it in one layer of prefill, divided
 * by the number of others. */
static int64_t visit_bytes(const aq_model_config *config, const aq_step_shape *shape,
                           const aq_score_shape *score) {
    const aq_row_form query = aq_step_query_form(shape, score);
    const aq_row_form part = aq_step_part_form(shape, config);
    return rows_bytes(&query, config->n_head) + rows_bytes(&part, config->n_head);
}

/* Of a decoded token, of which each rank has a partial result of part_bytes a layer; n_evicting
 * layers drop tokens. */
static void merge_wire(const aq_model_config *config, int64_t part_bytes, int n_rank,
                       aq_merge_way way, int n_evicting, aq_wire *out) {
    const int64_t head_bytes = config->n_head * (int64_t)sizeof(float);
    const double share = (double)(n_rank - 1) / n_rank;
    out->decode_messages = config->n_layer;
    if (way == AQ_MERGE_TREE) {
        out->decode_bytes = 2 * share * (double)(config->n_layer * part_bytes);
    } else if (way == AQ_MERGE_ALLTOALL) {
        const int64_t merged = config->n_layer * head_bytes * config->d_head;
        out->decode_bytes =
            share * (double)(config->n_layer * part_bytes + merged + n_evicting * 2 * head_bytes);
        out->decode_messages += config->n_layer + n_evicting;
    } else {
        out->decode_bytes = (double)(config->n_layer * part_bytes * (n_rank - 1));
    }
}

/* One layer's matrices, summed up. */
typedef struct {
    int64_t bytes;
    int n;
} matrices;

static void add_matrix(void *arg, aq_weight *matrix) {
    matrices *sum = arg;
    sum->bytes += matrix->n_out * aq_dtype_row_bytes(matrix->dtype, matrix->n_in);
    sum->n++;
}

/* What sharing weights takes, with `part` of all numbers and rows for each rank to send. */
static void add_sharing(const aq_engine *engine, double part, aq_wire *out) {
    const aq_model_config *config = &engine->config;
    const int64_t n_q = (int64_t)config->n_head * config->d_head;
    const int64_t n_kv = (int64_t)config->n_kv_head * config->d_head;
    int64_t numbers = engine->weights.output.n_out;
    matrices all = {0, 0};
    out->share_decode_messages = 1;
    for (int i = 0; i < config->n_layer; i++) {
        const bool experts = aq_model_has_experts(config, i);
        const int n_ffn = experts ? config->n_expert_used : 1;
        const int64_t d_ff = experts ? config->d_expert : config->d_ff;
        aq_layer_weights layer = engine->weights.layers[i];
        numbers += n_q + 2 * n_kv + config->d_model + n_ffn * (d_ff + config->d_model);
        out->share_decode_messages += 2 + 2 * n_ffn;
        aq_model_share_each(&layer, layer.experts ? config->n_expert : 0, add_matrix, &all);
    }
    out->share_decode_bytes = part * (double)numbers * sizeof(float);
    out->share_chunk_bytes = part * (double)all.bytes;
    out->share_chunk_messages = all.n;
}

aq_status aq_wire_of(const aq_engine *engine, int n_rank, int n_tp,
                     const aq_session_options *options, aq_wire *out) {
    const aq_model_config *config = &engine->config;
    aq_session_options checked = *options;
    AQ_TRY(aq_score_check_options(engine, &checked));
    const aq_step_shape shape = {.wire_bf16 = checked.wire_bf16};
    const aq_score_shape full = aq_score_full(&checked, config->d_head);
    const aq_score_shape windowed = aq_score_windowed(config->d_head);
    const aq_row_form part = aq_step_part_form(&shape, config);
    const int n_windowed = aq_layer_set_count(&config->windowed);
    const int n_full = config->n_layer - n_windowed;
    const bool evicts = checked.n_h2o > 0;
    *out = (aq_wire){0};
    if (n_rank == 1) return AQ_OK;
    int64_t visit = n_full * visit_bytes(config, &shape, &full) +
                    n_windowed * visit_bytes(config, &shape, &windowed);
    if (evicts) visit += n_full * 2 * config->n_head * (int64_t)sizeof(float);
    merge_wire(config, rows_bytes(&part, config->n_head), n_rank,
               aq_merge_of(engine, checked.merge), evicts ? n_full : 0, out);
    out->prefill_bytes = (double)visit * (n_rank - 1) / n_rank;
    out->prefill_messages = 2 * config->n_layer + (evicts ? n_full : 0);
    if (n_tp > 1) add_sharing(engine, (double)(n_tp - 1) / n_tp, out);
    return AQ_OK;
}
