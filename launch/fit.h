/* Whether a session fits the memory of its hosts: what `plan` tells and `run` checks before it
 * loads. */
#ifndef AQ_LAUNCH_FIT_H
#define AQ_LAUNCH_FIT_H

#include "launch/hosts.h"
#include "launch/program.h"
#include "src/engine/footprint.h"

/* What is asked about. */
typedef struct {
    aq_engine *engine; /* borrowed */
    aq_session_options options;
    bool from_context;     /* the projection is made from the context itself (calib/incontext.h) */
    int64_t program_bytes; /* of the program, MPI and the tokeniser, on each rank */
    int n_tp;              /* ranks that share the weights */
    const int64_t
        *weights;   /* [n_rank] or more, by which tiles are dealt, borrowed; NULL: equally */
    int first_rank; /* of the first host; 0 unless the hosts are not all there are */
} aq_fit;

/* What one rank takes, with room for n_ctx tokens. */
typedef struct {
    aq_footprint parts;
    int64_t start; /* the dense session that a projection is made in, freed when that is done */
    int64_t own;   /* all that is this rank's alone, the program's included: all but weights in the
                      map that the ranks of a host have in common */
} aq_fit_rank;

/* Of one of n_rank ranks. Errors of aq_footprint_of and, for weights of which the first n_rank
 * cannot be dealt by, of aq_plan_open. Local. */
aq_status aq_fit_rank_of(const aq_fit *fit, int n_rank, int rank, int64_t n_ctx, aq_fit_rank *out);

/* The host where n_rank ranks of n_ctx tokens lack most memory, what is needed there, and whether
 * all hosts have enough. Local. */
typedef struct {
    bool fits;
    int host;
    int64_t need;
    int rank;         /* which of its ranks takes most of its own, and how much */
    int64_t rank_own; /* bytes */
} aq_fit_verdict;

aq_status aq_fit_hosts(const aq_fit *fit, const aq_hosts *hosts, int n_rank, int64_t n_ctx,
                       aq_fit_verdict *out);

/* The longest context that fits, at most the model's; 0: none. Local. */
int64_t aq_fit_longest(const aq_fit *fit, const aq_hosts *hosts, int n_rank);

/* AQ_ERR_MEMORY in one line that names what to change: `verdict` is that not all fit. Local. */
aq_status aq_fit_refuse(const aq_fit *fit, const aq_hosts *hosts, int n_rank,
                        const aq_fit_verdict *verdict);

/* Of n_rank ranks those of this host alone: refuses them as above if they need more than
 * `available` bytes. Local. */
aq_status aq_fit_here(const aq_fit *fit, const aq_comm *world, int64_t available);

#endif
