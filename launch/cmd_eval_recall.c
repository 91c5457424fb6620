/* aqua-dist eval recall: how much of the attention mass selecting attention holds, layer by layer,
 * and how many tokens it takes for it. Each chunk of the text runs densely; sampled queries of its
 * second half choose tokens as attention would (calib/trial.h). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "calib/sample.h"
#include "calib/trial.h"
#include "launch/program.h"
#include "launch/progress.h"
#include "launch/prompt.h"
#include "src/base/file.h"

typedef struct {
    const aq_program *program;
    aq_comm *self; /* this rank alone */
    aq_engine *engine;
    aq_token_list ids;
    int32_t bos;
    aq_selector selector;
    aq_mass_rule rule;
    int64_t n_chunk, chunk_tok;
    int n_layer;
    aq_trial_recall_sum *layers; /* [n_layer]; n 0: a layer that sees a window */
} recall_state;

/* On rank 0: the ids of the text, without a BOS of its own. */
static aq_status read_text(recall_state *state) {
    const aq_options *options = state->program->options;
    AQ_TRY(aq_program_need(options->model, "-m MODEL"));
    AQ_TRY(aq_program_need(options->file, "-f TEXTFILE"));
    return aq_prompt_encode_file(options->model, options->file, &state->ids, &state->bos);
}

/* This rank's own engine, with the projection. Local. */
static aq_status open_engine(recall_state *state) {
    const aq_program *program = state->program;
    const aq_options *options = program->options;
    aq_engine_options how;
    AQ_TRY(aq_program_engine_options(program, &how));
    if (how.n_thread == 0) how.n_thread = aq_engine_threads(program->world);
    if (options->auto_projection)
        return aq_fail(AQ_ERR_USAGE, "eval recall needs a projection file, not auto; make one with "
                                     "aqua-dist calibrate");
    char *beside = aq_program_projection_path(options->model);
    if (!beside) return aq_fail(AQ_ERR_MEMORY, "no memory for a file name");
    how.projection_path = options->projection ? options->projection : beside;
    aq_status status = AQ_OK;
    if (!options->projection && access(beside, F_OK) != 0)
        status = aq_fail(AQ_ERR_IO,
                         "eval recall needs a projection and there is no %s; make it with "
                         "aqua-dist calibrate -m %s -f TEXT",
                         beside, options->model);
    if (status == AQ_OK) status = aq_comm_open_self(&state->self);
    if (status == AQ_OK) status = aq_engine_open(&how, state->self, &state->engine);
    free(beside);
    return status;
}

/* The selector and rule of the options. Local. */
static aq_status make_rule(recall_state *state) {
    const aq_options *options = state->program->options;
    const aq_projection *projection = aq_engine_projection(state->engine);
    state->rule = (aq_mass_rule){.mass = options->mass,
                                 .n_sink = options->n_sink,
                                 .n_recent = options->n_recent,
                                 .group_mean = strcmp(options->group_by, "mean") == 0};
    state->selector = (aq_selector){aq_projection_codes(projection), projection->n_dynamic};
    if (options->selector) {
        AQ_TRY(aq_code_layout_parse(options->selector, &state->selector.codes));
        state->selector.n_dynamic = 0;
    }
    if (options->n_dynamic > 0) state->selector.n_dynamic = (int)options->n_dynamic;
    if (state->selector.n_dynamic > 0 && state->selector.codes.n_segment > 1)
        return aq_fail(AQ_ERR_USAGE, "eval recall tries --selector-dynamic with one number of bits "
                                     "only; give a --selector such as 32x4");
    const int n_col = aq_code_layout_columns(&state->selector.codes);
    if (n_col > projection->d_head || options->n_dynamic < 0 || options->n_dynamic > n_col)
        return aq_fail(AQ_ERR_USAGE,
                       "the selector needs %d columns and reads %" PRId64 "; there "
                       "are %d",
                       n_col, options->n_dynamic, projection->d_head);
    if (!(options->mass > 0 && options->mass <= 1) || options->n_sink < 0 || options->n_recent < 1)
        return aq_fail(AQ_ERR_USAGE,
                       "--mass must be above 0 and at most 1, --sinks 0 and --recent 1 "
                       "at least");
    return AQ_OK;
}

static aq_status open_local(recall_state *state) {
    const aq_options *options = state->program->options;
    AQ_TRY(open_engine(state));
    AQ_TRY(make_rule(state));
    const aq_engine_info info = aq_engine_describe(state->engine);
    state->chunk_tok = options->n_ctx > 0 ? options->n_ctx : AQ_SAMPLE_TOKENS;
    if (state->chunk_tok > info.n_ctx_model) state->chunk_tok = info.n_ctx_model;
    state->n_chunk = state->ids.n / state->chunk_tok;
    if (state->n_chunk < 1)
        return aq_fail(AQ_ERR_USAGE, "%s has %" PRId64 " tokens; a chunk (-c) needs %" PRId64,
                       options->file, state->ids.n, state->chunk_tok);
    if (options->n_chunk > 0 && options->n_chunk < state->n_chunk)
        state->n_chunk = options->n_chunk;
    state->n_layer = info.n_layer;
    state->layers = calloc((size_t)info.n_layer, sizeof *state->layers);
    return state->layers ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for the layers' sums");
}

