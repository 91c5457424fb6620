/* aqua-dist run: prefill a context over all ranks, answer, stream the text. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "launch/attended.h"
#include "launch/context.h"
#include "launch/fit.h"
#include "launch/progress.h"
#include "launch/prompt.h"
#include "launch/rank_facts.h"
#include "launch/shares.h"
#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/model/sampler.h"
#include "src/model/utf8_stream.h"

typedef struct {
    const aq_program *program;
    aq_tokenizer *tok;   /* rank 0 only */
    aq_sampler *sampler; /* rank 0 only */
    float *logits;       /* rank 0 only */
    aq_utf8_stream utf8;
    bool write_failed;
    aq_engine *engine;
    aq_session *session;
    aq_token_list prompt, output;
    aq_rank_facts *facts; /* [n_rank] */
    aq_attended attended; /* in decode */
    int64_t load_ns, prefill_ns, decode_ns;
    int64_t available; /* bytes of memory before the engine opens; 0: not known */
} run_state;

static void write_text(void *arg, const char *text, size_t bytes) {
    run_state *run = arg;
    if (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0) run->write_failed = true;
}

/* Numbers too large for an int mean the same as the largest. */
static int as_int(int64_t value) {
    return value > INT_MAX ? INT_MAX : value < INT_MIN ? INT_MIN : (int)value;
}

static aq_status open_rank0(run_state *run) {
    const aq_options *options = run->program->options;
    AQ_TRY(aq_program_need(options->model, "-m MODEL"));
    AQ_TRY(aq_prompt_open_tokenizer(options->model, &run->tok));
    AQ_TRY(aq_prompt_encode(options, run->tok, &run->prompt));
    if (options->n_predict < 0) return aq_fail(AQ_ERR_USAGE, "-n must not be negative");
    const aq_sampler_options sampling = {.temp = (float)options->temp,
                                         .top_k = as_int(options->top_k),
                                         .top_p = (float)options->top_p,
                                         .min_p = (float)options->min_p,
                                         .repeat_penalty = (float)options->repeat_penalty,
                                         .repeat_last_n = as_int(options->repeat_last_n),
                                         .seed = options->seed >= 0 ? (uint64_t)options->seed
                                                                    : (uint64_t)time(NULL)};
    AQ_TRY(aq_sampler_open(&sampling, aq_tokenizer_count(run->tok), &run->sampler));
    for (int64_t i = 0; i < run->prompt.n; i++)
        aq_sampler_accept(run->sampler, run->prompt.ids[i]);
    run->logits = malloc((size_t)aq_tokenizer_count(run->tok) * sizeof *run->logits);
    return run->logits ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for logits");
}

/* Room for the prompt and the answer; -c gives more or less. */
static int64_t context_length(const run_state *run, const aq_engine *engine) {
    const aq_options *options = run->program->options;
    const int64_t n_ctx_model = aq_engine_describe(engine).n_ctx_model;
    const int64_t wanted = run->prompt.n + options->n_predict;
    if (options->n_ctx > 0) return options->n_ctx;
    if (run->prompt.n <= n_ctx_model && wanted > n_ctx_model) return n_ctx_model;
    return wanted;
}

static aq_status show_progress(void *arg, int64_t n_done, int64_t n_all) {
    aq_progress_update(arg, n_done, n_all);
    return AQ_OK;
}

static aq_status prefill(run_state *run) {
    const int64_t start_ns = aq_clock_ns();
    aq_progress progress = aq_progress_start("prefill", "tokens", run->program->first);
    const aq_hooks hooks = {.arg = &progress, .progress = show_progress};
    int64_t n_done = 0;
    const aq_session_options options =
        aq_program_session_options(run->program->options, context_length(run, run->engine));
    AQ_TRY(aq_context_start(run->program, run->engine, &options, run->prompt.ids, run->prompt.n,
                            &hooks, &run->session, &n_done));
    AQ_TRY(aq_program_step(run->program, aq_session_prefill(run->session, run->prompt.ids + n_done,
                                                            run->prompt.n - n_done, &hooks)));
    run->prefill_ns = aq_clock_ns() - start_ns;
    return AQ_OK;
}

/* Rank 0 draws the next token from its logits and streams its text; -1 at the end of generation. */
static aq_status choose(run_state *run, int32_t *id) {
    size_t bytes = 0;
    AQ_TRY(aq_sampler_draw(run->sampler, run->logits, id));
    if (aq_tokenizer_ends(run->tok, *id) && !run->program->options->ignore_eos) {
        *id = -1;
        return AQ_OK;
    }
    AQ_TRY(aq_token_list_push(&run->output, *id));
    const char *piece = aq_tokenizer_piece(run->tok, *id, false, &bytes);
    aq_utf8_stream_push(&run->utf8, piece, bytes, write_text, run);
    if (run->write_failed) return aq_fail(AQ_ERR_IO, "cannot write the answer to standard output");
    return AQ_OK;
}

