#include "src/engine/engine.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/threads.h"

/* The bounds of the same numbers in a model file. */
#define MAX_ROPE_SCALE 1e6
#define MIN_ROPE_BASE  1.001
#define MAX_ROPE_BASE  1e15

int aq_engine_threads(const aq_comm *comm) {
    const int available = aq_threads_available();
    const int share = aq_threads_online() / aq_comm_size_on_host(comm);
    const int n = share < available ? share : available;
    return n > 0 ? n : 1;
}

/* Whether anything is asked of the rotary tables. */
static bool asks_for_rope(const aq_engine_options *options) {
    return options->rope_freq_base != 0 || options->rope_scale != 0 ||
           options->yarn_orig_ctx != 0 || options->rope_scaling != AQ_SCALING_MODEL;
}

/* Divisors of the frequencies were made for the model's own base and scaling: they would stay, and
 * mean nothing beside others. */
static aq_status check_divisors(const aq_engine_options *options, const aq_model_weights *weights) {
    const bool scaling = options->rope_scaling != AQ_SCALING_MODEL;
    if (!weights->rope_divisors || (!scaling && options->rope_freq_base == 0)) return AQ_OK;
    return aq_fail(AQ_ERR_USAGE,
                   "this model's rope frequencies are divided by factors of its own; %s cannot "
                   "replace them",
                   scaling ? "--rope-scaling" : "--rope-freq-base");
}

static aq_status apply_rope_options(const aq_engine_options *options, aq_model_config *config) {
    const double base = options->rope_freq_base;
    aq_rope_config *rope = &config->rope;
    if (config->n_rot == 0 && asks_for_rope(options)) /* their table ends where the context does */
        return aq_fail(AQ_ERR_USAGE, "this model's positions are learned, not rotary; leave the "
                                     "--rope options out");
    /* Written so that NaN fails. */
    if (base != 0 && !(base >= MIN_ROPE_BASE && base <= MAX_ROPE_BASE))
        return aq_fail(AQ_ERR_USAGE, "--rope-freq-base must be %g to %g", MIN_ROPE_BASE,
                       MAX_ROPE_BASE);
    if (!(options->rope_scale >= 0 && options->rope_scale <= MAX_ROPE_SCALE))
        return aq_fail(AQ_ERR_USAGE, "--rope-scale must be 1 to %g", MAX_ROPE_SCALE);
    if (options->yarn_orig_ctx < 0)
        return aq_fail(AQ_ERR_USAGE, "--yarn-orig-ctx must not be negative");
    if (base > 0) rope->base = base;
    if (options->rope_scaling == AQ_SCALING_MODEL) {
        if (options->rope_scale > 0)
            return aq_fail(AQ_ERR_USAGE, "--rope-scale needs --rope-scaling linear or yarn");
        return AQ_OK;
    }
    /* The model's own scaling goes, and with it what it added to the context. */
    if (rope->scaling != AQ_ROPE_NONE) config->n_ctx = rope->n_ctx_orig;
    rope->scaling = AQ_ROPE_NONE;
    rope->factor = 1.0;
    if (options->rope_scaling == AQ_SCALING_NONE) return AQ_OK;
    if (options->rope_scale < 1.0)
        return aq_fail(AQ_ERR_USAGE, "--rope-scaling linear or yarn needs --rope-scale N, N >= 1");
    rope->scaling = options->rope_scaling == AQ_SCALING_YARN ? AQ_ROPE_YARN : AQ_ROPE_LINEAR;
    rope->factor = options->rope_scale;
    rope->attn_factor = 1.0;
    rope->n_ctx_orig = options->yarn_orig_ctx > 0 ? options->yarn_orig_ctx : config->n_ctx;
    config->n_ctx = (int64_t)((double)config->n_ctx * options->rope_scale);
    return AQ_OK;
}

static aq_status open_local(aq_engine *engine, const aq_engine_options *options) {
    AQ_TRY(
        aq_plan_open(aq_comm_size(engine->comm), aq_comm_rank(engine->comm), NULL, &engine->plan));
    AQ_TRY(aq_model_file_open(options->model_path, &engine->file));
    AQ_TRY(aq_model_config_read(engine->file, &engine->config));
    AQ_TRY(aq_model_weights_open(engine->file, &engine->config, &engine->weights));
    AQ_TRY(apply_rope_options(options, &engine->config));
    AQ_TRY(check_divisors(options, &engine->weights));
    aq_model_config_fit_window(&engine->config);
    if (options->projection_path) {
        AQ_TRY(aq_projection_read(options->projection_path, &engine->projection));
        AQ_TRY(aq_projection_check(options->projection_path, &engine->projection, &engine->config,
                                   &engine->weights));
    }
    engine->n_thread = options->n_thread > 0 ? options->n_thread : aq_engine_threads(engine->comm);
    engine->device = options->device;
    engine->isa = options->device.cuda ? "cuda" : aq_cpu_isa_name(aq_cpu_isa_best());
    if (options->device.cuda) return aq_backend_cuda_open(options->device.index, &engine->be);
    return aq_backend_cpu_open(engine->n_thread, aq_cpu_isa_best(), &engine->be);
}

