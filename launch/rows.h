/* Contexts run through a session, and the hidden rows of the last one's tail, which scoring needs.
 * Rows stay on the ranks that computed them. */
#ifndef AQ_LAUNCH_ROWS_H
#define AQ_LAUNCH_ROWS_H

#include "launch/attended.h"
#include "launch/program.h"

typedef struct {
    const aq_program *program;
    aq_engine *engine;
    aq_session_options options; /* of the session */
    bool as_is;  /* with the engine's projection or none; else as aq_context_start decides */
    bool counts; /* what the tail attends to is counted: the tail then is a step of its own */
    aq_session *session;  /* NULL before the first context */
    aq_attended attended; /* sums over the tails, this rank's */

    int64_t n; /* rows here: those of this rank's tokens */
    int64_t n_max, d_model;
    int64_t from;  /* rows of positions from here on are kept */
    int64_t *pos;  /* [n_max], rising */
    float *hidden; /* [n_max, d_model]: what the output matrix takes */
} aq_rows;

/* Room for the rows of tails of n_max tokens; the other settings may be changed before the first
 * context. The caller closes. AQ_ERR_MEMORY. Local. */
aq_status aq_rows_open(const aq_program *program, aq_engine *engine,
                       const aq_session_options *options, int64_t n_max, aq_rows *out);

/* Closes the session too; a zeroed struct is allowed. Local. */
void aq_rows_close(aq_rows *rows);

/* Runs n ids through an empty session and keeps the rows of positions from .. n - 1, at most n_max.
 * Errors of opening a session and of calibration; a failure inside a step ends the job
 * (aq_program_step). Collective. */
aq_status aq_rows_prefill(aq_rows *rows, const int32_t *ids, int64_t n, int64_t from);

#endif
