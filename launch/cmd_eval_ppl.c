/* aqua-dist eval ppl: perplexity by llama-perplexity's protocol. The text is cut into chunks that
 * do not overlap; each chunk is a fresh context and its second half is scored. With approximate
 * attention the same chunks also run dense in the same session of the program, which gives
 * KL(dense || approximate) and how often both prefer the same token. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/attended.h"
#include "launch/context.h"
#include "launch/progress.h"
#include "launch/prompt.h"
#include "launch/rank_facts.h"
#include "launch/score.h"

#define DEFAULT_CHUNK 2048

/* The hidden rows that this rank computed of one chunk. */
typedef struct {
    int64_t n, n_max, d_model;
    int64_t *pos;  /* [n_max] */
    float *hidden; /* [n_max, d_model] */
} row_store;

typedef struct {
    const aq_program *program;
    aq_tokenizer *tok; /* rank 0 only */
    aq_engine *engine;
    aq_session *session;  /* the way of attention asked for */
    aq_session *baseline; /* dense with the same cache types; NULL if that is what was asked for */
    row_store rows, baseline_rows;
    aq_token_list ids;
    int32_t bos; /* replaces the first token of each chunk; -1: none */
    int64_t n_ctx, n_chunk;
    aq_session_options options; /* of `session` */
    aq_score score;
    aq_attended attended; /* by the scored queries */
} ppl_state;

static aq_status keep_rows(void *arg, const int64_t *pos, const float *hidden, int64_t n_tok) {
    row_store *rows = arg;
    memcpy(rows->pos + rows->n, pos, (size_t)n_tok * sizeof *pos);
    memcpy(rows->hidden + rows->n * rows->d_model, hidden,
           (size_t)(n_tok * rows->d_model) * sizeof *hidden);
    rows->n += n_tok;
    return AQ_OK;
}

static aq_status open_rows(row_store *rows, int64_t n_max, int64_t d_model) {
    *rows = (row_store){.n_max = n_max, .d_model = d_model};
    rows->pos = malloc((size_t)n_max * sizeof *rows->pos);
    rows->hidden = malloc((size_t)(n_max * d_model) * sizeof *rows->hidden);
    return rows->pos && rows->hidden
               ? AQ_OK
               : aq_fail(AQ_ERR_MEMORY,
                         "no memory for the hidden rows of a chunk; use a smaller -c");
}

static void close_rows(row_store *rows) {
    free(rows->pos);
    free(rows->hidden);
}

/* Runs a chunk as asked for; what its second half, which is scored, attended to is counted. */
static aq_status run_chunk(ppl_state *ppl, const int32_t *ids) {
    const aq_program *program = ppl->program;
    const aq_hooks hooks = {.arg = &ppl->rows, .rows = keep_rows};
    const int64_t half = ppl->n_ctx / 2;
    int64_t n_done = 0;
    ppl->rows.n = 0;
    AQ_TRY(aq_context_start(program, ppl->engine, &ppl->options, ids, ppl->n_ctx, &hooks,
                            &ppl->session, &n_done));
    if (n_done < half) {
        AQ_TRY(aq_program_step(
            program, aq_session_prefill(ppl->session, ids + n_done, half - n_done, &hooks)));
        n_done = half;
    }
    const aq_session_stats before = aq_session_describe(ppl->session);
    AQ_TRY(aq_program_step(
        program, aq_session_prefill(ppl->session, ids + n_done, ppl->n_ctx - n_done, &hooks)));
    const aq_session_stats after = aq_session_describe(ppl->session);
    aq_attended_add(&ppl->attended, &before, &after);
    return AQ_OK;
}

static aq_status run_baseline(ppl_state *ppl, const int32_t *ids) {
    const aq_hooks hooks = {.arg = &ppl->baseline_rows, .rows = keep_rows};
    ppl->baseline_rows.n = 0;
    aq_session_reset(ppl->baseline);
    return aq_program_step(ppl->program,
                           aq_session_prefill(ppl->baseline, ids, ppl->n_ctx, &hooks));
}