/* Goes on with the FNV-1a hash of n numbers, a number at a time. */
static uint64_t add_to_hash(uint64_t hash, const float *values, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        hash = (hash ^ bits) * 0x100000001b3u;
    }
    return hash;
}

/* Of everything in a projection that attention depends on; 0 without one. */
static uint64_t hash_projection(const aq_projection *p) {
    const int64_t n_row = (int64_t)p->n_layer * p->n_kv_head, n = n_row * p->d_head;
    if (!p->pq) return 0;
    uint64_t hash = add_to_hash(0xcbf29ce484222325u, p->pq, n * p->d_head);
    hash = add_to_hash(hash, p->pk, n * p->d_head);
    hash = add_to_hash(hash, p->sigma, n);
    for (int i = 0; i < p->codes.n_segment; i++) {
        const float segment[] = {(float)p->codes.segments[i].n, (float)p->codes.segments[i].bits};
        hash = add_to_hash(hash, segment, 2);
    }
    const float rest[] = {(float)p->n_dynamic, (float)p->break_even[0], (float)p->break_even[1],
                          p->k_energy};
    hash = add_to_hash(hash, rest, 4);
    return hash;
}

/* Every rank must hold rank 0's model and projection: compares what each has read. */
static aq_status check_same_model(aq_engine *engine, const aq_engine_options *options) {
    struct {
        uint8_t fingerprint[AQ_FINGERPRINT_BYTES];
        int64_t bytes;
        uint64_t projection;
    } first, mine;
    memset(&mine, 0, sizeof mine);
    memcpy(mine.fingerprint, engine->weights.fingerprint, AQ_FINGERPRINT_BYTES);
    mine.bytes = engine->weights.bytes;
    mine.projection = hash_projection(&engine->projection);
    first = mine;
    AQ_TRY(aq_comm_bcast(engine->comm, &first, sizeof first, 0));
    aq_status status = AQ_OK;
    if (memcmp(first.fingerprint, mine.fingerprint, AQ_FINGERPRINT_BYTES) != 0 ||
        first.bytes != mine.bytes)
        status = aq_fail(AQ_ERR_MISMATCH, "%s is another model than rank 0's; use one file",
                         options->model_path);
    else if (first.projection != mine.projection)
        status = aq_fail(AQ_ERR_MISMATCH, "%s is another projection than rank 0's; use one file",
                         options->projection_path ? options->projection_path : "no projection");
    return aq_comm_agree(engine->comm, status);
}

/* What can fail on this rank alone. */
static aq_status take_projection(aq_engine *engine, const aq_projection *projection) {
    aq_projection copy;
    if (engine->n_projecting > 0)
        return aq_fail(AQ_ERR_USAGE, "the projection is in use by an open session; close it first");
    AQ_TRY(aq_projection_check("the projection", projection, &engine->config, &engine->weights));
    AQ_TRY(aq_projection_copy(projection, &copy));
    aq_projection_free(&engine->projection);
    engine->projection = copy;
    engine->projection_is_set = true;
    return aq_engine_place_projection(engine);
}

aq_status aq_engine_set_projection(aq_engine *engine, const aq_projection *projection) {
    AQ_TRY(aq_comm_agree(engine->comm, take_projection(engine, projection)));
    uint64_t first = hash_projection(&engine->projection);
    const uint64_t mine = first;
    AQ_TRY(aq_comm_bcast(engine->comm, &first, sizeof first, 0));
    const aq_status status =
        first == mine ? AQ_OK : aq_fail(AQ_ERR_MISMATCH, "the projection is another than rank 0's");
    return aq_comm_agree(engine->comm, status);
}

const aq_projection *aq_engine_projection(const aq_engine *engine) {
    return engine->projection.pq ? &engine->projection : NULL;
}

/* What can fail on this rank alone. */
static aq_status plan_split(const aq_engine *engine, const int64_t *weights, aq_plan *out) {
    *out = (aq_plan){.owner = NULL};
    if (engine->n_session > 0)
        return aq_fail(AQ_ERR_USAGE, "ranks get other shares while no session is open; close it "
                                     "first");
    return aq_plan_open(engine->plan.n_rank, engine->plan.rank, weights, out);
}

/* Every rank must deal as rank 0 does. */
static aq_status check_same_split(const aq_engine *engine, const aq_plan *plan) {
    uint64_t first = 0xcbf29ce484222325u; /* FNV-1a */
    for (int t = 0; t < plan->n_period; t++)
        first = (first ^ (uint64_t)plan->owner[t]) * 0x100000001b3u;
    const uint64_t mine = first;
    AQ_TRY(aq_comm_bcast(engine->comm, &first, sizeof first, 0));
    const aq_status status = first == mine
                                 ? AQ_OK
                                 : aq_fail(AQ_ERR_MISMATCH, "the shares are others than rank 0's; "
                                                            "give every rank the same --split");
    return aq_comm_agree(engine->comm, status);
}

