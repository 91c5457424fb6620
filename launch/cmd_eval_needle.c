/* aqua-dist eval needle: how often a key hidden in a text is found again, over lengths and depths.
 * The key's tokens are given behind the question (teacher-forced), and the key counts as found if
 * each of them is the likeliest; with --generate the model also answers for itself. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/lines.h"
#include "launch/lists.h"
#include "launch/needle_text.h"
#include "launch/plot.h"
#include "launch/program.h"
#include "launch/progress.h"
#include "launch/prompt.h"
#include "launch/rows.h"
#include "launch/score.h"
#include "launch/shares.h"

#define MAX_TRIES 1000000
/* Tokens of an answer beyond those of the key: a blank, and the word's end. */
#define MORE_TOKENS  4
#define ANSWER_BYTES 256

typedef struct {
    int64_t n_ok, n_ok_generated;
} cell;

/* One text on its way through the model. */
typedef struct {
    int64_t length, attempt;
    double depth;
    aq_needle_text text; /* the key on rank 0 only */
    bool ok, ok_generated;
    double attended;           /* share of the context by the queries that predict the key */
    char answer[ANSWER_BYTES]; /* rank 0 only */
} trial;

typedef struct {
    const aq_program *program;
    aq_tokenizer *tok; /* rank 0 only, as the source */
    aq_needle_source source;
    aq_number_list lengths, depths;
    cell cells[AQ_LIST_MAX][AQ_LIST_MAX]; /* [depth][length] */
    aq_engine *engine;
    aq_rows rows; /* and the session, of the current length */
    aq_score score;
    float *logits; /* [n_vocab] */
    aq_lines lines;
    aq_progress progress;
} needle_state;

static uint64_t seed_of(const aq_options *options) {
    return options->seed >= 0 ? (uint64_t)options->seed : 0;
}

/* What all ranks find alike in the options. */
static aq_status read_options(needle_state *state) {
    const aq_options *options = state->program->options;
    AQ_TRY(aq_program_need(options->model, "-m MODEL"));
    AQ_TRY(aq_program_need(options->file, "-f HAYSTACK"));
    AQ_TRY(aq_number_list_parse("--lengths", options->lengths, 1, 1e9, &state->lengths));
    AQ_TRY(aq_depth_list_parse("--depths", options->depths, &state->depths));
    if (state->lengths.n == 0 || state->depths.n == 0)
        return aq_fail(AQ_ERR_USAGE, "--lengths and --depths take at least one number each");
    if (options->n_try < 1 || options->n_try > MAX_TRIES)
        return aq_fail(AQ_ERR_USAGE, "--tries must be 1 to %d", MAX_TRIES);
    if (options->n_needle < 1 || options->n_needle > AQ_NEEDLE_MAX)
        return aq_fail(AQ_ERR_USAGE, "--needles must be 1 to %d", AQ_NEEDLE_MAX);
    for (int i = 0; i < state->lengths.n; i++)
        if (state->lengths.values[i] != (double)(int64_t)state->lengths.values[i])
            return aq_fail(AQ_ERR_USAGE, "--lengths takes whole numbers, not %g",
                           state->lengths.values[i]);
    return AQ_OK;
}

static aq_status open_rank0(needle_state *state) {
    const aq_options *options = state->program->options;
    char *text = NULL;
    size_t bytes = 0;
    if (options->plot) AQ_TRY(aq_plot_check(options->plot));
    AQ_TRY(aq_prompt_open_tokenizer(options->model, &state->tok));
    state->source = (aq_needle_source){.tok = state->tok,
                                       .uuid = strcmp(options->key, "uuid") == 0,
                                       .n_needle = (int)options->n_needle,
                                       .seed = seed_of(options)};
    AQ_TRY(aq_prompt_text(options, state->tok, &text, &bytes));
    const aq_status status =
        aq_tokenizer_encode(state->tok, text, bytes, false, &state->source.haystack);
    free(text);
    AQ_TRY(status);
    return aq_lines_open(options->output, &state->lines);
}

