/* aqua-dist eval tasks: choice tasks by log-likelihood, as lm-evaluation-harness does them. A
 * request's log-likelihood is sum ln p(token | tokens before) over the continuation's tokens, which
 * are what the ids of context and continuation together have behind the ids of the context. Of each
 * question the likeliest choice is taken; acc_norm divides by the choice's characters first. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/lines.h"
#include "launch/program.h"
#include "launch/progress.h"
#include "launch/prompt.h"
#include "launch/rows.h"
#include "launch/score.h"
#include "launch/shares.h"
#include "src/model/task_file.h"
#include "src/model/utf8.h"

/* How a request lies in the shared ids: this many numbers, then its ids. */
enum { PACK_LINE, PACK_CONTEXT, PACK_IDS, PACK_NUMBERS };

typedef struct {
    double loglik;
    int64_t n_tok;  /* of the continuation */
    bool is_greedy; /* each of them is the likeliest */
} outcome;

typedef struct {
    const aq_program *program;
    aq_task_list tasks;   /* rank 0 only */
    outcome *outcomes;    /* [tasks.n], rank 0 only */
    aq_token_list packed; /* all requests */
    int64_t n, longest;
    aq_engine *engine;
    aq_rows rows;
    aq_score score;
    aq_lines lines;
    int64_t n_doc;
    double acc, acc_norm;
} tasks_state;

static aq_status push_front(const aq_tokenizer *tok, bool has_context, aq_token_list *list) {
    const int32_t bos = aq_tokenizer_bos(tok), eos = aq_tokenizer_eos(tok);
    if (has_context && !aq_tokenizer_adds_bos(tok)) return AQ_OK;
    if (bos < 0 && eos < 0)
        return aq_fail(AQ_ERR_UNSUPPORTED, "an empty context needs a model with a token that "
                                           "begins or ends texts");
    return aq_token_list_push(list, bos >= 0 ? bos : eos);
}

/* Blanks at the end of the context go to the continuation, whose first token they are part of. */
static size_t context_bytes(const char *context) {
    size_t n = strlen(context);
    while (n > 0 && strchr(" \t\n\r\v\f", context[n - 1]))
        n--;
    return n;
}

/* Appends the ids of text[0 .. bytes) with what stands in front; *n is their number. */
static aq_status encode(const aq_tokenizer *tok, const char *text, size_t bytes,
                        aq_token_list *list, bool has_context, int64_t *n) {
    const int64_t begin = list->n;
    AQ_TRY(push_front(tok, has_context, list));
    AQ_TRY(aq_tokenizer_encode(tok, text, bytes, true, list));
    *n = list->n - begin;
    return AQ_OK;
}

/* Appends a request as its numbers and ids. `text` is context and continuation. */
static aq_status pack_text(const aq_tokenizer *tok, const aq_task_request *request,
                           const char *text, aq_token_list *packed) {
    const size_t n_context = context_bytes(request->context);
    const int64_t begin = packed->n;
    int64_t n_before = 0, n_all = 0;
    for (int i = 0; i < PACK_NUMBERS; i++)
        AQ_TRY(aq_token_list_push(packed, 0));
    AQ_TRY(encode(tok, text, n_context, packed, n_context > 0, &n_before));
    packed->n = begin + PACK_NUMBERS;
    AQ_TRY(encode(tok, text, strlen(text), packed, n_context > 0, &n_all));
    packed->ids[begin + PACK_LINE] = (int32_t)request->line;
    packed->ids[begin + PACK_CONTEXT] = (int32_t)n_before;
    packed->ids[begin + PACK_IDS] = (int32_t)n_all;
    return AQ_OK;
}

static aq_status pack(const aq_tokenizer *tok, const aq_task_request *request,
                      aq_token_list *packed) {
    const size_t bytes = strlen(request->context) + strlen(request->continuation) + 1;
    char *text = malloc(bytes);
    if (!text) return aq_fail(AQ_ERR_MEMORY, "no memory for a request");
    snprintf(text, bytes, "%s%s", request->context, request->continuation);
    const aq_status status = pack_text(tok, request, text, packed);
    free(text);
    return status;
}

