/* aqua-dist eval logits: the logits of every token of an id sequence, as a NumPy file. Rows are
 * made on the ranks that computed the tokens and written by rank 0. */
#include <stdlib.h>

#include "launch/context.h"
#include "launch/shares.h"
#include "src/base/file.h"
#include "src/model/npy.h"

#define BLOCK_ROWS 32 /* rows of logits in memory at a time */

typedef struct {
    const aq_program *program;
    aq_engine *engine;
    aq_session *session;
    int32_t *ids;
    int64_t n_tok;
    int64_t d_model, n_vocab;
    float *logits;    /* [BLOCK_ROWS, n_vocab] */
    aq_file_out file; /* rank 0 only */
} logits_state;

/* Rank `from` makes the logits of its rows begin .. begin + n - 1; rank 0 gets and writes them. */
static aq_status move_block(logits_state *state, int from, const int64_t *pos, const float *hidden,
                            int64_t n) {
    aq_comm *world = state->program->world;
    const bool mine = aq_comm_rank(world) == from;
    const size_t row_bytes = (size_t)state->n_vocab * sizeof(float);
    int64_t places[BLOCK_ROWS];
    if (mine) {
        AQ_TRY(aq_engine_logits(state->engine, hidden, n, state->logits));
        for (int64_t i = 0; i < n; i++)
            places[i] = pos[i];
    }
    if (mine && from != 0) {
        AQ_TRY(aq_comm_send(world, places, (size_t)n * sizeof *places, 0));
        return aq_comm_send(world, state->logits, (size_t)n * row_bytes, 0);
    }
    if (!state->program->first) return AQ_OK;
    if (from != 0) {
        AQ_TRY(aq_comm_recv(world, places, (size_t)n * sizeof *places, from));
        AQ_TRY(aq_comm_recv(world, state->logits, (size_t)n * row_bytes, from));
    }
    for (int64_t i = 0; i < n; i++)
        AQ_TRY(aq_file_out_put(&state->file, AQ_NPY_HEADER_BYTES + places[i] * (int64_t)row_bytes,
                               state->logits + i * state->n_vocab, row_bytes));
    return AQ_OK;
}

static aq_status collect_rows(void *arg, const int64_t *pos, const float *hidden, int64_t n_tok) {
    logits_state *state = arg;
    aq_comm *world = state->program->world;
    for (int r = 0; r < aq_comm_size(world); r++) {
        const bool mine = aq_comm_rank(world) == r;
        int64_t n = n_tok;
        AQ_TRY(aq_comm_bcast(world, &n, sizeof n, r));
        for (int64_t i = 0; i < n; i += BLOCK_ROWS) {
            const int64_t n_block = n - i < BLOCK_ROWS ? n - i : BLOCK_ROWS;
            AQ_TRY(move_block(state, r, mine ? pos + i : NULL,
                              mine ? hidden + i * state->d_model : NULL, n_block));
        }
    }
    return AQ_OK;
}

static aq_status open_local(logits_state *state) {
    const aq_options *options = state->program->options;
    AQ_TRY(aq_program_need(options->model, "-m MODEL"));
    AQ_TRY(aq_program_need(options->ids, "--ids IDS.npy"));
    AQ_TRY(aq_program_need(options->output, "-o OUT.npy"));
    AQ_TRY(aq_npy_read_ids(options->ids, &state->ids, &state->n_tok));
    if (state->n_tok == 0) return aq_fail(AQ_ERR_USAGE, "%s holds no ids", options->ids);
    return AQ_OK;
}

/* Inside prefill a bad id would end the job without order, with a line from every rank. */
static aq_status check_ids(const logits_state *state) {
    for (int64_t i = 0; i < state->n_tok; i++)
        if (state->ids[i] < 0 || state->ids[i] >= state->n_vocab)
            return aq_fail(AQ_ERR_USAGE, "%s: element %lld is id %d, outside the vocabulary of %d",
                           state->program->options->ids, (long long)i, (int)state->ids[i],
                           (int)state->n_vocab);
    return AQ_OK;
}

static aq_status open_output(logits_state *state) {
    char header[AQ_NPY_HEADER_BYTES];
    const aq_engine_info info = aq_engine_describe(state->engine);
    state->d_model = info.d_model;
    state->n_vocab = info.n_vocab;
    AQ_TRY(check_ids(state));
    state->logits = malloc((size_t)(BLOCK_ROWS * info.n_vocab) * sizeof(float));
    if (!state->logits) return aq_fail(AQ_ERR_MEMORY, "no memory for logits");
    if (!state->program->first) return AQ_OK;
    AQ_TRY(aq_file_out_open(state->program->options->output, &state->file));
    aq_npy_header_f32(state->n_tok, state->n_vocab, header);
    return aq_file_out_put(&state->file, 0, header, sizeof header);
}

static aq_status eval_logits(logits_state *state) {
    const aq_program *program = state->program;
    AQ_TRY(aq_comm_agree(program->world, open_local(state)));
    AQ_TRY(aq_program_open_engine(program, &state->engine));
    const int64_t n_ctx =
        program->options->n_ctx > state->n_tok ? program->options->n_ctx : state->n_tok;
    const aq_session_options options = aq_program_session_options(program->options, n_ctx);
    AQ_TRY(aq_comm_agree(program->world, open_output(state)));
    AQ_TRY(aq_shares_apply(program, state->engine, n_ctx));
    const aq_hooks hooks = {.arg = state, .rows = collect_rows};
    int64_t n_done = 0;
    AQ_TRY(aq_context_start(program, state->engine, &options, state->ids, state->n_tok, &hooks,
                            &state->session, &n_done));
    AQ_TRY(aq_program_step(program, aq_session_prefill(state->session, state->ids + n_done,
                                                       state->n_tok - n_done, &hooks)));
    const aq_status written = program->first ? aq_file_out_commit(&state->file) : AQ_OK;
    return aq_comm_agree(program->world, written);
}

aq_status aq_command_eval_logits(const aq_program *program) {
    logits_state state = {.program = program, .file = {.fd = -1}};
    const aq_status status = eval_logits(&state);
    aq_file_out_discard(&state.file);
    aq_session_close(state.session);
    aq_engine_close(state.engine);
    free(state.logits);
    free(state.ids);
    return status;
}