static aq_status generate(run_state *run) {
    const aq_program *program = run->program;
    const int64_t start_ns = aq_clock_ns();
    const int64_t n_free = context_length(run, run->engine) - run->prompt.n;
    const int64_t n_predict = program->options->n_predict;
    const int64_t n_most = n_predict < n_free ? n_predict : n_free;
    for (int64_t i = 0; i < n_most; i++) {
        int32_t id = -1;
        AQ_TRY(aq_program_step(
            program, aq_session_logits(run->session, program->first ? run->logits : NULL)));
        if (program->first) AQ_TRY(aq_program_step(program, choose(run, &id)));
        AQ_TRY(aq_program_step(program, aq_comm_bcast(program->world, &id, sizeof id, 0)));
        if (id < 0) break;
        if (i + 1 == n_most) break;
        AQ_TRY(aq_program_step(program, aq_session_decode(run->session, id)));
    }
    if (program->first) {
        aq_utf8_stream_finish(&run->utf8, write_text, run);
        write_text(run, "\n", 1);
    }
    run->decode_ns = aq_clock_ns() - start_ns;
    return AQ_OK;
}

static double rate(int64_t n, int64_t ns) {
    return ns > 0 ? (double)n * 1e9 / (double)ns : 0;
}

/* Key and value bytes that a bf16 cache of all dimensions takes for n tokens, over all ranks; of
 * layers with a window, for the tokens in it. */
static int64_t dense_bf16_bytes(const aq_engine_info *info, int64_t n) {
    const int64_t n_seen = n < info->window ? n : info->window;
    const int64_t n_full_layer = info->n_layer - info->n_windowed_layer;
    const int64_t n_row = n_full_layer * n + info->n_windowed_layer * n_seen;
    return 2 * 2 * n_row * info->n_kv_head * info->d_head;
}

static void print_phases(const aq_rank_facts *facts) {
    fprintf(stderr,
            "phases   matmul %.2f s, attention %.2f s, projection %.2f s, exchange %.2f s, other "
            "%.2f s (rank 0)\n",
            (double)facts->matmul_ns * 1e-9, (double)facts->attend_ns * 1e-9,
            (double)facts->project_ns * 1e-9, (double)facts->exchange_ns * 1e-9,
            (double)facts->other_ns * 1e-9);
}

static double mib(int64_t bytes) {
    return (double)bytes / 1048576.0;
}

static void print_cache(const run_state *run) {
    const aq_engine_info info = aq_engine_describe(run->engine);
    const int64_t n_tok = aq_session_length(run->session);
    fprintf(stderr, "cache    %9.2f MiB would be a dense bf16 cache of %" PRId64 " tokens\n",
            mib(dense_bf16_bytes(&info, n_tok)), n_tok);
    for (int r = 0; r < info.n_rank; r++) {
        const aq_rank_facts *facts = &run->facts[r];
        fprintf(stderr,
                "  rank %-3d %8.2f MiB (keys %.2f, values %.2f, selector %.2f) of %" PRId64
                " tokens on %s\n",
                r, mib(facts->key_bytes + facts->value_bytes + facts->selector_bytes),
                mib(facts->key_bytes), mib(facts->value_bytes), mib(facts->selector_bytes),
                facts->n_tok_owned, (const char *)facts->host);
    }
}

static void print_summary(const run_state *run) {
    fprintf(stderr, "\nload     %9.2f s\n", (double)run->load_ns * 1e-9);
    fprintf(stderr, "prefill  %9.2f s  %" PRId64 " tokens, %.1f tokens/s\n",
            (double)run->prefill_ns * 1e-9, run->prompt.n, rate(run->prompt.n, run->prefill_ns));
    fprintf(stderr, "decode   %9.2f s  %" PRId64 " tokens, %.1f tokens/s\n",
            (double)run->decode_ns * 1e-9, run->output.n, rate(run->output.n, run->decode_ns));
    if (run->output.n > 1)
        fprintf(stderr,
                "attended %9.2f %% of the context at each token, %.1f bytes of it a token and KV "
                "head\n",
                100 * aq_attended_share(&run->attended), aq_attended_bytes(&run->attended));
    print_phases(&run->facts[0]);
    print_cache(run);
}