static aq_status take_layer(void *arg, const aq_sample *sample) {
    recall_state *state = arg;
    return aq_trial_recall(sample, aq_engine_projection(state->engine), &state->selector,
                           &state->rule, &state->layers[sample->layer]);
}

static aq_status run_chunks(recall_state *state) {
    const aq_program *program = state->program;
    const aq_sample_options how = {.bos = state->bos};
    aq_progress progress = aq_progress_start("eval recall", "tokens", program->first);
    for (int64_t c = 0; c < state->n_chunk; c++) {
        AQ_TRY(aq_sample_run(state->engine, program->world, state->ids.ids + c * state->chunk_tok,
                             state->chunk_tok, &how, take_layer, state));
        aq_progress_update(&progress, (c + 1) * state->chunk_tok,
                           state->n_chunk * state->chunk_tok);
    }
    _Static_assert(sizeof *state->layers == 3 * sizeof(double), "a recall sum is three doubles");
    return aq_comm_sum_f64(program->world, &state->layers[0].mass, 3 * (int64_t)state->n_layer);
}

/* The table, and the worst layer beside the mean. */
static void print_table(const recall_state *state) {
    char text[64];
    double mass = 0, attended = 0, n = 0;
    int worst = -1;
    printf("selector %s, mass %g asked, %" PRId64 " chunks of %" PRId64
           "\nlayer    mass  attended\n",
           aq_code_layout_text(&state->selector.codes, text, sizeof text), state->rule.mass,
           state->n_chunk, state->chunk_tok);
    for (int i = 0; i < state->n_layer; i++) {
        const aq_trial_recall_sum *sum = &state->layers[i];
        if (sum->n == 0) continue;
        printf("%5d  %.4f  %6.2f %%\n", i, sum->mass / sum->n, 100 * sum->attended / sum->n);
        mass += sum->mass;
        attended += sum->attended;
        n += sum->n;
        if (worst < 0 || sum->mass / sum->n < state->layers[worst].mass / state->layers[worst].n)
            worst = i;
    }
    if (worst < 0) return;
    printf(" mean  %.4f  %6.2f %%\n", mass / n, 100 * attended / n);
    printf("worst  %.4f  in layer %d\n", state->layers[worst].mass / state->layers[worst].n, worst);
}

/* One line a layer. */
static aq_status write_lines(const recall_state *state) {
    enum { LINE_BYTES = 256 };
    char *text = calloc((size_t)state->n_layer + 1, LINE_BYTES), selector[64];
    size_t at = 0;
    if (!text) return aq_fail(AQ_ERR_MEMORY, "no memory for the lines of the layers");
    aq_code_layout_text(&state->selector.codes, selector, sizeof selector);
    for (int i = 0; i < state->n_layer; i++) {
        const aq_trial_recall_sum *sum = &state->layers[i];
        if (sum->n == 0) continue;
        at += (size_t)snprintf(text + at, LINE_BYTES,
                               "{\"layer\": %d, \"mass\": %.9g, \"attended\": %.9g, \"pairs\": "
                               "%.0f, \"mass_asked\": %g, \"selector\": \"%s\", \"n_dynamic\": %d, "
                               "\"n_ctx\": %" PRId64 "}\n",
                               i, sum->mass / sum->n, sum->attended / sum->n, sum->n,
                               state->rule.mass, selector, state->selector.n_dynamic,
                               state->chunk_tok);
    }
    const aq_status status = aq_file_write(state->program->options->output, text, at);
    free(text);
    return status;
}

static aq_status eval_recall(recall_state *state) {
    const aq_program *program = state->program;
    const aq_status read = program->first ? read_text(state) : AQ_OK;
    AQ_TRY(aq_prompt_share(program, read, &state->ids));
    AQ_TRY(aq_comm_bcast(program->world, &state->bos, sizeof state->bos, 0));
    AQ_TRY(aq_comm_agree(program->world, open_local(state)));
    AQ_TRY(run_chunks(state));
    aq_status status = AQ_OK;
    if (program->first) print_table(state);
    if (program->first && program->options->output) status = write_lines(state);
    return aq_comm_agree(program->world, status);
}

aq_status aq_command_eval_recall(const aq_program *program) {
    recall_state state = {.program = program, .bos = -1};
    const aq_status status = eval_recall(&state);
    aq_engine_close(state.engine);
    aq_comm_close(state.self);
    free(state.layers);
    free(state.ids.ids);
    return status;
}
