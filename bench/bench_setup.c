#include "bench/bench_setup.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "src/engine/device.h"
#include "src/engine/merge.h"
#include "src/engine/placement.h"
#include "src/model/model_file.h"
#include "src/model/synth.h"
#include "src/model/tokenizer.h"

static aq_status encode(const aq_tokenizer *tok, const char *path, aq_token_list *list) {
    char *text = NULL;
    size_t bytes = 0;
    if (aq_tokenizer_adds_bos(tok) && aq_tokenizer_bos(tok) >= 0)
        AQ_TRY(aq_token_list_push(list, aq_tokenizer_bos(tok)));
    AQ_TRY(aq_file_read(path, &text, &bytes));
    const aq_status status = aq_tokenizer_encode(tok, text, bytes, false, list);
    free(text);
    return status;
}

static aq_status encode_file(const aq_bench_options *options, aq_token_list *list) {
    aq_model_file *file = NULL;
    aq_tokenizer *tok = NULL;
    AQ_TRY(aq_model_file_open(options->model, &file));
    aq_status status = aq_tokenizer_open_model(file, &tok);
    aq_model_file_close(file);
    if (status == AQ_OK && aq_tokenizer_warning(tok))
        fprintf(stderr, "warning: %s\n", aq_tokenizer_warning(tok));
    if (status == AQ_OK) status = encode(tok, options->file, list);
    aq_tokenizer_close(tok);
    return status;
}

/* On rank 0: exactly n ids. */
static aq_status read_first_ids(const aq_bench_options *options, int64_t n, int32_t *ids) {
    if (aq_synth_is_name(options->model)) return aq_made_ids(options->model, n, ids);
    aq_token_list list = {NULL, 0, 0};
    aq_status status = encode_file(options, &list);
    if (status == AQ_OK && list.n < n)
        status = aq_fail(AQ_ERR_USAGE, "%s has %" PRId64 " tokens, this run needs %" PRId64,
                         options->file, list.n, n);
    if (status == AQ_OK) memcpy(ids, list.ids, (size_t)n * sizeof *ids);
    free(list.ids);
    return status;
}

aq_status aq_bench_read_ids(const aq_bench_options *options, aq_comm *world, int64_t n,
                            int32_t **ids) {
    aq_status status = AQ_OK;
    *ids = malloc((size_t)n * sizeof **ids);
    if (!*ids) status = aq_fail(AQ_ERR_MEMORY, "no memory for %" PRId64 " token ids", n);
    if (status == AQ_OK && aq_comm_rank(world) == 0) status = read_first_ids(options, n, *ids);
    AQ_TRY(aq_comm_agree(world, status));
    return aq_comm_bcast(world, *ids, (size_t)n * sizeof **ids, 0);
}

aq_status aq_bench_check_split(const aq_bench_options *options, const aq_comm *world) {
    const int n_share = options->split.n, n_rank = aq_comm_size(world);
    if (n_share == 0 || n_share == n_rank) return AQ_OK;
    return aq_fail(AQ_ERR_USAGE, "--split has %d shares, mpirun started %d ranks", n_share, n_rank);
}

aq_status aq_bench_open_engine(const aq_bench_options *options, aq_comm *comm, int n_thread,
                               aq_engine **out) {
    aq_engine_options engine_options = {.model_path = options->model,
                                        .projection_path = options->projection,
                                        .n_thread = n_thread,
                                        .n_tp = (int)options->n_tp};
    AQ_TRY(aq_device_choose(options->device, comm, &engine_options.device));
    AQ_TRY(aq_engine_open(&engine_options, comm, out));
    return options->split.n > 0 ? aq_engine_set_split(*out, options->split.values) : AQ_OK;
}

int aq_bench_threads(const aq_bench_options *options, const aq_comm *world) {
    const int n = options->n_thread > 0 ? (int)options->n_thread : aq_engine_threads(world);
    const aq_placement placement = aq_placement_of(world, n);
    char advice[256];
    if (aq_comm_rank(world) == 0 &&
        *aq_placement_advice(&placement, aq_comm_host(world), advice, sizeof advice))
        fprintf(stderr, "warning: %s\n", advice);
    return n;
}

/* The cache type of that name, which was checked when the options were read. */
static aq_kv_type cache_type(const char *name, aq_attn_mode attn) {
    aq_kv_type type = attn == AQ_ATTN_SELECT ? AQ_KV_Q8 : AQ_KV_BF16;
    if (name) aq_kv_type_parse(name, &type);
    return type;
}

