/* What attention read, summed over steps and ranks: the figures methods are compared by. */
#ifndef AQ_LAUNCH_ATTENDED_H
#define AQ_LAUNCH_ATTENDED_H

#include "src/aqua.h"
#include "src/model/report.h"

/* Sums of the same members of aq_session_stats. */
typedef struct {
    double n_pair, n_attended, n_byte_moved;
    double mass_sum, n_mass;
    double n_kept_dim, n_pruned_row;
} aq_attended;

/* Adds what a session did between two descriptions. Local. */
void aq_attended_add(aq_attended *attended, const aq_session_stats *before,
                     const aq_session_stats *after);

/* Sums over ranks. Collective. */
aq_status aq_attended_sum(aq_attended *attended, aq_comm *comm);

/* Mean share of the visible context that was attended to exactly; bytes of the cache read per token
 * of context and KV head; share of the exact softmax's mass held by what was attended to; columns
 * that decided. 0 if there was nothing. Local. */
double aq_attended_share(const aq_attended *attended);
double aq_attended_bytes(const aq_attended *attended);
double aq_attended_mass(const aq_attended *attended);
double aq_attended_dims(const aq_attended *attended);

/* Writes what a session's cache takes for a token and KV head, by part, as cache_bytes_per_token.
 * Local. */
void aq_attended_report_cache(aq_report *report, const aq_session *session);

/* Writes them as attended, bytes_moved, mass and dims, the last two where they were measured.
 * Local. */
void aq_attended_report(aq_report *report, const aq_attended *attended);

#endif