aq_status aq_engine_set_split(aq_engine *engine, const int64_t *weights) {
    aq_plan plan;
    aq_status status = aq_comm_agree(engine->comm, plan_split(engine, weights, &plan));
    if (status == AQ_OK) status = check_same_split(engine, &plan);
    if (status != AQ_OK) {
        aq_plan_close(&plan);
        return status;
    }
    aq_plan_close(&engine->plan);
    engine->plan = plan;
    return AQ_OK;
}

static aq_status place(aq_engine *engine) {
    AQ_TRY(aq_engine_place(engine));
    return aq_engine_place_projection(engine);
}

aq_status aq_engine_open(const aq_engine_options *options, aq_comm *comm, aq_engine **out) {
    *out = NULL;
    aq_engine *engine = calloc(1, sizeof *engine);
    aq_status status = AQ_OK;
    if (engine) {
        engine->comm = comm;
        status = open_local(engine, options);
    } else {
        status = aq_fail(AQ_ERR_MEMORY, "no memory for an engine");
    }
    status = aq_comm_agree(comm, status);
    if (status == AQ_OK) status = check_same_model(engine, options);
    if (status == AQ_OK) status = aq_comm_agree(comm, aq_shard_open(engine, options->n_tp));
    if (status == AQ_OK && options->before_load)
        status = aq_comm_agree(comm, options->before_load(options->check_arg, engine));
    if (status == AQ_OK && !options->unread) aq_engine_load(engine, options);
    if (status == AQ_OK) status = aq_comm_agree(comm, place(engine));
    if (status != AQ_OK) {
        aq_engine_close(engine);
        return status;
    }
    *out = engine;
    return AQ_OK;
}

void aq_engine_close(aq_engine *engine) {
    if (!engine) return;
    aq_engine_unplace(engine);
    aq_shard_close(engine);
    if (engine->be) engine->be->ops->close(engine->be);
    aq_projection_free(&engine->projection);
    aq_model_weights_close(&engine->weights);
    aq_model_file_close(engine->file);
    aq_plan_close(&engine->plan);
    free(engine);
}

aq_engine_info aq_engine_describe(const aq_engine *engine) {
    const aq_model_config *config = &engine->config;
    const aq_share_bytes kept = aq_model_share_bytes(&engine->weights, config, engine->shard.share);
    return (aq_engine_info){
        .arch = config->arch,
        .name = config->name,
        .isa = engine->isa,
        .n_layer = config->n_layer,
        .n_head = config->n_head,
        .n_kv_head = config->n_kv_head,
        .d_head = config->d_head,
        .d_model = config->d_model,
        .d_ff = config->d_ff,
        .n_vocab = config->n_vocab,
        .n_windowed_layer = aq_layer_set_count(&config->windowed),
        .window = config->window,
        .n_ctx_model = config->n_ctx,
        .weights_bytes = engine->weights.bytes,
        .kept_weights_bytes = kept.kept,
        .n_tp = engine->shard.share.n,
        .n_rank = aq_comm_size(engine->comm),
        .n_thread = engine->n_thread,
        .device = engine->device,
        .basis = engine->projection.pq ? aq_basis_name(engine->projection.basis) : NULL,
        .projection_is_set = engine->projection_is_set,
    };
}

aq_status aq_engine_logits_of(const aq_engine *engine, const float *x, int64_t n, float *logits) {
    const aq_weight *output = &engine->output;
    aq_backend *be = engine->be;
    float *there = be->host_memory ? logits : engine->row_logits;
    be->ops->matmul(be, &(aq_matmul_args){.w = output->data,
                                          .dtype = output->dtype,
                                          .n_out = output->n_out,
                                          .n_in = output->n_in,
                                          .n_tok = n,
                                          .x = x,
                                          .y = there});
    if (there != logits)
        be->ops->download(be, logits, there, (size_t)(n * output->n_out) * sizeof *logits);
    return be->ops->sync(be);
}

aq_status aq_engine_logits(aq_engine *engine, const float *hidden, int64_t n, float *logits) {
    const int64_t d_model = engine->config.d_model, n_out = engine->output.n_out;
    aq_backend *be = engine->be;
    if (be->host_memory) return aq_engine_logits_of(engine, hidden, n, logits);
    for (int64_t done = 0; done < n; done += AQ_ENGINE_LOGIT_ROWS) {
        const int64_t left = n - done,
                      n_row = left < AQ_ENGINE_LOGIT_ROWS ? left : AQ_ENGINE_LOGIT_ROWS;
        be->ops->upload(be, engine->rows, hidden + done * d_model,
                        (size_t)(n_row * d_model) * sizeof *hidden);
        AQ_TRY(aq_engine_logits_of(engine, engine->rows, n_row, logits + done * n_out));
    }
    return AQ_OK;
}