/* Scores the rows of the second half, each against the token that follows it. */
static aq_status score_chunk(ppl_state *ppl, const int32_t *ids) {
    const row_store *rows = &ppl->rows;
    for (int64_t i = 0; i < rows->n; i++) {
        const int64_t pos = rows->pos[i];
        if (pos < ppl->n_ctx / 2 || pos + 1 >= ppl->n_ctx) continue;
        const float *hidden = rows->hidden + i * rows->d_model;
        const float *baseline =
            ppl->baseline ? ppl->baseline_rows.hidden + i * rows->d_model : NULL;
        AQ_TRY(aq_score_add(&ppl->score, hidden, baseline, ids[pos + 1]));
    }
    return aq_score_flush(&ppl->score);
}

static aq_status run_chunks(ppl_state *ppl) {
    aq_progress progress = aq_progress_start("eval ppl", "tokens", ppl->program->first);
    for (int64_t c = 0; c < ppl->n_chunk; c++) {
        int32_t *ids = ppl->ids.ids + c * ppl->n_ctx;
        if (ppl->bos >= 0) ids[0] = ppl->bos;
        AQ_TRY(run_chunk(ppl, ids));
        if (ppl->baseline) AQ_TRY(run_baseline(ppl, ids));
        AQ_TRY(aq_program_step(ppl->program, score_chunk(ppl, ids)));
        aq_progress_update(&progress, (c + 1) * ppl->n_ctx, ppl->n_chunk * ppl->n_ctx);
    }
    AQ_TRY(aq_attended_sum(&ppl->attended, ppl->program->world));
    return aq_score_sum(&ppl->score, ppl->program->world);
}

static aq_status read_ids(ppl_state *ppl) {
    const aq_options *options = ppl->program->options;
    AQ_TRY(aq_program_need(options->model, "-m MODEL"));
    AQ_TRY(aq_program_need(options->file, "-f TEXTFILE"));
    AQ_TRY(aq_prompt_open_tokenizer(options->model, &ppl->tok));
    if (aq_tokenizer_adds_bos(ppl->tok)) ppl->bos = aq_tokenizer_bos(ppl->tok);
    return aq_prompt_encode(options, ppl->tok, &ppl->ids);
}

/* The baseline keeps numbers: codes are part of what it is compared with. */
static aq_status open_baseline(ppl_state *ppl) {
    aq_session_options options = {.n_ctx = ppl->n_ctx,
                                  .n_batch = ppl->options.n_batch,
                                  .key_type = ppl->options.key_type,
                                  .value_type = ppl->options.value_type};
    const bool coded = aq_kv_type_coded(options.key_type) || aq_kv_type_coded(options.value_type);
    if (ppl->options.attn == AQ_ATTN_DENSE && !coded) return AQ_OK;
    if (coded) options.key_type = options.value_type = AQ_KV_F32;
    return aq_session_open(ppl->engine, &options, &ppl->baseline);
}

static aq_status open_buffers(ppl_state *ppl) {
    const int64_t d_model = aq_engine_describe(ppl->engine).d_model;
    AQ_TRY(open_rows(&ppl->rows, ppl->n_ctx, d_model));
    if (ppl->baseline) AQ_TRY(open_rows(&ppl->baseline_rows, ppl->n_ctx, d_model));
    return aq_score_open(ppl->engine, ppl->baseline != NULL, &ppl->score);
}

static aq_status open_all(ppl_state *ppl) {
    const aq_program *program = ppl->program;
    const aq_options *options = program->options;
    const aq_status read = program->first ? read_ids(ppl) : AQ_OK;
    AQ_TRY(aq_prompt_share(program, read, &ppl->ids));
    AQ_TRY(aq_comm_bcast(program->world, &ppl->bos, sizeof ppl->bos, 0));
    ppl->n_ctx = options->n_ctx > 0 ? options->n_ctx : DEFAULT_CHUNK;
    ppl->n_chunk = ppl->ids.n / ppl->n_ctx;
    if (ppl->n_chunk < 1 || ppl->n_ctx < 4)
        return aq_fail(AQ_ERR_USAGE,
                       "%s has %" PRId64 " tokens; a chunk (-c %" PRId64
                       ") needs that many and at least 4",
                       options->file, ppl->ids.n, ppl->n_ctx);
    if (options->n_chunk > 0 && options->n_chunk < ppl->n_chunk) ppl->n_chunk = options->n_chunk;
    AQ_TRY(aq_program_open_engine(program, &ppl->engine));
    ppl->options = aq_program_session_options(options, ppl->n_ctx);
    ppl->options.measure_mass = options->report != NULL;
    AQ_TRY(open_baseline(ppl));
    return aq_comm_agree(program->world, open_buffers(ppl));
}

