/* aqua-dist calibrate: text in, projection file out. Each rank runs its chunks of the text. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calib/choose.h"
#include "launch/choices.h"
#include "launch/program.h"
#include "launch/progress.h"
#include "launch/prompt.h"
#include "src/base/clock.h"

typedef struct {
    const aq_program *program;
    aq_comm *self; /* this rank alone: chunks need no exchange */
    aq_engine *engine;
    aq_token_list ids;
    int32_t bos;
    aq_projection projection;
    aq_choose_table choices;
    aq_progress progress;
    int64_t start_ns;
} calibrate_state;

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* On rank 0: the ids of the text, without a BOS of its own. */
static aq_status read_text(calibrate_state *state) {
    const aq_options *options = state->program->options;
    AQ_TRY(aq_program_need(options->model, "-m MODEL"));
    AQ_TRY(aq_program_need(options->file, "-f TEXTFILE"));
    if (options->n_tok < 1) return aq_fail(AQ_ERR_USAGE, "--tokens must be at least 1");
    return aq_prompt_encode_file(options->model, options->file, &state->ids, &state->bos);
}

static aq_status open_engine(calibrate_state *state) {
    const aq_program *program = state->program;
    aq_engine_options options;
    AQ_TRY(aq_program_engine_options(program, &options));
    if (options.n_thread == 0) options.n_thread = aq_engine_threads(program->world);
    aq_status status = aq_comm_open_self(&state->self);
    if (status == AQ_OK) status = aq_engine_open(&options, state->self, &state->engine);
    return aq_comm_agree(program->world, status);
}

/* Chunks done on rank 0 stand for all: the ranks have as many each. */
static void show_progress(void *arg, int64_t n_done, int64_t n_all) {
    calibrate_state *state = arg;
    const int64_t n_tok = state->program->options->n_tok;
    const int64_t n = state->ids.n < n_tok ? state->ids.n : n_tok;
    if (n_all > 0) aq_progress_update(&state->progress, n * n_done / n_all, n);
}

static aq_status save(const calibrate_state *state) {
    const aq_program *program = state->program;
    char *beside = aq_program_projection_path(program->options->model);
    const char *path = program->options->output ? program->options->output : beside;
    if (!path) return aq_fail(AQ_ERR_MEMORY, "no memory for a file name");
    const aq_status status = aq_calibrate_save(program->world, path, &state->projection);
    if (status == AQ_OK && program->first)
        fprintf(stderr, "wrote %s: basis %s, %" PRId64 " tokens of %s, %.1f s on %d ranks\n", path,
                aq_basis_name(state->projection.basis), state->projection.n_tok_calib,
                state->projection.domain, (double)(aq_clock_ns() - state->start_ns) * 1e-9,
                aq_comm_size(program->world));
    free(beside);
    return status;
}

static aq_status report(const calibrate_state *state) {
    const aq_program *program = state->program;
    const aq_projection *projection = &state->projection;
    aq_report *document = NULL;
    aq_status status = AQ_OK;
    if (program->options->report && program->first) {
        status = aq_report_open(&document);
        if (document) {
            aq_report_text(document, "version", AQUA_VERSION);
            aq_report_text(document, "basis", aq_basis_name(projection->basis));
            aq_report_text(document, "domain", projection->domain);
            aq_report_int(document, "tokens", projection->n_tok_calib);
            aq_report_int(document, "n_rank", aq_comm_size(program->world));
            aq_choices_report(&state->choices, projection, document);
            aq_report_real(document, "seconds", (double)(aq_clock_ns() - state->start_ns) * 1e-9);
            status = aq_report_write(document, program->options->report);
        }
        aq_report_close(document);
    }
    return aq_comm_agree(program->world, status);
}

static aq_status calibrate(calibrate_state *state) {
    const aq_program *program = state->program;
    const aq_options *options = program->options;
    aq_choose_options how = {.basis_given = options->basis != NULL,
                             .selector_bytes = options->selector_bytes,
                             .k_budget = options->k_budget};
    how.calibrate = (aq_calibrate_options){.basis = AQ_BASIS_JOINT,
                                           .n_tok = options->n_tok,
                                           .n_chunk_tok = options->n_ctx,
                                           .arg = state,
                                           .progress = show_progress};
    if (options->basis) AQ_TRY(aq_basis_parse(options->basis, &how.calibrate.basis));
    const aq_status read = program->first ? read_text(state) : AQ_OK;
    AQ_TRY(aq_prompt_share(program, read, &state->ids));
    AQ_TRY(aq_comm_bcast(program->world, &state->bos, sizeof state->bos, 0));
    AQ_TRY(open_engine(state));
    how.calibrate.bos = state->bos;
    how.calibrate.domain = file_name(options->file);
    state->progress = aq_progress_start("calibrate", "tokens", program->first);
    AQ_TRY(aq_choose(state->engine, program->world, state->ids.ids, state->ids.n, &how,
                     &state->projection, &state->choices));
    if (program->first) aq_choices_print(&state->choices, &state->projection, stderr);
    AQ_TRY(save(state));
    return report(state);
}

aq_status aq_command_calibrate(const aq_program *program) {
    calibrate_state state = {.program = program, .start_ns = aq_clock_ns()};
    const aq_status status = calibrate(&state);
    aq_projection_free(&state.projection);
    free(state.choices.rows);
    aq_engine_close(state.engine);
    aq_comm_close(state.self);
    free(state.ids.ids);
    return status;
}