/* Before anything is run: a length that the model was not made for. */
static aq_status check_lengths(const needle_state *state) {
    const int64_t n_ctx_model = aq_engine_describe(state->engine).n_ctx_model;
    for (int i = 0; i < state->lengths.n; i++)
        if (state->lengths.values[i] > (double)n_ctx_model)
            return aq_fail(AQ_ERR_LIMIT,
                           "--lengths: %.0f tokens are more than the %" PRId64
                           " the model was made for; stretch it with --rope-scaling",
                           state->lengths.values[i], n_ctx_model);
    return AQ_OK;
}

static aq_status open_buffers(needle_state *state) {
    const aq_engine_info info = aq_engine_describe(state->engine);
    AQ_TRY(aq_score_open(state->engine, false, &state->score));
    state->logits = malloc((size_t)info.n_vocab * sizeof *state->logits);
    return state->logits ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for logits");
}

static aq_status open_all(needle_state *state) {
    const aq_program *program = state->program;
    AQ_TRY(read_options(state));
    AQ_TRY(aq_comm_agree(program->world, program->first ? open_rank0(state) : AQ_OK));
    AQ_TRY(aq_program_open_engine(program, &state->engine));
    AQ_TRY(check_lengths(state));
    double longest = 0;
    for (int i = 0; i < state->lengths.n; i++)
        if (state->lengths.values[i] > longest) longest = state->lengths.values[i];
    AQ_TRY(aq_shares_apply(program, state->engine, (int64_t)longest));
    return aq_comm_agree(program->world, open_buffers(state));
}

/* Room for texts of this length and an answer. */
static aq_status open_rows(needle_state *state, int64_t length) {
    const aq_program *program = state->program;
    const int64_t n_ctx_model = aq_engine_describe(state->engine).n_ctx_model;
    const int64_t n_more = program->options->generate ? MORE_TOKENS : 0;
    const int64_t n_ctx = length + n_more < n_ctx_model ? length + n_more : n_ctx_model;
    const aq_session_options options = aq_program_session_options(program->options, n_ctx);
    aq_rows_close(&state->rows);
    const aq_status status =
        aq_rows_open(program, state->engine, &options, AQ_NEEDLE_KEY, &state->rows);
    state->rows.counts = true;
    return aq_comm_agree(program->world, status);
}

/* Rank 0 makes the text, all get it. */
static aq_status share_text(needle_state *state, trial *trial) {
    const aq_program *program = state->program;
    aq_status made = AQ_OK;
    if (program->first)
        made = aq_needle_make(&state->source, trial->length, trial->depth, trial->attempt,
                              &trial->text);
    AQ_TRY(aq_prompt_share(program, made, &trial->text.ids));
    return aq_comm_bcast(program->world, &trial->text.n_prompt, sizeof trial->text.n_prompt, 0);
}

/* Teacher-forced. The key's last token has nothing to predict. */
static aq_status force(needle_state *state, trial *trial) {
    const aq_program *program = state->program;
    const aq_token_list *ids = &trial->text.ids;
    const int64_t from = trial->text.n_prompt - 1;
    state->rows.attended = (aq_attended){0};
    AQ_TRY(aq_rows_prefill(&state->rows, ids->ids, ids->n - 1, from));
    AQ_TRY(aq_attended_sum(&state->rows.attended, program->world));
    aq_score_reset(&state->score);
    AQ_TRY(aq_program_step(program,
                           aq_score_rows(&state->score, &state->rows, NULL, ids->ids, ids->n)));
    AQ_TRY(aq_score_sum(&state->score, program->world));
    trial->attended = aq_attended_share(&state->rows.attended);
    trial->ok = state->score.hit == state->score.n;
    return AQ_OK;
}

/* On rank 0: the likeliest token, whose text goes to the answer; -1 when the model ends. */
static aq_status choose(needle_state *state, trial *trial, int32_t *id) {
    const int32_t n_vocab = aq_engine_describe(state->engine).n_vocab;
    const size_t used = strlen(trial->answer);
    size_t bytes = 0;
    *id = 0;
    for (int32_t v = 1; v < n_vocab; v++)
        if (state->logits[v] > state->logits[*id]) *id = v;
    const char *piece = aq_tokenizer_piece(state->tok, *id, false, &bytes);
    if (aq_tokenizer_ends(state->tok, *id) || used + bytes >= ANSWER_BYTES)
        *id = -1;
    else if (bytes > 0)
        memcpy(trial->answer + used, piece, bytes);
    return AQ_OK;
}

