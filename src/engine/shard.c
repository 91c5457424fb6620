#include "src/engine/shard.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/engine/engine.h"

static int64_t max(int64_t a, int64_t b) {
    return a > b ? a : b;
}

aq_status aq_shard_open(aq_engine *engine, int n_tp) {
    const int n_rank = aq_comm_size(engine->comm), n = n_tp == 0 ? 1 : n_tp;
    aq_shard *shard = &engine->shard;
    shard->share = (aq_share){1, 0};
    if (n < 0 || n_rank % n != 0)
        return aq_fail(AQ_ERR_USAGE,
                       "--tp %d: groups of so many ranks share the weights; it must divide the "
                       "%d ranks there are",
                       n, n_rank);
    if (n > engine->config.d_head)
        return aq_fail(AQ_ERR_USAGE, "--tp %d: no more than %d ranks can share the weights", n,
                       engine->config.d_head);
    if (n == 1) return AQ_OK;
    AQ_TRY(aq_comm_open_group(engine->comm, n, &shard->group));
    AQ_TRY(aq_coll_open(shard->group, &shard->coll));
    shard->share = (aq_share){n, aq_comm_rank(shard->group)};
    shard->bytes = calloc((size_t)n, sizeof *shard->bytes);
    if (shard->bytes) return AQ_OK;
    return aq_fail(AQ_ERR_MEMORY, "no memory for %d counts", n);
}

void aq_shard_close(aq_engine *engine) {
    aq_shard *shard = &engine->shard;
    aq_backend *be = engine->be;
    void *const blocks[] = {shard->mine, shard->all, shard->layer_memory};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        if (blocks[i]) be->ops->release(be, blocks[i]);
    free(shard->layer.experts);
    free(shard->stage);
    free(shard->bytes);
    aq_coll_close(shard->coll);
    aq_comm_close(shard->group);
    *shard = (aq_shard){.share = {1, 0}};
}

/* shard->bytes[r]: `unit` bytes for each of the rows of n_out that rank r has. */
static const int64_t *count_bytes(const aq_shard *shard, int64_t n_out, int64_t unit) {
    const int n = shard->share.n;
    for (int r = 0; r < n; r++)
        shard->bytes[r] = (aq_share_first(n_out, n, r + 1) - aq_share_first(n_out, n, r)) * unit;
    return shard->bytes;
}

/* One walk over a layer's matrices: measuring them, or bringing their rows together. */
typedef struct {
    const aq_engine *engine;
    aq_arena arena;
    int64_t most; /* bytes of one matrix */
    aq_status status;
} gathering;

/* The matrix is whole in its rank's file; here it becomes the one that all ranks have sent. */
static void gather_matrix(void *arg, aq_weight *matrix) {
    gathering *g = arg;
    const aq_shard *shard = &g->engine->shard;
    aq_backend *be = g->engine->be;
    const aq_weight mine = aq_share_of(matrix, shard->share);
    const int64_t row_bytes = aq_dtype_row_bytes(matrix->dtype, matrix->n_in);
    const size_t bytes = (size_t)(matrix->n_out * row_bytes);
    const size_t bias_bytes = (size_t)matrix->n_out * sizeof *matrix->bias;
    char *to = aq_arena_carve(&g->arena, bytes, 1), *here = be->host_memory ? to : shard->stage;
    float *bias =
        matrix->bias && !be->host_memory ? aq_arena_carve(&g->arena, bias_bytes, 1) : NULL;
    if (g->status != AQ_OK) return;
    g->status = aq_coll_allgatherv(shard->coll, mine.data,
                                   count_bytes(shard, matrix->n_out, row_bytes), here);
    if (here != to) be->ops->upload(be, to, here, bytes);
    if (bias) be->ops->upload(be, bias, matrix->bias, bias_bytes);
    matrix->data = to;
    if (bias) matrix->bias = bias;
}

/* shard->layer = the layer, as the file has it, with what is placed of it for each rank. */
static void take_layer(aq_engine *engine, int layer) {
    const aq_layer_weights *whole = &engine->weights.layers[layer];
    const aq_layer_weights *placed = &engine->placed.layers[layer];
    aq_layer_weights *out = &engine->shard.layer;
    aq_ffn_weights *experts = out->experts;
    const size_t n_expert = whole->experts ? (size_t)engine->config.n_expert : 0;
    *out = *placed;
    out->wq = whole->wq;
    out->wk = whole->wk;
    out->wv = whole->wv;
    out->wo = whole->wo;
    out->ffn = whole->ffn;
    out->experts = experts;
    if (n_expert > 0) memcpy(experts, whole->experts, n_expert * sizeof *experts);
}

