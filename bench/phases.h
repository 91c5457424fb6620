/* Where the time of a step goes, and how fast it reads what it must. */
#ifndef AQ_BENCH_PHASES_H
#define AQ_BENCH_PHASES_H

#include "src/aqua.h"

/* What a step does, in order. SCAN and CHOOSE are parts of attention with select: over the codes of
 * all tokens, and finding which of them to attend to. OTHER is all that has no name here: norms,
 * rope, activations, writing to the cache, waiting for the next id. */
typedef enum {
    AQ_PHASE_PROJECT,
    AQ_PHASE_SCAN,
    AQ_PHASE_CHOOSE,
    AQ_PHASE_ATTEND,
    AQ_PHASE_MERGE,
    AQ_PHASE_EXCHANGE,
    AQ_PHASE_MATVEC,
    AQ_PHASE_LOGITS,
    AQ_PHASE_OTHER,
    AQ_PHASES
} aq_phase;

/* "project", "scan", ... Static. Local. */
const char *aq_phase_name(aq_phase phase);

/* Nanoseconds of each phase between two descriptions of a session, of wall_ns in all, logits_ns of
 * which went into logits; they sum to wall_ns, or to more if that is less than what the session has
 * counted. Local. */
void aq_phases_between(const aq_session_stats *before, const aq_session_stats *after,
                       int64_t wall_ns, int64_t logits_ns, int64_t ns[AQ_PHASES]);

/* Bytes of stored weights that this rank reads for one decoded token: the layers', of experts as
 * many as a token uses; and the output matrix, where logits are made. Of weights that ranks share,
 * its rows. */
typedef struct {
    int64_t layers, output;
} aq_weight_reads;

/* Local. */
aq_weight_reads aq_weight_reads_of(const aq_engine *engine);

#endif