static aq_status pack_all(tasks_state *state) {
    aq_tokenizer *tok = NULL;
    AQ_TRY(aq_prompt_open_tokenizer(state->program->options->model, &tok));
    aq_status status = AQ_OK;
    for (int64_t i = 0; status == AQ_OK && i < state->tasks.n; i++)
        status = pack(tok, &state->tasks.requests[i], &state->packed);
    aq_tokenizer_close(tok);
    return status;
}

static aq_status read_tasks(tasks_state *state) {
    const aq_options *options = state->program->options;
    AQ_TRY(aq_program_need(options->model, "-m MODEL"));
    AQ_TRY(aq_program_need(options->file, "-f TASKS.jsonl"));
    AQ_TRY(aq_task_list_read(options->file, &state->tasks));
    state->outcomes = calloc((size_t)state->tasks.n, sizeof *state->outcomes);
    if (!state->outcomes) return aq_fail(AQ_ERR_MEMORY, "no memory for the outcomes");
    AQ_TRY(pack_all(state));
    return aq_lines_open(options->output, &state->lines);
}

/* The same on all ranks, so that none waits for another. */
static aq_status check_requests(tasks_state *state) {
    const int64_t n_ctx_model = aq_engine_describe(state->engine).n_ctx_model;
    for (int64_t at = 0; at < state->packed.n; state->n++) {
        const int32_t *request = state->packed.ids + at;
        const int32_t n_ids = request[PACK_IDS];
        /* The last id is only predicted. */
        if (n_ids - 1 > n_ctx_model)
            return aq_fail(AQ_ERR_LIMIT,
                           "%s, line %d: context and continuation are %d tokens, the model was "
                           "made for %" PRId64,
                           state->program->options->file, (int)request[PACK_LINE], (int)n_ids,
                           n_ctx_model);
        if (request[PACK_CONTEXT] < 1 || request[PACK_CONTEXT] >= n_ids)
            return aq_fail(AQ_ERR_UNSUPPORTED,
                           "%s, line %d: the continuation has no token of its own",
                           state->program->options->file, (int)request[PACK_LINE]);
        if (n_ids > state->longest) state->longest = n_ids;
        at += PACK_NUMBERS + n_ids;
    }
    return AQ_OK;
}

static aq_status open_all(tasks_state *state) {
    const aq_program *program = state->program;
    const aq_status read = program->first ? read_tasks(state) : AQ_OK;
    AQ_TRY(aq_prompt_share(program, read, &state->packed));
    AQ_TRY(aq_program_open_engine(program, &state->engine));
    AQ_TRY(check_requests(state));
    AQ_TRY(aq_shares_apply(program, state->engine, state->longest - 1));
    const aq_session_options options =
        aq_program_session_options(program->options, state->longest - 1);
    aq_status opened = aq_rows_open(program, state->engine, &options, state->longest, &state->rows);
    if (opened == AQ_OK) opened = aq_score_open(state->engine, false, &state->score);
    return aq_comm_agree(program->world, opened);
}

static aq_status run_request(tasks_state *state, const int32_t *request, outcome *out) {
    const aq_program *program = state->program;
    const int32_t *ids = request + PACK_NUMBERS;
    const int64_t n = request[PACK_IDS], from = request[PACK_CONTEXT] - 1;
    AQ_TRY(aq_rows_prefill(&state->rows, ids, n - 1, from));
    aq_score_reset(&state->score);
    AQ_TRY(aq_program_step(program, aq_score_rows(&state->score, &state->rows, NULL, ids, n)));
    AQ_TRY(aq_score_sum(&state->score, program->world));
    *out = (outcome){.loglik = -state->score.nll,
                     .n_tok = (int64_t)state->score.n,
                     .is_greedy = state->score.hit == state->score.n};
    return AQ_OK;
}

static aq_status run_requests(tasks_state *state) {
    aq_progress progress = aq_progress_start("eval tasks", "requests", state->program->first);
    for (int64_t at = 0, i = 0; i < state->n; i++) {
        const int32_t *request = state->packed.ids + at;
        outcome out;
        AQ_TRY(run_request(state, request, &out));
        if (state->program->first) state->outcomes[i] = out;
        at += PACK_NUMBERS + request[PACK_IDS];
        aq_progress_update(&progress, i + 1, state->n);
    }
    return AQ_OK;
}

