/* A progress line on stderr: done, rate, time to go. Redrawn in place on a terminal, else a plain
 * line at every tenth of the work. */
#ifndef AQ_LAUNCH_PROGRESS_H
#define AQ_LAUNCH_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *what; /* "prefill" */
    const char *unit; /* "tokens" */
    bool shown;       /* on rank 0 only */
    bool terminal;
    int64_t start_ns;
    int tenths; /* plain lines written so far */
} aq_progress;

/* Starts the clock. Local. */
aq_progress aq_progress_start(const char *what, const char *unit, bool shown);

/* Reports n_done of n_all units; the last call ends the line. Local. */
void aq_progress_update(aq_progress *progress, int64_t n_done, int64_t n_all);

#endif
