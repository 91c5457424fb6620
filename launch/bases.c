#include "launch/bases.h"

#include <stdlib.h>
#include <string.h>

#include "calib/calibrate.h"
#include "launch/progress.h"
#include "launch/prompt.h"

/* The text, and an engine of this rank alone: chunks of calibration need no exchange. */
typedef struct {
    const aq_program *program;
    aq_token_list ids;
    int32_t bos;
    aq_comm *self;
    aq_engine *engine;
    aq_progress progress;
} source;

static aq_status read_text(source *source) {
    const aq_options *options = source->program->options;
    AQ_TRY(aq_program_need(options->model, "-m MODEL"));
    AQ_TRY(aq_program_need(options->calibration, "--calibration TEXTFILE with --bases"));
    if (options->n_tok < 1) return aq_fail(AQ_ERR_USAGE, "--tokens must be at least 1");
    return aq_prompt_encode_file(options->model, options->calibration, &source->ids, &source->bos);
}

static aq_status open_source(source *source) {
    const aq_program *program = source->program;
    aq_engine_options options;
    AQ_TRY(aq_program_engine_options(program, &options));
    AQ_TRY(aq_prompt_share(program, program->first ? read_text(source) : AQ_OK, &source->ids));
    AQ_TRY(aq_comm_bcast(program->world, &source->bos, sizeof source->bos, 0));
    if (options.n_thread == 0) options.n_thread = aq_engine_threads(program->world);
    aq_status status = aq_comm_open_self(&source->self);
    if (status == AQ_OK) status = aq_engine_open(&options, source->self, &source->engine);
    return aq_comm_agree(program->world, status);
}

/* Chunks of rank 0 stand for all. */
static void show_progress(void *arg, int64_t n_done, int64_t n_all) {
    source *source = arg;
    aq_progress_update(&source->progress, n_done, n_all);
}

static aq_status solve(source *source, const aq_basis *bases, int n, aq_projection *out) {
    const aq_options *options = source->program->options;
    aq_comm *world = source->program->world;
    const char *slash = strrchr(options->calibration, '/');
    aq_gram gram;
    source->progress = aq_progress_start("calibrate", "chunks", source->program->first);
    const aq_calibrate_options how = {
        .n_tok = options->n_tok, .bos = source->bos, .arg = source, .progress = show_progress};
    AQ_TRY(aq_calibrate_sums(source->engine, world, source->ids.ids, source->ids.n, &how, &gram));
    aq_status status = AQ_OK;
    for (int i = 0; status == AQ_OK && i < n; i++) {
        status = aq_calibrate_solve_joined(world, &gram, bases[i], &out[i]);
        if (status == AQ_OK)
            aq_calibrate_sign(source->engine, slash ? slash + 1 : options->calibration, &out[i]);
    }
    aq_gram_close(&gram);
    return status;
}

aq_status aq_bases_solve(const aq_program *program, const aq_basis *bases, int n,
                         aq_projection *out) {
    source source = {.program = program, .bos = -1};
    memset(out, 0, (size_t)n * sizeof *out);
    aq_status status = open_source(&source);
    if (status == AQ_OK) status = solve(&source, bases, n, out);
    aq_engine_close(source.engine);
    aq_comm_close(source.self);
    free(source.ids.ids);
    return status;
}