static void print_result(const ppl_state *ppl) {
    const aq_score_result result = aq_score_result_of(&ppl->score);
    printf("ppl %.4f +/- %.4f over %" PRId64 " tokens (%" PRId64 " chunks of %" PRId64 ")\n",
           result.ppl, result.ppl_error, result.n, ppl->n_chunk, ppl->n_ctx);
    if (ppl->baseline)
        printf("dense ppl %.4f, KL(dense || %s) %.6f nats a token, same first choice %.4f\n",
               result.ppl_dense, ppl->program->options->attn, result.kl, result.top1);
    printf("attended %.4f of the context, %.1f bytes moved a token of it and KV head",
           aq_attended_share(&ppl->attended), aq_attended_bytes(&ppl->attended));
    if (ppl->attended.n_mass > 0) printf(", %.5f of the mass", aq_attended_mass(&ppl->attended));
    if (ppl->attended.n_pruned_row > 0)
        printf(", %.2f dimensions", aq_attended_dims(&ppl->attended));
    printf("\n");
}

static void fill_report(const ppl_state *ppl, aq_report *report) {
    const aq_score_result result = aq_score_result_of(&ppl->score);
    aq_program_report_engine(report, ppl->program, ppl->engine);
    aq_report_int(report, "n_ctx", ppl->n_ctx);
    aq_report_int(report, "chunks", ppl->n_chunk);
    aq_report_int(report, "tokens", result.n);
    aq_report_real(report, "ppl", result.ppl);
    aq_report_real(report, "ppl_error", result.ppl_error);
    aq_report_real(report, "ppl_dense", result.ppl_dense);
    aq_report_real(report, "kl", result.kl);
    aq_report_real(report, "top1", result.top1);
    aq_attended_report(report, &ppl->attended);
    aq_attended_report_cache(report, ppl->session);
}

static aq_status write_report(const ppl_state *ppl, const aq_rank_facts *facts) {
    aq_report *document = NULL;
    AQ_TRY(aq_report_open(&document));
    fill_report(ppl, document);
    aq_rank_facts_report(document, facts, aq_comm_size(ppl->program->world));
    const aq_status status = aq_report_write(document, ppl->program->options->report);
    aq_report_close(document);
    return status;
}

/* The result on stdout and the report file, both by rank 0. */
static aq_status tell(const ppl_state *ppl) {
    const aq_program *program = ppl->program;
    aq_rank_facts *facts = NULL;
    aq_status status = aq_rank_facts_gather(program->world, ppl->session, &facts);
    if (status == AQ_OK && program->first) {
        print_result(ppl);
        if (program->options->report) status = write_report(ppl, facts);
    }
    free(facts);
    return aq_comm_agree(program->world, status);
}

static aq_status eval_ppl(ppl_state *ppl) {
    AQ_TRY(open_all(ppl));
    AQ_TRY(run_chunks(ppl));
    return tell(ppl);
}

aq_status aq_command_eval_ppl(const aq_program *program) {
    ppl_state ppl = {.program = program, .bos = -1};
    const aq_status status = eval_ppl(&ppl);
    aq_score_close(&ppl.score);
    close_rows(&ppl.rows);
    close_rows(&ppl.baseline_rows);
    aq_session_close(ppl.session);
    aq_session_close(ppl.baseline);
    aq_engine_close(ppl.engine);
    aq_tokenizer_close(ppl.tok);
    free(ppl.ids.ids);
    return status;
}