/* Matrices of a layer that has experts or not. */
static void walk(aq_engine *engine, int layer, gathering *g) {
    take_layer(engine, layer);
    const bool experts = engine->weights.layers[layer].experts != NULL;
    aq_model_share_each(&engine->shard.layer, experts ? engine->config.n_expert : 0, gather_matrix,
                        g);
}

aq_status aq_shard_gather(aq_engine *engine, int layer, const aq_layer_weights **out) {
    aq_shard *shard = &engine->shard;
    *out = &engine->placed.layers[layer];
    if (shard->share.n == 1) return AQ_OK;
    gathering g = {.engine = engine,
                   .arena = aq_arena_over(shard->layer_memory, shard->layer_bytes)};
    walk(engine, layer, &g);
    *out = &shard->layer;
    return g.status;
}

/* Carves one matrix, and its bias where the host's cannot be used, from an arena that measures. */
static void measure_matrix(void *arg, aq_weight *matrix) {
    gathering *g = arg;
    const int64_t row_bytes = aq_dtype_row_bytes(matrix->dtype, matrix->n_in);
    const size_t bytes = (size_t)(matrix->n_out * row_bytes);
    aq_arena_carve(&g->arena, bytes, 1);
    if (matrix->bias && !g->engine->be->host_memory)
        aq_arena_carve(&g->arena, (size_t)matrix->n_out * sizeof *matrix->bias, 1);
    g->most = max(g->most, (int64_t)bytes);
}

/* Bytes of the largest layer's matrices; the largest matrix to *most. */
static size_t measure_layers(const aq_engine *engine, int64_t *most) {
    gathering g = {.engine = engine};
    size_t layer_bytes = 0;
    for (int i = 0; i < engine->config.n_layer; i++) {
        aq_layer_weights layer = engine->weights.layers[i];
        g.arena = aq_arena_measure();
        aq_model_share_each(&layer, layer.experts ? engine->config.n_expert : 0, measure_matrix,
                            &g);
        if (g.arena.used > layer_bytes) layer_bytes = g.arena.used;
    }
    *most = g.most;
    return layer_bytes;
}

/* The most numbers that a token's products give at once. */
static int64_t widest(const aq_engine *engine) {
    const aq_model_config *config = &engine->config;
    const int64_t qkv = (config->n_head + 2LL * config->n_kv_head) * config->d_head;
    const int64_t ffn = max(config->d_ff, config->d_expert);
    return max(max(qkv, ffn), max(config->d_model, engine->weights.output.n_out));
}

int64_t aq_shard_bytes(const aq_engine *engine, int n_tp) {
    int64_t most = 0;
    if (n_tp <= 1) return 0;
    return (int64_t)measure_layers(engine, &most) + 2 * widest(engine) * (int64_t)sizeof(float);
}

aq_status aq_shard_place(aq_engine *engine) {
    aq_shard *shard = &engine->shard;
    aq_backend *be = engine->be;
    const size_t number_bytes = (size_t)widest(engine) * sizeof(float);
    if (shard->share.n == 1) return AQ_OK;
    shard->layer.experts = calloc((size_t)engine->config.n_expert + 1, sizeof(aq_ffn_weights));
    if (!shard->layer.experts) return aq_fail(AQ_ERR_MEMORY, "no memory for a table of experts");
    int64_t most = 0;
    shard->layer_bytes = measure_layers(engine, &most);
    AQ_TRY(be->ops->alloc(be, shard->layer_bytes, &shard->layer_memory));
    AQ_TRY(be->ops->alloc(be, number_bytes, (void **)&shard->mine));
    AQ_TRY(be->ops->alloc(be, number_bytes, (void **)&shard->all));
    if (be->host_memory) return AQ_OK;
    shard->stage = malloc((size_t)max(most, (int64_t)number_bytes));
    return shard->stage ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory to share a layer's weights");
}

/* all[n] = the numbers of all ranks in rank order, of which this one's, n_mine at `mine`, may lie
 * in their place. */
static aq_status join(const aq_engine *engine, const float *mine, int64_t n_mine,
                      const int64_t *bytes, float *all, int64_t n) {
    const aq_shard *shard = &engine->shard;
    aq_backend *be = engine->be;
    if (be->host_memory) return aq_coll_allgatherv(shard->coll, mine, bytes, all);
    int64_t before = 0;
    for (int r = 0; r < shard->share.rank; r++)
        before += bytes[r];
    be->ops->download(be, shard->stage + before, mine, (size_t)n_mine * sizeof *mine);
    AQ_TRY(aq_coll_allgatherv(shard->coll, shard->stage + before, bytes, shard->stage));
    be->ops->upload(be, all, shard->stage, (size_t)n * sizeof *all);
    return AQ_OK;
}

