/* Calibration on the context itself (`--projection auto`): the first tokens run dense, their
 * queries and keys are summed on the way, the projection is made, what is cached so far is taken
 * over in its basis, and the context goes on. */
#ifndef AQ_CALIB_INCONTEXT_H
#define AQ_CALIB_INCONTEXT_H

#include "src/aqua.h"
#include "src/model/projection_file.h"

/* Tokens calibrated on: as many give as good a projection as 64K of another text. */
#define AQ_INCONTEXT_TOKENS 4096

/* The dense session that such a context begins in, with room for n_ctx tokens: it is there beside
 * the asked one until that has taken its tokens over. Local. */
aq_session_options aq_incontext_dense(const aq_session_options *asked, int64_t n_ctx);

/* Prefills the first min(n, AQ_INCONTEXT_TOKENS) ids, makes the engine's projection from them, and
 * opens the asked session with them in it; *n_done tells how many: the caller prefills the rest.
 * `comm` is the engine's; ids and options are the same on all ranks. hooks (may be NULL): progress
 * and rows are called for the dense part. No session that uses a projection may be open. The caller
 * closes *out, NULL on failure.
 *
 * The projection is to serve the whole session, of which only the beginning is there: sums are
 * spread over it (calib/spread.h). Else it is that of any calibration but for its name, "the
 * context itself". The dense part has f32 keys and values where the session asks for f32, else
 * bf16. The first AQ_CALIBRATE_SINKS positions are left out of the sums if there are more. With
 * fewer than d_head tokens left, kq would divide by directions never seen: then joint takes its
 * place, which is orthogonal whatever the sums are; both are exact when all columns are read.
 *
 * AQ_ERR_USAGE (no ids, an option out of range), AQ_ERR_LIMIT (the ids do not fit the session),
 * AQ_ERR_NUMERIC, AQ_ERR_MEMORY, AQ_ERR_COMM. All ranks return the same, but for a failure inside
 * the dense part, which is this rank's alone as in aq_session_prefill: then *alone, unless NULL, is
 * set and the caller must end the job. Collective over the engine's ranks. */
aq_status aq_incontext_open(aq_engine *engine, aq_comm *comm, const aq_session_options *options,
                            aq_basis basis, const int32_t *ids, int64_t n, const aq_hooks *hooks,
                            aq_session **out, int64_t *n_done, bool *alone);

#endif