static aq_session_options session_options(const aq_bench_options *options, aq_attn_mode attn) {
    aq_session_options out = {.n_batch = options->n_batch,
                              .attn = attn,
                              .k_ratio = options->k_ratio,
                              .s_ratio = options->s_ratio,
                              .rank_by = AQ_RANK_ENERGY,
                              .mass = options->mass,
                              .n_sink = options->n_sink,
                              .n_recent = options->n_recent,
                              .dense_prefill = strcmp(options->prefill, "dense") == 0,
                              .key_type = cache_type(options->key_type, attn),
                              .value_type = cache_type(options->value_type, attn)};
    if (options->selector) aq_code_layout_parse(options->selector, &out.codes);
    if (options->merge) aq_merge_parse(options->merge, &out.merge); /* checked likewise */
    if (strcmp(options->rank_by, "magnitude") == 0) out.rank_by = AQ_RANK_MAGNITUDE;
    if (strcmp(options->rank_by, "static") == 0) out.rank_by = AQ_RANK_STATIC;
    return out;
}

aq_status aq_bench_open_lanes(const aq_bench_options *options, aq_bench_test *test, int64_t n_ctx,
                              aq_lane lanes[AQ_BENCH_LANES_MAX], int *n_lane) {
    static const aq_attn_mode modes[] = {AQ_ATTN_DENSE, AQ_ATTN_AQUA, AQ_ATTN_SELECT};
    *n_lane = 0;
    for (int i = 0; i < AQ_BENCH_LANES_MAX; i++) {
        if (!(options->attn >> modes[i] & 1)) continue;
        const aq_session_options how = session_options(options, modes[i]);
        AQ_TRY(aq_lane_open(test, &how, n_ctx, &lanes[*n_lane]));
        ++*n_lane;
    }
    return AQ_OK;
}

/* What a made model has not. */
static aq_status open_made(aq_bench *bench) {
    const aq_bench_options *options = bench->options;
    if (!aq_synth_is_name(options->model)) return AQ_OK;
    AQ_TRY(aq_made_projection(bench->engine));
    AQ_TRY(aq_comm_agree(bench->world, aq_made_context_open(bench->engine, options->mass,
                                                            options->needed, &bench->made)));
    bench->test.fill = &bench->made.rows;
    return AQ_OK;
}

/* What rates are held against: memory of the hosts, or of rank 0's device if all have one. */
static aq_status measure_bandwidth(const aq_bench *bench, int n_thread, aq_bandwidth *out) {
    int64_t n_cuda = aq_engine_describe(bench->engine).device.cuda;
    *out = (aq_bandwidth){0};
    if (!(bench->options->command & (AQ_BENCH_DECODE | AQ_BENCH_PREFILL))) return AQ_OK;
    AQ_TRY(aq_comm_sum_i64(bench->world, &n_cuda, 1));
    if (n_cuda == 0) return aq_bandwidth_measure(bench->world, n_thread, AQ_BANDWIDTH_PASSES, out);
    const bool here = bench->first && n_cuda == aq_comm_size(bench->world);
    return aq_comm_agree(bench->world, here ? aq_bandwidth_copy(bench->engine->be, out) : AQ_OK);
}

aq_status aq_bench_open(const aq_bench_options *options, aq_comm *world, int64_t n_ctx,
                        aq_bench *out) {
    *out = (aq_bench){.options = options, .world = world, .first = aq_comm_rank(world) == 0};
    const int n_thread = aq_bench_threads(options, world);
    AQ_TRY(aq_bench_check_split(options, world));
    AQ_TRY(aq_bench_read_ids(options, world, n_ctx, &out->ids));
    aq_bandwidth bandwidth;
    AQ_TRY(aq_bench_open_engine(options, world, n_thread, &out->engine));
    AQ_TRY(measure_bandwidth(out, n_thread, &bandwidth));
    AQ_TRY(aq_bench_test_open(world, out->engine, (int)options->n_repeat, &out->test));
    AQ_TRY(open_made(out));
    out->test.ids = out->ids;
    AQ_TRY(aq_bench_open_lanes(options, &out->test, n_ctx, out->lanes, &out->n_lane));
    aq_status opened = AQ_OK;
    if (out->first) opened = aq_bench_table_open(options, aq_comm_host(world), &out->table);
    AQ_TRY(aq_comm_agree(world, opened));
    out->table.bandwidth = bandwidth;
    const aq_device device = aq_engine_describe(out->engine).device;
    if (device.cuda) aq_device_name(&device, out->table.cpu, sizeof out->table.cpu);
    if (out->first) aq_bench_table_head(&out->table);
    return AQ_OK;
}

void aq_bench_close(aq_bench *bench) {
    aq_bench_table_drop(&bench->table);
    for (int i = 0; i < bench->n_lane; i++)
        aq_lane_close(&bench->lanes[i]);
    aq_bench_test_close(&bench->test);
    aq_made_context_close(&bench->made);
    aq_engine_close(bench->engine);
    free(bench->ids);
}

aq_status aq_bench_step(aq_comm *world, aq_status status) {
    if (status == AQ_OK || aq_comm_size(world) == 1) return status;
    fprintf(stderr, "aqua-dist-bench: rank %d on %s: %s\n", aq_comm_rank(world),
            aq_comm_host(world), aq_error_text());
    fflush(stderr);
    aq_comm_abort(world, 1);
    return status;
}
