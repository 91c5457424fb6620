#include "launch/program.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launch/devices.h"
#include "launch/faults.h"
#include "launch/progress.h"
#include "launch/shares.h"
#include "src/engine/device.h"
#include "src/engine/merge.h"
#include "src/engine/placement.h"
#include "src/model/projection_file.h"

aq_status aq_program_need(const char *value, const char *option) {
    if (value) return AQ_OK;
    return aq_fail(AQ_ERR_USAGE, "this command needs %s; see --help", option);
}

char *aq_program_projection_path(const char *model) {
    size_t length = strlen(model);
    while (length > 1 && model[length - 1] == '/') /* a folder */
        length--;
    const bool gguf = length > 5 && memcmp(model + length - 5, ".gguf", 5) == 0;
    const size_t stem = gguf ? length - 5 : length;
    char *path = malloc(stem + 6);
    if (!path) return NULL;
    memcpy(path, model, stem);
    memcpy(path + stem, ".aqua", 6);
    return path;
}

aq_status aq_program_engine_options(const aq_program *program, aq_engine_options *out) {
    const aq_options *options = program->options;
    *out = (aq_engine_options){.model_path = options->model,
                               .n_thread = (int)options->n_thread,
                               .n_tp = (int)options->n_tp,
                               .rope_scale = options->rope_scale,
                               .rope_freq_base = options->rope_freq_base,
                               .yarn_orig_ctx = options->yarn_orig_ctx};
    const char *scaling = options->rope_scaling;
    if (scaling && strcmp(scaling, "none") == 0) out->rope_scaling = AQ_SCALING_NONE;
    if (scaling && strcmp(scaling, "linear") == 0) out->rope_scaling = AQ_SCALING_LINEAR;
    if (scaling && strcmp(scaling, "yarn") == 0) out->rope_scaling = AQ_SCALING_YARN;
    return aq_device_choose(options->device, program->world, &out->device);
}

static aq_attn_mode attn_mode(const aq_options *options) {
    if (strcmp(options->attn, "aqua") == 0) return AQ_ATTN_AQUA;
    if (strcmp(options->attn, "pages") == 0) return AQ_ATTN_PAGES;
    return strcmp(options->attn, "select") == 0 ? AQ_ATTN_SELECT : AQ_ATTN_DENSE;
}

static bool projects(const aq_options *options) {
    return attn_mode(options) == AQ_ATTN_AQUA || attn_mode(options) == AQ_ATTN_SELECT;
}

static aq_status check_basis(const aq_options *options, const aq_engine *engine, const char *path) {
    const char *basis = aq_engine_describe(engine).basis;
    if (!options->basis || !basis || strcmp(options->basis, basis) == 0) return AQ_OK;
    return aq_fail(AQ_ERR_MISMATCH,
                   "%s holds basis %s, not %s; make it with aqua-dist calibrate --basis %s", path,
                   basis, options->basis, options->basis);
}

static void show_load(void *arg, int64_t n_done, int64_t n_all) {
    aq_progress_update(arg, n_done >> 20, n_all >> 20);
}

/* *path = the projection beside the model, or NULL if there is none: rank 0 looks, so that all
 * ranks do the same. Collective. */
static aq_status find_beside(const aq_program *program, const char *beside, const char **path) {
    int there = program->first && access(beside, F_OK) == 0;
    AQ_TRY(aq_comm_bcast(program->world, &there, sizeof there, 0));
    *path = there ? beside : NULL;
    return AQ_OK;
}

/* What is dense is not measured: said once, where it is measured. */
static void warn_of_auto(const aq_program *program) {
    const aq_command command = program->options->command;
    if (!program->first || command == AQ_CMD_RUN || command == AQ_CMD_PLAN) return;
    fprintf(stderr,
            "note: no projection file: each context makes its own from its first 4096 tokens, "
            "which are dense; shorter ones are dense throughout\n");
}

/* Ranks and threads that are in each other's way. */
static void warn_of_placement(const aq_program *program, const aq_engine *engine) {
    char advice[256];
    if (!program->first) return;
    const aq_placement placement =
        aq_placement_of(program->world, aq_engine_describe(engine).n_thread);
    if (*aq_placement_advice(&placement, aq_comm_host(program->world), advice, sizeof advice))
        fprintf(stderr, "note: %s\n", advice);
}

