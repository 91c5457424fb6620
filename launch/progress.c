#define _POSIX_C_SOURCE 200809L
#include "launch/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "src/base/clock.h"

aq_progress aq_progress_start(const char *what, const char *unit, bool shown) {
    return (aq_progress){.what = what,
                         .unit = unit,
                         .shown = shown,
                         .terminal = isatty(STDERR_FILENO) != 0,
                         .start_ns = aq_clock_ns()};
}

void aq_progress_update(aq_progress *progress, int64_t n_done, int64_t n_all) {
    if (!progress->shown || n_all == 0) return;
    const int tenths = (int)(10 * n_done / n_all);
    if (!progress->terminal && tenths == progress->tenths) return;
    progress->tenths = tenths;

    const double elapsed_s = (double)(aq_clock_ns() - progress->start_ns) * 1e-9;
    const double rate = elapsed_s > 0 ? (double)n_done / elapsed_s : 0;
    const double left_s = rate > 0 ? (double)(n_all - n_done) / rate : 0;
    fprintf(stderr, "%s%s %lld/%lld %s (%d %%), %.0f %s/s, %.0f s to go%s",
            progress->terminal ? "\r" : "", progress->what, (long long)n_done, (long long)n_all,
            progress->unit, (int)(100 * n_done / n_all), rate, progress->unit, left_s,
            progress->terminal ? "  " : "");
    if (!progress->terminal || n_done == n_all) fputc('\n', stderr);
    fflush(stderr);
}