static void fill_report(const run_state *run, aq_report *report) {
    const aq_engine_info info = aq_engine_describe(run->engine);
    aq_program_report_engine(report, run->program, run->engine);
    aq_report_int(report, "prompt_tokens", run->prompt.n);
    aq_report_int(report, "output_tokens", run->output.n);
    aq_report_group(report, "seconds");
    aq_report_real(report, "load", (double)run->load_ns * 1e-9);
    aq_report_real(report, "prefill", (double)run->prefill_ns * 1e-9);
    aq_report_real(report, "decode", (double)run->decode_ns * 1e-9);
    aq_report_end(report);
    aq_report_group(report, "tokens_per_second");
    aq_report_real(report, "prefill", rate(run->prompt.n, run->prefill_ns));
    aq_report_real(report, "decode", rate(run->output.n, run->decode_ns));
    aq_report_end(report);
    aq_attended_report(report, &run->attended);
    aq_attended_report_cache(report, run->session);
    aq_report_int(report, "dense_bf16_cache_bytes",
                  dense_bf16_bytes(&info, aq_session_length(run->session)));
    aq_report_ids(report, "prompt_ids", run->prompt.ids, run->prompt.n);
    aq_report_ids(report, "output_ids", run->output.ids, run->output.n);
    aq_rank_facts_report(report, run->facts, info.n_rank);
}

static aq_status write_report(const run_state *run) {
    aq_report *document = NULL;
    AQ_TRY(aq_report_open(&document));
    fill_report(run, document);
    const aq_status status = aq_report_write(document, run->program->options->report);
    aq_report_close(document);
    return status;
}

/* The summary on stderr and the report file, both by rank 0. */
static aq_status tell(run_state *run) {
    const aq_program *program = run->program;
    AQ_TRY(aq_rank_facts_gather(program->world, run->session, &run->facts));
    aq_status status = AQ_OK;
    if (program->first) {
        print_summary(run);
        if (program->options->report) status = write_report(run);
    }
    return aq_comm_agree(program->world, status);
}

/* Refuses what this host has no memory for. A device tells when it is full. */
static aq_status check_memory(const run_state *run, aq_engine *engine) {
    const aq_program *program = run->program;
    int64_t *weights = NULL;
    if (run->available == 0 || aq_engine_describe(engine).device.cuda) return AQ_OK;
    AQ_TRY(aq_shares_weights(program, engine, &weights));
    aq_fit fit = {.engine = engine,
                  .options =
                      aq_program_session_options(program->options, context_length(run, engine))};
    fit.n_tp = aq_engine_describe(engine).n_tp;
    fit.weights = weights;
    fit.from_context = aq_context_makes_projection(program, engine, &fit.options);
    const aq_status status = aq_fit_here(&fit, program->world, run->available);
    free(weights);
    return status;
}

/* While nothing is loaded: aq_engine_options.before_load. Shares that are measured are not known
 * then. */
static aq_status check_before_load(void *arg, aq_engine *engine) {
    const run_state *run = arg;
    return aq_shares_are_measured(run->program->options) ? AQ_OK : check_memory(run, engine);
}

static aq_status open_all(run_state *run) {
    const aq_program *program = run->program;
    const int64_t start_ns = aq_clock_ns();
    const aq_status opened = program->first ? open_rank0(run) : AQ_OK;
    AQ_TRY(aq_prompt_share(program, opened, &run->prompt));
    run->available = aq_memory_available();
    AQ_TRY(aq_program_open_engine_as(
        program, &(aq_engine_options){.before_load = check_before_load, .check_arg = run},
        &run->engine));
    const int64_t n_ctx = context_length(run, run->engine);
    if (run->prompt.n > n_ctx)
        return aq_fail(AQ_ERR_LIMIT, "the prompt has %" PRId64 " tokens, -c allows %" PRId64,
                       run->prompt.n, n_ctx);
    AQ_TRY(aq_shares_apply(program, run->engine, n_ctx));
    if (aq_shares_are_measured(program->options))
        AQ_TRY(aq_comm_agree(program->world, check_memory(run, run->engine)));
    run->load_ns = aq_clock_ns() - start_ns;
    return AQ_OK;
}

static aq_status run_all(run_state *run) {
    const aq_program *program = run->program;
    AQ_TRY(open_all(run));
    AQ_TRY(prefill(run));
    const aq_session_stats before = aq_session_describe(run->session);
    AQ_TRY(generate(run));
    const aq_session_stats after = aq_session_describe(run->session);
    aq_attended_add(&run->attended, &before, &after);
    AQ_TRY(aq_attended_sum(&run->attended, program->world));
    return tell(run);
}

aq_status aq_command_run(const aq_program *program) {
    run_state run = {.program = program};
    const aq_status status = run_all(&run);
    aq_session_close(run.session);
    aq_engine_close(run.engine);
    aq_sampler_close(run.sampler);
    aq_tokenizer_close(run.tok);
    free(run.logits);
    free(run.prompt.ids);
    free(run.output.ids);
    free(run.facts);
    return status;
}