/* --merge auto: measures, and says what is taken. plan, which has no weights, does not. */
static aq_status choose_merge(const aq_program *program, aq_engine *engine) {
    const aq_options *options = program->options;
    aq_merge_times times;
    if (strcmp(options->merge, "auto") != 0 || options->command == AQ_CMD_PLAN) return AQ_OK;
    if (aq_comm_size(program->world) == 1) return AQ_OK;
    AQ_TRY(aq_merge_choose(engine, strcmp(options->wire, "bf16") == 0, &times));
    if (program->first)
        fprintf(stderr,
                "merge: allgather takes %.1f us a layer, alltoall %.1f (the slowest rank's "
                "median): %s\n",
                (double)times.allgather_ns * 1e-3, (double)times.alltoall_ns * 1e-3,
                aq_merge_name(aq_merge_of(engine, AQ_MERGE_AUTO)));
    return AQ_OK;
}

/* A projection from a file is not made anew. */
static aq_status check_saving(const aq_options *options, const char *path) {
    if (!path || !options->save_projection) return AQ_OK;
    return aq_fail(AQ_ERR_USAGE,
                   "--save-projection keeps what is made from the context, and %s is there; add "
                   "--projection auto",
                   path);
}

aq_status aq_program_open_engine(const aq_program *program, aq_engine **out) {
    return aq_program_open_engine_as(program, &(aq_engine_options){0}, out);
}

aq_status aq_program_open_engine_as(const aq_program *program, const aq_engine_options *extra,
                                    aq_engine **out) {
    const aq_options *options = program->options;
    aq_progress progress = aq_progress_start("load", "MiB", program->first);
    aq_engine_options engine_options;
    *out = NULL;
    AQ_TRY(aq_program_engine_options(program, &engine_options));
    engine_options.load_progress = show_load;
    engine_options.arg = &progress;
    engine_options.before_load = extra->before_load;
    engine_options.check_arg = extra->check_arg;
    engine_options.unread = extra->unread;
    AQ_TRY(aq_program_need(options->model, "-m MODEL"));
    if (options->n_dynamic < 0 || options->n_dynamic > INT_MAX)
        return aq_fail(AQ_ERR_USAGE, "--selector-dynamic is out of range");
    if (options->n_thread < 0 || options->n_thread > 1024)
        return aq_fail(AQ_ERR_USAGE, "-t takes 0 to 1024 threads");
    if (options->n_tp < 1 || options->n_tp > INT_MAX)
        return aq_fail(AQ_ERR_USAGE, "--tp takes 1 or more ranks");
    AQ_TRY(aq_shares_check(program));

    char *beside = NULL;
    const char *path = options->projection;
    if (!path && !options->auto_projection && projects(options)) {
        beside = aq_program_projection_path(options->model);
        if (!beside) return aq_fail(AQ_ERR_MEMORY, "no memory for a file name");
        AQ_TRY(find_beside(program, beside, &path));
    }
    if (!path && projects(options)) warn_of_auto(program);
    engine_options.projection_path = path;
    aq_status status = check_saving(options, path);
    if (status == AQ_OK) status = aq_engine_open(&engine_options, program->world, out);
    if (status == AQ_OK) status = check_basis(options, *out, path);
    if (status == AQ_OK) status = aq_devices_tell(program, *out);
    if (status == AQ_OK) warn_of_placement(program, *out);
    if (status == AQ_OK) status = choose_merge(program, *out);
    if (status != AQ_OK) {
        aq_engine_close(*out);
        *out = NULL;
    }
    free(beside);
    return status;
}

