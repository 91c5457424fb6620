#include "launch/rows.h"

#include <stdlib.h>
#include <string.h>

#include "launch/context.h"

aq_status aq_rows_open(const aq_program *program, aq_engine *engine,
                       const aq_session_options *options, int64_t n_max, aq_rows *out) {
    const int64_t d_model = aq_engine_describe(engine).d_model;
    *out = (aq_rows){.program = program,
                     .engine = engine,
                     .options = *options,
                     .n_max = n_max,
                     .d_model = d_model};
    out->pos = malloc((size_t)n_max * sizeof *out->pos + 1);
    out->hidden = malloc((size_t)(n_max * d_model) * sizeof *out->hidden + 1);
    if (out->pos && out->hidden) return AQ_OK;
    return aq_fail(AQ_ERR_MEMORY, "no memory for the hidden rows of %lld tokens; use a smaller -c",
                   (long long)n_max);
}

void aq_rows_close(aq_rows *rows) {
    aq_session_close(rows->session);
    free(rows->pos);
    free(rows->hidden);
}

/* aq_hooks.rows. Positions rise from call to call and within one. */
static aq_status keep(void *arg, const int64_t *pos, const float *hidden, int64_t n_tok) {
    aq_rows *rows = arg;
    int64_t skip = 0;
    while (skip < n_tok && pos[skip] < rows->from)
        skip++;
    const int64_t n = n_tok - skip;
    if (n > rows->n_max - rows->n)
        return aq_fail(AQ_ERR_LIMIT, "more than %lld hidden rows", (long long)rows->n_max);
    memcpy(rows->pos + rows->n, pos + skip, (size_t)n * sizeof *pos);
    memcpy(rows->hidden + rows->n * rows->d_model, hidden + skip * rows->d_model,
           (size_t)(n * rows->d_model) * sizeof *hidden);
    rows->n += n;
    return AQ_OK;
}

/* An empty session, or one that has the first *n_done ids already. */
static aq_status start(aq_rows *rows, const int32_t *ids, int64_t n, const aq_hooks *hooks,
                       int64_t *n_done) {
    *n_done = 0;
    if (!rows->as_is)
        return aq_context_start(rows->program, rows->engine, &rows->options, ids, n, hooks,
                                &rows->session, n_done);
    if (!rows->session) return aq_session_open(rows->engine, &rows->options, &rows->session);
    aq_session_reset(rows->session);
    return AQ_OK;
}

/* Goes on to the first `end` ids; *n_done may be beyond. */
static aq_status go_on(aq_rows *rows, const int32_t *ids, int64_t end, const aq_hooks *hooks,
                       int64_t *n_done) {
    const int64_t begin = *n_done;
    if (begin >= end) return AQ_OK;
    *n_done = end;
    return aq_program_step(rows->program,
                           aq_session_prefill(rows->session, ids + begin, end - begin, hooks));
}

aq_status aq_rows_prefill(aq_rows *rows, const int32_t *ids, int64_t n, int64_t from) {
    const aq_hooks hooks = {.arg = rows, .rows = keep};
    int64_t n_done;
    rows->n = 0;
    rows->from = from;
    AQ_TRY(start(rows, ids, n, &hooks, &n_done));
    if (!rows->counts) return go_on(rows, ids, n, &hooks, &n_done);
    AQ_TRY(go_on(rows, ids, from, &hooks, &n_done));
    const aq_session_stats before = aq_session_describe(rows->session);
    AQ_TRY(go_on(rows, ids, n, &hooks, &n_done));
    const aq_session_stats after = aq_session_describe(rows->session);
    aq_attended_add(&rows->attended, &before, &after);
    return AQ_OK;
}
