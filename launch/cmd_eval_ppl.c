/* aqua-dist eval ppl: perplexity by llama-perplexity's protocol. The text is cut into chunks that
 * do not overlap; each chunk is a fresh context and its second half is scored. With approximate
 * attention the same chunks also run dense in the same session of the program, which gives
 * KL(dense || approximate) and how often both prefer the same token. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "launch/chunks.h"
#include "launch/progress.h"
#include "launch/rank_facts.h"
#include "launch/rows.h"
#include "launch/score.h"
#include "launch/shares.h"

typedef struct {
    const aq_program *program;
    aq_engine *engine;
    aq_rows rows;      /* the way of attention asked for */
    aq_rows baseline;  /* dense and without codes */
    bool has_baseline; /* or that is what was asked for */
    aq_chunks chunks;
    aq_score score;
} ppl_state;

static aq_status run_chunks(ppl_state *ppl) {
    const aq_chunks *chunks = &ppl->chunks;
    const int64_t n = chunks->n_ctx, from = aq_chunks_from(chunks);
    const aq_rows *baseline = ppl->has_baseline ? &ppl->baseline : NULL;
    aq_progress progress = aq_progress_start("eval ppl", "tokens", ppl->program->first);
    for (int64_t c = 0; c < chunks->n; c++) {
        const int32_t *ids = aq_chunks_ids(chunks, c);
        AQ_TRY(aq_rows_prefill(&ppl->rows, ids, n, from));
        if (ppl->has_baseline) AQ_TRY(aq_rows_prefill(&ppl->baseline, ids, n, from));
        AQ_TRY(aq_program_step(ppl->program,
                               aq_score_rows(&ppl->score, &ppl->rows, baseline, ids, n)));
        aq_progress_update(&progress, (c + 1) * n, chunks->n * n);
    }
    AQ_TRY(aq_attended_sum(&ppl->rows.attended, ppl->program->world));
    return aq_score_sum(&ppl->score, ppl->program->world);
}

/* The baseline keeps numbers and sends fp32: codes and bf16 are part of what it is compared with.
 */
static aq_status open_baseline(ppl_state *ppl, int64_t n_row) {
    const aq_session_options *asked = &ppl->rows.options;
    aq_session_options options = {.n_ctx = asked->n_ctx,
                                  .n_batch = asked->n_batch,
                                  .key_type = asked->key_type,
                                  .value_type = asked->value_type};
    const bool coded = aq_kv_type_coded(options.key_type) || aq_kv_type_coded(options.value_type);
    const bool exact = asked->attn == AQ_ATTN_DENSE && !coded && !asked->wire_bf16;
    if (exact && asked->n_h2o == 0) return AQ_OK;
    if (coded) options.key_type = options.value_type = AQ_KV_F32;
    ppl->has_baseline = true;
    return aq_rows_open(ppl->program, ppl->engine, &options, n_row, &ppl->baseline);
}

static aq_status open_buffers(ppl_state *ppl) {
    const aq_options *options = ppl->program->options;
    const int64_t n_row = ppl->chunks.n_ctx - aq_chunks_from(&ppl->chunks);
    aq_session_options asked = aq_program_session_options(options, ppl->chunks.n_ctx);
    asked.measure_mass = options->report != NULL;
    AQ_TRY(aq_rows_open(ppl->program, ppl->engine, &asked, n_row, &ppl->rows));
    ppl->rows.counts = true;
    AQ_TRY(open_baseline(ppl, n_row));
    return aq_score_open(ppl->engine, ppl->has_baseline, &ppl->score);
}

static aq_status open_all(ppl_state *ppl) {
    AQ_TRY(aq_chunks_open(ppl->program, &ppl->chunks));
    AQ_TRY(aq_program_open_engine(ppl->program, &ppl->engine));
    AQ_TRY(aq_shares_apply(ppl->program, ppl->engine, ppl->chunks.n_ctx));
    return aq_comm_agree(ppl->program->world, open_buffers(ppl));
}

static void print_result(const ppl_state *ppl) {
    const aq_score_result result = aq_score_result_of(&ppl->score);
    printf("ppl %.4f +/- %.4f over %" PRId64 " tokens (%" PRId64 " chunks of %" PRId64 ")\n",
           result.ppl, result.ppl_error, result.n, ppl->chunks.n, ppl->chunks.n_ctx);
    if (ppl->has_baseline)
        printf("dense ppl %.4f, KL(dense || %s) %.6f nats a token, same first choice %.4f\n",
               result.ppl_dense, ppl->program->options->attn, result.kl, result.top1);
    if (ppl->rows.attended.n_pair == 0) {
        if (aq_engine_describe(ppl->engine).projection_is_set)
            printf("the scored tokens were dense: the projection was made from them\n");
        return;
    }
    printf("attended %.4f of the context, %.1f bytes moved a token of it and KV head",
           aq_attended_share(&ppl->rows.attended), aq_attended_bytes(&ppl->rows.attended));
    if (ppl->rows.attended.n_mass > 0)
        printf(", %.5f of the mass", aq_attended_mass(&ppl->rows.attended));
    if (ppl->rows.attended.n_pruned_row > 0)
        printf(", %.2f dimensions", aq_attended_dims(&ppl->rows.attended));
    printf("\n");
}

static void fill_report(const ppl_state *ppl, aq_report *report) {
    const aq_score_result result = aq_score_result_of(&ppl->score);
    aq_program_report_engine(report, ppl->program, ppl->engine);
    aq_report_int(report, "n_ctx", ppl->chunks.n_ctx);
    aq_report_int(report, "chunks", ppl->chunks.n);
    aq_report_int(report, "tokens", result.n);
    aq_report_real(report, "ppl", result.ppl);
    aq_report_real(report, "ppl_error", result.ppl_error);
    aq_report_real(report, "ppl_dense", result.ppl_dense);
    aq_report_real(report, "kl", result.kl);
    aq_report_real(report, "top1", result.top1);
    aq_attended_report(report, &ppl->rows.attended);
    aq_attended_report_cache(report, ppl->rows.session);
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
    aq_status status = aq_rank_facts_gather(program->world, ppl->rows.session, &facts);
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
    ppl_state ppl = {.program = program};
    const aq_status status = eval_ppl(&ppl);
    aq_score_close(&ppl.score);
    aq_rows_close(&ppl.rows);
    aq_rows_close(&ppl.baseline);
    aq_engine_close(ppl.engine);
    aq_chunks_close(&ppl.chunks);
    return status;
}