aq_session_options aq_program_session_options(const aq_options *options, int64_t n_ctx) {
    aq_session_options out = {.n_ctx = n_ctx,
                              .n_batch = options->n_batch,
                              .attn = attn_mode(options),
                              .k_ratio = options->k_ratio,
                              .k_tau = options->k_tau,
                              .k_budget = options->use_k_budget,
                              .s_ratio = options->s_ratio,
                              .rank_by = AQ_RANK_ENERGY,
                              .mass = options->mass,
                              .mass_exchange = options->mass_exchange,
                              .n_sink = options->n_sink,
                              .n_recent = options->n_recent,
                              .group_mean = strcmp(options->group_by, "mean") == 0,
                              .dense_prefill = strcmp(options->prefill, "dense") == 0,
                              .n_dynamic = (int)options->n_dynamic,
                              .n_page = options->n_page,
                              .page_share = options->page_share,
                              .n_dense_layer = options->n_dense_layer,
                              .hybrid = options->hybrid,
                              .n_h2o = options->n_h2o,
                              .wire_bf16 = strcmp(options->wire, "bf16") == 0};
    /* The names were checked when the options were read. */
    aq_merge_parse(options->merge, &out.merge);
    aq_kv_type_parse(options->key_type, &out.key_type);
    aq_kv_type_parse(options->value_type, &out.value_type);
    if (options->selector) aq_code_layout_parse(options->selector, &out.codes);
    if (strcmp(options->rank_by, "magnitude") == 0) out.rank_by = AQ_RANK_MAGNITUDE;
    if (strcmp(options->rank_by, "static") == 0) out.rank_by = AQ_RANK_STATIC;
    return out;
}

aq_status aq_program_step(const aq_program *program, aq_status status) {
    if (status == AQ_OK || aq_comm_size(program->world) == 1) return status;
    aq_faults_end(program->world);
    return status;
}

static void report_pages(aq_report *report, const aq_options *options) {
    aq_report_int(report, "page", options->n_page);
    aq_report_real(report, "attended_asked", options->page_share);
    aq_report_int(report, "dense_layers", options->n_dense_layer);
    aq_report_int(report, "sinks", options->n_sink);
    aq_report_int(report, "recent", options->n_recent);
    aq_report_text(report, "prefill", options->prefill);
}

static void report_select(aq_report *report, const aq_options *options, const aq_engine *engine) {
    const aq_projection *projection = aq_engine_projection(engine);
    aq_code_layout codes = {0};
    char text[64];
    if (options->selector)
        aq_code_layout_parse(options->selector, &codes);
    else if (projection)
        codes = aq_projection_codes(projection);
    aq_report_text(report, "selector", aq_code_layout_text(&codes, text, sizeof text));
    aq_report_real(report, "mass_asked", options->mass);
    aq_report_int(report, "sinks", options->n_sink);
    aq_report_int(report, "recent", options->n_recent);
    aq_report_text(report, "group_by", options->group_by);
    aq_report_text(report, "prefill", options->prefill);
}

void aq_program_report_engine(aq_report *report, const aq_program *program,
                              const aq_engine *engine) {
    const aq_options *options = program->options;
    const aq_engine_info info = aq_engine_describe(engine);
    aq_report_text(report, "version", AQUA_VERSION);
    aq_report_group(report, "model");
    aq_report_text(report, "path", options->model);
    aq_report_text(report, "arch", info.arch);
    aq_report_text(report, "name", info.name);
    aq_report_int(report, "weights_bytes", info.weights_bytes);
    aq_report_int(report, "kept_weights_bytes", info.kept_weights_bytes);
    aq_report_end(report);
    aq_report_text(report, "attn", options->attn);
    if (info.basis && projects(options)) aq_report_text(report, "basis", info.basis);
    if (attn_mode(options) == AQ_ATTN_AQUA) {
        aq_report_text(report, "rank_by", options->rank_by);
        aq_report_real(report, "k_ratio", options->k_ratio);
        aq_report_real(report, "k_tau", options->k_tau);
        aq_report_real(report, "s_ratio", options->s_ratio);
    }
    if (attn_mode(options) == AQ_ATTN_SELECT) report_select(report, options, engine);
    if (attn_mode(options) == AQ_ATTN_PAGES) report_pages(report, options);
    aq_report_text(report, "key_type", options->key_type);
    aq_report_text(report, "value_type", options->value_type);
    aq_report_text(report, "wire", options->wire);
    aq_merge_way merge = AQ_MERGE_ALLGATHER;
    aq_merge_parse(options->merge, &merge);
    aq_report_text(report, "merge", aq_merge_name(aq_merge_of(engine, merge)));
    aq_report_int(report, "n_rank", info.n_rank);
    aq_report_int(report, "n_thread", info.n_thread);
    aq_report_int(report, "n_tp", info.n_tp);
    if (options->split) aq_report_text(report, "split", options->split);
    aq_report_text(report, "isa", info.isa);
    char device[64];
    aq_report_text(report, "device", aq_device_name(&info.device, device, sizeof device));
}