/* The model's own answer, always the likeliest token. */
static aq_status generate(needle_state *state, trial *trial) {
    const aq_program *program = state->program;
    const aq_token_list *ids = &trial->text.ids;
    const int64_t n_prompt = trial->text.n_prompt;
    int64_t n_most = ids->n - n_prompt + MORE_TOKENS;
    const int64_t n_free = aq_engine_describe(state->engine).n_ctx_model - n_prompt;
    if (n_most > n_free) n_most = n_free;
    AQ_TRY(aq_rows_prefill(&state->rows, ids->ids, n_prompt, n_prompt));
    for (int64_t i = 0; i < n_most; i++) {
        int32_t id = -1;
        AQ_TRY(aq_program_step(program, aq_session_logits(state->rows.session,
                                                          program->first ? state->logits : NULL)));
        if (program->first) AQ_TRY(aq_program_step(program, choose(state, trial, &id)));
        AQ_TRY(aq_program_step(program, aq_comm_bcast(program->world, &id, sizeof id, 0)));
        if (id < 0 || i + 1 == n_most) break;
        AQ_TRY(aq_program_step(program, aq_session_decode(state->rows.session, id)));
    }
    if (program->first) trial->ok_generated = aq_needle_answered(trial->answer, trial->text.key);
    return AQ_OK;
}

static aq_status add_line(needle_state *state, const trial *trial) {
    const aq_options *options = state->program->options;
    aq_report *line = NULL;
    AQ_TRY(aq_report_open(&line));
    aq_report_int(line, "length", trial->length);
    aq_report_real(line, "depth", trial->depth);
    aq_report_int(line, "try", trial->attempt);
    aq_report_int(line, "seed", (int64_t)seed_of(options));
    aq_report_int(line, "needles", options->n_needle);
    aq_report_text(line, "key", trial->text.key);
    aq_report_int(line, "ok", trial->ok);
    aq_report_real(line, "loglik", -state->score.nll);
    aq_report_real(line, "attended", trial->attended);
    if (options->generate) {
        aq_report_int(line, "ok_generated", trial->ok_generated);
        aq_report_text(line, "answer", trial->answer);
    }
    aq_report_text(line, "attn", options->attn);
    aq_report_int(line, "n_rank", aq_comm_size(state->program->world));
    const aq_status status = aq_lines_add(&state->lines, line);
    aq_report_close(line);
    return status;
}

static aq_status run_trial(needle_state *state, trial *trial, cell *cell) {
    const aq_program *program = state->program;
    AQ_TRY(share_text(state, trial));
    AQ_TRY(force(state, trial));
    if (program->options->generate) AQ_TRY(generate(state, trial));
    cell->n_ok += trial->ok;
    cell->n_ok_generated += trial->ok_generated;
    return aq_comm_agree(program->world, program->first ? add_line(state, trial) : AQ_OK);
}

static aq_status run_length(needle_state *state, int i_length) {
    const int64_t n_try = state->program->options->n_try;
    const int64_t n_cell = (int64_t)state->lengths.n * state->depths.n;
    const int64_t length = (int64_t)state->lengths.values[i_length];
    AQ_TRY(open_rows(state, length));
    for (int d = 0; d < state->depths.n; d++) {
        for (int64_t i = 0; i < n_try; i++) {
            trial trial = {.length = length, .depth = state->depths.values[d], .attempt = i};
            const aq_status status = run_trial(state, &trial, &state->cells[d][i_length]);
            free(trial.text.ids.ids);
            AQ_TRY(status);
            const int64_t n_done = ((int64_t)i_length * state->depths.n + d) * n_try + i + 1;
            aq_progress_update(&state->progress, n_done, n_cell * n_try);
        }
    }
    return AQ_OK;
}

static double share_of(const needle_state *state, int d, int l, bool generated) {
    const cell *cell = &state->cells[d][l];
    return (double)(generated ? cell->n_ok_generated : cell->n_ok) /
           (double)state->program->options->n_try;
}