static void multiply(const aq_engine *engine, const aq_matmul_each_args *args,
                     aq_session_stats *stats) {
    const int64_t start_ns = aq_clock_ns();
    engine->be->ops->matmul_each(engine->be, args);
    stats->matmul_ns += aq_clock_ns() - start_ns;
}

/* One product, or two of which one result comes: each rank's numbers go to their place in y. */
static aq_status product_in_place(const aq_engine *engine, const aq_matmul_each_args *args,
                                  int64_t n_out, aq_session_stats *stats) {
    const aq_shard *shard = &engine->shard;
    const int64_t first = aq_share_first(n_out, shard->share.n, shard->share.rank);
    aq_matmul_part parts[2];
    aq_matmul_each_args rows = *args;
    for (int p = 0; p < args->n_part; p++) {
        parts[p] = args->parts[p];
        parts[p].y += first;
    }
    rows.parts = parts;
    multiply(engine, &rows, stats);
    const int64_t start_ns = aq_clock_ns();
    const aq_status status =
        join(engine, parts[0].y, parts[0].n_out, count_bytes(shard, n_out, sizeof(float)),
             args->parts[0].y, n_out);
    stats->exchange_ns += aq_clock_ns() - start_ns;
    return status;
}

/* Several products: each rank sends its numbers of all of them in one message. */
static aq_status product_packed(const aq_engine *engine, const aq_matmul_each_args *args,
                                const int64_t *n_out, aq_session_stats *stats) {
    const aq_shard *shard = &engine->shard;
    const int n = shard->share.n;
    aq_backend *be = engine->be;
    aq_matmul_part parts[AQ_SHARD_PARTS];
    aq_matmul_each_args rows = *args;
    int64_t n_mine = 0, n_all = 0;
    for (int p = 0; p < args->n_part; p++) {
        parts[p] = args->parts[p];
        parts[p].y = shard->mine + n_mine;
        n_mine += parts[p].n_out;
        n_all += n_out[p];
    }
    rows.parts = parts;
    multiply(engine, &rows, stats);
    const int64_t start_ns = aq_clock_ns();
    for (int r = 0; r < n; r++) {
        shard->bytes[r] = 0;
        for (int p = 0; p < args->n_part; p++)
            shard->bytes[r] +=
                (aq_share_first(n_out[p], n, r + 1) - aq_share_first(n_out[p], n, r)) *
                (int64_t)sizeof(float);
    }
    AQ_TRY(join(engine, shard->mine, n_mine, shard->bytes, shard->all, n_all));
    const float *from = shard->all;
    for (int r = 0; r < n; r++)
        for (int p = 0; p < args->n_part; p++) {
            const int64_t first = aq_share_first(n_out[p], n, r);
            const int64_t n_row = aq_share_first(n_out[p], n, r + 1) - first;
            be->ops->copy(be, args->parts[p].y + first, from, (size_t)n_row * sizeof *from);
            from += n_row;
        }
    stats->exchange_ns += aq_clock_ns() - start_ns;
    return AQ_OK;
}

aq_status aq_shard_product(const aq_engine *engine, const aq_matmul_each_args *args,
                           const int64_t *n_out, aq_session_stats *stats) {
    if (args->parts[0].n_out == n_out[0]) {
        multiply(engine, args, stats);
        return AQ_OK;
    }
    if (args->n_part == 1 || args->activated)
        return product_in_place(engine, args, n_out[0], stats);
    return product_packed(engine, args, n_out, stats);
}

aq_status aq_shard_logits(const aq_engine *engine, const float *hidden, float *logits) {
    const aq_weight *output = &engine->placed.output;
    const int64_t n_vocab = engine->output.n_out;
    aq_backend *be = engine->be;
    aq_session_stats stats = {0}; /* callers take the time of logits themselves */
    const aq_matmul_part part = {
        .w = output->data, .dtype = output->dtype, .n_out = output->n_out, .y = engine->shard.all};
    AQ_TRY(aq_shard_product(
        engine,
        &(aq_matmul_each_args){
            .parts = &part, .n_part = 1, .n_in = output->n_in, .n_tok = 1, .x = hidden},
        &n_vocab, &stats));
    if (logits) be->ops->download(be, logits, engine->shard.all, (size_t)n_vocab * sizeof *logits);
    return be->ops->sync(be);
}

int64_t aq_shard_bytes_sent(const aq_shard *shard) {
    return shard->coll ? aq_coll_bytes_sent(shard->coll) : 0;
}

int64_t aq_shard_call_count(const aq_shard *shard) {
    return shard->coll ? aq_coll_call_count(shard->coll) : 0;
}