/* Characters of a choice; the blank that parts it from the context is not of it. */
static double characters(const char *text) {
    const size_t bytes = strlen(text);
    double n = 0;
    for (size_t at = text[0] == ' ' && bytes > 1, length; at < bytes; at += length, n++)
        aq_utf8_next(text + at, bytes - at, &length);
    return n;
}

/* Of the choices order[0 .. n) of a question: is the likeliest the right one? The first of equals
 * is taken. */
static void judge(tasks_state *state, const int64_t *order, int64_t n) {
    int64_t best = order[0], best_norm = order[0];
    double most_norm = 0;
    for (int64_t i = 0; i < n; i++) {
        const double loglik = state->outcomes[order[i]].loglik;
        const double norm = loglik / characters(state->tasks.requests[order[i]].continuation);
        if (loglik > state->outcomes[best].loglik) best = order[i];
        if (i == 0 || norm > most_norm) {
            best_norm = order[i];
            most_norm = norm;
        }
    }
    const int64_t gold = state->tasks.requests[order[0]].gold;
    state->acc += state->tasks.requests[best].idx == gold;
    state->acc_norm += state->tasks.requests[best_norm].idx == gold;
    state->n_doc++;
}

static aq_status judge_all(tasks_state *state) {
    const aq_task_list *tasks = &state->tasks;
    int64_t *order = NULL;
    AQ_TRY(aq_task_list_order(tasks, &order));
    for (int64_t begin = 0, end; begin < tasks->n; begin = end) {
        const int64_t doc = tasks->requests[order[begin]].doc;
        for (end = begin; end < tasks->n && tasks->requests[order[end]].doc == doc;)
            end++;
        judge(state, order + begin, end - begin);
    }
    free(order);
    state->acc /= (double)state->n_doc;
    state->acc_norm /= (double)state->n_doc;
    return AQ_OK;
}

static aq_status add_line(tasks_state *state, int64_t i) {
    aq_report *line = NULL;
    AQ_TRY(aq_report_open(&line));
    aq_report_int(line, "doc_id", state->tasks.requests[i].doc);
    aq_report_int(line, "idx", state->tasks.requests[i].idx);
    aq_report_real(line, "loglik", state->outcomes[i].loglik);
    aq_report_int(line, "is_greedy", state->outcomes[i].is_greedy);
    aq_report_int(line, "n_tok", state->outcomes[i].n_tok);
    const aq_status status = aq_lines_add(&state->lines, line);
    aq_report_close(line);
    return status;
}

static aq_status write_report(const tasks_state *state) {
    aq_report *report = NULL;
    AQ_TRY(aq_report_open(&report));
    aq_program_report_engine(report, state->program, state->engine);
    aq_report_text(report, "file", state->program->options->file);
    aq_report_int(report, "docs", state->n_doc);
    aq_report_int(report, "requests", state->n);
    aq_report_real(report, "acc", state->acc);
    aq_report_real(report, "acc_norm", state->acc_norm);
    const aq_status status = aq_report_write(report, state->program->options->report);
    aq_report_close(report);
    return status;
}

/* On rank 0. */
static aq_status tell(tasks_state *state) {
    AQ_TRY(judge_all(state));
    printf("acc %.4f, acc_norm %.4f over %" PRId64 " questions (%" PRId64 " requests)\n",
           state->acc, state->acc_norm, state->n_doc, state->n);
    for (int64_t i = 0; i < state->n; i++)
        AQ_TRY(add_line(state, i));
    AQ_TRY(aq_lines_commit(&state->lines));
    return state->program->options->report ? write_report(state) : AQ_OK;
}

static aq_status eval_tasks(tasks_state *state) {
    const aq_program *program = state->program;
    AQ_TRY(open_all(state));
    AQ_TRY(run_requests(state));
    return aq_comm_agree(program->world, program->first ? tell(state) : AQ_OK);
}

aq_status aq_command_eval_tasks(const aq_program *program) {
    tasks_state state = {.program = program};
    const aq_status status = eval_tasks(&state);
    aq_lines_discard(&state.lines);
    aq_score_close(&state.score);
    aq_rows_close(&state.rows);
    aq_engine_close(state.engine);
    aq_task_list_free(&state.tasks);
    free(state.outcomes);
    free(state.packed.ids);
    return status;
}
