#include "launch/chunks.h"

#include <inttypes.h>
#include <stdlib.h>

#include "launch/prompt.h"

#define DEFAULT_CHUNK 2048
#define MIN_CHUNK     4

/* On rank 0. */
static aq_status read_ids(const aq_options *options, aq_token_list *ids, int32_t *bos) {
    aq_tokenizer *tok = NULL;
    AQ_TRY(aq_program_need(options->model, "-m MODEL"));
    AQ_TRY(aq_program_need(options->file, "-f TEXTFILE"));
    AQ_TRY(aq_prompt_open_tokenizer(options->model, &tok));
    if (aq_tokenizer_adds_bos(tok)) *bos = aq_tokenizer_bos(tok);
    const aq_status status = aq_prompt_encode(options, tok, ids);
    aq_tokenizer_close(tok);
    return status;
}

aq_status aq_chunks_open(const aq_program *program, aq_chunks *out) {
    const aq_options *options = program->options;
    aq_token_list list = {NULL, 0, 0};
    int32_t bos = -1;
    *out = (aq_chunks){.n_ctx = options->n_ctx > 0 ? options->n_ctx : DEFAULT_CHUNK};
    const aq_status read = program->first ? read_ids(options, &list, &bos) : AQ_OK;
    const aq_status status = aq_prompt_share(program, read, &list);
    out->ids = list.ids;
    AQ_TRY(status);
    AQ_TRY(aq_comm_bcast(program->world, &bos, sizeof bos, 0));
    out->n = list.n / out->n_ctx;
    if (out->n < 1 || out->n_ctx < MIN_CHUNK)
        return aq_fail(AQ_ERR_USAGE,
                       "%s has %" PRId64 " tokens; a chunk (-c %" PRId64
                       ") needs that many and at least %d",
                       options->file, list.n, out->n_ctx, MIN_CHUNK);
    if (options->n_chunk > 0 && options->n_chunk < out->n) out->n = options->n_chunk;
    for (int64_t c = 0; bos >= 0 && c < out->n; c++)
        out->ids[c * out->n_ctx] = bos;
    return AQ_OK;
}

void aq_chunks_close(aq_chunks *chunks) {
    free(chunks->ids);
}