static double mean_of(const needle_state *state, int l, bool generated) {
    double sum = 0;
    for (int d = 0; d < state->depths.n; d++)
        sum += share_of(state, d, l, generated);
    return sum / state->depths.n;
}

static void print_table(const needle_state *state, const char *what, bool generated) {
    printf("%s\ndepth", what);
    for (int l = 0; l < state->lengths.n; l++)
        printf(" %8.0f", state->lengths.values[l]);
    for (int d = 0; d < state->depths.n; d++) {
        printf("\n%5.3g", state->depths.values[d]);
        for (int l = 0; l < state->lengths.n; l++)
            printf(" %8.3f", share_of(state, d, l, generated));
    }
    printf("\n  all");
    for (int l = 0; l < state->lengths.n; l++)
        printf(" %8.3f", mean_of(state, l, generated));
    printf("\n");
}

static aq_status plot(const needle_state *state) {
    const aq_options *options = state->program->options;
    double shares[AQ_LIST_MAX * AQ_LIST_MAX];
    char title[256];
    for (int d = 0; d < state->depths.n; d++)
        for (int l = 0; l < state->lengths.n; l++)
            shares[d * state->lengths.n + l] = share_of(state, d, l, options->generate);
    snprintf(title, sizeof title, "keys found, %s, %s attention, %s",
             options->generate ? "generated" : "teacher-forced", options->attn,
             aq_engine_describe(state->engine).name);
    const aq_plot_grid grid = {.title = title,
                               .x_label = "tokens",
                               .y_label = "depth",
                               .n_x = state->lengths.n,
                               .n_y = state->depths.n,
                               .x = state->lengths.values,
                               .y = state->depths.values,
                               .shares = shares};
    return aq_plot_draw(options->plot, &grid);
}

static void report_cells(const needle_state *state, aq_report *report) {
    const aq_options *options = state->program->options;
    aq_report_list(report, "cells");
    for (int l = 0; l < state->lengths.n; l++)
        for (int d = 0; d < state->depths.n; d++) {
            aq_report_group(report, NULL);
            aq_report_int(report, "length", (int64_t)state->lengths.values[l]);
            aq_report_real(report, "depth", state->depths.values[d]);
            aq_report_int(report, "tries", options->n_try);
            aq_report_int(report, "ok", state->cells[d][l].n_ok);
            if (options->generate)
                aq_report_int(report, "ok_generated", state->cells[d][l].n_ok_generated);
            aq_report_end(report);
        }
    aq_report_end(report);
}

static aq_status write_report(const needle_state *state) {
    const aq_options *options = state->program->options;
    aq_report *report = NULL;
    AQ_TRY(aq_report_open(&report));
    aq_program_report_engine(report, state->program, state->engine);
    aq_report_int(report, "seed", (int64_t)seed_of(options));
    aq_report_text(report, "key", options->key);
    aq_report_int(report, "needles", options->n_needle);
    report_cells(state, report);
    const aq_status status = aq_report_write(report, options->report);
    aq_report_close(report);
    return status;
}

/* On rank 0. */
static aq_status tell(needle_state *state) {
    const aq_options *options = state->program->options;
    print_table(state, "keys found, teacher-forced", false);
    if (options->generate) print_table(state, "keys found, generated", true);
    AQ_TRY(aq_lines_commit(&state->lines));
    if (options->report) AQ_TRY(write_report(state));
    return options->plot ? plot(state) : AQ_OK;
}

static aq_status eval_needle(needle_state *state) {
    const aq_program *program = state->program;
    AQ_TRY(open_all(state));
    state->progress = aq_progress_start("eval needle", "texts", program->first);
    for (int l = 0; l < state->lengths.n; l++)
        AQ_TRY(run_length(state, l));
    return aq_comm_agree(program->world, program->first ? tell(state) : AQ_OK);
}

aq_status aq_command_eval_needle(const aq_program *program) {
    needle_state state = {.program = program};
    const aq_status status = eval_needle(&state);
    aq_lines_discard(&state.lines);
    aq_score_close(&state.score);
    aq_rows_close(&state.rows);
    aq_engine_close(state.engine);
    aq_tokenizer_close(state.tok);
    free(state.source.haystack.ids);
    free(state.logits);
    return status;
}
